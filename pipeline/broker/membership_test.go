package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// member records what it owns.
type member struct {
	mu    sync.Mutex
	owns  map[int32]*broker.Session
	lost  map[int32]int // how often it gave a partition up
	began chan broker.Assignment
	leave func()
	end   func() error // waits for the end of Join
}

func (m *member) stop() error { m.leave(); return m.end() }

func join(t testing.TB, c *broker.Cluster, group, topic string) *member {
	t.Helper()
	m := &member{owns: map[int32]*broker.Session{}, lost: map[int32]int{}, began: make(chan broker.Assignment, 64)}
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		done <- c.Join(ctx, group, []string{topic}, func(ctx context.Context, a broker.Assignment) error {
			m.mu.Lock()
			m.owns[a.Partition] = a.Session
			m.mu.Unlock()
			m.began <- a
			<-ctx.Done()
			if a.Session.Err() == nil {
				return errors.New("the session lives on after its context")
			}
			m.mu.Lock()
			delete(m.owns, a.Partition)
			m.lost[a.Partition]++
			m.mu.Unlock()
			return nil
		})
	}()
	m.leave, m.end = cancel, sync.OnceValue(func() error { return <-done })
	t.Cleanup(func() { _ = m.stop() })
	return m
}

func (m *member) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.owns)
}

func TestRebalanceLeavesThePartitionsThatStay(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		const parts = 6
		name := testenv.Name(t)
		a, b := dial(t, brokers), dial(t, brokers)
		makeTopic(t, a, name, parts)
		first := join(t, a, name, name)
		until(t, "all partitions", func() bool { return first.count() == parts })
		generation := (<-first.began).Session.Generation()
		second := join(t, b, name, name)
		until(t, "half of the partitions each", func() bool { return first.count() == parts/2 && second.count() == parts/2 })
		first.mu.Lock()
		for p, s := range first.owns {
			if first.lost[p] != 0 || s.Err() != nil {
				t.Errorf("partition %d stayed and was disturbed", p)
			}
			if s.Generation() <= generation {
				t.Errorf("the session of partition %d still shows generation %d", p, s.Generation())
			}
			if second.owns[p] != nil {
				t.Errorf("partition %d has two owners", p)
			}
		}
		first.mu.Unlock()
		check(t, second.stop()) // no instance id: it leaves
		until(t, "all partitions again", func() bool { return first.count() == parts })
		check(t, first.stop())
		if first.count() != 0 {
			t.Errorf("%d owners are left after Join returned", first.count())
		}
	})
}

func TestSecondProcessWithTheSameInstanceID(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		name := testenv.Name(t)
		same := func(c *broker.Config) { c.InstanceID = "same" }
		a, b := dial(t, brokers, same), dial(t, brokers, same)
		makeTopic(t, a, name, 1)
		first := join(t, a, name, name)
		old := (<-first.began).Session
		second := join(t, b, name, name)
		fresh := (<-second.began).Session
		if err := a.CommitOffset(testContext(t), old, name, 0, broker.Position{Offset: 1}); !errors.Is(err, broker.ErrSessionOver) {
			t.Errorf("commit by the fenced member: %v", err)
		}
		until(t, "the fenced member to notice", func() bool { return first.count() == 0 })
		if err := first.end(); !errors.Is(err, broker.ErrFenced) {
			t.Errorf("the fenced process: %v", err)
		}
		check(t, b.CommitOffset(testContext(t), fresh, name, 0, broker.Position{Offset: 2, Metadata: "m"}))
		pos, err := b.Committed(testContext(t), name, name, 0)
		check(t, err)
		if pos != (broker.Position{Offset: 2, Metadata: "m"}) {
			t.Errorf("position %+v", pos)
		}
	})
}

// A worker that was replaced while it stood still must not go on, and must not fence the new owner by reopening.
func TestSessionOver(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		ctx := testContext(t)
		name := testenv.Name(t)
		a, b := dial(t, brokers), dial(t, brokers)
		makeTopic(t, a, name, 2)
		first := join(t, a, name, name)
		until(t, "both partitions", func() bool { return first.count() == 2 })
		var txs [2]*broker.Transactions
		var sessions [2]*broker.Session
		for range 2 {
			as := <-first.began
			tx, err := a.OpenTransactions(ctx, fmt.Sprintf("%s-%d", name, as.Partition))
			check(t, err)
			defer tx.Close()
			txs[as.Partition], sessions[as.Partition] = tx, as.Session
		}
		second := join(t, b, name, name)
		moved := (<-second.began).Partition
		noticed := false
		for p := range int32(2) {
			// A rebalance that is still under way aborts, as it does to a worker, until the session knows the new generation.
			err := broker.ErrAborted
			for errors.Is(err, broker.ErrAborted) {
				check(t, txs[p].Begin())
				check(t, txs[p].Send(record(name, p, "v")))
				err = txs[p].Commit(ctx, sessions[p], name, name, p, broker.Position{Offset: 7})
			}
			if p != moved {
				check(t, err)
				continue
			}
			// The generation is the member's, so Kafka lets it through; the new owner's producer id does not.
			if err != nil && !errors.Is(err, broker.ErrSessionOver) {
				t.Fatalf("commit of the partition that moved: %v", err)
			}
			noticed = err != nil
		}
		fresh, err := b.OpenTransactions(ctx, fmt.Sprintf("%s-%d", name, moved))
		check(t, err)
		defer fresh.Close()
		if !noticed {
			_ = txs[moved].Begin()
			_ = txs[moved].Send(record(name, moved, "zombie"))
			err := txs[moved].Commit(ctx, sessions[moved], name, name, moved, broker.Position{Offset: 9})
			if !errors.Is(err, broker.ErrSessionOver) {
				t.Fatalf("commit of the partition that moved, after its new owner came: %v", err)
			}
		}
		check(t, fresh.Begin())
		check(t, fresh.CommitWithoutOffsets(ctx))
	})
}

func TestOwnersError(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		name := testenv.Name(t)
		c := dial(t, brokers)
		makeTopic(t, c, name, 2)
		broken := errors.New("disk full")
		err := c.Join(testContext(t), name, []string{name}, func(ctx context.Context, a broker.Assignment) error {
			if a.Partition == 0 {
				return broken
			}
			<-ctx.Done()
			return nil
		})
		if !errors.Is(err, broken) {
			t.Fatalf("join ended with %v", err)
		}
		// nil stops a partition and no other; ErrSessionOver joins anew.
		again, idle := make(chan int32, 64), make(chan int32, 64)
		ctx, cancel := context.WithCancel(testContext(t))
		done := make(chan error, 1)
		go func() {
			done <- c.Join(ctx, name, []string{name}, func(ctx context.Context, a broker.Assignment) error {
				if a.Partition == 0 {
					idle <- a.Partition
					return nil
				}
				again <- a.Partition
				if len(again) == 1 {
					return fmt.Errorf("zombie: %w", broker.ErrSessionOver)
				}
				<-ctx.Done()
				return nil
			})
		}()
		until(t, "the second session", func() bool { return len(again) >= 2 && len(idle) >= 2 })
		time.Sleep(50 * time.Millisecond) // an idle partition that ended the session would begin a third
		if len(again) != 2 || len(idle) != 2 {
			t.Errorf("%d and %d assignments, want 2 and 2", len(again), len(idle))
		}
		cancel()
		check(t, <-done)
	})
}
