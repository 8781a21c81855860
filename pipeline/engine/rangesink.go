package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// Limits of one range. A database likes few large inserts.
const (
	rangeBytes    = 16 << 20
	rangeRecords  = 50_000
	rangeInterval = time.Second
)

// An intent is the metadata of a range sink's group offset: "1 <last>" says that the offsets from the group's offset to
// last are being written, as one range. After a crash the same range is written again, and the sink recognises it. Without
// the note a worker would read another range, and the sink could not tell what of it is new.
const intentFormat = "1"

// errEnough ends the reading of a range.
var errEnough = errors.New("enough")

// runRangeSink runs the task of a RangeSink over all its topics.
func (e *engine) runRangeSink(ctx context.Context, s *pipeline.SinkPlan, sink pipeline.RangeSink) error {
	topics := make([]string, len(s.Topics))
	for i, t := range s.Topics {
		topics[i] = e.topic(t)
	}
	group := e.topic("sink." + s.Name)
	return e.Cluster.Join(ctx, group, topics, func(ctx context.Context, a broker.Assignment) error {
		w := &rangeWorker{engine: e, plan: s, sink: sink, group: group, a: a}
		for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
			err := w.run(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, broker.ErrSessionOver):
				return err
			}
			e.Logger.Error("sink failed; trying again", "sink", s.Name, "topic", a.Topic, "partition", a.Partition, "error", err)
			if wait(ctx, pause) != nil {
				return nil
			}
		}
	})
}

// rangeWorker hands one partition to a RangeSink, range by range. It is one goroutine.
type rangeWorker struct {
	*engine
	plan  *pipeline.SinkPlan
	sink  pipeline.RangeSink
	group string
	a     broker.Assignment
}

func (w *rangeWorker) run(ctx context.Context) (err error) {
	next, err := w.start(ctx)
	if err != nil {
		return err
	}
	sub := w.Cluster.NewSubscriber(broker.SubscriberConfig{Partition: w.a.Partition, Offset: next, MaxBytes: rangeBytes, MaxRecords: rangeRecords, Interval: rangeInterval, Idle: 10 * time.Second})
	defer func() { err = errors.Join(err, sub.Close()) }()
	batches, err := sub.Subscribe(ctx, w.a.Topic)
	if err != nil {
		return fmt.Errorf("read partition %d of %s: %w", w.a.Partition, w.a.Topic, err)
	}
	for m := range batches {
		b, _ := pipeline.BatchOf(m)
		if len(b.Records) > 0 {
			if err := w.write(ctx, next, b.Records); err != nil {
				m.Nack()
				return err
			}
			w.Counters.took("sink."+w.plan.Name, len(b.Records))
		}
		if b.Next != next {
			if err := w.commit(ctx, broker.Position{Offset: b.Next}); err != nil {
				m.Nack()
				return err
			}
			next = b.Next
		}
		w.Step("range committed")
		m.Ack()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("reading of partition %d of %s ended: %w", w.a.Partition, w.a.Topic, readerError(sub))
}

// start finds where to begin, and first finishes a range that a predecessor had announced.
func (w *rangeWorker) start(ctx context.Context) (int64, error) {
	at, err := w.Cluster.Committed(ctx, w.group, w.a.Topic, w.a.Partition)
	if err != nil {
		return 0, fmt.Errorf("ask for the offset of group %s: %w", w.group, err)
	}
	if at.Offset < 0 {
		if at.Offset, err = w.sink.Resume(ctx, w.short(w.a.Topic), w.a.Partition); err != nil {
			return 0, fmt.Errorf("ask the sink where to go on: %w", err)
		}
	}
	if at.Offset < 0 {
		starts, err := w.Cluster.Starts(ctx, w.a.Topic, []int32{w.a.Partition})
		if err != nil {
			return 0, err
		}
		at.Offset = starts[w.a.Partition]
	}
	last, open := parseIntent(at.Metadata)
	if !open || last < at.Offset {
		return at.Offset, nil
	}
	records, err := w.read(ctx, at.Offset, last)
	if err != nil {
		return 0, err
	}
	if len(records) > 0 {
		if err := w.store(ctx, records, true); err != nil {
			return 0, err
		}
	}
	return last + 1, w.commit(ctx, broker.Position{Offset: last + 1})
}

// read reads the records of a range again.
func (w *rangeWorker) read(ctx context.Context, first, last int64) ([]pipeline.Record, error) {
	var records []pipeline.Record
	_, err := w.Cluster.ReadToEnd(ctx, w.a.Topic, w.a.Partition, first, func(r *pipeline.Record) error {
		if r.Offset > last {
			return errEnough
		}
		c := *r
		c.Key, c.Value = append([]byte(nil), r.Key...), append([]byte(nil), r.Value...)
		c.Headers = make([]pipeline.Header, len(r.Headers))
		for i, h := range r.Headers {
			c.Headers[i] = pipeline.Header{Key: h.Key, Value: append([]byte(nil), h.Value...)}
		}
		records = append(records, c)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read offsets %d to %d of %s partition %d again: %w", first, last, w.a.Topic, w.a.Partition, err)
	}
	return records, nil
}

// write announces the range, then stores it. from is the group's offset.
func (w *rangeWorker) write(ctx context.Context, from int64, records []pipeline.Record) error {
	last := records[len(records)-1].Offset
	if err := w.commit(ctx, broker.Position{Offset: from, Metadata: intentFormat + " " + strconv.FormatInt(last, 10)}); err != nil {
		return err
	}
	w.Step("range announced")
	if err := w.store(ctx, records, false); err != nil {
		return err
	}
	w.Step("range stored")
	return nil
}

// store writes the range and acknowledges what the sink refused as dead letters.
func (w *rangeWorker) store(ctx context.Context, records []pipeline.Record, repeated bool) error {
	topic := w.short(w.a.Topic)
	r := pipeline.Range{Topic: topic, Partition: w.a.Partition, First: records[0].Offset, Last: records[len(records)-1].Offset,
		Repeated: repeated, Watermark: records[len(records)-1].Time}
	outcomes, err := w.sink.WriteRange(ctx, r, records)
	if err != nil {
		return fmt.Errorf("write offsets %d to %d of %s partition %d: %w", r.First, r.Last, topic, r.Partition, err)
	}
	if outcomes == nil {
		return nil
	}
	if len(outcomes) != len(records) {
		return fmt.Errorf("sink %s gave %d outcomes for %d records", w.plan.Name, len(outcomes), len(records))
	}
	var letters []pipeline.Record
	for i, o := range outcomes {
		if o.Kind != pipeline.Rejected {
			continue
		}
		rej := pipeline.Reject(o.Code, "%s", o.Reason)
		rej.Stage = "sink." + w.plan.Name
		if topic == "dead_letters" { // a letter about a letter could go round for ever
			w.Logger.Error("a dead letter cannot be stored", "sink", w.plan.Name, "partition", w.a.Partition, "offset", records[i].Offset, "error", rej)
			continue
		}
		w.Counters.refused(rej.Stage + "/" + rej.Code)
		letter := pipeline.NewDeadLetter(topic, &records[i], rej, w.engine.plan.Hash, nil, records[i].Time).AsRecord()
		letter.Topic = w.topic(letter.Topic)
		letters = append(letters, letter)
	}
	if len(letters) == 0 {
		return nil
	}
	if err := w.producer.Produce(ctx, letters); err != nil {
		return fmt.Errorf("produce %d dead letters: %w", len(letters), err)
	}
	return nil
}

func (w *rangeWorker) commit(ctx context.Context, p broker.Position) error {
	if err := w.Cluster.CommitOffset(ctx, w.a.Session, w.a.Topic, w.a.Partition, p); err != nil {
		return fmt.Errorf("commit offset %d of %s partition %d: %w", p.Offset, w.a.Topic, w.a.Partition, err)
	}
	return nil
}

func parseIntent(metadata string) (last int64, open bool) {
	f := strings.Fields(metadata)
	if len(f) != 2 || f[0] != intentFormat {
		return 0, false
	}
	last, err := strconv.ParseInt(f[1], 10, 64)
	return last, err == nil
}
