package pipeline

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Header names of records on Millstream's topics. Everything that is not Millstream's own passes through untouched.
const (
	HeaderVersion  = "ms-v"        // format of the record, "1"
	HeaderSource   = "ms-source"   // name of the source in the YAML
	HeaderID       = "ms-id"       // message id, see Event.MessageID
	HeaderReceived = "ms-received" // Unix milliseconds, stamped once by the source
	HeaderSent     = "ms-sent"     // the batch's sentAt as the client wrote it; absent if there was none
	HeaderContext  = "ms-context"  // the batch's context object, JSON; absent if there was none
	HeaderReplay   = "ms-replay"   // id of the dead letter that is replayed
	HeaderRefused  = "ms-refused"  // why the source could make no event of this: code, space, sentence; absent for events
	HeaderKey      = "ms-key"      // key of the foreign record of which the source could make no event
)

// Header is one Kafka record header.
type Header struct {
	Key   string
	Value []byte
}

// Record is one Kafka record, read or about to be produced.
//
// Of a read record the bytes belong to the reader's fetch buffer: they are valid until the batch is acknowledged and must
// not be changed; whoever keeps them longer copies them. Of a record to produce, the bytes belong to the producer from the
// call on.
type Record struct {
	Topic     string
	Partition int32     // where it was read; to produce: the partition, or -1 for the hash of Key
	Offset    int64     // where it was read; unused when producing
	Time      time.Time // the broker's timestamp; unused when producing
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Header returns the first header of that name, nil if there is none.
func (r *Record) Header(name string) []byte {
	for i := range r.Headers {
		if r.Headers[i].Key == name {
			return r.Headers[i].Value
		}
	}
	return nil
}

// Batch is what one Watermill message carries: consecutive records of one partition (or, from a source, of one request or
// one block of a file). One Watermill message per batch, not per record, is what lets Watermill run at the speed of the
// client below it.
type Batch struct {
	Topic     string // empty from a source
	Partition int32
	Records   []Record
	// Next is the offset after the last record that the broker has handed out, transaction markers and aborted records
	// included: the position to commit. It may be beyond the last record, also when there is no record at all.
	Next int64
	// Position is set by sources that can resume (files): what they need to go on after this batch. The engine stores it in
	// the transaction that produces the records. Nil: the source cannot resume.
	Position []byte
}

type batchKey struct{}

// NewBatchMessage wraps a batch into a Watermill message. The batch travels in the message's context; the payload is empty.
func NewBatchMessage(ctx context.Context, uuid string, b *Batch) *message.Message {
	m := message.NewMessage(uuid, nil)
	m.SetContext(context.WithValue(ctx, batchKey{}, b))
	return m
}

// BatchOf returns the batch that a message carries, and whether it carries one.
func BatchOf(m *message.Message) (*Batch, bool) {
	b, ok := m.Context().Value(batchKey{}).(*Batch)
	return b, ok
}
