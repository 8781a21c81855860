package pipeline

import (
	"strconv"
	"strings"
	"time"
)

// Headers that a dead letter has besides those of the record it was.
const (
	HeaderDeadID        = "ms-dead-id"
	HeaderDeadStage     = "ms-dead-stage"
	HeaderDeadCode      = "ms-dead-code"
	HeaderDeadReason    = "ms-dead-reason"
	HeaderDeadTopic     = "ms-dead-topic"     // without the pipeline's prefix
	HeaderDeadPartition = "ms-dead-partition" // where the record was read
	HeaderDeadOffset    = "ms-dead-offset"
	HeaderDeadConfig    = "ms-dead-config" // configuration hash, hexadecimal
	HeaderDeadIDs       = "ms-dead-ids"    // identifier ids, comma-separated, so that erase finds the letter
	HeaderDeadFailed    = "ms-dead-failed" // Unix milliseconds
)

// DeadLetter is a record that a stage or sink refused. Value and the original headers are kept as they were.
type DeadLetter struct {
	ID     ID // of topic, partition and offset: the same however often the record is tried
	Stage  string
	Code   string
	Reason string
	Config uint64
	IDs    []ID
	Failed time.Time // the task's time, not the clock: a replay writes the same letter
	Record Record    // the original
}

// NewDeadLetter describes the refusal of a record of topic (named without prefix).
func NewDeadLetter(topic string, r *Record, rej *RejectError, config uint64, ids []ID, failed time.Time) *DeadLetter {
	l := &DeadLetter{Stage: rej.Stage, Code: rej.Code, Reason: rej.Reason, Config: config, IDs: ids, Failed: failed, Record: *r}
	l.Record.Topic = topic
	l.ID = HashID([]byte("dead-letter"), []byte(topic), strconv.AppendInt(nil, int64(r.Partition), 10), strconv.AppendInt(nil, r.Offset, 10))
	return l
}

// AsRecord is the letter as a record of the topic `dead_letters`. Its key is the position of the original.
func (l *DeadLetter) AsRecord() Record {
	partition, offset := strconv.Itoa(int(l.Record.Partition)), strconv.FormatInt(l.Record.Offset, 10)
	ids := make([]string, len(l.IDs))
	for i, id := range l.IDs {
		ids[i] = id.String()
	}
	h := append([]Header(nil), l.Record.Headers...)
	for _, x := range [][2]string{
		{HeaderDeadID, l.ID.String()}, {HeaderDeadStage, l.Stage}, {HeaderDeadCode, l.Code}, {HeaderDeadReason, l.Reason},
		{HeaderDeadTopic, l.Record.Topic}, {HeaderDeadPartition, partition}, {HeaderDeadOffset, offset},
		{HeaderDeadConfig, strconv.FormatUint(l.Config, 16)}, {HeaderDeadIDs, strings.Join(ids, ",")},
		{HeaderDeadFailed, strconv.FormatInt(l.Failed.UnixMilli(), 10)},
	} {
		h = append(h, Header{x[0], []byte(x[1])})
	}
	return Record{Topic: "dead_letters", Partition: -1, Key: []byte(l.Record.Topic + "/" + partition + "/" + offset), Value: l.Record.Value, Headers: h}
}

// ParseDeadLetter reads a record of `dead_letters`. Unreadable fields stay zero: a letter is never refused.
func ParseDeadLetter(r *Record) *DeadLetter {
	l := &DeadLetter{Record: Record{Value: r.Value, Time: r.Time}}
	for _, h := range r.Headers {
		v := string(h.Value)
		switch h.Key {
		case HeaderDeadID:
			_ = l.ID.UnmarshalText(h.Value)
		case HeaderDeadStage:
			l.Stage = v
		case HeaderDeadCode:
			l.Code = v
		case HeaderDeadReason:
			l.Reason = v
		case HeaderDeadTopic:
			l.Record.Topic = v
		case HeaderDeadPartition:
			n, _ := strconv.ParseInt(v, 10, 32)
			l.Record.Partition = int32(n)
		case HeaderDeadOffset:
			l.Record.Offset, _ = strconv.ParseInt(v, 10, 64)
		case HeaderDeadConfig:
			l.Config, _ = strconv.ParseUint(v, 16, 64)
		case HeaderDeadIDs:
			for _, s := range strings.Split(v, ",") {
				var id ID
				if id.UnmarshalText([]byte(s)) == nil {
					l.IDs = append(l.IDs, id)
				}
			}
		case HeaderDeadFailed:
			ms, _ := strconv.ParseInt(v, 10, 64)
			l.Failed = Millis(ms)
		default:
			l.Record.Headers = append(l.Record.Headers, h)
		}
	}
	return l
}
