// Package segment is the stage that keeps each profile's segments: named conditions over traits, aggregates and scores.
//
// It says when a profile enters and exits, and remembers only its last decision. What a segment needs of the past is an
// aggregate of the stage profile. Only segments that read something that the event changed are evaluated, so the cost of
// an event does not grow with the number of the others.
package segment

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// Kind describes the stage.
var Kind = pipeline.StageKind{
	Name:    "segment",
	Task:    pipeline.TaskProfile,
	Code:    3,
	Summary: "keeps the segments of each profile, and says when it enters and exits",
	After:   []string{"clean", "profile"},
	Config:  func() any { return &Config{} },
	Build:   build,
}

// Config of the stage: segments by name, each a condition over attributes and traits, such as
// `vip: orders_90d >= 3 and traits.plan == "pro"`, or over what somebody did: see Condition. A name is a word of small letters, digits and underscores that starts with
// a letter, at most 64 long.
type Config map[string]Condition

// stage serves one partition.
type stage struct {
	*plan
	marks    []uint32 // per segment: the round in which it was last picked
	round    uint32
	picked   []int // scratch: segments to evaluate
	turned   []int // scratch: of these, the ones to enter or exit
	delta    []byte
	document []byte
	profile  *pipeline.Profile
	now      time.Time
	vars     func(name string) any // reads profile and now
}

func newStage(p *plan) *stage {
	s := &stage{plan: p, marks: make([]uint32, len(p.segments))}
	s.vars = func(name string) any {
		if name == expression.Now {
			return s.now
		}
		return s.profile.Value(name)
	}
	return s
}

// Process evaluates the segments that the event concerns, sets ev.Profile.Segments and emits a message per transition. An
// event without a profile passes.
//
// Transitions count in ev.Profile.Version, since time can change the segments of a profile and nothing else of it.
func (s *stage) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	p := ev.Profile
	if p == nil {
		return emit.Event(ev)
	}
	m, err := s.load(tx, p.ID)
	if err != nil {
		return fmt.Errorf("partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
	}
	carried := s.carried(m, ev)
	if err := s.decide(m, carried, ev, s.look(m, ev)); err != nil {
		return err
	}
	s.wake(ev, emit)
	if len(s.turned) == 0 && m.definitions == s.definitions && len(m.brought) == 0 {
		p.Segments = m.names
		p.Version += m.number
		return emit.Event(ev)
	}
	transitions := s.transitions(m, carried, ev)
	folded, err := tx.Merge(p.ID[:], newMembership, s.delta)
	if err != nil {
		return fmt.Errorf("update the segments of a profile, partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
	}
	m = folded.(*membership)
	p.Segments = m.names
	p.Version += m.number
	s.document = s.document[:0]
	if len(s.turned) > 0 {
		s.document = p.AppendJSON(s.document)
	}
	for i := range transitions {
		emit.Message(s.message(ev, &transitions[i], p.ID))
	}
	return emit.Event(ev)
}

func (s *stage) load(tx pipeline.Tx, profile pipeline.ID) (*membership, error) {
	folded, err := tx.Load(profile[:], newMembership)
	if err != nil {
		return nil, fmt.Errorf("load the segments of a profile: %w", err)
	}
	return folded.(*membership), nil
}

// decide fills turned with the segments whose decision is another one now. A profile without events is in no segment.
func (s *stage) decide(m *membership, carried []transition, ev *pipeline.Event, at look) error {
	s.picked, s.turned = s.pick(ev, at), s.turned[:0]
	s.profile, s.now = ev.Profile, ev.Now()
	defer func() { s.profile = nil }()
	for _, i := range s.picked {
		d := &s.segments[i]
		in := false
		if !ev.Profile.Empty {
			var err error
			if in, err = d.program.Bool(s.vars); err != nil {
				return pipeline.Reject("segment_failed", "the condition of segment %s cannot be evaluated", d.name)
			}
		}
		if in != (m.find(d.name).in || carries(carried, d.name)) {
			s.turned = append(s.turned, i)
		}
	}
	return nil
}

// wake asks for an evaluation when time alone may change a segment.
func (s *stage) wake(ev *pipeline.Event, emit pipeline.Emit) {
	if ev.Profile.Empty {
		return
	}
	var next time.Time
	s.profile, s.now = ev.Profile, ev.Now()
	defer func() { s.profile = nil }()
	for _, i := range s.clocks {
		if at := s.segments[i].program.Next(s.vars, s.now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if !next.IsZero() {
		emit.Wake(next)
	}
}

// look is which segments an event makes the stage look at.
type look int

const (
	lookConcerned look = iota // those with an input that the event changed, at a due time also those that look at the clock
	lookInitial               // also those that a new profile may be in from the beginning
	lookAll
)

func (s *stage) look(m *membership, ev *pipeline.Event) look {
	switch {
	case ev.Type == pipeline.TypeEvaluate && ev.Cause != pipeline.CauseTimer || len(m.brought) > 0:
		return lookAll
	case ev.Profile.Created && m.number == 0 && m.definitions == 0:
		return lookInitial
	case ev.Profile.Created || m.definitions != s.definitions:
		return lookAll
	}
	return lookConcerned
}

// pick returns the segments to evaluate, in the order of their names.
func (s *stage) pick(ev *pipeline.Event, at look) []int {
	picked := s.picked[:0]
	if at == lookAll {
		for i := range s.segments {
			picked = append(picked, i)
		}
		return picked
	}
	s.round++
	if s.round == 0 { // marks of four billion rounds ago
		clear(s.marks)
		s.round = 1
	}
	add := func(segments []int) {
		for _, i := range segments {
			if s.marks[i] != s.round {
				s.marks[i] = s.round
				picked = append(picked, i)
			}
		}
	}
	if at == lookInitial {
		add(s.initial)
	}
	if ev.Cause == pipeline.CauseTimer {
		add(s.clocks)
	}
	for i := range s.readers {
		if r := &s.readers[i]; ev.Inputs.Has(r.attribute) {
			add(r.segments)
		}
	}
	if ev.Inputs.Has(pipeline.TraitsIndex) {
		for _, name := range ev.Changed {
			add(s.traitReaders[name])
		}
	}
	slices.Sort(picked)
	return picked
}

// Operations, as in segment_log.
const (
	opEnter   = "enter"
	opExit    = "exit"
	opCarried = "carried" // the profile has a membership that a merged one had
	opPassed  = "passed"  // the merged one had it until now
)

// transition is one of these. Times are Unix milliseconds.
type transition struct {
	segment   string
	version   uint32
	op        string
	delta     int // how the number of members changes
	number    uint64
	effective int64 // when it became true
	since     int64 // when the membership that begins or ends began
}

// transitions writes the delta of what is carried and what is in turned, and returns it as transitions. Memberships of segments
// that are no longer declared end without a message: there is no condition any more by which they would be right or wrong.
func (s *stage) transitions(m *membership, carried []transition, ev *pipeline.Event) []transition {
	list := append(make([]transition, 0, len(carried)+len(s.turned)), carried...)
	s.delta = appendDeltaHeader(s.delta[:0], s.definitions)
	if m.definitions != s.definitions {
		for i := range m.decisions {
			if _, declared := s.byName[m.decisions[i].segment]; !declared {
				s.delta = appendForget(s.delta, m.decisions[i].segment)
			}
		}
	}
	for _, i := range s.turned {
		d := &s.segments[i]
		last := m.find(d.name)
		for k := range carried {
			if c := &carried[k]; c.segment == d.name {
				last = decision{c.segment, c.version, true, c.effective, c.since}
			}
		}
		t := transition{segment: d.name, version: d.version, op: opEnter, delta: 1, effective: effectiveAt(ev, last)}
		if t.since = t.effective; last.in {
			t.op, t.delta, t.since = opExit, -1, last.since
		}
		list = append(list, t)
	}
	for i := range list {
		list[i].number = m.number + uint64(i) + 1
		s.delta = appendTransition(s.delta, &list[i])
	}
	if len(m.brought) > 0 {
		s.delta = pipeline.AppendText(append(s.delta, deltaDecided), "")
	}
	return list
}

// effectiveAt is when a transition became true: at the event's time, but not after now, and not before the last transition
// of this segment, so that its intervals never overlap, whatever the order in which events come.
func effectiveAt(ev *pipeline.Event, last decision) int64 {
	at := min(ev.Time.UnixMilli(), ev.ReceivedAt.UnixMilli())
	if last.segment != "" {
		at = max(at, last.at)
	}
	return at
}

// message is what the world hears of a transition, or the tables alone: then without the profile.
func (s *stage) message(ev *pipeline.Event, t *transition, profile pipeline.ID) pipeline.Message {
	var version [4]byte
	binary.BigEndian.PutUint32(version[:], t.version)
	var place [16]byte
	binary.BigEndian.PutUint64(place[:], ev.Turn)
	binary.BigEndian.PutUint64(place[8:], t.number)
	id := pipeline.HashID([]byte(t.segment), version[:], profile[:], place[:8], place[8:])

	b := make([]byte, 0, 320+len(s.document))
	b = append(b, `{"transition_id":"`...)
	b = pipeline.AppendID(b, id)
	b = append(b, `","segment":"`...)
	b = append(b, t.segment...)
	b = append(b, `","version":`...)
	b = strconv.AppendUint(b, uint64(t.version), 10)
	b = append(b, `,"effective_at":"`...)
	b = pipeline.AppendTime(b, pipeline.Millis(t.effective))
	b = append(b, `","emitted_at":"`...)
	b = pipeline.AppendTime(b, ev.ReceivedAt)
	b = append(b, `","cause":"`...)
	b = append(b, t.cause(ev)...)
	b = append(b, `","message_id":`...)
	b = pipeline.AppendJSONString(b, ev.MessageID)
	if t.op == opEnter || t.op == opExit {
		b = append(b, `,"profile":`...)
		b = append(b, s.document...)
	}
	b = append(b, '}')

	meta := make([]byte, 0, 112)
	meta = append(meta, `{"sequence":`...)
	meta = strconv.AppendUint(meta, pipeline.Sequence(ev.Turn, t.number), 10)
	meta = append(meta, `,"delta":`...)
	meta = strconv.AppendInt(meta, int64(t.delta), 10)
	meta = append(meta, `,"since":"`...)
	meta = pipeline.AppendTime(meta, pipeline.Millis(t.since))
	meta = append(meta, `","op":"`...)
	meta = append(meta, t.op...)
	meta = append(meta, `"}`...)
	return pipeline.Message{ID: id, Type: t.messageType(), Timestamp: ev.ReceivedAt, ProfileID: profile, Data: b, Meta: meta}
}

func (t *transition) messageType() string {
	switch t.op {
	case opEnter:
		return pipeline.SegmentEntered
	case opCarried:
		return pipeline.SegmentCarried
	case opPassed:
		return pipeline.SegmentPassed
	}
	return pipeline.SegmentExited
}

func (t *transition) cause(ev *pipeline.Event) string {
	switch {
	case ev.Cause != "":
		return ev.Cause
	case t.op == opCarried || t.op == opPassed:
		return pipeline.CauseMerge
	}
	return pipeline.CauseLive
}
