// Package profile is the stage that keeps one state per person: traits, aggregates over the events, identifiers.
//
// The state is kept in fragments, one per profile and primary identifier, so that a merge or un-merge of persons only
// regroups fragments. All contents are commutative: whatever the order in which the events come, the fragment is the same, and
// whatever the fragments, their merge is the same.
// Segments, scores and receivers read the profile; only this stage derives state from events.
package profile

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// Kind describes the stage.
var Kind = pipeline.StageKind{
	Name:    "profile",
	Task:    pipeline.TaskProfile,
	Code:    1,
	Summary: "keeps the traits, aggregates and identifiers of each person",
	After:   []string{"clean"},
	Config:  func() any { return &Config{} },
	Build:   build,
}

// stage serves one partition.
type stage struct {
	*plan
	key   []byte   // scratch
	delta []byte   // scratch
	seen  []string // scratch: trait names of the event in hand
	names []string // scratch: ev.Changed
	ev    *pipeline.Event
	vars  func(name string) any // reads ev, for `where`

	parts  []part // scratch: fragments of the person in hand
	people people

	results []gjson.Result // by attribute.read: what was read of ev
	present []bool         // by attribute.read: whether it was
}

func newStage(p *plan) *stage {
	s := &stage{plan: p, results: make([]gjson.Result, len(p.reads)), present: make([]bool, len(p.reads))}
	s.vars = func(name string) any { return p.paths[name].Of(s.ev) }
	return s
}

// Process folds the event into its fragment. Codes of its refusals: not_a_number, sum_range, traits_limit,
// profile_too_large.
//
// An event of nobody passes without a profile, and so does one of a profile that is held. An evaluation of a profile without
// any event passes without one too, unless the profile was regrouped: then it is a profile that is Empty.
func (s *stage) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	ev.Profile, ev.Changed, ev.Inputs, ev.Shown = nil, nil, pipeline.AttributeSet{}, 0
	if ev.Canonical == (pipeline.ID{}) {
		return emit.Event(ev)
	}
	if ev.Held {
		if err := s.take(tx, ev); err != nil {
			return err
		}
		return emit.Event(ev)
	}
	fragments := primaries(ev)
	person, err := s.person(tx, ev.Canonical, fragments)
	if err != nil {
		return fmt.Errorf("partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
	}
	if ev.Type == pipeline.TypeEvaluate {
		if ev.Cause == pipeline.CauseTimer {
			if person, err = s.passTime(tx, ev, person, fragments); err != nil {
				return err
			}
		}
		s.evaluate(ev, person, fragments)
		s.wake(ev, person, emit)
		return emit.Event(ev)
	}
	created := person.empty()
	if person, err = s.fold(tx, ev, person, len(fragments) > 1); err != nil {
		return err
	}
	s.attach(ev, person, fragments, created)
	s.wake(ev, person, emit)
	return emit.Event(ev)
}

// take folds the event into its fragment, and does not look at the person.
func (s *stage) take(tx pipeline.Tx, ev *pipeline.Event) error {
	if ev.Type == pipeline.TypeEvaluate {
		return nil
	}
	st, err := s.load(tx, ev.Canonical, ev.Primary)
	if err == nil {
		_, err = s.fold(tx, ev, st, false)
	}
	ev.Changed, ev.Inputs = nil, pipeline.AttributeSet{}
	return err
}

// fold folds the event into its fragment, notes what changes of the person, and returns the person as it is then. merged
// tells that the person is more than this fragment.
func (s *stage) fold(tx pipeline.Tx, ev *pipeline.Event, person *state, merged bool) (*state, error) {
	own := person
	var err error
	if merged {
		if own, err = s.load(tx, ev.Canonical, ev.Primary); err != nil {
			return nil, err
		}
	}
	ev.Changed = s.names[:0]
	delta, rej := s.changes(own, person, ev)
	s.names = ev.Changed
	if rej != nil {
		return nil, rej
	}
	if delta == nil {
		return person, nil
	}
	folded, err := tx.Merge(s.fragment(ev.Canonical, ev.Primary), newState, delta)
	if err != nil {
		return nil, fmt.Errorf("update the profile of partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
	}
	if !merged {
		return folded.(*state), nil
	}
	return s.folded(ev.Canonical, person, folded.(*state), delta)
}

// evaluate attaches the profile as it is. After a merge or split everything counts as changed: what is left, and what came.
func (s *stage) evaluate(ev *pipeline.Event, person *state, fragments []pipeline.ID) {
	regrouped := ev.Cause == pipeline.CauseMerge || ev.Cause == pipeline.CauseSplit
	if person.empty() && !regrouped {
		return
	}
	s.attach(ev, person, fragments, false)
	if regrouped {
		ev.Changed = s.held(person, ev.Now().UnixMilli())
		for i := range ev.Inputs {
			ev.Inputs[i] = math.MaxUint64
		}
	}
}

// held are the types of identifiers, the traits and the attributes that the state holds now, sorted.
func (s *stage) held(st *state, now int64) []string {
	names := make([]string, 0, len(st.identifiers)+len(st.traits)+len(s.attributes))
	for i := range st.identifiers {
		names = append(names, st.identifiers[i].typ)
	}
	for i := range st.traits {
		if st.traits[i].value.kind != kindNone {
			names = append(names, st.traits[i].name)
		}
	}
	v := view{plan: s.plan, state: st, now: now}
	for i := range s.declared {
		if v.aggregate(i, i).any() != nil {
			names = append(names, s.attributes[i].name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// attached is a profile with the view that it points to, in one piece of memory.
type attached struct {
	profile pipeline.Profile
	view    view
}

func (s *stage) attach(ev *pipeline.Event, st *state, fragments []pipeline.ID, created bool) {
	a := &attached{view: view{plan: s.plan, state: st, now: ev.Now().UnixMilli()}}
	for _, id := range fragments {
		if id != ev.Canonical {
			a.view.previous = append(a.view.previous, id)
		}
	}
	a.profile = pipeline.Profile{ID: ev.Canonical, Turn: ev.Turn, Version: st.updates, Created: created, Empty: st.empty(), State: &a.view}
	ev.Profile = &a.profile
}
