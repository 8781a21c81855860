package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
	"github.com/millstream-io/millstream/stages/profile"
	"github.com/millstream-io/millstream/stages/segment"
)

// Stories that other systems get wrong, each with its numbers, through the real jobs, in random interleavings.

func trapProfile() *profile.Config {
	return &profile.Config{
		"events": {Count: "events"}, "views": {Count: "events", Event: "View"}, "orders": {Count: "events", Event: "Order"},
		"revenue": {Sum: "properties.revenue", Event: "Order"}, "plan": {Latest: "traits.plan"}, "first_plan": {First: "traits.plan"},
	}
}

func trapSegments() *segment.Config {
	return &segment.Config{
		"both": {Expression: "views >= 2 and orders >= 1"}, "never_bought": {Expression: "orders == 0"}, "third_order": {Expression: "orders >= 3"},
		"viewed": {Expression: "views >= 1"},
	}
}

// story is a world without random people, for one seed.
func story(t *testing.T, seed uint64) *people {
	return newPeople(t, variant{name: "story", users: 1, mails: 1, anons: 1, limit: 1, shared: 4, traps: true}, seed)
}

// say lets an event come: its name, "" is identify; ids as in `userId:U anonymousId:A email:x`; its time of day, and its
// revenue.
func (s *people) say(name, ids, at string, revenue int) {
	n := 0
	for _, e := range s.events {
		n += len(e)
	}
	id := fmt.Sprintf("m%d", n)
	fields, traits := "", ""
	for _, f := range strings.Fields(ids) {
		k, v, _ := strings.Cut(f, ":")
		if k == "email" {
			traits = fmt.Sprintf(`,"traits":{"email":%q}`, v)
		} else {
			fields += fmt.Sprintf(`,%q:%q`, k, v)
		}
	}
	kind := `"type":"identify"`
	if name != "" {
		kind = fmt.Sprintf(`"type":"track","event":%q`, name)
	}
	raw := fmt.Sprintf(`{%s,"messageId":%q%s,"timestamp":"2023-11-14T%s:00Z","properties":{"revenue":%d}%s}`, kind, id, fields, at, revenue, traits)
	s.send(-1, id, pipeline.Millis(1_700_000_000_000+int64(n)*1000), raw)
}

func (s *people) user(value string) pipeline.ID { return s.named("user_id:" + value) }
func (s *people) anon(value string) pipeline.ID { return s.named("anonymous_id:" + value) }

func (s *people) named(text string) pipeline.ID {
	s.t.Helper()
	id, err := s.plan.Identities.Parse(text)
	s.check(err)
	return id.ID
}

// person is a profile as it is at the end.
type person struct {
	values   map[string]any
	segments []string
}

func (s *people) persons() map[pipeline.ID]person {
	s.t.Helper()
	all := map[pipeline.ID]person{}
	s.look(func(ev *pipeline.Event) {
		p := person{values: map[string]any{}, segments: slices.Clone(ev.Profile.Segments)}
		for name := range *trapProfile() {
			p.values[name] = ev.Profile.State.Value(name)
		}
		if p.values["events"] != 0.0 {
			all[ev.Canonical] = p
		}
	})
	return all
}

// told are the transitions of a profile that receivers see, and those for the tables, as "enter both merge".
func (s *people) told(profile pipeline.ID) (list []string) {
	for _, m := range s.changes {
		if op := gjson.GetBytes(m.Meta, "op").Str; op != "" && m.ProfileID == profile {
			list = append(list, op+" "+gjson.GetBytes(m.Data, "segment").Str+" "+gjson.GetBytes(m.Data, "cause").Str)
		}
	}
	return list
}

// outcomes counts what the link log did.
func (s *people) outcomes() map[string]int {
	n := map[string]int{}
	s.apply(s.regroup, len(s.log))
	s.check(s.regroup.e.links.Outcomes(0, int64(len(s.log)), func(o *links.Outcome) error { n[o.Kind]++; return nil }))
	return n
}

func TestLateMerge(t *testing.T) {
	type event struct {
		name, ids, at string
		revenue       int
	}
	events := []event{{"View", "anonymousId:A", "10:00", 0}, {"View", "anonymousId:A", "10:01", 0}, {"Order", "userId:U", "10:05", 50}, {"", "anonymousId:A userId:U", "10:06", 0}}
	orders := permutations(len(events))
	if len(orders) != 24 {
		t.Fatal(len(orders))
	}
	for n, order := range orders {
		s := story(t, uint64(n))
		last := order[len(order)-1] == 3
		for i, k := range order {
			if i == len(order)-1 && last {
				s.settle()
				if all := s.persons(); len(all) != 2 || slices.Contains(all[s.user("U")].segments, "both") || slices.Contains(all[s.anon("A")].segments, "both") {
					t.Fatalf("order %v, before the identify: %+v", order, all)
				}
			}
			e := events[k]
			s.say(e.name, e.ids, e.at, e.revenue)
			if i%2 == n%2 {
				s.settle()
			}
		}
		s.settle()
		all := s.persons()
		u := all[s.user("U")]
		if len(all) != 1 || u.values["views"] != 2.0 || u.values["orders"] != 1.0 || u.values["revenue"] != 50.0 || !slices.Contains(u.segments, "both") {
			t.Errorf("order %v: %+v", order, all)
		}
		if n := s.outcomes(); n[links.Merge] != 1 || len(n) != 1 {
			t.Errorf("order %v: outcomes %v", order, n)
		}
		entered := 0
		for _, m := range s.changes {
			if m.Type == pipeline.SegmentEntered && gjson.GetBytes(m.Data, "segment").Str == "both" {
				entered++
				if cause := gjson.GetBytes(m.Data, "cause").Str; last && cause != pipeline.CauseMerge {
					t.Errorf("order %v: entered by %s", order, cause)
				}
			}
		}
		if entered != 1 {
			t.Errorf("order %v: entered %d times", order, entered)
		}
	}
}

func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, p := range permutations(n - 1) {
		for at := range n {
			all = append(all, slices.Insert(slices.Clone(p), at, n-1))
		}
	}
	return all
}

func TestNeverBought(t *testing.T) {
	s := story(t, 1)
	const n = 200
	for i := range n {
		a := fmt.Sprint("anonymousId:A", i)
		s.say("View", a, "10:00", 0)
		s.say("Order", a, "10:05", 10)
		s.say("", fmt.Sprint(a, " userId:U", i), "10:06", 0)
	}
	s.settle()
	if all := s.persons(); len(all) != n {
		t.Errorf("%d people, want %d", len(all), n)
	}
	for i := range n {
		for _, told := range s.told(s.user(fmt.Sprint("U", i))) {
			if strings.HasPrefix(told, "enter never_bought") {
				t.Errorf("user %d: %s", i, told)
			}
		}
	}
}

// A visitor who is in a segment and logs in does not enter again.
func TestVisitorLogsIn(t *testing.T) {
	s := story(t, 2)
	s.say("View", "anonymousId:A", "10:00", 0)
	s.settle()
	s.say("", "anonymousId:A userId:U", "10:06", 0)
	s.settle()
	if told := s.told(s.anon("A")); !slices.Equal(told, []string{"enter never_bought live", "enter viewed live", "passed never_bought merge", "passed viewed merge"}) {
		t.Errorf("of the visitor: %q", told)
	}
	if told := s.told(s.user("U")); !slices.Equal(told, []string{"carried never_bought merge", "carried viewed merge"}) {
		t.Errorf("of the user: %q", told)
	}
}

func TestSharedDevice(t *testing.T) {
	s := story(t, 3)
	s.say("View", "anonymousId:D", "09:00", 0)
	s.settle()
	s.say("", "anonymousId:D userId:alice", "09:05", 0)
	s.settle()
	s.say("", "anonymousId:D userId:bob", "12:00", 0)
	s.settle()
	s.say("View", "anonymousId:D", "13:00", 0)
	s.settle()
	all := s.persons()
	alice, bob, nobody := all[s.user("alice")], all[s.user("bob")], all[s.plan.Identities.Ambiguous(s.anon("D"))]
	if len(all) != 3 || alice.values["views"] != 1.0 || alice.values["events"] != 2.0 || bob.values["events"] != 1.0 || nobody.values["views"] != 1.0 || nobody.values["events"] != 1.0 {
		t.Errorf("%+v", all)
	}
	if n := s.outcomes(); n[links.Merge] != 1 || n[links.Refused] != 1 || len(n) != 2 {
		t.Errorf("outcomes %v", n)
	}
}

// Profiles of 3 and 2 orders merge, and are taken apart again.
func TestMergeAgainstMembership(t *testing.T) {
	s := story(t, 4)
	for range 3 {
		s.say("Order", "userId:U", "10:00", 10)
	}
	for range 2 {
		s.say("Order", "anonymousId:A", "10:00", 5)
	}
	s.settle()
	before := fmt.Sprint(s.persons())
	s.operate(links.OpLink, s.user("U"), s.anon("A"))
	s.settle()
	if all := s.persons(); len(all) != 1 || all[s.user("U")].values["orders"] != 5.0 || all[s.user("U")].values["revenue"] != 40.0 {
		t.Errorf("merged: %+v", all)
	}
	s.operate(links.OpUnlink, s.user("U"), s.anon("A"))
	s.settle()
	if after := fmt.Sprint(s.persons()); after != before {
		t.Errorf("before %s, after %s", before, after)
	}
	s.say("View", "anonymousId:A userId:U", "11:00", 0) // an event that states it does not undo the operator
	s.settle()
	if all := s.persons(); len(all) != 2 {
		t.Errorf("stated again: %+v", all)
	}
	if told := s.told(s.user("U")); !slices.Equal(told, []string{"enter third_order live", "enter viewed live"}) {
		t.Errorf("of the user: %q", told)
	}
}

func TestCycle(t *testing.T) {
	for seed := range uint64(12) {
		s := story(t, seed)
		for _, n := range rand.New(rand.NewPCG(seed, 3)).Perm(6) {
			pair := [][2]string{{"A", "B"}, {"B", "C"}, {"C", "A"}}[n%3]
			id := fmt.Sprintf("c%d-%d", n, len(s.log))
			s.send(n%resolvers, id, pipeline.Millis(1_700_000_000_000), fmt.Sprintf(
				`{"type":"track","event":"View","messageId":%q,"timestamp":"2023-11-14T10:00:00Z","context":{"externalIds":[{"type":"anonymous_id","id":%q},{"type":"anonymous_id","id":%q}]}}`, id, pair[0], pair[1]))
		}
		s.say("View", "anonymousId:A", "10:05", 0)
		s.settle()
		all := s.persons()
		if n := s.outcomes(); len(all) != 1 || n[links.Merge] != 2 || len(n) != 1 {
			t.Errorf("seed %d: %d people, outcomes %v", seed, len(all), n)
		}
		for _, p := range all {
			if p.values["views"] != 7.0 {
				t.Errorf("seed %d: %+v", seed, p)
			}
		}
	}
}

// Ten thousand users share one address, and stay ten thousand; a server invents an anonymous id for each event, and they stay
// one.
func TestHubs(t *testing.T) {
	s := story(t, 5)
	const n = 10_000
	for i := range n {
		s.say("", fmt.Sprintf("userId:U%d email:info@example.com", i), "10:00", 0)
		id := fmt.Sprint("s", i)
		s.send(i%resolvers, id, pipeline.Millis(1_700_000_000_000), fmt.Sprintf(
			`{"type":"track","event":"Order","messageId":%q,"channel":"server","userId":"V","anonymousId":"random-%d","timestamp":"2023-11-14T10:00:00Z","properties":{"revenue":1}}`, id, i))
	}
	s.settle()
	all := s.persons()
	if v := all[s.user("V")]; len(all) != n+1 || v.values["orders"] != float64(n) {
		t.Errorf("%d people, V %+v", len(all), v)
	}
	s.apply(s.regroup, len(s.log))
	if _, members, err := s.regroup.e.links.Members(s.user("V")); err != nil || len(members) != 1 {
		t.Errorf("V has %d identifiers, %v", len(members), err)
	}
	if len(s.log) > 100 { // the first few states of the address, then nobody states it any more
		t.Errorf("%d operations for an address that identifies nobody", len(s.log))
	}
}

// A profile that is about to be merged away has already got what belongs to a later life of it: that stays, and does not go
// along.
func TestAnswerToALaterTurnStays(t *testing.T) {
	s := story(t, 6)
	c, d, x, y := s.anon("C"), s.anon("D"), s.anon("X"), s.anon("Y")
	s.say("View", "anonymousId:Y", "10:00", 0)
	s.settle()
	tell := func(to pipeline.ID, value []byte) {
		p := partitionOf(t, pipeline.AppendID(nil, to))
		s.resolved[p] = append(s.resolved[p], pipeline.Record{Partition: p, Offset: int64(len(s.resolved[p])), Key: pipeline.AppendID(nil, to), Value: value})
	}
	work := func(id pipeline.ID) {
		a := s.profile[partitionOf(t, pipeline.AppendID(nil, id))]
		for s.step(a, s.resolved[a.partition], 1) {
		}
	}
	regroup := func(g pipeline.Regroup) { tell(g.Profile, g.Append(nil)) }
	regroup(pipeline.Regroup{Offset: 103, Profile: c, From: []pipeline.ID{x}, Kind: links.Merge})
	regroup(pipeline.Regroup{Offset: 105, Profile: c, Leave: []pipeline.Leave{{ID: c, To: d}}, Kind: links.Merge})
	regroup(pipeline.Regroup{Offset: 107, Profile: y, Leave: []pipeline.Leave{{ID: y, To: c}}, Kind: links.Merge})
	work(c)
	work(y)
	work(c) // has Y's answer to 107, and still waits for X's to 103
	late := pipeline.Move{Offset: 103, From: x, To: c, Last: true}
	tell(c, late.Append(nil))
	work(c)
	brought := map[pipeline.ID]int{}
	for _, log := range s.resolved {
		for i := range log {
			if pipeline.ResolvedKind(&log[i]) != pipeline.KindMove {
				continue
			}
			m, rej := pipeline.ParseMove(log[i].Value)
			if rej != nil {
				t.Fatal(rej)
			}
			if m.Whole {
				brought[m.From] = len(m.Decisions)
			}
		}
	}
	if n, ok := brought[y]; !ok || n == 0 {
		t.Fatalf("Y's memberships have not left: %v", brought)
	}
	if n, ok := brought[c]; !ok || n != 0 {
		t.Errorf("C took memberships along that belong to its next life: %v", brought)
	}
}
