package engine

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// Who has which identifier, for the table identifiers. The link log has ids, and only events have the values that these stand
// for; so each profile knows the values that its events have shown, and tells whom an identifier belongs to:
//
//   - when an event shows one that the profile did not know. If it is not the profile's own (its link was refused) or has left
//     it meanwhile, what was seen goes on to whoever has it, as a record of its own.
//   - when it leaves with a turn of regrouping. Its value goes along with the move, unless the data that moves shows it.
//
// So at every moment the value of an identifier that was seen is known to the profile that has it, or on its way there, and
// what is told with the highest offset of the link log is who has it now. An event that shows nothing new costs nothing.

// codeValues is the key space of values in the store of the profile task: those that a profile knows and none of its
// fragments shows, and those of identifiers whose id does not follow from the value, because somebody with it was erased. Key: 16 bytes profile, 16 bytes identifier. Value: a sighting.
const codeValues byte = 254

// announce tells of the identifiers that the event in hand has shown for the first time.
func (j *profileJob) announce(ev *pipeline.Event) error {
	for n := ev.Shown; n != 0; n &= n - 1 {
		i := bits.TrailingZeros32(n)
		if ev.OwnerOf(i) != nil {
			continue
		}
		s := j.sighted(ev, i)
		if !j.plan.Stitching {
			s.Profile = s.ID // nothing is ever linked
			j.tellIdentifier(&s)
			continue
		}
		if _, err := j.seen(&s); err != nil {
			return err
		}
	}
	for i := range ev.Owners {
		if err := j.announceOwned(ev, &ev.Owners[i]); err != nil {
			return err
		}
	}
	return nil
}

// announceOwned is announce for an identifier of somebody else, and for one whose id does not follow from the value: that a
// fragment shows the value does not tell then whether its id was shown, so what was is kept beside.
func (j *profileJob) announceOwned(ev *pipeline.Event, o *pipeline.Owner) error {
	s := j.sighted(ev, o.Index)
	if s.ID != o.ID {
		known, err := j.values.Get(valueKey(ev.Canonical, o.ID))
		if err != nil {
			return fmt.Errorf("read the value of an identifier, partition %d: %w", ev.Partition, err)
		}
		if known != nil {
			return nil
		}
	} else if ev.Shown&(1<<o.Index) == 0 {
		return nil
	}
	successor := s.ID != o.ID
	s.ID, s.Profile, s.Offset = o.ID, o.Profile, o.IDV
	if successor {
		j.learn(ev.Canonical, &s)
	}
	if s.Profile != ev.Canonical {
		j.pass(&s)
		return nil
	}
	_, err := j.seen(&s)
	return err
}

// sighted is an identifier as an event shows it, if the profile has it and nobody with the value was erased.
func (j *profileJob) sighted(ev *pipeline.Event, i int) pipeline.Sighting {
	x := ev.Identifiers[i]
	return pipeline.Sighting{ID: j.plan.Identities.ID(x.Type, x.Value), Type: x.Type.Name, Value: x.Value, Profile: ev.Canonical, Offset: ev.IDV, At: ev.ReceivedAt.UnixMilli()}
}

// seen tells that an identifier belongs to s.Profile, which is of this partition, or sends it on to where it went; stays tells
// which.
func (j *profileJob) seen(s *pipeline.Sighting) (stays bool, err error) {
	o, err := j.roster(s.Profile, false)
	if err != nil {
		return false, err
	}
	if o != nil {
		if i, ok := o.gone(s.ID); ok && o.pointers[i].offset > s.Offset {
			s.Profile, s.Offset = o.pointers[i].to, o.pointers[i].offset
			j.pass(s)
			return false, nil
		}
	}
	j.tellIdentifier(s)
	return true, nil
}

// pass sends what was seen on to whoever has the identifier; of somebody who was erased nothing goes on.
func (j *profileJob) pass(s *pipeline.Sighting) {
	if s.Profile != uuid.Nil {
		j.produceResolved(s.Profile, s.Append(nil))
	}
}

// sighting takes a record of that kind.
func (j *profileJob) sighting(r *pipeline.Record) error {
	s, rej := pipeline.ParseSighting(r.Value)
	if rej != nil {
		return fmt.Errorf("sighting at offset %d of partition %d: %w", r.Offset, r.Partition, rej)
	}
	j.work.now = max(j.work.now, s.At)
	stays, err := j.seen(s)
	if stays {
		j.learn(s.Profile, s)
	}
	return err
}

// learn keeps the value of an identifier that no fragment of the profile shows.
func (j *profileJob) learn(profile pipeline.ID, s *pipeline.Sighting) {
	j.values.Set(valueKey(profile, s.ID), s.Append(nil))
}

// unlearn deletes what learn has kept of somebody who is erased.
func (j *profileJob) unlearn(profile pipeline.ID) error {
	learned, err := j.learned(profile)
	for i := range learned {
		j.values.Delete(valueKey(profile, learned[i].ID))
	}
	return err
}

// learned is what learn has kept of a profile.
func (j *profileJob) learned(profile pipeline.ID) (list []pipeline.Sighting, err error) {
	err = j.values.Scan(profile[:], func(_, value []byte) error {
		s, rej := pipeline.ParseSighting(value)
		if rej != nil {
			return rej
		}
		list = append(list, *s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read values of identifiers, partition %d: %w", j.work.batch.Partition, err)
	}
	return list, nil
}

func valueKey(profile, id pipeline.ID) []byte { return append(profile[:], id[:]...) }

// leaving are the identifiers whose values a profile knows while members leave it.
type leaving struct {
	shown map[pipeline.ID]map[pipeline.ID]pipeline.Sighting // by fragment and identifier
	of    map[pipeline.ID]pipeline.Sighting                 // those that leave
}

// values reads what the profile knows of identifiers, before they leave.
func (j *profileJob) leaving(o *roster, leave []pipeline.Leave) (*leaving, error) {
	if len(leave) == 0 {
		return nil, nil
	}
	learned, err := j.learned(o.profile)
	if err != nil {
		return nil, err
	}
	l := &leaving{shown: map[pipeline.ID]map[pipeline.ID]pipeline.Sighting{}, of: map[pipeline.ID]pipeline.Sighting{}}
	all := map[pipeline.ID]pipeline.Sighting{}
	for _, f := range o.fragments {
		list, err := j.chain.identifiers(o.profile, f.primary)
		if err != nil {
			return nil, err
		}
		shown := make(map[pipeline.ID]pipeline.Sighting, len(list))
		for _, x := range list {
			isLearned := slices.ContainsFunc(learned, func(s pipeline.Sighting) bool { return s.Type == x.Type.Name && s.Value == x.Value })
			if s, ok := j.sightingOf(x); ok && !isLearned {
				shown[s.ID], all[s.ID] = s, s
			}
		}
		l.shown[f.primary] = shown
	}
	for _, x := range leave {
		s, ok := all[x.ID]
		if i := slices.IndexFunc(learned, func(s pipeline.Sighting) bool { return s.ID == x.ID }); i >= 0 {
			s, ok = learned[i], true
			j.values.Delete(valueKey(o.profile, x.ID))
		}
		if ok {
			l.of[x.ID] = s
		}
	}
	return l, nil
}

// sightingOf gives an identifier that a fragment shows its id.
func (j *profileJob) sightingOf(x pipeline.Identifier) (pipeline.Sighting, bool) {
	for _, r := range j.plan.Identities.Rules() {
		if r.Name == x.Type.Name {
			return pipeline.Sighting{ID: j.plan.Identities.ID(r.IdentifierType, x.Value), Type: r.Name, Value: x.Value}, true
		}
	}
	return pipeline.Sighting{}, false // the type is no more
}

// partWith tells of the identifiers that have left, gives the moves the values that go along, and keeps those that stay although
// the data that showed them has left.
func (j *profileJob) partWith(o *roster, t *turn, l *leaving, moves []*pipeline.Move) {
	if l == nil {
		return
	}
	leaves := map[pipeline.ID]bool{}
	for _, x := range t.leave {
		leaves[x.ID] = true
		s, ok := l.of[x.ID]
		if !ok {
			continue
		}
		s.Profile, s.Offset, s.At = x.To, t.offset, j.work.now
		j.tellIdentifier(&s)
		for _, m := range moves {
			if m.To == x.To && !l.shownIn(m.Fragments, x.ID) {
				m.Values = append(m.Values, s)
			}
		}
	}
	if leaves[o.profile] { // then nobody stays
		return
	}
	for _, m := range moves {
		for i := range m.Fragments {
			for id, s := range l.shown[m.Fragments[i].Primary] {
				if !leaves[id] {
					j.learn(o.profile, &s)
				}
			}
		}
	}
}

func (l *leaving) shownIn(fragments []pipeline.Fragment, id pipeline.ID) bool {
	for i := range fragments {
		if _, ok := l.shown[fragments[i].Primary][id]; ok {
			return true
		}
	}
	return false
}

// tellIdentifier produces the row of an identifier.
func (j *profileJob) tellIdentifier(s *pipeline.Sighting) {
	version := pipeline.Sequence(s.Offset, 0)
	data, err := json.Marshal(map[string]any{"type": s.Type, "value": s.Value, "id": s.ID, "profile_id": s.Profile, "linked_at": pipeline.Millis(s.At).Format(pipeline.TimeFormat), "version": version})
	if err != nil { // strings and numbers only
		panic(err)
	}
	m := pipeline.Message{Type: pipeline.IdentityIdentifier, Timestamp: pipeline.Millis(j.work.now), ProfileID: s.Profile, Data: data}
	m.ID = pipeline.HashID([]byte(m.Type), s.ID[:], s.Profile[:], fmt.Append(nil, version))
	j.tellOne(&m)
}

// owners notes on an event that is forwarded where those of its identifiers went that did not go with its primary.
func (o *roster) owners(ev *pipeline.Event, ids *pipeline.Identities, idv uint64) {
	for i := range ev.Identifiers {
		if ev.OwnerOf(i) != nil {
			continue
		}
		x := pipeline.Owner{Index: i, ID: ids.ID(ev.Identifiers[i].Type, ev.Identifiers[i].Value), Profile: o.profile, IDV: idv}
		if at, ok := o.gone(x.ID); ok && o.pointers[at].offset > idv {
			x.Profile, x.IDV = o.pointers[at].to, o.pointers[at].offset
		}
		if x.Profile != ev.Canonical || x.IDV != ev.IDV {
			ev.Owners = append(ev.Owners, x)
		}
	}
}

// identifiers are those that a fragment shows.
func (c *chain) identifiers(profile, primary pipeline.ID) ([]pipeline.Identifier, error) {
	for i := range c.steps {
		s := &c.steps[i]
		if shower, ok := s.stage.(pipeline.IdentifierShower); ok {
			list, err := shower.Identifiers(s.tx, profile, primary)
			if err != nil {
				return nil, fmt.Errorf("stage %s: read identifiers: %w", s.kind, err)
			}
			return list, nil
		}
	}
	return nil, nil
}
