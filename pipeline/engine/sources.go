package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

const (
	// produceTimeout is how long a source waits for the broker before its message is nacked: an SDK gets 503 and comes again.
	produceTimeout = 8 * time.Second
	// sourceMessages bounds the messages of one source that wait for the broker at once.
	sourceMessages = 256
	// refusalGap is the time between two lines of a source about a broker that takes nothing.
	refusalGap = 10 * time.Second
)

// runSource runs a source until ctx ends. Sources that can resume are left to the owner of partition 0, see runResumers.
func (e *engine) runSource(ctx context.Context, s *pipeline.SourcePlan) error {
	if s.Resumes {
		return nil
	}
	source, err := s.Open(ctx, e.deps("source", s.Name))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	messages, err := source.Subscribe(ctx, "events")
	if err != nil {
		return errors.Join(fmt.Errorf("start: %w", err), source.Close())
	}
	slots := make(chan struct{}, sourceMessages)
	var producing sync.WaitGroup
	var refused refusals
	for m := range messages {
		slots <- struct{}{}
		producing.Go(func() {
			defer func() { <-slots }()
			e.produce(ctx, s, m, &refused)
		})
	}
	producing.Wait()
	return source.Close()
}

// produce hands the records of one message to the broker; the message is acknowledged when the broker has them all.
func (e *engine) produce(ctx context.Context, s *pipeline.SourcePlan, m *message.Message, refused *refusals) {
	b, ok := pipeline.BatchOf(m)
	if !ok {
		e.Logger.Error("a source sent a message without a batch", "source", s.Name)
		m.Nack()
		return
	}
	// What a client has sent is finished although the source is stopping.
	until, cancel := context.WithTimeout(context.WithoutCancel(ctx), produceTimeout)
	defer cancel()
	if !e.awaitReady(ctx, until) { // who waits for the broker says so
		m.Nack()
		return
	}
	records := e.addressed(b.Records)
	if err := e.producer.Produce(until, records); err != nil {
		if n := refused.add(time.Now()); n > 0 {
			e.Logger.Warn("Kafka does not take events; clients are told to send them again", "source", s.Name, "brokers", strings.Join(e.plan.Brokers, ","), "batches", n, "error", err)
		}
		m.Nack()
		return
	}
	e.Step("produced")
	e.Counters.took("source."+s.Name, len(records))
	m.Ack()
}

// refusals counts the batches that the broker did not take, so that they are a line now and then and not one each. It is
// safe for concurrent use.
type refusals struct {
	mu    sync.Mutex
	count int // since the last line
	last  time.Time
}

// add counts a batch and returns how many a line must tell of now, 0: no line is due.
func (r *refusals) add(now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if now.Sub(r.last) < refusalGap {
		return 0
	}
	n := r.count
	r.count, r.last = 0, now
	return n
}

// awaitReady waits until there is a broker to produce to; false if there is none in time, or if the source ends before.
func (e *engine) awaitReady(source, until context.Context) bool {
	select {
	case <-e.ready: // also when the source has ended
		return true
	default:
	}
	select {
	case <-e.ready:
		return true
	case <-until.Done():
	case <-source.Done():
	}
	return false
}

// addressed gives the records their full topic names.
func (e *engine) addressed(records []pipeline.Record) []pipeline.Record {
	for i := range records {
		records[i].Topic = e.topic("events")
	}
	return records
}

// runResumers runs the sources that can resume beside the worker of partition 0 of `events`, until ctx ends.
func (e *engine) runResumers(ctx context.Context, partition int32) error {
	if partition != 0 {
		return nil
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for i := range e.plan.Sources {
		s := &e.plan.Sources[i]
		if !s.Resumes {
			continue
		}
		running.Go(func() {
			if err := e.resume(ctx, s); err != nil && ctx.Err() == nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("source %s: %w", s.Name, err))
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// resumer is a running source whose position is stored in the transaction that produces its records.
type resumer struct {
	*engine
	plan   *pipeline.SourcePlan
	topic  string // its state, one partition
	kafka  *broker.Transactions
	number uint64 // of the last transaction
}

// resume runs one source from its stored position until ctx ends or the source has nothing more to give.
func (e *engine) resume(ctx context.Context, s *pipeline.SourcePlan) (err error) {
	r := &resumer{engine: e, plan: s, topic: e.topic("state.source." + s.Name)}
	err = e.Cluster.EnsureTopics(ctx, []broker.Topic{{Name: r.topic, Partitions: 1, Config: map[string]string{"cleanup.policy": "compact"}}})
	if err != nil {
		return fmt.Errorf("create topic %s: %w", r.topic, err)
	}
	id := e.topic("source." + s.Name + "-0")
	if r.kafka, err = e.Cluster.OpenTransactions(ctx, id); err != nil {
		return fmt.Errorf("open transactions %s: %w", id, err)
	}
	defer func() { err = errors.Join(err, r.kafka.Close()) }()
	position, err := r.load(ctx)
	if err != nil {
		return err
	}
	opened, err := s.Open(ctx, e.deps("source", s.Name))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	source, ok := opened.(pipeline.Resumer)
	if !ok {
		return fmt.Errorf("a %s cannot resume although its kind says so", s.Kind)
	}
	if err := source.Resume(position); err != nil {
		return fmt.Errorf("go on from the stored position: %w", err)
	}
	messages, err := source.Subscribe(ctx, "events")
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	for m := range messages {
		b, ok := pipeline.BatchOf(m)
		if !ok {
			return errors.New("a message without a batch")
		}
		if err := r.store(ctx, b); err != nil {
			m.Nack()
			return err
		}
		e.Counters.took("source."+s.Name, len(b.Records))
		m.Ack()
	}
	return nil
}

// The state of a source is one record, key "~position", value:
//
//	byte 0   format, 1
//	8 bytes  transaction number, big endian
//	rest     the source's own position
const (
	formatSourcePosition = 1
	sourcePositionKey    = "~position"
)

// load reads the last stored position.
func (r *resumer) load(ctx context.Context) (position []byte, err error) {
	_, err = r.Cluster.ReadToEnd(ctx, r.topic, 0, 0, func(rec *pipeline.Record) error {
		if string(rec.Key) != sourcePositionKey {
			return nil
		}
		number, p, err := parseSourcePosition(rec.Value)
		if err != nil {
			return err
		}
		r.number, position = number, append([]byte(nil), p...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the position in %s: %w", r.topic, err)
	}
	return position, nil
}

// store produces a batch and the position after it in one transaction, and tries until it is certain how it ended.
func (r *resumer) store(ctx context.Context, b *pipeline.Batch) error {
	next := r.number + 1
	records := append(r.addressed(b.Records), pipeline.Record{Topic: r.topic, Partition: 0, Key: []byte(sourcePositionKey), Value: appendSourcePosition(next, b.Position)})
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := r.attempt(ctx, records)
		switch {
		case err == nil:
			r.number = next
			return nil
		case errors.Is(err, broker.ErrAborted):
		case errors.Is(err, broker.ErrUndecided):
			if err := r.kafka.Reopen(ctx); err != nil {
				return err
			}
			if _, err := r.load(ctx); err != nil {
				return err
			}
			if r.number == next {
				return nil
			}
			if r.number != next-1 {
				return fmt.Errorf("transaction %d of the source is not ours: another process runs it", r.number)
			}
		default:
			return fmt.Errorf("produce %d records: %w", len(b.Records), err)
		}
		if err := pipeline.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (r *resumer) attempt(ctx context.Context, records []pipeline.Record) error {
	if err := r.kafka.Begin(); err != nil {
		return err
	}
	r.Step("source sends")
	for i := range records {
		if err := r.kafka.Send(&records[i]); err != nil {
			return r.abort(ctx, err)
		}
	}
	r.Step("source sent")
	if err := r.kafka.CommitWithoutOffsets(ctx); err != nil {
		return err
	}
	r.Step("source committed")
	return nil
}

// abort gives up the open transaction after a failed Send. What the broker did not take in time is tried again.
func (r *resumer) abort(ctx context.Context, cause error) error {
	if errors.Is(cause, broker.ErrUndecided) {
		return cause
	}
	if err := r.kafka.Abort(ctx); err != nil {
		return fmt.Errorf("%w (after: %w)", err, cause)
	}
	if errors.Is(cause, broker.ErrTooLarge) {
		return cause
	}
	return fmt.Errorf("%w: %w", broker.ErrAborted, cause)
}

func appendSourcePosition(number uint64, position []byte) []byte {
	b := make([]byte, 9, 9+len(position))
	b[0] = formatSourcePosition
	for i := range 8 {
		b[1+i] = byte(number >> (56 - 8*i))
	}
	return append(b, position...)
}

func parseSourcePosition(b []byte) (number uint64, position []byte, err error) {
	if len(b) < 9 || b[0] != formatSourcePosition {
		return 0, nil, fmt.Errorf("a stored position has an unknown format; this build reads format %d", formatSourcePosition)
	}
	for _, x := range b[1:9] {
		number = number<<8 | uint64(x)
	}
	return number, b[9:], nil
}
