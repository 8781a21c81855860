package broker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// copier is the smallest exactly-once worker: what the engine does, without state.
type copier struct {
	c              *broker.Cluster
	group, in, out string
	committed      func(records int) // after each commit; may be nil
	undecided      atomic.Int64      // commits whose outcome had to be asked for
	had            atomic.Int64      // of these: had been committed
	aborted        atomic.Int64
}

func (w *copier) own(ctx context.Context, a broker.Assignment) error {
	tx, err := w.c.OpenTransactions(ctx, fmt.Sprintf("%s-%d", w.group, a.Partition))
	if err != nil {
		return err
	}
	defer tx.Close()
	pos, err := w.c.Committed(ctx, w.group, w.in, a.Partition)
	if err != nil {
		return err
	}
	sub := w.c.NewSubscriber(broker.SubscriberConfig{Partition: a.Partition, Offset: pos.Offset, Interval: 20 * time.Millisecond, MaxRecords: 100})
	defer sub.Close()
	msgs, err := sub.Subscribe(ctx, w.in)
	if err != nil {
		return err
	}
	number, _ := strconv.Atoi(pos.Metadata)
	for m := range msgs {
		number++
		if err := w.commit(ctx, tx, a, m, strconv.Itoa(number)); err != nil {
			return err
		}
		m.Ack()
	}
	return sub.Err()
}

func (w *copier) commit(ctx context.Context, tx *broker.Transactions, a broker.Assignment, m *message.Message, number string) error {
	b, _ := pipeline.BatchOf(m)
	for {
		err := w.attempt(ctx, tx, a, b, number)
		switch {
		case err == nil:
			if w.committed != nil {
				w.committed(len(b.Records))
			}
			return nil
		case errors.Is(err, broker.ErrAborted):
			w.aborted.Add(1)
		case errors.Is(err, broker.ErrUndecided):
			w.undecided.Add(1)
			if err := tx.Reopen(ctx); err != nil {
				return err
			}
			pos, err := w.c.Committed(ctx, w.group, w.in, a.Partition)
			if err != nil {
				return err
			}
			if pos.Metadata == number {
				w.had.Add(1)
				return nil
			}
		default:
			return err
		}
	}
}

func (w *copier) attempt(ctx context.Context, tx *broker.Transactions, a broker.Assignment, b *pipeline.Batch, number string) error {
	if err := tx.Begin(); err != nil {
		return err
	}
	for _, r := range b.Records {
		r.Topic, r.Partition = w.out, -1
		if err := tx.Send(&r); err != nil {
			if err := tx.Abort(ctx); err != nil {
				return err
			}
			return fmt.Errorf("%w: %w", broker.ErrAborted, err)
		}
	}
	return tx.Commit(ctx, a.Session, w.group, w.in, a.Partition, broker.Position{Offset: b.Next, Metadata: number})
}

// run starts the copier and returns what stops it.
func (w *copier) run(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { done <- w.c.Join(ctx, w.group, []string{w.in}, w.own) }()
	return func() {
		t.Helper()
		cancel()
		check(t, <-done)
	}
}

// awaitEnd waits until the group has read the topic.
func (w *copier) awaitEnd(t testing.TB, parts int32) {
	t.Helper()
	for p := range parts {
		until(t, fmt.Sprintf("group %s at the end of %s partition %d", w.group, w.in, p), func() bool {
			end, err := w.c.Ends(testContext(t), w.in, []int32{p}, true)
			check(t, err)
			pos, err := w.c.Committed(testContext(t), w.group, w.in, p)
			check(t, err)
			return pos.Offset >= end[p]
		})
	}
}

// onceEach checks that the topic holds 0 … n-1 exactly once.
func onceEach(t testing.TB, c *broker.Cluster, topic string, parts int32, n int) {
	t.Helper()
	seen := map[string]int{}
	for p := range parts {
		got, _ := values(t, c, topic, p, 0)
		for _, v := range got {
			seen[v]++
		}
	}
	doubled, missing := 0, 0
	for i := range n {
		switch k := seen[strconv.Itoa(i)]; {
		case k == 0:
			missing++
		case k > 1:
			doubled++
		}
	}
	if doubled+missing > 0 || len(seen) != n {
		t.Fatalf("of %d records %d are doubled, %d missing, %d foreign", n, doubled, missing, len(seen)-n+missing)
	}
}

// feed produces from … to-1 in small calls.
func feed(t testing.TB, c *broker.Cluster, topic string, parts int32, from, to int) {
	t.Helper()
	p, err := c.OpenProducer()
	check(t, err)
	defer p.Close()
	for i := from; i < to; i += 50 {
		var recs []pipeline.Record
		for j := i; j < min(i+50, to); j++ {
			recs = append(recs, *record(topic, int32(j)%parts, strconv.Itoa(j)))
		}
		check(t, p.Produce(testContext(t), recs))
	}
}

func TestExactlyOnceWithKilledWorkers(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		const parts, n, kills = 2, 3600, 6
		c := dial(t, brokers)
		name := testenv.Name(t)
		w := &copier{c: c, group: name, in: makeTopic(t, c, name+".in", parts), out: makeTopic(t, c, name+".out", parts)}
		for i := range kills {
			feed(t, c, w.in, parts, i*n/kills, (i+1)*n/kills)
			killAfterCommits(t, rand.IntN(4)+1, brokers[0], w.group, w.in, w.out)
		}
		last := &copier{c: dial(t, brokers, func(c *broker.Config) { c.InstanceID = "worker" }), group: w.group, in: w.in, out: w.out}
		stop := last.run(t)
		last.awaitEnd(t, parts)
		stop()
		onceEach(t, c, w.out, parts, n)
	})
}

// killAfterCommits runs a worker process and kills it -9 when it has committed n times.
func killAfterCommits(t testing.TB, n int, args ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = role("worker")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for i := range n {
		if !lines.Scan() {
			t.Errorf("the worker ended by itself after %d commits", i)
			break
		}
	}
	check(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
}

func TestZombieIsFenced(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		ctx := testContext(t)
		c := dial(t, brokers)
		name := testenv.Name(t)
		out := makeTopic(t, c, name, 1)
		old, err := c.OpenTransactions(ctx, name)
		check(t, err)
		defer old.Close()
		check(t, old.Begin())
		check(t, old.Send(record(out, 0, "zombie")))

		fresh, err := c.OpenTransactions(ctx, name)
		check(t, err)
		defer fresh.Close()
		check(t, fresh.Begin())
		check(t, fresh.Send(record(out, 0, "owner")))
		if err := old.CommitWithoutOffsets(ctx); !errors.Is(err, broker.ErrUndecided) {
			t.Fatalf("the fenced producer's commit: %v", err)
		}
		if err := old.Begin(); !errors.Is(err, broker.ErrUndecided) {
			t.Fatalf("the fenced producer goes on: %v", err)
		}
		check(t, fresh.CommitWithoutOffsets(ctx))
		settle(t, c, out)
		if got, _ := values(t, c, out, 0, 0); len(got) != 1 || got[0] != "owner" {
			t.Fatalf("committed: %q", got)
		}
	})
}

// The answer to a commit is lost, always, for a while: nobody knows the outcome, and it must be found out.
func TestUndecidedCommit(t *testing.T) {
	testenv.EachOwnBroker(t, testenv.Options{Proxied: true}, func(t *testing.T, b *testenv.Broker) {
		const parts, n = 1, 1000
		c := dial(t, b.Addrs(), func(c *broker.Config) { c.TransactionTimeout = time.Second })
		w := &copier{c: c, group: "g", in: makeTopic(t, c, "in", parts), out: makeTopic(t, c, "out", parts)}
		var cut atomic.Int64
		b.Fault(func(key int16) testenv.Fault {
			if key != testenv.KeyEndTxn {
				return testenv.Fault{}
			}
			switch w.undecided.Load() {
			case 0: // the broker commits
				cut.Add(1)
				return testenv.Fault{Cut: testenv.CutAfter}
			case 1: // it does not
				cut.Add(1)
				return testenv.Fault{Cut: testenv.CutBefore}
			}
			return testenv.Fault{}
		})
		stop := w.run(t)
		feed(t, c, w.in, parts, 0, n)
		w.awaitEnd(t, parts)
		stop()
		if cut.Load() == 0 || w.undecided.Load() < 2 || w.had.Load() != 1 {
			t.Fatalf("%d requests cut, %d commits undecided, %d of them had been committed: want some, 2, 1", cut.Load(), w.undecided.Load(), w.had.Load())
		}
		onceEach(t, c, w.out, parts, n)
	})
}
