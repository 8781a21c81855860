package webhook

import (
	"sync"
	"time"
)

const (
	faultsToClose = 10 // faults in a row after which nothing more is sent
	waitMin       = 5 * time.Second
	waitMax       = 10 * time.Minute
	probeTime     = time.Second // when the others ask again while one request tries the endpoint
)

// gate is what all requests to the endpoint pass: it is shut for a while when the endpoint asks for it (Retry-After) or
// fails again and again (a circuit breaker), so that a dead endpoint costs one request per pause. After the pause one
// request tries it; if that is answered, the gate is open again, else the pause doubles.
type gate struct {
	mu      sync.Mutex
	faults  int           // faults in a row while open
	wait    time.Duration // length of the last pause that the gate chose itself
	until   time.Time     // zero: open
	probing bool          // one request is trying the endpoint
	bad     time.Time     // since when the endpoint is reported bad; zero: it is not
}

func newGate() *gate { return &gate{} }

// suspect tells that the pause is over and the endpoint still to be tried.
func (g *gate) suspect(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.until.IsZero() && !now.Before(g.until) && !g.probing
}

// admit lets a request pass, or tells when to ask again. A request that passed must be reported with answered, failed or
// forget; probe goes with it.
func (g *gate) admit(now time.Time) (probe bool, again time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.until.IsZero():
		return false, time.Time{}
	case now.Before(g.until):
		return false, g.until
	case g.probing:
		return false, now.Add(probeTime)
	}
	g.probing = true
	return true, time.Time{}
}

// answered reports a request that the endpoint answered as one that works. It returns since when the endpoint had been
// reported bad, zero if it had not. Answers to requests from before the pause do not end it.
func (g *gate) answered(probe bool) (bad time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if probe {
		g.probing, g.until, g.wait = false, time.Time{}, 0
		bad, g.bad = g.bad, time.Time{}
	}
	if g.until.IsZero() {
		g.faults = 0
	}
	return bad
}

// failed reports a request that was not answered, or so that others will not fare better. It tells whether the endpoint
// became bad with it.
func (g *gate) failed(probe bool, now time.Time) (becameBad bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if probe {
		g.probing = false
	} else if !g.until.IsZero() {
		return false // a request from before the pause
	}
	if g.faults++; !probe && g.faults < faultsToClose {
		return false
	}
	g.wait = min(max(2*g.wait, waitMin), waitMax)
	g.until = now.Add(g.wait)
	return g.becomeBad(now)
}

// pause shuts the gate until a time that the endpoint named. A pause alone is how a busy endpoint works; it is bad when it
// asks for the next one at the first try after it, or when it is gone.
func (g *gate) pause(probe, gone bool, now, until time.Time) (becameBad bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if probe {
		g.probing = false
	}
	if until.After(g.until) {
		g.until = until
	}
	return (probe || gone) && g.becomeBad(now)
}

// forget reports a request that was given up for a reason of our own.
func (g *gate) forget(probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if probe {
		g.probing = false
	}
}

func (g *gate) becomeBad(now time.Time) bool {
	if !g.bad.IsZero() {
		return false
	}
	g.bad = now
	return true
}
