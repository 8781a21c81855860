// Package score is the stage that keeps each profile's scores: numbers that follow from its past, and may sink with time alone.
//
// A score is points that decay, recency, frequency and money (RFM), the probability to be still a customer (BG/NBD), the value
// of the time to come (Gamma-Gamma), or an expression. What it needs of the past the stage `profile` keeps; this stage
// remembers only what it has told last. A score is evaluated whenever its profile is looked at, so a document never shows an old
// one; the world is told when a rule of the score says so, and at the millisecond at which a threshold is passed.
package score

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// Kind describes the stage.
var Kind = pipeline.StageKind{
	Name:    "score",
	Task:    pipeline.TaskProfile,
	Code:    2,
	Summary: "keeps the scores of each profile: points, RFM, lifetime value, expressions; tells when they change",
	After:   []string{"clean", "profile"},
	Around:  []string{"segment"},
	Config:  func() any { return &Config{} },
	Build:   build,
}

var _ pipeline.DecisionKeeper = (*stage)(nil)

// stage serves one partition.
type stage struct {
	*plan
	delta    []byte
	document []byte
	changes  []change // scratch
}

// change is what is told of one score.
type change struct {
	score    *definition
	value    float64
	gone     bool // it has no value any more
	previous float64
	known    bool      // there is a previous
	fired    []float64 // deltas that were reached
	number   uint64
	// How it came about.
	reasons  map[string]float64
	features map[string]string
}

// Process evaluates the scores, sets ev.Profile.Scores, lets the other stages look at the event, and then tells what changed:
// so the profile in a message has the segments of now. An event without a profile passes.
//
// What is told counts in ev.Profile.Version, since time can change the scores of a profile and nothing else of it.
func (s *stage) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	p := ev.Profile
	if p == nil {
		return emit.Event(ev)
	}
	folded, err := tx.Load(p.ID[:], newTold)
	if err != nil {
		return fmt.Errorf("load the scores of a profile, partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
	}
	t := folded.(*told)
	p.Scores = make(map[string]float64, len(s.scores))
	p.Version += t.number
	s.changes, s.delta = s.changes[:0], append(s.delta[:0], format)
	for i := range s.scores {
		d := &s.scores[i]
		value, ok, err := d.evaluate(p, ev.Now())
		if err != nil {
			return err
		}
		if ok {
			p.Scores[d.name] = value
		}
		ev.Inputs.Add(d.index)
		last, known := t.find(d.name)
		if c, tell := d.tell(ev, value, ok, last, known); tell {
			if !c.gone {
				if c.reasons, c.features, err = d.model.explain(p, ev.Now()); err != nil {
					return err
				}
			}
			s.changes = append(s.changes, c)
			last = d.after(&c, last)
		}
		if at := d.wake(p, value, ok, last, ev.Now()); !at.IsZero() {
			emit.Wake(at)
		}
	}
	for i := range s.changes {
		s.changes[i].number = t.number + uint64(i) + 1
		s.delta = appendChange(s.delta, &s.changes[i])
	}
	for i := range t.scores {
		if _, declared := s.byName[t.scores[i].name]; !declared {
			s.delta = pipeline.AppendText(append(s.delta, deltaForget), t.scores[i].name)
		}
	}
	p.Version += uint64(len(s.changes))
	if len(s.delta) > 1 {
		if _, err := tx.Merge(p.ID[:], newTold, s.delta); err != nil {
			return fmt.Errorf("update the scores of a profile, partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
		}
	}
	if err := emit.Event(ev); err != nil || len(s.changes) == 0 {
		return err
	}
	s.document = p.AppendJSON(s.document[:0])
	for i := range s.changes {
		emit.Message(s.message(ev, &s.changes[i]))
	}
	return nil
}

// Depart forgets what was told of a profile that has moved into another one. The scores of that one are evaluated anew, from the
// past of both.
func (s *stage) Depart(tx pipeline.Tx, ev *pipeline.Event, _ pipeline.Emit) ([]byte, error) {
	tx.Delete(ev.Canonical[:])
	return nil, nil
}

// Inherit does nothing: scores follow from the past alone.
func (s *stage) Inherit(pipeline.Tx, pipeline.ID, []byte) error { return nil }

// evaluate returns the score of a profile, and whether it has one.
func (d *definition) evaluate(p *pipeline.Profile, at time.Time) (float64, bool, error) {
	if p.Empty {
		return 0, false, nil
	}
	if d.eligible != nil {
		is, err := d.eligible.Bool(variables(p, at))
		if err != nil {
			return 0, false, pipeline.Reject("score_failed", "the condition eligible of score %s cannot be evaluated", d.name)
		}
		if !is {
			return 0, false, nil
		}
	}
	v, ok, err := d.model.value(p, at)
	if err != nil {
		return 0, false, pipeline.Reject("score_failed", "score %s cannot be evaluated", d.name)
	}
	if !ok || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, false, nil
	}
	return v + 0, true, nil // -0 is 0
}

// tell decides whether the world hears of the score, and what. A score of which nothing was told counts as 0 in the rules.
func (d *definition) tell(ev *pipeline.Event, value float64, ok bool, last decision, known bool) (change, bool) {
	c := change{score: d, value: value, previous: last.value, known: known}
	if !ok {
		c.gone, c.value = true, 0
		return c, known
	}
	for _, by := range d.deltas {
		if math.Abs(value-last.mark(by)) >= by {
			c.fired = append(c.fired, by)
		}
	}
	switch {
	case len(c.fired) > 0, place(d.cross, value) != place(d.cross, last.value):
		return c, true
	case known && value == last.value:
		return c, false
	case known && d.version != last.version:
		return c, true
	}
	return c, d.always && (!known || d.concerns(ev))
}

// place is how many thresholds the value has reached.
func place(thresholds []float64, value float64) int {
	n, _ := slices.BinarySearchFunc(thresholds, value, func(t, v float64) int {
		if t <= v {
			return -1
		}
		return 1
	})
	return n
}

// concerns tells whether the event changed what the score is made of.
func (d *definition) concerns(ev *pipeline.Event) bool {
	return d.readsSegments || d.reads.Intersects(&ev.Inputs)
}

// after is the decision that a change leaves, as its fold gives it.
func (d *definition) after(c *change, last decision) decision {
	if c.gone {
		return decision{}
	}
	last.name, last.version, last.value = d.name, d.version, c.value
	marks := slices.Clone(last.marks)
	last.marks = marks
	for _, by := range c.fired {
		last.setMark(by, c.value)
	}
	return last
}

// patience is the shortest time after which a score that sinks by itself is looked at for a delta. Thresholds are exact.
const patience = time.Hour

// wake is when the score passes a threshold, or has changed by a delta, or one of its expressions changes by the clock, if no
// event comes before; zero: never.
func (d *definition) wake(p *pipeline.Profile, value float64, ok bool, last decision, now time.Time) (first time.Time) {
	if p.Empty {
		return first
	}
	for _, program := range d.clocks {
		if at := program.Next(variables(p, now), now); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	dir := direction(0)
	if ok {
		dir = d.model.direction(value)
	}
	if dir == 0 {
		return first
	}
	earliest := func(target float64, notBefore time.Time) {
		at, reached := d.model.reaches(p, now, target, dir)
		if !reached {
			return
		}
		if at.Before(notBefore) {
			at = notBefore
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	// Sinking, the next threshold is the largest that is reached still; rising, the smallest that is not.
	if i := place(d.thresholds, value); dir == sinks && i > 0 {
		earliest(d.thresholds[i-1], now)
	} else if dir == rises && i < len(d.thresholds) {
		earliest(d.thresholds[i], now)
	}
	for _, by := range d.deltas {
		// A sinking score passes its target when it is below, so the target lies a hair above the delta.
		target := last.mark(by) + float64(dir)*by
		if dir == sinks {
			target = math.Nextafter(target, math.Inf(1))
		}
		earliest(target, now.Add(patience))
	}
	return first
}
