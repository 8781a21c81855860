package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/eapache/go-resiliency/breaker"

	"github.com/millstream-io/millstream/pipeline"
)

// Transactions is the transactional producer of one partition worker. It has one owner goroutine; none of its
// methods may run beside another. It is a Watermill publisher: Publish is Send with a different face.
//
// The rule after an error: ErrSessionOver, close it; ErrAborted, Begin again and replay from memory; ErrUndecided, Reopen
// and ask Committed. A failed Send says that the transaction is lost: Abort it.
type Transactions struct {
	c  *Cluster
	id string

	p    sarama.AsyncProducer // nil: closed, or to be reopened
	cl   sarama.Client        // of p alone
	busy chan struct{}        // not nil: a call into p that outlived its context; closed when it returns
	room *budget              // of p
	ends sync.WaitGroup       // what p, and those before it, still have running

	mu      sync.Mutex
	attempt *attempt // the running transaction
}

var _ message.Publisher = (*Transactions)(nil)

// attempt tags the messages of one transaction: errors of an earlier one may arrive late and must not count.
type attempt struct{ err error }

// OpenTransactions makes the producer of the id. That ends the open transaction of a predecessor with the same id at once
// and fences the predecessor: so open it when the partition is assigned, not before, and ask Committed after it. It retries
// until ctx ends.
func (c *Cluster) OpenTransactions(ctx context.Context, id string) (*Transactions, error) {
	t := &Transactions{c: c, id: id}
	if err := t.Reopen(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// ID is the transactional id.
func (t *Transactions) ID() string { return t.id }

// Reopen makes a new producer under the same id and closes the old one. When it returns, the transaction that was under way
// is decided: Committed tells how. It retries until ctx ends.
func (t *Transactions) Reopen(ctx context.Context) error {
	t.drop()
	err := t.c.retry(ctx, "opening transactions "+t.id, func() error {
		opened, err := within(ctx, func() (*Transactions, error) { return t.open(ctx) }, func(late *Transactions) { late.drain(late.p, newBudget(1)); late.drop() })
		if err == nil {
			t.p, t.cl, t.room = opened.p, opened.cl, newBudget(t.c.conf.InFlightBytes)
			t.drain(t.p, t.room)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("open transactions %s: %w", t.id, err)
	}
	return nil
}

// open makes the producer and its client: a client of its own, so that to close it ends whatever the producer waits for.
func (t *Transactions) open(ctx context.Context) (*Transactions, error) {
	cl, err := t.c.newClient(t.c.conf.transactions(t.id))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cl.Close() }) // else it would ask for minutes when the brokers are away
	defer stop()
	p, err := sarama.NewAsyncProducerFromClient(cl)
	if err != nil {
		_ = cl.Close()
		return nil, err
	}
	return &Transactions{p: p, cl: cl}, nil
}

// drain takes what comes back from p until p is closed.
func (t *Transactions) drain(p sarama.AsyncProducer, room *budget) {
	t.ends.Go(func() {
		for m := range p.Successes() {
			room.give(size(m))
		}
	})
	t.ends.Go(func() {
		for e := range p.Errors() {
			room.give(size(e.Msg))
			a, ok := e.Msg.Metadata.(*attempt)
			t.mu.Lock()
			if ok && a.err == nil {
				a.err = fmt.Errorf("produce to %s: %w", e.Msg.Topic, e.Err)
			}
			t.mu.Unlock()
		}
	})
}

// Begin starts a transaction. Nothing is sent by it.
func (t *Transactions) Begin() error {
	if t.p == nil {
		return fmt.Errorf("begin transaction %s: %w: it must be reopened", t.id, ErrUndecided)
	}
	t.mu.Lock()
	t.attempt = &attempt{}
	t.mu.Unlock()
	if err := t.p.BeginTxn(); err != nil {
		return fmt.Errorf("begin transaction %s in state %v: %w: %w", t.id, t.p.TxnStatus(), ErrUndecided, err)
	}
	return nil
}

// Send adds a record to the transaction. The bytes belong to the producer until Commit or Abort has returned. Partition -1
// means the hash of the key. It does not wait for the acknowledgement, only, above Config.InFlightBytes, for earlier ones.
// An error says that the transaction is lost, or that the record can never be sent (ErrTooLarge).
func (t *Transactions) Send(r *pipeline.Record) error {
	if t.p == nil {
		return fmt.Errorf("send to %s in transaction %s: %w: it must be reopened", r.Topic, t.id, ErrUndecided)
	}
	t.mu.Lock()
	a := t.attempt
	err := a.err
	t.mu.Unlock()
	if err != nil {
		return fmt.Errorf("send in transaction %s: %w", t.id, err)
	}
	m := outgoing(r, a)
	n := size(m)
	if n > t.c.conf.MaxRecordBytes {
		return fmt.Errorf("send %d bytes to %s, at most %d: %w", n, r.Topic, t.c.conf.MaxRecordBytes, ErrTooLarge)
	}
	if err := t.room.take(context.Background(), n); err != nil { // ends: every message comes back, as success or error
		return err
	}
	t.p.Input() <- m
	return nil
}

// Publish is Send for each message: payload as value, metadata as headers, metadata "key" as key, partition by its hash. A
// batch message is sent record by record.
func (t *Transactions) Publish(topic string, msgs ...*message.Message) error {
	for _, r := range records(topic, msgs) {
		if err := t.Send(&r); err != nil {
			return err
		}
	}
	return nil
}

// Commit waits for the acknowledgements, adds the position of an input partition under the session's membership, and
// commits. Nothing of the transaction is visible to read_committed readers unless it returns nil, or ErrUndecided.
func (t *Transactions) Commit(ctx context.Context, s *Session, group, topic string, part int32, p Position) error {
	return t.commit(ctx, s, func() error {
		meta := p.Metadata
		offsets := map[string][]*sarama.PartitionOffsetMetadata{topic: {{Partition: part, Offset: p.Offset, Metadata: &meta}}}
		g := s.metadata()
		g.GroupID = group
		return t.p.AddOffsetsToTxnWithGroupMetadata(offsets, g)
	})
}

// CommitWithoutOffsets is Commit for a transaction that has no input in Kafka.
func (t *Transactions) CommitWithoutOffsets(ctx context.Context) error {
	return t.commit(ctx, nil, func() error { return nil })
}

func (t *Transactions) commit(ctx context.Context, s *Session, addOffsets func() error) error {
	if t.p == nil {
		return fmt.Errorf("commit transaction %s: %w: it must be reopened", t.id, ErrUndecided)
	}
	p := t.p
	err := addOffsets()
	if err == nil {
		err = t.call(ctx, p.CommitTxn)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("commit transaction %s: %w", t.id, t.classify(ctx, s, err))
}

// classify decides what the owner may do after a failed commit, aborting where that is safe.
func (t *Transactions) classify(ctx context.Context, s *Session, err error) error {
	t.mu.Lock()
	if produce := t.attempt.err; produce != nil {
		err = fmt.Errorf("%w (%w)", err, produce)
	}
	t.mu.Unlock()
	broken := errors.Is(err, breaker.ErrBreakerOpen) // stays open for ten seconds: only a new producer helps
	aborted := t.busy == nil && t.p.TxnStatus()&sarama.ProducerTxnFlagAbortableError != 0 && t.call(ctx, t.p.AbortTxn) == nil
	if s != nil && (s.Err() != nil || memberGone(err) || fenced(err) && t.c.expelled(ctx, s)) {
		t.drop()
		return fmt.Errorf("%w: %w", ErrSessionOver, err)
	}
	if aborted && !broken {
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	t.drop()
	return fmt.Errorf("%w: %w", ErrUndecided, err)
}

// Abort ends the transaction so that nothing of it is visible. ErrUndecided: the producer is unusable, Reopen does it.
func (t *Transactions) Abort(ctx context.Context) error {
	if t.p == nil {
		return fmt.Errorf("abort transaction %s: %w: it must be reopened", t.id, ErrUndecided)
	}
	t.mu.Lock()
	broken := t.attempt != nil && errors.Is(t.attempt.err, breaker.ErrBreakerOpen)
	t.mu.Unlock()
	err := t.call(ctx, t.p.AbortTxn)
	if err == nil && !broken {
		return nil
	}
	t.drop()
	return fmt.Errorf("abort transaction %s: %w: %w", t.id, ErrUndecided, err)
}

// call runs a call that knows no context, at most until the broker has given the transaction up anyway. When the context
// ends first the producer is of no use any more: the caller drops it.
func (t *Transactions) call(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, t.c.conf.TransactionTimeout+5*time.Second)
	defer cancel()
	busy := make(chan struct{})
	_, err := within(ctx, func() (struct{}, error) {
		defer close(busy)
		return struct{}{}, f()
	}, func(struct{}) {})
	if ctx.Err() != nil {
		t.busy = busy
	}
	return err
}

// drop ends the producer: what it waits for fails, what was not acknowledged comes back as errors.
func (t *Transactions) drop() {
	if t.p == nil {
		return
	}
	p, cl, busy := t.p, t.cl, t.busy
	t.p, t.cl, t.busy = nil, nil, nil
	_ = cl.Close() // broken connections have nothing to say
	t.ends.Go(func() {
		if busy != nil {
			<-busy
		}
		p.AsyncClose()
	})
}

// Close ends the producer; an open transaction is left to the successor with the same id, or to the transaction timeout. It
// waits until nothing runs any more.
func (t *Transactions) Close() error {
	t.drop()
	t.ends.Wait()
	return nil
}

// fenced reports that another producer has the transactional id by now, or that the broker ended the transaction at its
// timeout: the codes are the same.
func fenced(err error) bool {
	return errors.Is(err, sarama.ErrProducerFenced) || errors.Is(err, sarama.ErrInvalidProducerEpoch)
}
