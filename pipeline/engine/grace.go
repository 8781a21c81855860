package engine

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// parts are what is running, by name, so that the end can say what did not finish. It is safe for concurrent use.
type parts struct {
	mu      sync.Mutex
	running map[string]int
}

// enter notes that a part runs, until leave is called.
func (p *parts) enter(name string) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.running = map[string]int{}
	}
	p.running[name]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.running[name]--; p.running[name] == 0 {
			delete(p.running, name)
		}
	}
}

func (p *parts) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(p.running)), ", ")
}

// bound ends the wait for a broker that does not answer: when the run has been stopping for Grace, Kafka is cut off, and
// whatever waits for it gives up. That is a kill for what was not committed, and like after a kill nothing is lost.
func (e *engine) bound(stopping, done <-chan struct{}) {
	select {
	case <-stopping:
	case <-done:
		return
	}
	t := time.NewTimer(e.Grace)
	defer t.Stop()
	select {
	case <-done:
		return
	case <-t.C:
	}
	e.Logger.Warn("the grace is over; what is not finished is given up, nothing of it is lost: it is done again at the next start, and clients were told to send again",
		"grace", e.Grace, "unfinished", e.parts.String())
	if c := e.connected.Load(); c != nil {
		c.Cut()
	}
	e.others.cut()
}
