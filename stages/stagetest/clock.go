package stagetest

import (
	"bytes"
	"maps"
	"strconv"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// clock holds the times at which profiles want to be evaluated, as the engine's timers do: they move with the transaction.
type clock struct{ due, committed map[pipeline.ID]time.Time }

func newClock() clock {
	return clock{map[pipeline.ID]time.Time{}, map[pipeline.ID]time.Time{}}
}

// set takes what was asked for during an event of a profile; it replaces what was asked before. A held profile waits.
func (c *clock) set(ev *pipeline.Event, at time.Time) {
	delete(c.due, ev.Canonical)
	if !at.IsZero() && !ev.Held {
		c.due[ev.Canonical] = at
	}
}

func (c *clock) commit() { c.committed = maps.Clone(c.due) }
func (c *clock) undo()   { c.due = maps.Clone(c.committed) }

// next is the earliest time until a moment, of the smallest profile.
func (c *clock) next(until time.Time) (profile pipeline.ID, at time.Time, ok bool) {
	for id, t := range c.due {
		earlier := t.Before(at) || t.Equal(at) && bytes.Compare(id[:], profile[:]) < 0
		if !t.After(until) && (!ok || earlier) {
			profile, at, ok = id, t, true
		}
	}
	return profile, at, ok
}

// maxFires bounds the evaluations before one record: a stage that always asks for the next millisecond is a mistake.
const maxFires = 100_000

// fire evaluates the profiles that are due when a record arrives.
func (r *Runner) fire(rec *pipeline.Record) {
	ms, err := strconv.ParseInt(string(rec.Header(pipeline.HeaderReceived)), 10, 64)
	if err != nil {
		return
	}
	r.fireUntil(pipeline.Millis(max(ms, r.profile.now)))
}

func (r *Runner) fireUntil(until time.Time) {
	r.t.Helper()
	for n := 0; ; n++ {
		profile, at, ok := r.clock.next(until)
		if !ok {
			return
		}
		if n == maxFires {
			r.t.Fatalf("profile %s asks for evaluations without end, the last at %s", profile, at)
		}
		r.evaluate(profile, at, pipeline.CauseTimer)
	}
}

// Advance lets time pass: what is due until then happens.
func (r *Runner) Advance(until time.Time) {
	r.t.Helper()
	r.fireUntil(until)
	r.profile.now = max(r.profile.now, until.UnixMilli())
}

// evaluate looks at a profile again, as the engine does at a due time or after a turn of regrouping.
func (r *Runner) evaluate(profile pipeline.ID, at time.Time, cause string) {
	r.t.Helper()
	ev := r.evaluation(profile, at, cause)
	ev.MessageID = cause + " " + at.UTC().Format(pipeline.TimeFormat)
	delete(r.clock.due, profile)
	r.one(r.profile, ev, func() *pipeline.RejectError { return nil })
}

func (r *Runner) evaluation(profile pipeline.ID, at time.Time, cause string) *pipeline.Event {
	ev := &pipeline.Event{Type: pipeline.TypeEvaluate, Primary: profile, Canonical: profile, ReceivedAt: at, Time: at, Cause: cause}
	r.people.assignTo(ev, profile)
	return ev
}
