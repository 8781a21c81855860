// Package profile is the stage that keeps one state per person: traits, aggregates over the events, identifiers.
//
// The state is kept in fragments, one per profile and primary identifier, so that a later merge or un-merge of persons only
// regroups fragments. All contents are commutative: whatever the order in which the events come, the fragment is the same.
// Segments, scores and receivers read the profile; only this stage derives state from events.
package profile

import (
	"context"
	"fmt"

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
	ev    *pipeline.Event
	vars  func(name string) any // reads ev, for `where`

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
// An event of nobody passes without a profile; so does an evaluation of a profile that does not exist.
func (s *stage) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	ev.Profile, ev.Changed, ev.Inputs = nil, nil, pipeline.AttributeSet{}
	if ev.Canonical == (pipeline.ID{}) {
		return emit.Event(ev)
	}
	s.key = append(append(s.key[:0], ev.Canonical[:]...), ev.Primary[:]...)
	folded, err := tx.Load(s.key, newState)
	if err != nil {
		return fmt.Errorf("load the profile of partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
	}
	st := folded.(*state)
	if ev.Type == pipeline.TypeEvaluate {
		if !st.empty() {
			s.attach(ev, st, false)
		}
		return emit.Event(ev)
	}
	created := st.empty()
	changes, rej := s.changes(st, ev)
	if rej != nil {
		return rej
	}
	if changes != nil {
		if folded, err = tx.Merge(s.key, newState, changes); err != nil {
			return fmt.Errorf("update the profile of partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
		}
		st = folded.(*state)
	}
	s.attach(ev, st, created)
	return emit.Event(ev)
}

// attached is a profile with the view that it points to, in one piece of memory.
type attached struct {
	profile pipeline.Profile
	view    view
}

func (s *stage) attach(ev *pipeline.Event, st *state, created bool) {
	a := &attached{view: view{plan: s.plan, state: st}}
	a.profile = pipeline.Profile{ID: ev.Canonical, Version: st.updates, Created: created, State: &a.view}
	ev.Profile = &a.profile
}
