package engine_test

import (
	"sync"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// TestDrainFinishesWhatASourceHasAccepted stops the engine while the broker is slow to take a source's events: they are
// acknowledged all the same, before Run returns.
func TestDrainFinishesWhatASourceHasAccepted(t *testing.T) {
	t.Parallel()
	b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
	m, f := newMachine(t, b.Addrs()), newFeed()
	m.source(f, false)
	opened := m.opened()
	r := m.start()
	await(t, "the workers", opened)
	producing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.Fault(func(key int16) testenv.Fault {
		if key == testenv.KeyProduce {
			once.Do(func() { close(producing) })
			<-goOn
		}
		return testenv.Fault{}
	})
	msg := f.give(t, "", "a")
	await(t, "the request to the broker", producing)
	r.stop()
	await(t, "the source's end", f.stopped)
	select {
	case <-r.ended:
		t.Error("Run has returned while a source waits for the broker")
	case <-time.After(100 * time.Millisecond): // a chance to do it wrong
	}
	close(goOn)
	r.drain()
	select {
	case <-msg.Acked():
	case <-msg.Nacked():
		t.Error("the events were refused")
	default:
		t.Error("Run has returned without an answer to the source")
	}
}

// TestDrainCommitsWhatIsInWork stops the engine in the middle of a transaction: it is committed before Run returns, and not
// a step is made after that.
func TestDrainCommitsWhatIsInWork(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t, testenv.Embedded(t)), newFeed()
	m.source(f, true) // runs beside a worker and stops with it
	inWork, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.step = func(name string) {
		if name == "processed" {
			once.Do(func() {
				close(inWork)
				<-goOn
			})
		}
	}
	m.send("a")
	r := m.start()
	await(t, "the source's start", f.resumed)
	await(t, "a batch", inWork)
	r.stop()
	await(t, "the end of the worker's context", f.stopped)
	select {
	case <-r.ended:
		t.Error("Run has returned while a batch is in work")
	case <-time.After(100 * time.Millisecond): // a chance to do it wrong
	}
	close(goOn)
	r.drain()
	at, err := m.cluster.Committed(m.context(), m.topic(pipeline.TaskResolve), m.topic("events"), 0)
	m.check(err)
	if at.Offset != 1 || len(m.records("resolved")) != 1 {
		t.Errorf("the resolve task stands at %d with %d records resolved, want 1 and 1", at.Offset, len(m.records("resolved")))
	}
}
