package engine

import (
	"testing"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// What TestPeople hardly ever meets: who has an identifier changes while an event that shows it for the first time is on its
// way, or after the data that showed it has gone.

// whose is the profile that the newest row of an identifier names, "" if there is none.
func (s *people) whose(id pipeline.ID) (profile string) {
	newest := uint64(0)
	for _, m := range s.changes {
		data := gjson.ParseBytes(m.Data)
		if version := data.Get("version").Uint(); m.Type == pipeline.IdentityIdentifier && data.Get("id").Str == id.String() && version >= newest {
			profile, newest = data.Get("profile_id").Str, version
		}
	}
	return profile
}

func (s *people) belongs(id, profile pipeline.ID) {
	s.t.Helper()
	if got := s.whose(id); got != profile.String() {
		s.t.Errorf("the identifier is told to belong to %q, want %s", got, profile)
	}
}

// regroups lets the regroup task, and then the profiles, act on the whole link log; the resolvers do not know of it yet.
func (s *people) regroups() {
	for s.lag(s.regroup) {
	}
	for s.step(s.regroup, s.log, 3) {
	}
	for moved := true; moved; {
		moved = false
		for _, a := range s.profile {
			moved = s.step(a, s.resolved[a.partition], 6) || moved
		}
	}
}

// resolves lets the resolvers take their events with what they know.
func (s *people) resolves() {
	for i, a := range s.resolve {
		for s.step(a, s.events[i], 4) {
		}
	}
}

// An identifier has left before the first event with it arrives: what it shows follows, and is known where it ends.
func TestIdentifierSeenLate(t *testing.T) {
	s := story(t, 1)
	u, a, e := s.user("U"), s.anon("A"), s.named("email:e")
	s.operate(links.OpLink, u, a)
	s.settle()
	s.operate(links.OpUnlink, u, a)
	s.regroups()
	s.say("View", "userId:U anonymousId:A", "10:00", 0)
	s.resolves()
	s.settle()
	s.belongs(u, u)
	s.belongs(a, a)

	s.operate(links.OpLink, e, a) // nothing but the late event has shown A
	s.settle()
	s.belongs(a, e)
}

// The event itself has to be forwarded, and its identifiers have gone different ways.
func TestIdentifiersOfAForwardedEvent(t *testing.T) {
	s := story(t, 1)
	u, a, e := s.user("U"), s.anon("A"), s.named("email:e")
	s.operate(links.OpLink, u, e)
	s.operate(links.OpLink, e, a)
	s.settle()
	s.operate(links.OpUnlink, e, a)
	s.operate(links.OpUnlink, u, e)
	s.regroups()
	s.say("View", "email:e anonymousId:A", "10:00", 0)
	s.resolves()
	s.settle()
	s.belongs(e, e)
	s.belongs(a, a)
}

// The data that showed an identifier leaves, and the identifier stays, until it leaves too.
func TestIdentifierOutlivesItsData(t *testing.T) {
	s := story(t, 1)
	u, a, e := s.user("U"), s.anon("A"), s.named("email:e")
	s.operate(links.OpLink, u, e)
	s.operate(links.OpLink, u, a)
	s.say("View", "email:e anonymousId:A", "10:00", 0)
	s.settle()
	s.belongs(a, u)
	s.operate(links.OpUnlink, e, a)
	s.operate(links.OpUnlink, u, e)
	s.settle()
	s.belongs(e, e)
	s.belongs(a, u)
	s.operate(links.OpUnlink, u, a)
	s.settle()
	s.belongs(a, a)
}

// An identifier whose link was refused belongs to somebody else; who shows it says so, and nothing is told twice.
func TestIdentifierOfSomebodyElse(t *testing.T) {
	s := story(t, 1)
	u, v, a := s.user("U"), s.user("V"), s.anon("A")
	s.operate(links.OpLink, u, a)
	s.settle()
	s.say("View", "userId:V anonymousId:A", "10:00", 0)
	s.settle()
	s.belongs(a, u)
	s.belongs(v, v)
	rows := len(s.changes)
	s.say("View", "userId:V anonymousId:A", "10:01", 0)
	s.settle()
	for _, m := range s.changes[rows:] {
		if m.Type == pipeline.IdentityIdentifier {
			t.Errorf("an event with nothing new is told of: %s", m.Data)
		}
	}
	s.operate(links.OpUnlink, u, a)
	s.settle()
	s.belongs(a, pipeline.ID(s.history[len(s.history)-1].Person(a)))
}
