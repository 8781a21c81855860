package clickhouse

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// letterBatch turns records of `dead_letters` into rows of dead_letters. It rejects none: a dead letter about a dead letter
// would go round for ever.
type letterBatch struct {
	rows
	id               *proto.ColUUID
	stage, code      lowText
	reason           *proto.ColStr
	topic            lowText
	partition        *proto.ColUInt16
	offset           *proto.ColUInt64
	ids              *proto.ColArr[uuid.UUID]
	payload          *proto.ColStr
	headers          textMap
	received, failed *proto.ColDateTime64
}

func newLetterBatch() *letterBatch {
	// The same record may be refused again after a replay: then it is the same letter at another time.
	b := &letterBatch{rows: rows{table: "dead_letters", key: "concat(toString(id), '/', toString(toUnixTimestamp64Milli(failed_at)))", timeColumn: "failed_at"}}
	t := &b.rows
	b.id = column(t, "id", new(proto.ColUUID))
	b.stage = column(t, "stage", newLowText())
	b.code = column(t, "code", newLowText())
	b.reason = column(t, "reason", new(proto.ColStr))
	b.topic = column(t, "topic", newLowText())
	b.partition = column(t, "kafka_partition", new(proto.ColUInt16))
	b.offset = column(t, "kafka_offset", new(proto.ColUInt64))
	ids := new(proto.ColUUID)
	b.ids = column(t, "ids", ids.Array())
	t.people = []*proto.ColUUID{ids}
	b.payload = column(t, "payload", new(proto.ColStr))
	b.headers = column(t, "headers", newTextMap())
	b.received = column(t, "received_at", newTimes())
	b.failed = column(t, "failed_at", newTimes())
	return b
}

func (b *letterBatch) tables() []*rows { return []*rows{&b.rows} }

func (b *letterBatch) add(r *pipeline.Record) *pipeline.RejectError {
	l := pipeline.ParseDeadLetter(r)
	if l.ID == (pipeline.ID{}) { // not written by this program; the position keeps it apart from others
		l.ID = pipeline.HashID([]byte("dead-letter"), []byte(r.Topic), strconv.AppendInt(nil, int64(r.Partition), 10), strconv.AppendInt(nil, r.Offset, 10))
	}
	if l.Failed.IsZero() {
		l.Failed = r.Time
	}
	failed := stored(l.Failed)
	if b.skip(failed, func() string { return fmt.Sprintf("%s/%d", l.ID, failed) }) {
		return nil
	}
	b.id.Append(l.ID)
	b.stage.Append(low(l.Stage))
	b.code.Append(low(l.Code))
	b.reason.Append(valid(l.Reason))
	b.topic.Append(low(l.Record.Topic))
	b.partition.Append(uint16(clamp(int64(l.Record.Partition), math.MaxUint16)))
	b.offset.Append(uint64(max(l.Record.Offset, 0)))
	b.ids.Append(l.IDs)
	b.payload.AppendBytes(l.Record.Value) // the original bytes, whatever they are
	b.appendHeaders(l.Record.Headers)
	b.received.AppendRaw(stored(receivedAt(l)))
	b.failed.AppendRaw(failed)
	return nil
}

// appendHeaders appends the original headers; of equal names the first counts.
func (b *letterBatch) appendHeaders(headers []pipeline.Header) {
	for i, h := range headers {
		name, repeated := low(h.Key), false
		for _, before := range headers[:i] {
			repeated = repeated || low(before.Key) == name
		}
		if !repeated {
			b.headers.Keys.Append(name)
			b.headers.Values.Append(string(h.Value))
		}
	}
	b.headers.Offsets.Append(uint64(b.headers.Keys.Rows()))
}

// receivedAt is when the source took the record in, else when the letter was written.
func receivedAt(l *pipeline.DeadLetter) time.Time {
	ms, err := strconv.ParseInt(string(l.Record.Header(pipeline.HeaderReceived)), 10, 64)
	if err != nil {
		return l.Record.Time
	}
	return pipeline.Millis(ms)
}
