package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// Limits of batches and waits.
const (
	pieceRecords = 2000 // of one partition
	batchRecords = 4000 // of all partitions, and what the last piece adds
	batchBytes   = 1 << 20
	lookEvery    = 5 * time.Second // for new partitions
	nackPause    = 200 * time.Millisecond
	nackPauseMax = 5 * time.Second
	drainTimeout = 10 * time.Second // for the acknowledgement of the batch in flight
	sayGap       = 10 * time.Second // between two lines about the same
)

// Source reads a topic. One message carries what several partitions have given, and the position after it. The next message
// comes after the acknowledgement, while the one after it is being read; a nacked batch comes again.
type Source struct {
	name   string
	form   *form
	client pipeline.KafkaClient
	deps   pipeline.Deps
	look   time.Duration // lookEvery
	drain  time.Duration // drainTimeout

	stored *position // of an earlier run, nil if there was none

	out     chan *message.Message
	closing chan struct{}
	done    chan struct{}
	pieces  chan *piece
	ended   chan struct{} // closed when no more batches are delivered
	refused refusals

	mu    sync.Mutex
	state lifecycle
}

type lifecycle int

const (
	idle lifecycle = iota
	subscribed
	closed
)

// piece is what a partition gives at a time.
type piece struct {
	id      pipeline.ID // of the topic
	next    map[int32]int64
	records []pipeline.Record
	bytes   int
	stored  chan struct{} // closed when it is acknowledged
}

var _ pipeline.Resumer = (*Source)(nil)

func newSource(name string, f *form, client pipeline.KafkaClient, d pipeline.Deps) *Source {
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	d.Logger = d.Logger.With("source", name, "topic", f.topic)
	if d.Say == nil {
		d.Say = func(string) {}
	}
	return &Source{
		name: name, form: f, client: client, deps: d, look: lookEvery, drain: drainTimeout,
		out: make(chan *message.Message), closing: make(chan struct{}), done: make(chan struct{}), pieces: make(chan *piece), ended: make(chan struct{}),
	}
}

// Resume takes the position of an earlier run; that of another topic is an error.
func (s *Source) Resume(stored []byte) (err error) {
	if s.stored, err = parsePosition(stored, s.form.topic); err != nil {
		return fmt.Errorf("source %s: %w", s.name, err)
	}
	return nil
}

// Subscribe starts to read. When ctx ends, the batch in flight is waited for, and the channel is closed. It can be called
// once.
func (s *Source) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != idle {
		return nil, fmt.Errorf("subscribe to source %s: it was subscribed or closed before", s.name)
	}
	s.state = subscribed
	go s.run(ctx)
	return s.out, nil
}

// Close ends the source like the end of Subscribe's context and waits until nothing of it is running. It may be called
// again, and before Subscribe.
func (s *Source) Close() error {
	s.mu.Lock()
	was := s.state
	if was != closed {
		s.state = closed
		close(s.closing)
		if was == idle {
			close(s.out)
			close(s.done)
		}
	}
	s.mu.Unlock()
	<-s.done
	return s.client.Close()
}

// run reads in other goroutines and delivers in this one.
func (s *Source) run(parent context.Context) {
	defer close(s.done)
	defer close(s.out)
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	defer close(s.ended)
	wait.Go(func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	wait.Go(func() { s.readTopic(ctx) })
	base, end := context.WithCancel(context.WithoutCancel(parent))
	defer end()
	at := s.stored
	var left *piece
	for {
		var taken []*piece
		if taken, left = s.gather(ctx, left); taken == nil {
			return
		}
		batch := &pipeline.Batch{}
		for _, p := range taken {
			batch.Records = append(batch.Records, p.records...)
			at = at.after(p, s.form.topic)
		}
		batch.Position = at.encode()
		if !s.deliver(ctx, base, batch) {
			return // nothing may follow a batch that was not acknowledged: its position would skip that one
		}
		for _, p := range taken {
			close(p.stored)
		}
	}
}

// gather waits for a piece and takes those that are ready then, up to the limits of a batch. Pieces of a topic that was made
// again are not mixed with those of the one before: the first of them is left for the next batch. It returns nil when ctx ends.
func (s *Source) gather(ctx context.Context, left *piece) (taken []*piece, next *piece) {
	if left == nil {
		select {
		case left = <-s.pieces:
		case <-ctx.Done():
			return nil, nil
		}
	}
	taken = []*piece{left}
	records, bytes := len(left.records), left.bytes
	for records < batchRecords && bytes < batchBytes {
		select {
		case p := <-s.pieces:
			if p.id != left.id {
				return taken, p
			}
			taken = append(taken, p)
			records, bytes = records+len(p.records), bytes+p.bytes
		default:
			return taken, nil
		}
	}
	return taken, nil
}

// hand gives a piece to the next batch and waits until it is acknowledged; false if it will not be. What is in flight is waited
// for although ctx ends: until then the records' bytes are needed.
func (s *Source) hand(ctx context.Context, p *piece) bool {
	p.stored = make(chan struct{})
	select {
	case s.pieces <- p:
	case <-ctx.Done():
		return false
	}
	select {
	case <-p.stored:
		return true
	case <-s.ended:
		return false
	}
}

// deliver hands a batch over until it is acknowledged; false if ctx ended first.
func (s *Source) deliver(ctx, base context.Context, b *pipeline.Batch) bool {
	for pause := nackPause; ctx.Err() == nil; pause = min(2*pause, nackPauseMax) {
		m := pipeline.NewBatchMessage(base, uuid.NewString(), b)
		select {
		case s.out <- m:
		case <-ctx.Done():
			return false
		}
		select {
		case <-m.Acked():
			return true
		case <-m.Nacked():
		case <-ctx.Done():
			select { // the batch is in flight: let it end
			case <-m.Acked():
			case <-m.Nacked():
			case <-time.After(s.drain):
			}
			return false
		}
		sleep(ctx, pause)
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// refusals counts the records that make no event, so that they are a line now and then and not one each. It is safe for
// concurrent use.
type refusals struct {
	mu    sync.Mutex
	count int // since the last line
	last  time.Time
}

// add counts records and returns how many a line must tell of now, 0: no line is due.
func (r *refusals) add(n int, now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count += n
	if r.count == 0 || now.Sub(r.last) < sayGap {
		return 0
	}
	n = r.count
	r.count, r.last = 0, now
	return n
}
