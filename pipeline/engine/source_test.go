package engine_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// feed is a source whose messages come from the test.
type feed struct {
	messages chan *message.Message
	resumed  chan string   // the position that it was to go on from
	stopped  chan struct{} // closed when it was to stop
	closing  sync.Once
}

func newFeed() *feed {
	return &feed{messages: make(chan *message.Message), resumed: make(chan string, 1), stopped: make(chan struct{})}
}

func (f *feed) Resume(position []byte) error {
	f.resumed <- string(position)
	return nil
}

func (f *feed) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for {
			select {
			case m := <-f.messages:
				out <- m
			case <-ctx.Done():
				f.closing.Do(func() { close(f.stopped) })
				return
			}
		}
	}()
	return out, nil
}

func (f *feed) Close() error { return nil }

// source makes the feed the pipeline's only source.
func (m *machine) source(f *feed, resumes bool) {
	m.plan.Sources = []pipeline.SourcePlan{{Name: "feed", Kind: "test", Resumes: resumes,
		Open: func(context.Context, pipeline.Deps) (pipeline.Source, error) { return f, nil }}}
}

// give hands events and a position over.
func (f *feed) give(t *testing.T, position string, names ...string) *message.Message {
	t.Helper()
	msg := pipeline.NewBatchMessage(context.Background(), "", &pipeline.Batch{Records: events(names...), Position: []byte(position)})
	taken := make(chan struct{})
	go func() {
		f.messages <- msg
		close(taken)
	}()
	await(t, "the source", taken)
	return msg
}

// answered waits for the answer to a message: true is an ack.
func answered(t *testing.T, msg *message.Message) bool {
	t.Helper()
	answer := make(chan bool)
	go func() {
		select {
		case <-msg.Acked():
			answer <- true
		case <-msg.Nacked():
			answer <- false
		}
	}()
	return await(t, "the answer to a message", answer)
}

// opened is a step hook that tells when both workers have their producers, and nothing is under way.
func (m *machine) opened() <-chan struct{} {
	both := make(chan struct{})
	var n atomic.Int32
	m.step = func(name string) {
		if name == "restored" && n.Add(1) == 2 {
			close(both)
		}
	}
	return both
}

// TestSourceIsAnsweredWhenTheBrokerHasItsEvents looks at the moment when the broker has acknowledged: the events are in the
// topic, and the source has no answer before that.
func TestSourceIsAnsweredWhenTheBrokerHasItsEvents(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t, testenv.Embedded(t)), newFeed()
	m.source(f, false)
	produced, looked := make(chan struct{}), make(chan struct{})
	m.step = func(name string) {
		if name == "produced" {
			close(produced)
			<-looked
		}
	}
	m.start()
	msg := f.give(t, "", "a")
	await(t, "the broker's acknowledgement", produced)
	select {
	case <-msg.Acked():
		t.Error("the source had its answer before the broker's")
	default:
	}
	if n := len(m.records("events")); n != 1 {
		t.Errorf("%d events in the topic, want 1", n)
	}
	close(looked)
	if !answered(t, msg) {
		t.Error("the events were refused although the broker has them")
	}
}

// TestSourceIsRefusedWhileTheBrokerIsAway cuts off every request that produces: the source must hear that its events were
// not taken.
func TestSourceIsRefusedWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
	m, f := newMachine(t, b.Addrs()), newFeed()
	m.source(f, false)
	opened := m.opened()
	m.start()
	await(t, "the workers", opened)
	b.Fault(func(key int16) testenv.Fault {
		if key == testenv.KeyProduce {
			return testenv.Fault{Cut: testenv.CutBefore}
		}
		return testenv.Fault{}
	})
	if answered(t, f.give(t, "", "a")) {
		t.Error("the events were acknowledged although the broker never got them")
	}
	b.Fault(nil)
	if !answered(t, f.give(t, "", "b")) {
		t.Error("the events were refused although the broker is back")
	}
}

// TestPositionOfASourceMovesWithItsEvents cuts off the ends of transactions, and then everything that comes after one: events
// and position are both there, or neither is. After a restart on an empty folder the source goes on from that position.
func TestPositionOfASourceMovesWithItsEvents(t *testing.T) {
	t.Parallel()
	b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
	m, f := newMachine(t, b.Addrs()), newFeed()
	m.source(f, true)
	r := m.start()
	if p := await(t, "the source's start", f.resumed); p != "" {
		t.Errorf("the first start goes on from %q", p)
	}
	var ends atomic.Int32
	cut := make(chan struct{})
	b.Fault(func(key int16) testenv.Fault {
		if key == testenv.KeyEndTxn {
			if ends.Add(1) == 2 {
				close(cut)
			}
			return testenv.Fault{Cut: testenv.CutBefore}
		}
		return testenv.Fault{}
	})
	msg := f.give(t, "after a", "a")
	await(t, "the end of a transaction", cut)
	if e, p := len(m.records("events")), len(m.records("state.source.feed")); e+p > 0 {
		t.Errorf("%d events and %d positions are visible before the transaction has ended", e, p)
	}

	var ended atomic.Bool
	b.Fault(func(key int16) testenv.Fault {
		if key == testenv.KeyEndTxn {
			ended.Store(true)
		} else if key == testenv.KeyProduce && ended.Load() {
			return testenv.Fault{Cut: testenv.CutBefore}
		}
		return testenv.Fault{}
	})
	m.eventually(func() error {
		if e, p := len(m.records("events")), len(m.records("state.source.feed")); e != 1 || p != 1 {
			return fmt.Errorf("%d events and %d positions, want 1 of each", e, p)
		}
		return nil
	})
	b.Fault(nil)
	if !answered(t, msg) {
		t.Error("the events were refused although they are committed")
	}
	m.tells("a 1 1")
	r.drain()

	f = newFeed()
	m.source(f, true)
	m.data = t.TempDir()
	m.start()
	if p := await(t, "the source's start", f.resumed); p != "after a" {
		t.Errorf("the second start goes on from %q, want where the first was", p)
	}
}

// TestUndecidedTransactionsOfASource is TestUndecidedTransactions for a source that can resume.
func TestUndecidedTransactionsOfASource(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]testenv.Cut{"request": testenv.CutBefore, "answer": testenv.CutAfter} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
			m, f := newMachine(t, b.Addrs()), newFeed()
			m.source(f, true)
			opened := m.opened()
			m.start()
			await(t, "the workers", opened)
			await(t, "the source's start", f.resumed)
			reopened := cutEnds(b, cut)
			msg := f.give(t, "after a", "a")
			await(t, "an undecided transaction", reopened)
			if !answered(t, msg) {
				t.Error("the events were refused")
			}
			m.tells("a 1 1")
			answered(t, f.give(t, "after b", "b"))
			m.tells("a 1 1", "b 2 2")
			if n := len(m.records("events")); n != 2 {
				t.Errorf("%d events, want 2", n)
			}
		})
	}
}

// TestSourceOutlivesARefusedBatch lets the broker take nothing until the client has given a batch up in the middle: it comes
// again, and the run goes on.
func TestSourceOutlivesARefusedBatch(t *testing.T) {
	t.Parallel()
	b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
	m, f := newMachine(t, b.Addrs()), newFeed()
	m.cluster = m.dial(b.Addrs(), func(c *broker.Config) { c.InFlightBytes = 1 }) // each record waits for the one before
	m.source(f, true)
	opened := m.opened()
	var tries atomic.Int32
	restored := m.step
	m.step = func(name string) {
		if name == "source sends" {
			tries.Add(1)
		}
		restored(name)
	}
	m.start()
	await(t, "the workers", opened)
	await(t, "the source's start", f.resumed)
	b.Fault(func(key int16) testenv.Fault {
		if key == testenv.KeyProduce {
			return testenv.Fault{Cut: testenv.CutBefore}
		}
		return testenv.Fault{}
	})
	msg := f.give(t, "after c", "a", "b", "c")
	m.eventually(func() error {
		if n := tries.Load(); n < 2 {
			return fmt.Errorf("the batch was tried %d times", n)
		}
		return nil
	})
	b.Fault(nil)
	if !answered(t, msg) {
		t.Error("the events were refused although the broker is back")
	}
	m.tells("a 1 1", "b 2 2", "c 3 3")
	if n := len(m.records("events")); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}
