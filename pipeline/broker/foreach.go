package broker

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
)

// Metadata of the messages that ForEach makes, beside the record's headers.
const (
	TopicMetadata     = "kafka-topic"
	PartitionMetadata = "kafka-partition"
	OffsetMetadata    = "kafka-offset"
)

// ForEach runs an ordinary Watermill handler, wrapped in ordinary Watermill middleware, for each record of a batch message,
// in order, in a plain loop: the Router's cost then falls on the batch and not on each record. A message that carries no
// batch is handled as it is.
//
// The handler's message has the record's value as payload (valid until the batch is acknowledged), its headers, key, topic,
// partition and offset as metadata, and the context of the batch. Its own Ack and Nack have no effect: the batch is
// acknowledged when all its records are done. The first error ends the loop and is returned with the record's coordinates;
// the outputs so far are dropped and the whole batch comes again.
func ForEach(h message.HandlerFunc, mw ...message.HandlerMiddleware) message.HandlerFunc {
	for i := len(mw) - 1; i >= 0; i-- { // the first is the outermost, as in the Router
		h = mw[i](h)
	}
	return func(m *message.Message) ([]*message.Message, error) {
		b, ok := pipeline.BatchOf(m)
		if !ok {
			return h(m)
		}
		var out []*message.Message
		for i := range b.Records {
			r := &b.Records[i]
			made, err := h(recordMessage(m, r))
			if err != nil {
				return nil, fmt.Errorf("handle %s partition %d offset %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			out = append(out, made...)
		}
		return out, nil
	}
}

func recordMessage(batch *message.Message, r *pipeline.Record) *message.Message {
	m := message.NewMessage(watermill.NewUUID(), r.Value)
	m.SetContext(single{batch.Context()})
	for _, h := range r.Headers {
		m.Metadata[h.Key] = string(h.Value)
	}
	m.Metadata[TopicMetadata] = r.Topic
	m.Metadata[PartitionMetadata] = fmt.Sprint(r.Partition)
	m.Metadata[OffsetMetadata] = fmt.Sprint(r.Offset)
	if r.Key != nil {
		m.Metadata[KeyMetadata] = string(r.Key)
	}
	return m
}

// single is the context of a batch without the batch: a handler that returns its own message means that record.
type single struct{ context.Context }

func (c single) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*pipeline.Batch); ok {
		return nil
	}
	return v
}
