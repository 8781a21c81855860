package segment_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

func userID(name string) pipeline.ID {
	ev := pipeline.Event{UserID: name}
	pipeline.NewIdentities([]byte(stagetest.Key)).Identify(&ev)
	return ev.Primary
}

// message is what the tests read of a message to the tables.
type message struct {
	Type string
	ID   string
	Data struct {
		Segment     string
		EffectiveAt time.Time `json:"effective_at"`
		Cause       string
		Profile     *struct {
			PreviousIDs []string `json:"previous_ids"`
			Segments    []string
			Aggregates  map[string]float64
		}
	}
	Meta struct {
		Sequence uint64
		Delta    int
		Since    time.Time
		Op       string
	}
	profile string // first eight digits of the key
}

func messages(t *testing.T, lines []string) (list []message) {
	t.Helper()
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, ": ")
		profile, text, ok := strings.Cut(rest, " {")
		if !ok {
			continue
		}
		m := message{profile: profile}
		if err := json.Unmarshal([]byte("{"+text), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, m)
	}
	return list
}

func (m *message) String() string {
	return fmt.Sprintf("%s %s %s %+d %s %s", m.profile, m.Meta.Op, m.Data.Segment, m.Meta.Delta, m.Data.EffectiveAt.Format(time.RFC3339), m.Data.Cause)
}

// TestMergeAgainstMembership: profiles of 3 and 2 orders merge: nobody leaves or enters `regular` by that; after the split both
// are exactly as before.
func TestMergeAgainstMembership(t *testing.T) {
	r := stagetest.New(t, stages.Kinds, `- clean: {}
- profile: {orders: {count: events, event: Order}, spent: {sum: properties.total}}
- segment: {regular: orders >= 3, pair: orders == 2, five: orders == 5}
`)
	n := 0
	order := func(user string) {
		n++
		r.Feed(stagetest.Record("web", fmt.Sprint("m", n), stagetest.Start.Add(time.Duration(n)*time.Minute),
			fmt.Sprintf(`{"type":"track","event":"Order","userId":%q,"properties":{"total":"%d.25"}}`, user, n)))
		r.Commit()
	}
	for _, user := range []string{"x", "x", "x", "y", "y"} {
		order(user)
	}
	x, y := userID("x"), userID("y")
	before := r.Profiles()
	at := len(r.Lines())
	expect := func(what string, want ...string) {
		t.Helper()
		var got []string
		for _, m := range messages(t, r.Lines()[at:]) {
			got = append(got, m.String())
		}
		at = len(r.Lines())
		for i := range want {
			want[i] = strings.NewReplacer("X", x.String()[:8], "Y", y.String()[:8]).Replace(want[i])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	// The profile of 3 goes into that of 2: the membership is carried, not entered again.
	r.Regroup(pipeline.CauseMerge, map[pipeline.ID]pipeline.ID{x: y})
	expect("merge",
		"X passed regular -1 2026-03-01T08:05:00Z merge",
		"Y carried regular +1 2026-03-01T08:05:00Z merge",
		"Y enter five +1 2026-03-01T08:05:00Z merge",
		"Y exit pair -1 2026-03-01T08:05:00Z merge")
	for _, m := range messages(t, r.Lines()) { // since the third order, at 08:03
		if m.Data.Segment == "regular" && m.Meta.Since.Minute() != 3 {
			t.Errorf("since %s: %s", m.Meta.Since, &m)
		}
	}
	doc := string(r.Profile(y).AppendJSON(nil))
	for _, part := range []string{fmt.Sprintf(`"previous_ids":[%q]`, x), `"orders":5`, `"spent":16.25`, `"segments":["five","regular"]`, `"user_id":["x","y"]`} {
		if !strings.Contains(doc, part) {
			t.Errorf("the merged profile lacks %s: %s", part, doc)
		}
	}
	r.Regroup(pipeline.CauseSplit, map[pipeline.ID]pipeline.ID{x: x})
	expect("split", // in the order of the ids
		"X enter regular +1 2026-03-01T08:05:00Z split",
		"Y exit five -1 2026-03-01T08:05:00Z split",
		"Y enter pair +1 2026-03-01T08:05:00Z split",
		"Y exit regular -1 2026-03-01T08:05:00Z split")
	if after := r.Profiles(); !slices.Equal(before, after) {
		t.Errorf("after the split\n%s\nwant\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	// Both are in now: what is carried changes nothing.
	order("y")
	at = len(r.Lines())
	r.Regroup(pipeline.CauseMerge, map[pipeline.ID]pipeline.ID{y: x})
	expect("merge of two members",
		"Y passed regular -1 2026-03-01T08:06:00Z merge",
		"X carried regular +0 2026-03-01T08:06:00Z merge")
}

// TestNobodyLeft: a profile that stays without a single event is in no segment, not even in one that a profile without orders
// would be in.
func TestNobodyLeft(t *testing.T) {
	r := stagetest.New(t, stages.Kinds, `- clean: {}
- profile: {orders: {count: events, event: Order}}
- segment: {few: not (orders > 3), buyer: orders > 0}
`)
	x, y, z := userID("x"), userID("y"), userID("z")
	r.Regroup(pipeline.CauseMerge, map[pipeline.ID]pipeline.ID{y: x})
	r.Feed(stagetest.Record("web", "m", stagetest.Start, `{"type":"track","event":"Order","userId":"y"}`))
	r.Regroup(pipeline.CauseSplit, map[pipeline.ID]pipeline.ID{y: z})
	var got []string
	for _, m := range messages(t, r.Lines()) {
		got = append(got, strings.NewReplacer(x.String()[:8], "X", z.String()[:8], "Z").Replace(m.String()))
		if m.profile == x.String()[:8] && m.Meta.Op == "exit" && (len(m.Data.Profile.Segments) > 0 || len(m.Data.Profile.Aggregates) > 0) {
			t.Errorf("there is something left: %+v", m.Data.Profile)
		}
	}
	want := []string{"X enter buyer +1 2026-03-01T08:00:00Z live", "X enter few +1 2026-03-01T08:00:00Z live",
		"X exit buyer -1 2026-03-01T08:00:00Z split", "X exit few -1 2026-03-01T08:00:00Z split",
		"Z enter buyer +1 2026-03-01T08:00:00Z split", "Z enter few +1 2026-03-01T08:00:00Z split"}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRegroupLaws: whatever is merged and split while events come, at the end the profiles are as if everybody had been where
// they are from the start; the deltas of each profile alternate, and lead to its segments; no id is used twice.
func TestRegroupLaws(t *testing.T) {
	const users, yaml = 6, lawYAML
	random := rand.New(rand.NewPCG(11, 12))
	for round := range 6 {
		r := stagetest.New(t, stages.Kinds, yaml)
		r.Refuse = func(task string, ev *pipeline.Event) bool {
			return task == pipeline.TaskProfile && strings.HasPrefix(ev.MessageID, "refused")
		}
		var records []pipeline.Record
		where := map[pipeline.ID]pipeline.ID{}
		ids := make([]pipeline.ID, users)
		for i := range ids {
			ids[i] = userID(fmt.Sprint("u", i))
			where[ids[i]] = ids[i]
		}
		for i := range 240 {
			at := stagetest.Start.Add(-time.Duration(random.IntN(5000)) * time.Second).Format(time.RFC3339)
			raw := fmt.Sprintf(`{"type":"track","event":"Order","userId":"u%d","timestamp":%q,"properties":{"total":%d}}`, random.IntN(users), at, random.IntN(200)-80)
			if random.IntN(3) == 0 {
				raw = fmt.Sprintf(`{"type":"identify","userId":"u%d","timestamp":%q,"traits":{%s}}`, random.IntN(users), at,
					[]string{`"plan":"pro"`, `"plan":"free"`, `"plan":null`, `"address":{"tier":"gold"}`}[random.IntN(4)])
			}
			rec := stagetest.Record("web", fmt.Sprint("m", i), stagetest.Start.Add(time.Duration(i)*time.Second), raw)
			if random.IntN(3) == 0 { // undone, whatever is remembered of it
				r.Feed(stagetest.Record("web", fmt.Sprint("refused", i), stagetest.Start.Add(time.Duration(i)*time.Second), raw))
			}
			records = append(records, rec)
			r.Feed(rec)
			switch random.IntN(60) {
			case 0:
				r.Commit()
				r.Rebuild()
			case 1, 2, 3:
				r.Commit()
			case 4, 5, 6, 7, 8, 9:
				regroup(random, r, ids, where)
			}
		}
		r.Commit()

		reference := stagetest.New(t, stages.Kinds, yaml)
		reference.Regroup(pipeline.CauseMerge, where)
		reference.Feed(records...)
		reference.Commit()
		want, got := reference.Profiles(), r.Profiles()
		if !slices.Equal(want, got) {
			t.Fatalf("round %d: regrouped\n%s\nfrom the start\n%s", round, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		checkTransitions(t, messages(t, r.Lines()), got)
	}
}

// regroup moves some people: each person is the profile of the smallest member.
func regroup(random *rand.Rand, r *stagetest.Runner, ids []pipeline.ID, where map[pipeline.ID]pipeline.ID) {
	group := map[pipeline.ID]int{}
	for _, id := range ids {
		group[id] = random.IntN(4)
	}
	to := map[pipeline.ID]pipeline.ID{}
	for _, id := range ids {
		smallest := id
		for _, other := range ids {
			if group[other] == group[id] && other.String() < smallest.String() {
				smallest = other
			}
		}
		if where[id] != smallest {
			to[id], where[id] = smallest, smallest
		}
	}
	r.Regroup([]string{pipeline.CauseMerge, pipeline.CauseSplit}[random.IntN(2)], to)
}

func checkTransitions(t *testing.T, list []message, docs []string) {
	t.Helper()
	type place struct{ profile, segment string }
	in, ids, sequences := map[place]int{}, map[string]bool{}, map[string]uint64{}
	for _, m := range list {
		at := place{m.profile, m.Data.Segment}
		if m.Meta.Delta != 0 {
			if in[at] += m.Meta.Delta; in[at] != 0 && in[at] != 1 {
				t.Errorf("%d times in: %s", in[at], &m)
			}
		} else if in[at] != 1 || m.Meta.Op != "carried" {
			t.Errorf("a delta of 0: %s", &m)
		}
		if ids[m.ID] {
			t.Errorf("an id comes twice: %s", &m)
		}
		ids[m.ID] = true
		if m.Meta.Sequence <= sequences[m.profile] {
			t.Errorf("sequence %d after %d: %s", m.Meta.Sequence, sequences[m.profile], &m)
		}
		sequences[m.profile] = m.Meta.Sequence
		if (m.Data.Profile == nil) != (m.Meta.Op == "carried" || m.Meta.Op == "passed") {
			t.Errorf("profile: %s", &m)
		}
	}
	members := map[place]bool{}
	for _, doc := range docs {
		var p profile
		if err := json.Unmarshal([]byte(doc), &p); err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Segments {
			members[place{p.ID[:8], s}] = true
			if in[place{p.ID[:8], s}] != 1 {
				t.Errorf("the messages do not lead to %s of %s", s, p.ID)
			}
		}
	}
	for at, n := range in {
		if n == 1 && !members[at] {
			t.Errorf("the messages leave %v in", at)
		}
	}
}
