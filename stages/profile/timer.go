package profile

import (
	"fmt"

	"github.com/millstream-io/millstream/pipeline"
)

// passTime notes the attributes that are another value now than a millisecond ago, because something came into their windows
// or left them. The engine evaluates a profile at exactly the times that wake asks for, so nothing changes in between.
func (s *stage) passTime(tx pipeline.Tx, ev *pipeline.Event, person *state, fragments []pipeline.ID) (*state, error) {
	now := ev.Now().UnixMilli()
	for _, i := range s.windows {
		a := &s.attributes[i]
		x := a.of(person, i)
		if x != nil && x.in(now-1).any() != x.in(now).any() {
			changed(ev, a.name)
			ev.Inputs.Add(a.index)
		}
	}
	if len(ev.Changed) == 0 {
		return person, nil
	}
	// The profile that is told has a higher version than the one before, so it counts as an update.
	primary := ev.Canonical
	for _, f := range fragments {
		st, err := s.load(tx, ev.Canonical, f)
		if err != nil {
			return nil, err
		}
		if !st.empty() {
			primary = f
			break
		}
	}
	if _, err := tx.Merge(s.fragment(ev.Canonical, primary), newState, append(s.delta[:0], format, deltaTick)); err != nil {
		return nil, fmt.Errorf("update a profile at its time: %w", err)
	}
	return s.person(tx, ev.Canonical, fragments)
}

// wake asks for an evaluation when the next window changes.
func (s *stage) wake(ev *pipeline.Event, person *state, emit pipeline.Emit) {
	if len(s.windows) == 0 {
		return
	}
	now, next := ev.Now().UnixMilli(), never
	for _, i := range s.windows {
		if x := s.attributes[i].of(person, i); x != nil {
			next = min(next, x.window().next(now))
		}
	}
	if next != never {
		emit.Wake(pipeline.Millis(next))
	}
}
