package clickhouse

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/millstream-io/millstream/pipeline"
)

// deliveryBatch turns records of `deliveries` (pipeline.Delivery as JSON) into rows of deliveries.
type deliveryBatch struct {
	rows
	webhook      *proto.ColUUID
	sink, typ    lowText
	profile      *proto.ColUUID
	attempt      *proto.ColUInt16
	queued, sent *proto.ColDateTime64
	latency      *proto.ColUInt32
	status       *proto.ColUInt16
	outcome      lowText
	failure      *proto.ColStr
}

func newDeliveryBatch() *deliveryBatch {
	// Several sinks send the same message under the same webhook id, so the sink belongs to the key.
	b := &deliveryBatch{rows: rows{table: "deliveries", key: "concat(toString(webhook_id), '/', sink, '/', toString(attempt))", timeColumn: "sent_at"}}
	t := &b.rows
	b.webhook = column(t, "webhook_id", new(proto.ColUUID))
	b.sink = column(t, "sink", newLowText())
	b.typ = column(t, "type", newLowText())
	b.profile = column(t, "profile_id", new(proto.ColUUID))
	t.people = []*proto.ColUUID{b.profile}
	b.attempt = column(t, "attempt", new(proto.ColUInt16))
	b.queued = column(t, "queued_at", newTimes())
	b.sent = column(t, "sent_at", newTimes())
	b.latency = column(t, "latency_ms", new(proto.ColUInt32))
	b.status = column(t, "status", new(proto.ColUInt16))
	b.outcome = column(t, "outcome", newLowText())
	b.failure = column(t, "error", new(proto.ColStr))
	return b
}

func (b *deliveryBatch) tables() []*rows { return []*rows{&b.rows} }

func (b *deliveryBatch) add(r *pipeline.Record) *pipeline.RejectError {
	var d pipeline.Delivery
	if err := json.Unmarshal(r.Value, &d); err != nil {
		return pipeline.Reject("delivery_undecodable", "the record is not the JSON of a delivery")
	}
	if d.WebhookID == (pipeline.ID{}) || d.Sink == "" || d.SentAt.IsZero() {
		return pipeline.Reject("delivery_incomplete", "the delivery lacks webhook_id, sink or sent_at")
	}
	sink := low(d.Sink)
	attempt := uint16(clamp(int64(d.Attempt), math.MaxUint16))
	if b.skip(stored(d.SentAt), func() string { return fmt.Sprintf("%s/%s/%d", d.WebhookID, sink, attempt) }) {
		return nil
	}
	b.webhook.Append(d.WebhookID)
	b.sink.Append(sink)
	b.typ.Append(low(d.Type))
	b.profile.Append(d.ProfileID)
	b.attempt.Append(attempt)
	b.queued.AppendRaw(stored(d.QueuedAt))
	b.sent.AppendRaw(stored(d.SentAt))
	b.latency.Append(uint32(clamp(d.LatencyMS, math.MaxUint32)))
	b.status.Append(uint16(clamp(int64(d.Status), math.MaxUint16)))
	b.outcome.Append(low(d.Outcome))
	b.failure.Append(valid(d.Error))
	return nil
}

func clamp(n, most int64) int64 { return min(max(n, 0), most) }

// asReject is the refusal in err; every other error means that the record cannot be read.
func asReject(err error) *pipeline.RejectError {
	var rej *pipeline.RejectError
	if errors.As(err, &rej) {
		return rej
	}
	return pipeline.Reject("undecodable", "the record cannot be read")
}
