package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
)

// SubscriberConfig says what to read and how to cut it into batches.
type SubscriberConfig struct {
	Partition int32
	// Offset is the first record wanted; below 0: where the partition starts.
	Offset int64
	// MaxBytes of keys, values and headers in a batch; it ends with the fetch that crosses it, so it may be larger by one
	// fetch (1 MiB, or a larger record). Up to two batches and two fetches are in memory. Default 4 MiB.
	MaxBytes int
	// MaxRecords in a batch. Default 20,000.
	MaxRecords int
	// Interval is how long a batch gathers after its first record. 0: what one fetch gave.
	Interval time.Duration
	// Idle is how often an empty batch may come whose Next has moved over transaction markers, aborted or compacted records,
	// so that the position can be committed although there is nothing to work on. 0: never.
	Idle time.Duration
}

// Subscriber is a Watermill subscriber whose messages carry batches (pipeline.BatchOf) of one partition, read_committed, in
// order. The next message comes only after the ack of the one before, and is gathered meanwhile: as long as the receiver is
// busy, up to the limits of a batch. A nack brings the same batch again after a moment.
//
// It rides out outages and elections. If it cannot go on (*OutOfRangeError, a refusal, damaged data) what was read is still
// delivered; then the channel closes and Err tells why.
type Subscriber struct {
	c    *Cluster
	conf SubscriberConfig

	mu     sync.Mutex
	closed bool
	err    error
	stop   []context.CancelFunc
	done   sync.WaitGroup
}

var _ message.Subscriber = (*Subscriber)(nil)

// NewSubscriber makes a subscriber; nothing happens before Subscribe.
func (c *Cluster) NewSubscriber(conf SubscriberConfig) *Subscriber {
	if conf.MaxBytes <= 0 {
		conf.MaxBytes = 4 << 20
	}
	if conf.MaxRecords <= 0 {
		conf.MaxRecords = 20_000
	}
	return &Subscriber{c: c, conf: conf}
}

// Subscribe starts reading the partition of that topic at the configured offset. The channel closes when ctx ends, after
// Close, or when reading cannot go on. The context of a message ends with ctx and after its ack or nack.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe to %s: subscriber: %w", topic, ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	s.stop = append(s.stop, cancel)
	g := &gatherer{
		conf: s.conf, topic: topic, out: make(chan *message.Message),
		wants: make(chan want, 1), chunks: make(chan fetched, 1),
	}
	s.done.Go(func() {
		defer cancel()
		defer close(g.out)
		var fetching sync.WaitGroup
		fetching.Go(func() { s.fetch(ctx, topic, g.wants, g.chunks) })
		err := g.run(ctx)
		close(g.wants)
		cancel()
		fetching.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil {
			s.err = err
		}
	})
	return g.out, nil
}

// Err is why a channel closed although neither its context ended nor Close was called; nil otherwise.
func (s *Subscriber) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends all subscriptions and waits for them. Unacknowledged messages are dropped.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, stop := range s.stop {
		stop()
	}
	s.mu.Unlock()
	s.done.Wait()
	return nil
}

// fetch answers wants with chunks until there are no more wants or an error came.
func (s *Subscriber) fetch(ctx context.Context, topic string, wants <-chan want, chunks chan<- fetched) {
	f := s.c.newFetcher(topic, s.conf.Partition, s.conf.Offset)
	defer f.close()
	for w := range wants {
		got, err := fetched{}, error(nil)
		if f.next < 0 {
			var start map[int32]int64
			if start, err = s.c.Starts(ctx, topic, []int32{f.part}); err == nil {
				f.next = start[f.part]
			}
		}
		if err == nil {
			got.chunk, err = f.fetch(ctx, w.minBytes, w.wait)
		}
		got.err = err
		chunks <- got // never blocks: one want, one chunk
		if err != nil {
			return
		}
	}
}

type want struct {
	minBytes int32
	wait     time.Duration
}

type fetched struct {
	chunk
	err error
}

const (
	pollWait   = 500 * time.Millisecond // of a fetch while there is nothing
	fillBytes  = 256 << 10              // what a fetch waits for while a batch gathers
	fillLeast  = 5 * time.Millisecond
	nackPause  = 100 * time.Millisecond
	messageIDs = "%s/%d/%d-%d"
)

// gatherer cuts chunks into batches and hands them out. All its state belongs to run.
type gatherer struct {
	conf   SubscriberConfig
	topic  string
	out    chan *message.Message
	wants  chan want
	chunks chan fetched

	asked          bool             // a want is under way
	err            error            // reading has ended
	next           batch            // being gathered
	rest           chunk            // read, but too many records for next
	work           *message.Message // handed out, not acknowledged
	hand           *pipeline.Batch  // of work
	done           context.CancelFunc
	redo           *pipeline.Batch // nacked: comes again
	redoAt, lastAt time.Time
	last           int64 // Next of the batch handed out last
}

type batch struct {
	pipeline.Batch
	bytes int
	first time.Time // arrival of the first record
}

func (g *gatherer) run(ctx context.Context) error {
	g.last = -1
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() {
		if g.done != nil {
			g.done()
		}
	}()
	for {
		if ctx.Err() != nil {
			return nil
		}
		now := time.Now()
		g.ask(now)
		if g.err != nil && g.work == nil && g.redo == nil && len(g.next.Records) == 0 {
			return g.err
		}
		var out chan *message.Message
		var offer *message.Message
		var cancel context.CancelFunc
		b, at := g.ready(now)
		if b == nil {
			timer.Reset(time.Until(at))
		} else if g.work == nil {
			out = g.out
			offer, cancel = newMessage(ctx, b)
		}
		var acked, nacked <-chan struct{}
		if g.work != nil {
			acked, nacked = g.work.Acked(), g.work.Nacked()
		}
		select {
		case <-ctx.Done():
			if cancel != nil {
				cancel()
			}
			return nil
		case got := <-g.chunks:
			g.asked = false
			g.absorb(got)
		case out <- offer:
			g.handedOut(offer, b, cancel)
			continue
		case <-acked:
			g.finish(nil)
		case <-nacked:
			g.finish(g.hand)
		case <-timer.C:
		}
		if cancel != nil { // not taken: offered again with what came meanwhile
			cancel()
		}
	}
}

// ask wants more as long as the batch has room. While a batch gathers, a fetch waits for many bytes or the batch's end, so
// that a trickle of records does not become a trickle of requests.
func (g *gatherer) ask(now time.Time) {
	if g.asked || g.err != nil || g.full() || len(g.rest.records) > 0 {
		return
	}
	w := want{1, pollWait}
	if len(g.next.Records) > 0 {
		left := g.next.first.Add(g.conf.Interval).Sub(now)
		if left <= 0 { // the receiver is busy
			left = g.conf.Interval
		}
		w = want{fillBytes, max(left, fillLeast)}
	}
	g.asked = true
	g.wants <- w
}

func (g *gatherer) full() bool {
	return g.next.bytes >= g.conf.MaxBytes || len(g.next.Records) >= g.conf.MaxRecords
}

// ready returns the batch that may be handed out now, or when to look again.
func (g *gatherer) ready(now time.Time) (*pipeline.Batch, time.Time) {
	later := now.Add(time.Hour)
	if g.redo != nil {
		if now.Before(g.redoAt) {
			return nil, g.redoAt
		}
		return g.redo, later
	}
	if len(g.next.Records) > 0 {
		if at := g.next.first.Add(g.conf.Interval); now.Before(at) && !g.full() && g.err == nil {
			return nil, at
		}
		b := g.next.Batch
		return &b, later
	}
	if g.conf.Idle > 0 && g.next.Next > g.last && g.last >= 0 {
		if at := g.lastAt.Add(g.conf.Idle); now.Before(at) {
			return nil, at
		}
		b := g.next.Batch
		return &b, later
	}
	return nil, later
}

// absorb adds what was read to the batch.
func (g *gatherer) absorb(got fetched) {
	if got.err != nil {
		g.err = got.err
		return
	}
	now := time.Now()
	if g.last < 0 { // the first answer: from here on Next counts
		g.last, g.lastAt = max(g.conf.Offset, 0), now
	}
	g.add(got.chunk, now)
}

func (g *gatherer) add(c chunk, now time.Time) {
	g.next.Topic, g.next.Partition = g.topic, g.conf.Partition
	if len(g.next.Records) == 0 && len(c.records) > 0 {
		g.next.first = now
	}
	take := min(len(c.records), g.conf.MaxRecords-len(g.next.Records))
	if len(g.next.Records) == 0 {
		g.next.Records = c.records[:take:take]
	} else {
		g.next.Records = append(g.next.Records, c.records[:take]...)
	}
	if take == len(c.records) {
		g.next.Next, g.rest = c.next, chunk{}
		g.next.bytes += c.bytes
		return
	}
	part := c.bytes * take / len(c.records) // an estimate is enough for a limit
	g.next.bytes += part
	if take > 0 {
		g.next.Next = c.records[take-1].Offset + 1
	}
	g.rest = chunk{records: c.records[take:], bytes: c.bytes - part, next: c.next}
}

// handedOut notes the batch too: from here on the message is the receiver's, who may change its context.
func (g *gatherer) handedOut(m *message.Message, b *pipeline.Batch, cancel context.CancelFunc) {
	g.work, g.hand, g.done = m, b, cancel
	g.last = b.Next
	if g.redo != nil {
		g.redo = nil
		return
	}
	rest := g.rest
	g.next = batch{Batch: pipeline.Batch{Next: b.Next}}
	if len(rest.records) > 0 {
		g.add(rest, time.Now())
	}
}

// finish ends the work on the message in hand; again is its batch if it must come again.
func (g *gatherer) finish(again *pipeline.Batch) {
	g.done()
	g.work, g.hand, g.done = nil, nil, nil
	g.redo, g.lastAt = again, time.Now()
	g.redoAt = g.lastAt.Add(nackPause)
}

func newMessage(ctx context.Context, b *pipeline.Batch) (*message.Message, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	first := b.Next
	if len(b.Records) > 0 {
		first = b.Records[0].Offset
	}
	return pipeline.NewBatchMessage(ctx, fmt.Sprintf(messageIDs, b.Topic, b.Partition, first, b.Next), b), cancel
}
