package stagetest

import (
	"bytes"
	"maps"
	"slices"

	"github.com/millstream-io/millstream/pipeline"
)

// people says who is whom, as the link log and the regrouping of the engine do. Everybody is alone at first.
type people struct {
	profile map[pipeline.ID]pipeline.ID   // by primary
	members map[pipeline.ID][]pipeline.ID // by profile: its primaries, sorted; only of profiles that were regrouped
	turns   map[pipeline.ID]uint64        // by profile
	turn    uint64
}

func newPeople() people {
	return people{map[pipeline.ID]pipeline.ID{}, map[pipeline.ID][]pipeline.ID{}, map[pipeline.ID]uint64{}, 100}
}

func (p *people) of(primary pipeline.ID) pipeline.ID {
	if profile, ok := p.profile[primary]; ok {
		return profile
	}
	return primary
}

// Unknown is of pipeline.Links: what events state is not linked here, see Runner.Regroup.
func (p *people) Unknown(dst []pipeline.Link, _ []pipeline.Identifier) []pipeline.Link { return dst }

// Resolve is of pipeline.Links.
func (p *people) Resolve(ids []pipeline.Identifier) (pipeline.Resolution, error) {
	return pipeline.Resolution{Primary: ids[0].ID, Canonical: p.of(ids[0].ID)}, nil
}

// assign puts the event where it belongs.
func (p *people) assign(ev *pipeline.Event) { p.assignTo(ev, p.of(ev.Primary)) }

func (p *people) assignTo(ev *pipeline.Event, profile pipeline.ID) {
	ev.Canonical, ev.Fragments, ev.Turn = profile, p.members[profile], p.turns[profile]
}

// Regroup moves primaries into other profiles, in one turn, at the profile task's now: fragments are taken and put, decisions
// depart with a profile's own primary, and then each profile that was touched is evaluated. from tells the profiles only by
// what is in them now. It commits before and after, so an Undo does not divide it.
func (r *Runner) Regroup(cause string, to map[pipeline.ID]pipeline.ID) {
	r.t.Helper()
	r.Commit()
	r.people.turn++
	at := pipeline.Millis(r.profile.now)
	touched := map[pipeline.ID]bool{}
	type inheritance struct {
		profile   pipeline.ID
		at        int // step
		decisions []byte
	}
	var estates []inheritance
	primaries := slices.SortedFunc(maps.Keys(to), compareIDs)
	for _, primary := range primaries {
		from, into := r.people.of(primary), to[primary]
		touched[from], touched[into] = true, true
		r.people.turns[from], r.people.turns[into] = r.people.turn, r.people.turn
	}
	for _, primary := range primaries {
		from, into := r.people.of(primary), to[primary]
		for i, s := range r.profile.steps {
			if k, ok := s.stage.(pipeline.FragmentKeeper); ok {
				contents, err := k.Take(s.tx, from, primary)
				if err == nil && contents != nil {
					err = k.Put(s.tx, into, primary, contents)
				}
				r.must(err)
			}
			if k, ok := s.stage.(pipeline.DecisionKeeper); ok && primary == from {
				ev := r.evaluation(from, at, cause)
				r.profile.messages = r.profile.messages[:0]
				decisions, err := k.Depart(s.tx, ev, s)
				r.must(err)
				estates = append(estates, inheritance{into, i, decisions})
				ev.MessageID = "depart"
				r.tellMessages(ev)
			}
		}
	}
	for _, primary := range primaries {
		r.people.move(primary, to[primary])
	}
	for _, e := range estates {
		s := r.profile.steps[e.at]
		r.must(s.stage.(pipeline.DecisionKeeper).Inherit(s.tx, e.profile, e.decisions))
	}
	for _, profile := range slices.SortedFunc(maps.Keys(touched), compareIDs) {
		if len(r.people.members[profile]) == 0 {
			delete(r.clock.due, profile)
			continue
		}
		r.evaluate(profile, at, cause)
	}
	r.Commit()
}

func (p *people) move(primary, into pipeline.ID) {
	from := p.of(primary)
	for _, profile := range []pipeline.ID{from, into} {
		if p.members[profile] == nil && p.of(profile) == profile {
			p.members[profile] = []pipeline.ID{profile}
		}
	}
	p.members[from] = slices.DeleteFunc(slices.Clone(p.members[from]), func(id pipeline.ID) bool { return id == primary })
	p.profile[primary] = into
	if i, ok := slices.BinarySearchFunc(p.members[into], primary, compareIDs); !ok {
		p.members[into] = slices.Insert(slices.Clone(p.members[into]), i, primary)
	}
}

func (r *Runner) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func compareIDs(a, b pipeline.ID) int { return bytes.Compare(a[:], b[:]) }
