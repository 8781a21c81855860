package pipeline

import (
	"context"
	"time"
)

// Sink hands records to something outside. The engine calls Write before the transaction that commits the input offsets
// begins: after a crash the same records come again, so a Write must be safe to repeat.
//
// One instance serves all partitions of the sink's task; Write may be called by several partitions at once, but never with
// two records of the same key at once.
type Sink interface {
	// Write returns one outcome per attempt, in the same order, within five seconds; what is not finished by then is
	// RetryAt. tx is the partition's own store, written in the same transaction. An error means that nothing is known of
	// any record: all of them come again after a pause, the same ones in the same order.
	Write(ctx context.Context, tx Tx, attempts []Attempt) ([]Outcome, error)
	// Close releases what the sink holds; no Write is running.
	Close() error
}

// RangeSink is a sink that stores each range of its input exactly once by itself. The engine first commits an intent (the
// range) as the group's offset metadata, then calls WriteRange until it succeeds, always with the identical range, and then
// commits the end of the range. There is no transaction and no state.
type RangeSink interface {
	// WriteRange stores the records. Outcomes: nil (all delivered) or one per record (Delivered or Rejected).
	WriteRange(ctx context.Context, r Range, records []Record) ([]Outcome, error)
	// Resume tells where to start a partition for which the group has no offset, -1 if the sink does not know. Offsets of
	// another topic of that name, with another id, mean nothing.
	Resume(ctx context.Context, topic string, id ID, partition int32) (int64, error)
	Close() error
}

// Range is a run of offsets of one partition that is written as one unit.
type Range struct {
	Topic     string // without the pipeline's prefix
	TopicID   ID     // Kafka's id of it: a topic that is made again has another, and its offsets start over
	Partition int32
	First     int64 // first offset
	Last      int64 // last offset, inclusive
	Repeated  bool  // the range may have been written before, wholly or in part
	// Watermark is the broker's time of the last record: what is older has been stored.
	Watermark time.Time
}

// Attempt is one try to deliver a record.
type Attempt struct {
	Record   *Record
	Number   int       // 1 is the first try
	QueuedAt time.Time // when the first try was due
}

// OutcomeKind says how an attempt ended.
type OutcomeKind uint8

// The ways an attempt ends.
const (
	Delivered OutcomeKind = iota // the receiver has it
	Unchanged                    // the receiver had it already, or there was nothing to send
	RetryAt                      // not now: the engine keeps the record and later ones of its key, and tries again at At
	Rejected                     // never: the record becomes a dead letter
)

// Outcome is how one attempt ended.
type Outcome struct {
	Kind     OutcomeKind
	At       time.Time // RetryAt: when to try again
	Code     string    // Rejected: stable word, as in RejectError
	Reason   string    // Rejected, RetryAt: one sentence, without secrets or customer data
	Delivery *Delivery // what to log in `deliveries`; nil: nothing was sent
	// Record is written to the pipeline's cluster in the transaction that commits the attempt, so exactly once for readers of
	// committed records; its topic is named in full. Nil: the sink has written elsewhere, or nothing. Delivered only.
	Record *Record
}

// Delivery is the record of one attempt, as in the topic and the table `deliveries`.
type Delivery struct {
	WebhookID ID        `json:"webhook_id"`
	Sink      string    `json:"sink"`
	Type      string    `json:"type"`
	ProfileID ID        `json:"profile_id"`
	Attempt   int       `json:"attempt"`
	QueuedAt  time.Time `json:"queued_at"`
	SentAt    time.Time `json:"sent_at"`
	LatencyMS int64     `json:"latency_ms"`
	Status    int       `json:"status"`  // HTTP status, 0 if there was no answer
	Outcome   string    `json:"outcome"` // delivered, unchanged, retried, parked, rejected
	Error     string    `json:"error"`   // first 4 KiB of the answer or the reason, redacted; empty when delivered
}
