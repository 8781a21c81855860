package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/outlet"
)

// Limits of batches and waits.
const (
	pieceRecords = 2000 // of one partition
	batchRecords = 4000 // of all partitions, and what the last piece adds
	batchBytes   = 1 << 20
	lookEvery    = 5 * time.Second  // for new partitions
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

	stored *position // of an earlier run, nil if there was none

	outlet  *outlet.Outlet
	pieces  chan *piece
	ended   chan struct{} // closed when no more batches are delivered
	refused refusals
}

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
		name: name, form: f, client: client, deps: d, look: lookEvery,
		outlet: outlet.New(), pieces: make(chan *piece), ended: make(chan struct{}),
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
	return s.outlet.Start(ctx, func() error { return nil }, s.run)
}

// Close ends the source like the end of Subscribe's context and waits until nothing of it is running. It may be called
// again, and before Subscribe.
func (s *Source) Close() error {
	s.outlet.Close()
	return s.client.Close()
}

// run reads in other goroutines and delivers in this one.
func (s *Source) run(parent context.Context) {
	ctx, cancel := context.WithCancel(parent)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	defer close(s.ended)
	reading.Go(func() { s.readTopic(ctx) })
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
		if !s.outlet.Send(ctx, batch) {
			return
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
