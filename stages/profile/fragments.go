package profile

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/millstream-io/millstream/pipeline"
)

var _ pipeline.IdentifierShower = (*stage)(nil)

// Take removes a fragment and returns its full state, nil if there is none.
func (s *stage) Take(tx pipeline.Tx, profile, primary pipeline.ID) ([]byte, error) {
	st, err := s.load(tx, profile, primary)
	if err != nil || st.empty() {
		return nil, err
	}
	contents := st.Encode(nil)
	tx.Delete(s.fragment(profile, primary))
	s.people.forget(profile)
	return contents, nil
}

// Put adds a full state to the fragment.
func (s *stage) Put(tx pipeline.Tx, profile, primary pipeline.ID, contents []byte) error {
	s.delta = append(append(s.delta[:0], format, deltaAbsorb), contents...)
	if _, err := tx.Merge(s.fragment(profile, primary), newState, s.delta); err != nil {
		return fmt.Errorf("add a fragment to a profile: %w", err)
	}
	return nil
}

// Identifiers are those that the fragment's events have shown.
func (s *stage) Identifiers(tx pipeline.Tx, profile, primary pipeline.ID) ([]pipeline.Identifier, error) {
	st, err := s.load(tx, profile, primary)
	if err != nil {
		return nil, err
	}
	list := make([]pipeline.Identifier, len(st.identifiers))
	for i, x := range st.identifiers {
		list[i] = pipeline.Identifier{Type: pipeline.IdentifierType{Name: x.typ}, Value: x.value}
	}
	return list, nil
}

// fragment is the key of a fragment, valid until the next call.
func (s *stage) fragment(profile, primary pipeline.ID) []byte {
	s.key = append(append(s.key[:0], profile[:]...), primary[:]...)
	return s.key
}

// load returns the live state of a fragment.
func (s *stage) load(tx pipeline.Tx, profile, primary pipeline.ID) (*state, error) {
	folded, err := tx.Load(s.fragment(profile, primary), newState)
	if err != nil {
		return nil, fmt.Errorf("load a fragment of a profile: %w", err)
	}
	return folded.(*state), nil
}

// primaries are the fragments of the event's profile, sorted, the event's own included. The result may belong to the event.
func primaries(ev *pipeline.Event) []pipeline.ID {
	list := ev.Fragments
	if ev.Type != pipeline.TypeEvaluate {
		if i, ok := slices.BinarySearchFunc(list, ev.Primary, compareIDs); !ok && (list != nil || ev.Primary != ev.Canonical) {
			list = slices.Insert(slices.Clone(list), i, ev.Primary)
		}
	}
	return list
}

func compareIDs(a, b pipeline.ID) int { return bytes.Compare(a[:], b[:]) }

// person returns the profile that others see: the merge of its fragments. Of one fragment it is the live state itself.
func (s *stage) person(tx pipeline.Tx, profile pipeline.ID, primaries []pipeline.ID) (*state, error) {
	switch len(primaries) {
	case 0:
		return s.load(tx, profile, profile)
	case 1:
		return s.load(tx, profile, primaries[0])
	}
	parts := s.parts[:0]
	for _, primary := range primaries {
		st, err := s.load(tx, profile, primary)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{st, st.folds})
	}
	s.parts = parts
	if m := s.people.find(profile, parts); m != nil {
		return m, nil
	}
	merged := newState().(*state)
	for _, p := range parts {
		merged.absorb(p.state)
	}
	s.people.keep(profile, parts, merged)
	return merged, nil
}

// people remembers merged states. A merged state is never changed once it is here. It is used again only if it was made of
// the very same objects, folded as often as they are now: the store makes a new object after a rollback, and objects that
// are remembered here are not freed, so none can have the address of an older one.
type people struct {
	entries map[pipeline.ID]merged
	bytes   int
}

type merged struct {
	parts []part
	state *state
}

// part is a fragment at one moment.
type part struct {
	state *state
	folds uint64
}

// maxPeopleBytes bounds the merged states of one partition; when they are more, all are forgotten.
const maxPeopleBytes = 16 << 20

func (p *people) find(profile pipeline.ID, parts []part) *state {
	if m, ok := p.entries[profile]; ok && slices.Equal(m.parts, parts) {
		return m.state
	}
	return nil
}

func (p *people) keep(profile pipeline.ID, parts []part, st *state) {
	size := st.Size() + 64*len(parts)
	if old, ok := p.entries[profile]; ok {
		p.bytes -= old.state.Size() + 64*len(old.parts)
	}
	if p.bytes+size > maxPeopleBytes || p.entries == nil {
		p.entries, p.bytes = map[pipeline.ID]merged{}, 0
	}
	p.entries[profile] = merged{slices.Clone(parts), st}
	p.bytes += size
}

// forget drops the merged state of a profile that gives fragments away, maybe because it is erased.
func (p *people) forget(profile pipeline.ID) {
	if old, ok := p.entries[profile]; ok {
		p.bytes -= old.state.Size() + 64*len(old.parts)
		delete(p.entries, profile)
	}
}

// folded remembers the person after a delta of one fragment, which is cheaper than to merge all fragments again.
func (s *stage) folded(profile pipeline.ID, before, own *state, delta []byte) (*state, error) {
	after := before.clone()
	if err := after.Fold(delta); err != nil {
		return nil, fmt.Errorf("fold an event into a merged profile: %w", err)
	}
	for i := range s.parts {
		if p := &s.parts[i]; p.state == own {
			p.folds = own.folds
		}
	}
	s.people.keep(profile, s.parts, after)
	return after, nil
}
