package engine_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// keyOffsetCommit is the request that commits an offset without a transaction.
const keyOffsetCommit int16 = 8

// TestNothingMovesWithoutTheTransaction cuts off every end of a transaction: no output, no changelog and no offset may be
// visible then. After it, all of them are, although plain commits of offsets never arrive.
func TestNothingMovesWithoutTheTransaction(t *testing.T) {
	b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
	m := newMachine(t, b.Addrs())
	m.send("a")
	var ends atomic.Int32
	ended := make(chan struct{})
	b.Fault(func(key int16) testenv.Fault {
		switch key {
		case testenv.KeyEndTxn:
			if ends.Add(1) == 2 {
				close(ended)
			}
			return testenv.Fault{Cut: testenv.CutBefore}
		case keyOffsetCommit:
			return testenv.Fault{Cut: testenv.CutBefore}
		}
		return testenv.Fault{}
	})
	m.start()
	await(t, "the end of a transaction", ended)
	for _, topic := range []string{"resolved", "changes", "state.resolve", "state.profile"} {
		if n := len(m.records(topic)); n > 0 {
			t.Errorf("%d records of %s are visible although no transaction has ended", n, topic)
		}
	}
	if at := m.offset(b.Addrs(), pipeline.TaskResolve, "events"); at >= 0 {
		t.Errorf("the offset of the resolve task is %d although no transaction has ended", at)
	}

	b.Fault(func(key int16) testenv.Fault {
		if key == keyOffsetCommit {
			return testenv.Fault{Cut: testenv.CutBefore}
		}
		return testenv.Fault{}
	})
	m.tells("a 1 1")
	m.profileHasRead(1)
	if n := len(m.records("state.profile")); n < 2 {
		t.Errorf("%d records in state.profile, want the state and the position", n)
	}
}

// offset is a task's offset, decided or not; -1: none.
func (m *machine) offset(brokers []string, task, topic string) int64 {
	m.t.Helper()
	admin, err := sarama.NewClusterAdmin(brokers, sarama.NewConfig())
	m.check(err)
	defer admin.Close()
	got, err := admin.ListConsumerGroupOffsets(m.topic(task), map[string][]int32{m.topic(topic): {0}})
	m.check(err)
	if b := got.GetBlock(m.topic(topic), 0); b != nil {
		return b.Offset
	}
	return -1
}

// TestUndecidedTransactions cuts every connection that ends a transaction, before or after the broker has acted, until a
// producer is opened anew to find out: what was committed is not repeated, what was not is not forgotten.
func TestUndecidedTransactions(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]testenv.Cut{"request": testenv.CutBefore, "answer": testenv.CutAfter} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
			m := newMachine(t, b.Addrs())
			opened := m.opened()
			m.start()
			await(t, "the workers", opened)
			reopened := cutEnds(b, cut)
			m.send("a")
			await(t, "an undecided transaction", reopened)
			m.tells("a 1 1")
			m.send("b")
			m.tells("a 1 1", "b 2 2")
		})
	}
}

// cutEnds cuts the connections that end a transaction until one was given up: its producer is opened anew.
func cutEnds(b *testenv.Broker, cut testenv.Cut) (reopened <-chan struct{}) {
	again := make(chan struct{})
	var once sync.Once
	var ends atomic.Int32
	b.Fault(func(key int16) testenv.Fault {
		select {
		case <-again:
			return testenv.Fault{}
		default:
		}
		switch {
		case key == testenv.KeyEndTxn:
			ends.Add(1)
			return testenv.Fault{Cut: cut}
		case key == testenv.KeyInitProducerID && ends.Load() > 0:
			once.Do(func() { close(again) })
		}
		return testenv.Fault{}
	})
	return again
}
