package webhook

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// writeTime is how long one Write works; the contract's five seconds less what it takes to give up.
const writeTime = 4600 * time.Millisecond

// write is one call of Write.
type write struct {
	*sink
	caller   context.Context
	end      time.Time
	attempts []pipeline.Attempt
	outcomes []pipeline.Outcome
	slowest  atomic.Int64 // nanoseconds of the slowest answer, 0 before the first
	failed   atomic.Bool  // a request was not answered
}

// Write delivers the attempts of different profiles at once, max_in_flight at most over all partitions, and those of one
// profile one after another up to the first that has to be tried again.
func (s *sink) Write(ctx context.Context, _ pipeline.Tx, attempts []pipeline.Attempt) ([]pipeline.Outcome, error) {
	w := &write{sink: s, caller: ctx, end: s.now().Add(writeTime), attempts: attempts, outcomes: make([]pipeline.Outcome, len(attempts))}
	bounded, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()

	keys := w.byKey()
	if len(keys) > 0 && s.gate.suspect(s.now()) { // one request alone finds out whether the endpoint is back
		w.deliverKey(bounded, keys[0])
		keys = keys[1:]
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(len(keys), s.maxInFlight) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(keys); i = next.Add(1) - 1 {
				w.deliverKey(bounded, keys[i])
			}
		})
	}
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	return w.outcomes, nil
}

// byKey returns the indexes of the attempts, grouped by the record's key, in order.
func (w *write) byKey() [][]int {
	group := make(map[string]int, len(w.attempts))
	keys := make([][]int, 0, len(w.attempts))
	for i := range w.attempts {
		key := w.attempts[i].Record.Key
		g, ok := group[string(key)]
		if !ok {
			g = len(keys)
			group[string(key)] = g
			keys = append(keys, nil)
		}
		keys[g] = append(keys[g], i)
	}
	return keys
}

// deliverKey delivers the attempts of one profile.
func (w *write) deliverKey(ctx context.Context, indexes []int) {
	for n, i := range indexes {
		w.outcomes[i] = w.deliver(ctx, &w.attempts[i])
		if w.outcomes[i].Kind != pipeline.RetryAt {
			continue
		}
		for _, later := range indexes[n+1:] {
			w.outcomes[later] = pipeline.Outcome{Kind: pipeline.RetryAt, At: w.outcomes[i].At, Reason: "an earlier message of the same profile waits"}
		}
		return
	}
}

// deliver makes one attempt, unless there is nothing to send or no way to send it now.
func (w *write) deliver(ctx context.Context, a *pipeline.Attempt) pipeline.Outcome {
	m, err := pipeline.ParseMessage(a.Record.Key, a.Record.Value)
	if err != nil {
		return rejected(err)
	}
	if m.Internal() {
		return pipeline.Outcome{Kind: pipeline.Unchanged}
	}
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return w.outOfTime()
	}
	now := w.now()
	if ctx.Err() != nil || !w.fits(now) {
		return w.outOfTime()
	}
	probe, again := w.gate.admit(now)
	if !again.IsZero() {
		return w.held(a, now, again)
	}
	body, err := w.body(m)
	if err != nil {
		w.gate.forget(probe)
		return rejected(err)
	}
	return w.judge(a, m, probe, w.send(ctx, m, body, now))
}

// fits tells whether a request that begins now can end in time: its whole timeout, or, while everything was answered, four
// times the slowest answer. Without the second rule only requests of the first moments would run.
func (w *write) fits(now time.Time) bool {
	left := w.end.Sub(now)
	slowest := time.Duration(w.slowest.Load())
	return left >= w.timeout || slowest > 0 && !w.failed.Load() && left >= 4*slowest
}

func (w *write) outOfTime() pipeline.Outcome {
	return pipeline.Outcome{Kind: pipeline.RetryAt, At: w.now(), Reason: "the time of one write was over before its turn"}
}

// held is the outcome of an attempt that the gate did not let pass. Nothing was sent.
func (w *write) held(a *pipeline.Attempt, now, again time.Time) pipeline.Outcome {
	if expires := w.expires(a, now); !now.Before(expires) {
		return pipeline.Outcome{Kind: pipeline.Rejected, Code: codeExpired, Reason: "the endpoint did not take it within max_age and takes nothing now"}
	} else if again.After(expires) {
		again = expires
	}
	return pipeline.Outcome{Kind: pipeline.RetryAt, At: again, Reason: "the endpoint takes nothing at the moment"}
}
