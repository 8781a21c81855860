package segment

import (
	"fmt"

	"github.com/millstream-io/millstream/pipeline"
)

// How memberships travel when profiles merge (R6 to R8 of the regrouping protocol): the merged profile says that it passed
// them, the other one brings them in, and then enters or exits by its conditions. So nobody enters twice because of a login.

var _ pipeline.DecisionKeeper = (*stage)(nil)

// Depart says of each membership that it has passed, forgets the profile, and returns its memberships, those that it was
// brought and had not decided about among them.
func (s *stage) Depart(tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) ([]byte, error) {
	m, err := s.load(tx, ev.Canonical)
	if err != nil {
		return nil, err
	}
	goes := &membership{}
	for i := range m.brought {
		goes.bring(m.brought[i])
	}
	number := m.number
	for i := range m.decisions {
		d := m.decisions[i]
		if _, declared := s.byName[d.segment]; !declared || !d.in {
			continue
		}
		number++
		t := transition{segment: d.segment, version: d.version, op: opPassed, delta: -1, number: number, effective: effectiveAt(ev, d), since: d.since}
		emit.Message(s.message(ev, &t, ev.Canonical))
		goes.bring(d)
	}
	tx.Delete(ev.Canonical[:])
	if len(goes.brought) == 0 {
		return nil, nil
	}
	decisions := []byte{format}
	for i := range goes.brought {
		decisions = goes.brought[i].append(append(decisions, deltaBrought))
	}
	return decisions, nil
}

// Inherit notes what a merged profile brought.
func (s *stage) Inherit(tx pipeline.Tx, profile pipeline.ID, decisions []byte) error {
	if len(decisions) == 0 {
		return nil
	}
	if decisions[0] != format {
		return formatError(decisions[0])
	}
	m, err := s.load(tx, profile)
	if err != nil {
		return err
	}
	// The definitions stay those of the last evaluation: what was brought is looked at in any case.
	s.delta = append(appendDeltaHeader(s.delta[:0], m.definitions), decisions[1:]...)
	if _, err := tx.Merge(profile[:], newMembership, s.delta); err != nil {
		return fmt.Errorf("add memberships to a profile: %w", err)
	}
	return nil
}

// carried are the memberships that were brought, as transitions without numbers: true here from now, and since when they
// began at the other profile. One that the profile has anyhow changes nothing: it stands in segment_log with delta 0.
func (s *stage) carried(m *membership, ev *pipeline.Event) []transition {
	if len(m.brought) == 0 {
		return nil
	}
	list := make([]transition, 0, len(m.brought))
	for _, b := range m.brought {
		at, declared := s.byName[b.segment]
		if !declared {
			continue
		}
		last := m.find(b.segment)
		t := transition{segment: b.segment, version: s.segments[at].version, op: opCarried, delta: 1, effective: effectiveAt(ev, last), since: b.since}
		if last.in {
			t.delta, t.since = 0, min(last.since, b.since)
		}
		list = append(list, t)
	}
	return list
}

func carries(carried []transition, segment string) bool {
	for i := range carried {
		if carried[i].segment == segment {
			return true
		}
	}
	return false
}
