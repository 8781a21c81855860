package engine

import (
	"bytes"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// TestErase: of a person who is erased nothing is left in any partition but that the ids were erased; events that are on
// their way go with the person, and later ones are somebody else's, who has nothing of the old one. A lost folder changes
// none of that.
func TestErase(t *testing.T) {
	for seed := range uint64(12) {
		s := newPeople(t, variant{name: "story", users: 1, mails: 1, anons: 1, limit: 1, shared: 4, traps: true, timed: true}, seed)
		s.say("View", "anonymousId:A", "10:00", 0)
		s.say("View", "anonymousId:B", "10:00", 0)
		s.say("Order", "userId:U anonymousId:A", "10:01", 50)
		s.say("", "userId:U anonymousId:B email:u@x.org", "10:02", 0)
		s.say("Order", "userId:V anonymousId:B", "10:03", 7) // B is the device of two: what it does alone is nobody's
		s.say("View", "anonymousId:B", "10:04", 0)
		s.say("Order", "userId:W", "10:05", 1) // never linked
		if seed%3 > 0 {                        // else all that is on its way when the operation comes
			s.settle()
		}
		s.say("View", "anonymousId:A", "10:06", 0)
		s.say("View", "userId:U", "10:07", 0)
		s.operate(links.OpErase, s.anon("A"))
		if seed%2 == 0 { // the profiles are told before the events come
			s.apply(s.regroup, len(s.log))
			s.drain(s.regroup, s.log)
			for _, a := range s.profile {
				s.drain(a, s.resolved[a.partition])
			}
		}
		for i, a := range s.resolve { // workers that have not seen the operation
			s.drain(a, s.events[i])
		}
		s.operate(links.OpErase, s.user("W"))
		s.settle()
		gone := map[pipeline.ID]bool{}
		for _, name := range []string{"user_id:U", "user_id:W", "anonymous_id:A", "anonymous_id:B", "email:u@x.org"} {
			id := s.named(name)
			if _, erased := s.history[len(s.history)-1].Erased(id); erased || seed%3 > 0 {
				gone[id], gone[s.plan.Identities.Ambiguous(id)] = true, true
			}
		}
		s.nothingLeft(gone)
		erased := map[pipeline.ID]int{}
		for _, m := range s.changes {
			if m.Type == pipeline.ProfileErased {
				erased[m.ProfileID]++
			}
			if m.Type == pipeline.SegmentPassed && m.ProfileID[0] != pipeline.CodeAnonymousID && m.ProfileID[0] != pipeline.CodeEmail {
				t.Errorf("seed %d: the segments of %v, who was never merged, passed", seed, m.ProfileID)
			}
		}
		if seed%3 > 0 && (len(erased) != 3 || erased[s.user("U")] != 1 || erased[s.user("W")] != 1 || erased[s.plan.Identities.Ambiguous(s.anon("B"))] != 1) {
			t.Errorf("seed %d: profile.erased of %v", seed, erased)
		}
		if all := s.persons(); all[s.user("V")].values["revenue"] != 7.0 {
			t.Errorf("seed %d: the other user is %+v", seed, all[s.user("V")])
		}

		for _, a := range s.profile {
			s.crash(a)
		}
		s.say("View", "anonymousId:A", "11:00", 0)
		s.say("Order", "userId:U anonymousId:A", "11:01", 3)
		s.say("View", "userId:W", "11:02", 0)
		s.settle()
		s.verifyTransitions(s.segmentsNow())
		all := s.persons()
		end := s.history[len(s.history)-1]
		u, w := pipeline.ID(end.Now(s.user("U"))), pipeline.ID(end.Now(s.user("W")))
		if seed%3 > 0 && (all[u].values["events"] != 2.0 || all[u].values["revenue"] != 3.0 || all[w].values["orders"] != 0.0 || !slices.Contains(all[w].segments, "never_bought") || len(all) != 3) {
			t.Errorf("seed %d: afterwards %+v", seed, all)
		}
		s.nothingLeft(gone)
	}
}

// drain lets one actor take all that a topic has now.
func (s *people) drain(a *actor, topic []pipeline.Record) {
	for s.step(a, topic, 3) {
	}
}

// nothingLeft checks that no key or value of a store is about these ids, by what its changelog leaves, except rosters, and that
// those hold none of their data.
func (s *people) nothingLeft(gone map[pipeline.ID]bool) {
	s.t.Helper()
	for _, a := range s.profile {
		live := map[string][]byte{}
		for i := range a.changelog {
			live[string(a.changelog[i].Key)] = a.changelog[i].Value
		}
		for key, value := range live {
			for id := range gone {
				if value == nil || !bytes.Contains([]byte(key), id[:]) {
					continue
				}
				if key[0] != codeRegroup {
					s.t.Errorf("%s keeps a key of stage %d of %v", a.name, key[0], id)
					continue
				}
				o := &roster{profile: id}
				s.check(o.decode(value[1:])) // behind the format byte of a plain value
				for _, f := range o.fragments {
					if gone[f.primary] {
						s.t.Errorf("%s has a fragment of %v at %v", a.name, f.primary, id)
					}
				}
			}
		}
	}
	for _, log := range s.resolved {
		for i := range log {
			if string(log[i].Key) == (pipeline.ID{}).String() {
				s.t.Errorf("an event is forwarded to nobody")
			}
		}
	}
	for _, m := range s.changes {
		if m.Type == pipeline.ProfileErased && gjson.GetBytes(m.Data, "profile_id").Str != m.ProfileID.String() {
			s.t.Errorf("profile.erased says %s", m.Data)
		}
	}
}

// segmentsNow are the segments of all profiles that are in one.
func (s *people) segmentsNow() map[pipeline.ID][]string {
	all := map[pipeline.ID][]string{}
	for id, p := range s.persons() {
		all[id] = p.segments
	}
	return all
}
