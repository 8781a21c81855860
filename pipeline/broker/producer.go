package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/eapache/go-resiliency/breaker"

	"github.com/millstream-io/millstream/pipeline"
)

// Producer is an idempotent producer without transactions, for sources: records are in the topic, on all replicas in sync,
// when Produce or Publish returns nil. Safe for concurrent use; records of one call keep their order within a partition.
type Producer struct {
	c       *Cluster
	room    *budget
	healthy atomic.Bool
	ctx     context.Context
	cancel  context.CancelFunc
	ends    sync.WaitGroup

	mu      sync.Mutex
	p       *running // nil: to be opened by the next call
	closed  bool
	probing bool
	calls   sync.WaitGroup
}

var _ message.Publisher = (*Producer)(nil)

// running is one of the library's producers with its client. A circuit breaker inside of it stays open for ten seconds after
// an outage, whatever the brokers do; then it is replaced.
type running struct {
	p  sarama.AsyncProducer
	cl sarama.Client

	sending sync.RWMutex // a message that meets a closed producer is a panic
	dead    bool
}

var errReplaced = errors.New("the connection was given up")

func (r *running) send(ctx context.Context, m *sarama.ProducerMessage) error {
	r.sending.RLock()
	defer r.sending.RUnlock()
	if r.dead {
		return errReplaced
	}
	select {
	case r.p.Input() <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *running) close() {
	_ = r.cl.Close() // what waits for a broker fails now; broken connections have nothing to say
	r.sending.Lock()
	r.dead = true
	r.sending.Unlock()
	r.p.AsyncClose()
}

// call is one Produce that waits.
type call struct {
	mu      sync.Mutex
	waiting int
	acked   int
	err     error
	done    chan struct{}
}

// OpenProducer makes a producer. It connects at the first Produce. The error is always nil so far.
func (c *Cluster) OpenProducer() (*Producer, error) {
	p := &Producer{c: c, room: newBudget(c.conf.InFlightBytes)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.healthy.Store(true)
	return p, nil
}

// Produce sends the records and waits until all are acknowledged. It rides out outages of the broker for Config.Outage or
// until ctx ends. The error says how many were acknowledged; the others may still arrive, so the sender repeats them all and
// dedup drops what came twice. ErrUnavailable: no broker took them in time. ErrTooLarge: nothing was sent.
//
// The bytes belong to the producer until Produce returns nil, and for good if it returns an error.
func (p *Producer) Produce(ctx context.Context, recs []pipeline.Record) error {
	if len(recs) == 0 {
		return nil
	}
	if err := p.enter(); err != nil {
		return err
	}
	defer p.calls.Done()
	w := &call{waiting: len(recs), done: make(chan struct{})}
	msgs := make([]*sarama.ProducerMessage, len(recs))
	for i := range recs {
		msgs[i] = outgoing(&recs[i], w)
		if n := size(msgs[i]); n > p.c.conf.MaxRecordBytes {
			return fmt.Errorf("produce %d bytes to %s, at most %d: %w", n, recs[i].Topic, p.c.conf.MaxRecordBytes, ErrTooLarge)
		}
	}
	if err := p.send(ctx, msgs); err != nil {
		return p.lost(w, len(recs), err)
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		return p.lost(w, len(recs), context.Cause(ctx))
	}
	if w.err != nil {
		return p.lost(w, len(recs), w.err)
	}
	p.healthy.Store(true)
	return nil
}

// send hands the messages to the library; those that it did not get are not waited for.
func (p *Producer) send(ctx context.Context, msgs []*sarama.ProducerMessage) error {
	r, err := p.producer(ctx)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		n := size(m)
		if err := p.room.take(ctx, n); err != nil {
			return err
		}
		if err := r.send(ctx, m); err != nil {
			p.room.give(n)
			return err
		}
	}
	return nil
}

// lost makes the error of a call.
func (p *Producer) lost(w *call, n int, err error) error {
	w.mu.Lock()
	acked := w.acked
	w.mu.Unlock()
	if refused(err) {
		return fmt.Errorf("produce %d records, %d acknowledged: %w", n, acked, err)
	}
	if errors.Is(err, context.Canceled) { // the caller's wish, no news of the brokers
		return fmt.Errorf("produce %d records, %d acknowledged: %w", n, acked, err)
	}
	p.unhealthy()
	return fmt.Errorf("produce %d records, %d acknowledged: %w: %w", n, acked, ErrUnavailable, err)
}

// refused reports an answer about the records, not about the broker's state.
func refused(err error) bool {
	return permanent(err) || errors.Is(err, sarama.ErrMessageSizeTooLarge) || errors.Is(err, sarama.ErrInvalidRecord) || errors.Is(err, ErrClosed)
}

// Publish is Produce for Watermill, bounded by Config.Outage: a batch message is sent record by record, an ordinary one as
// one record with the payload as value, metadata as headers and metadata "key" as key.
func (p *Producer) Publish(topic string, msgs ...*message.Message) error {
	ctx, cancel := context.WithTimeout(p.ctx, p.c.conf.Outage+10*time.Second)
	defer cancel()
	return p.Produce(ctx, records(topic, msgs))
}

// Healthy reports whether the last thing heard of the brokers was good. After a failure they are asked twice a second, so it
// comes back by itself.
func (p *Producer) Healthy() bool { return p.healthy.Load() }

// Close waits for the calls under way and ends the producer.
func (p *Producer) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.calls.Wait()
	p.cancel()
	p.replace(p.current())
	p.ends.Wait()
	return nil
}

func (p *Producer) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("produce: producer: %w", ErrClosed)
	}
	p.calls.Add(1)
	return nil
}

func (p *Producer) current() *running {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.p
}

// producer returns the running one or opens it, for which it waits until ctx ends, at most for Config.Outage.
func (p *Producer) producer(ctx context.Context) (*running, error) {
	if r := p.current(); r != nil {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.c.conf.Outage)
	defer cancel()
	var r *running
	err := p.c.retry(ctx, "opening a producer", func() (err error) {
		if err := p.c.Ping(); err != nil { // quickly: the producer's own client is made to wait for long
			return err
		}
		r, err = within(ctx, func() (*running, error) { return p.c.openRunning() }, func(late *running) { late.discard() })
		return err
	})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if p.p != nil { // somebody was faster
		have := p.p
		p.mu.Unlock()
		r.discard()
		return have, nil
	}
	p.p = r
	p.mu.Unlock()
	p.drain(r)
	return r, nil
}

func (c *Cluster) openRunning() (*running, error) {
	cl, err := c.newClient(c.conf.source())
	if err != nil {
		return nil, err
	}
	ap, err := sarama.NewAsyncProducerFromClient(cl)
	if err != nil {
		_ = cl.Close()
		return nil, err
	}
	return &running{p: ap, cl: cl}, nil
}

// discard ends a producer that nobody has sent to.
func (r *running) discard() {
	_ = r.cl.Close()
	_ = r.p.Close()
}

// drain takes acknowledgements and errors until r is closed.
func (p *Producer) drain(r *running) {
	p.ends.Go(func() {
		for m := range r.p.Successes() {
			p.room.give(size(m))
			m.Metadata.(*call).result(nil)
		}
	})
	p.ends.Go(func() {
		for e := range r.p.Errors() {
			p.room.give(size(e.Msg))
			e.Msg.Metadata.(*call).result(fmt.Errorf("produce to %s: %w", e.Msg.Topic, e.Err))
			if errors.Is(e.Err, breaker.ErrBreakerOpen) {
				p.replace(r)
			}
		}
	})
}

func (w *call) result(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.acked++
	} else if w.err == nil {
		w.err = err
	}
	if w.waiting--; w.waiting == 0 {
		close(w.done)
	}
}

// replace ends r; the next call opens another.
func (p *Producer) replace(r *running) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r == nil || p.p != r {
		return
	}
	p.p = nil
	p.ends.Go(r.close) // not here: the caller may be the one who takes the errors that r still has
}

// unhealthy says so and asks the brokers until they answer.
func (p *Producer) unhealthy() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.healthy.Store(false)
	if p.probing || p.closed {
		return
	}
	p.probing = true
	p.ends.Go(func() {
		defer func() {
			p.mu.Lock()
			p.probing = false
			p.mu.Unlock()
		}()
		for pipeline.Sleep(p.ctx, 500*time.Millisecond) == nil {
			if p.c.Ping() == nil {
				p.healthy.Store(true)
				return
			}
		}
	})
}
