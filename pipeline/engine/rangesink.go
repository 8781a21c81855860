package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// Limits of one range. A database likes few large inserts.
const (
	rangeBytes    = 16 << 20
	rangeRecords  = 50_000
	rangeInterval = time.Second

	// topicInterval is how often a worker that gets no records looks whether its topic is still the same one.
	topicInterval = 10 * time.Second
)

// A note is the metadata of a range sink's group offset: "2 <topic id>" says of which topic the offset is, for one that was
// deleted and made again begins anew; "2 <topic id> <last>", the intent, says also that the offsets from the group's offset
// to last are being written, as one range. After a crash the same range is written again, and the sink recognises it.
// Without the intent a worker would read another range, and the sink could not tell what of it is new.
type note struct {
	topicID pipeline.ID
	last    int64 // -1: no range is being written
}

const noteFormat = "2"

var (
	// errEnough ends the reading of a range.
	errEnough = errors.New("enough")
	// errMadeAgain says that the worker's offsets are those of a topic that is gone.
	errMadeAgain = errors.New("the topic was made again")
)

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
			case errors.Is(err, errMadeAgain):
				continue
			}
			e.Logger.Error("sink failed; trying again", "sink", s.Name, "topic", a.Topic, "partition", a.Partition, "error", err)
			if pipeline.Sleep(ctx, pause) != nil {
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
	id    pipeline.ID // of the topic that is being read
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
	look := time.NewTicker(topicInterval)
	defer look.Stop()
	for {
		select {
		case m, open := <-batches:
			if !open {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return fmt.Errorf("reading of partition %d of %s ended: %w", w.a.Partition, w.a.Topic, readerError(sub))
			}
			b, _ := pipeline.BatchOf(m)
			if err := w.take(ctx, b, next); err != nil {
				m.Nack()
				return err
			}
			next = b.Next
			m.Ack()
		case <-look.C: // a topic that was made again may end just where the worker waits
			if err := w.sameTopic(ctx); err != nil {
				return err
			}
		}
	}
}

// take stores a batch and commits its end. from is the group's offset.
func (w *rangeWorker) take(ctx context.Context, b *pipeline.Batch, from int64) error {
	if err := w.sameTopic(ctx); err != nil {
		return err
	}
	if len(b.Records) > 0 {
		if err := w.write(ctx, from, b.Records); err != nil {
			return err
		}
		w.Counters.took("sink."+w.plan.Name, len(b.Records))
	}
	if b.Next != from {
		if err := w.commit(ctx, b.Next, -1); err != nil {
			return err
		}
	}
	w.Step("range committed")
	return nil
}

// start finds where to begin, and first finishes a range that a predecessor had announced.
func (w *rangeWorker) start(ctx context.Context) (int64, error) {
	var err error
	if w.id, err = w.Cluster.TopicID(ctx, w.a.Topic, w.a.Partition); err != nil {
		return 0, err
	}
	at, err := w.Cluster.Committed(ctx, w.group, w.a.Topic, w.a.Partition)
	if err != nil {
		return 0, fmt.Errorf("ask for the offset of group %s: %w", w.group, err)
	}
	n, err := parseNote(at.Metadata, w.id)
	if err != nil {
		return 0, fmt.Errorf("read the metadata of the offset of group %s in %s partition %d: %w", w.group, w.a.Topic, w.a.Partition, err)
	}
	if at.Offset >= 0 && n.topicID != w.id {
		w.Logger.Warn("the topic was made again; the group's offset belongs to the one before and is not used", "sink", w.plan.Name, "topic", w.a.Topic, "partition", w.a.Partition, "offset", at.Offset)
		at.Offset, n.last = -1, -1
	}
	if at.Offset < 0 {
		if at.Offset, err = w.sink.Resume(ctx, w.short(w.a.Topic), w.id, w.a.Partition); err != nil {
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
	if n.last < at.Offset {
		return at.Offset, nil
	}
	records, err := w.read(ctx, at.Offset, n.last)
	if err != nil {
		return 0, err
	}
	if err := w.sameTopic(ctx); err != nil {
		return 0, err
	}
	if len(records) > 0 {
		if err := w.store(ctx, records, true); err != nil {
			return 0, err
		}
	}
	return n.last + 1, w.commit(ctx, n.last+1, -1)
}

// sameTopic makes sure that what was read so far is of the topic whose offsets the worker counts.
func (w *rangeWorker) sameTopic(ctx context.Context) error {
	id, err := w.Cluster.TopicID(ctx, w.a.Topic, w.a.Partition)
	if err == nil && id != w.id {
		err = fmt.Errorf("%w: %s", errMadeAgain, w.a.Topic)
	}
	return err
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
	if err := w.commit(ctx, from, last); err != nil {
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
	r := pipeline.Range{Topic: topic, TopicID: w.id, Partition: w.a.Partition, First: records[0].Offset, Last: records[len(records)-1].Offset,
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

// commit commits offset; last, unless -1, ends the range from there on that is about to be written.
func (w *rangeWorker) commit(ctx context.Context, offset, last int64) error {
	p := broker.Position{Offset: offset, Metadata: note{w.id, last}.String()}
	if err := w.Cluster.CommitOffset(ctx, w.a.Session, w.a.Topic, w.a.Partition, p); err != nil {
		return fmt.Errorf("commit offset %d of %s partition %d: %w", offset, w.a.Topic, w.a.Partition, err)
	}
	return nil
}

func (n note) String() string {
	s := noteFormat + " " + n.topicID.String()
	if n.last >= 0 {
		s += " " + strconv.FormatInt(n.last, 10)
	}
	return s
}

// parseNote reads a note. Offsets that were set by Kafka's own tools have none: they are taken for those of the topic id.
// So is the form of before topic ids, "1 <last>".
func parseNote(metadata string, id pipeline.ID) (note, error) {
	n := note{topicID: id, last: -1}
	f := strings.Fields(metadata)
	if len(f) == 0 {
		return n, nil
	}
	var err error
	switch {
	case f[0] == "1" && len(f) == 2:
	case f[0] == noteFormat && (len(f) == 2 || len(f) == 3):
		if n.topicID, err = uuid.Parse(f[1]); err != nil {
			return n, fmt.Errorf("%q is not a topic id", f[1])
		}
		if len(f) == 2 {
			return n, nil
		}
	default:
		return n, fmt.Errorf("%q was not written by this version of Millstream: upgrade it", metadata)
	}
	if n.last, err = strconv.ParseInt(f[len(f)-1], 10, 64); err != nil {
		return n, fmt.Errorf("%q does not end in an offset", metadata)
	}
	return n, nil
}
