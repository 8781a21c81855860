package score_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/score/clv"
	"github.com/millstream-io/millstream/stages/stagetest"
)

const lawYAML = `- clean: {}
- profile: {orders: {count: events, event: Order}}
- score:
    heat:  {points: {Visit: 1, Order: 20, Return: -35}, half_life: 6h, min_delta: 15, cross: [10, 50]}
    alive: {bgnbd: {r: 0.243, alpha: 4.414, a: 0.793, b: 2.426, unit: day}, event: Order, cross: [0.6, 0.75, 0.9]}
    ltv:   {gammagamma: {p: 6.25, q: 3.74, v: 15.44}, bgnbd: {r: 0.243, alpha: 4.414, a: 0.793, b: 2.426, unit: day}, horizon: 30d, event: Order, revenue: properties.total, cross: [40]}
    rfm:   {rfm: {recency: [12h, 2d], frequency: [2, 5], monetary: [100, 200]}, event: Order, revenue: properties.total, cross: [200, 300]}
    sum:   {expr: 'orders * 2', eligible: orders >= 2}
- segment:
    hot:  heat >= 30
    cold: heat < 5
    gone: alive < 0.7
`

var (
	model = clv.BGNBD{R: 0.243, Alpha: 4.414, A: 0.793, B: 2.426}
	money = clv.GammaGamma{P: 6.25, Q: 3.74, V: 15.44}
)

// fact is one event of a customer.
type fact struct {
	id    int
	user  int
	name  string
	at    time.Time
	total int
}

func (f fact) record(received time.Time) pipeline.Record {
	return stagetest.Record("web", fmt.Sprint("m", f.id), received, fmt.Sprintf(
		`{"type":"track","event":%q,"userId":"u%d","timestamp":%q,"properties":{"total":%d}}`, f.name, f.user, f.at.Format(time.RFC3339Nano), f.total))
}

// naive are the scores of one customer at a time, from all events.
func naive(facts []fact, now time.Time) map[string]float64 {
	scores := map[string]float64{}
	days := map[time.Time]float64{}
	var last time.Time
	orders, total := 0.0, 0.0
	for _, f := range facts {
		scores["heat"] += map[string]float64{"Visit": 1, "Order": 20, "Return": -35}[f.name] * math.Exp2(-now.Sub(f.at).Hours()/6)
		if f.name != "Order" {
			continue
		}
		days[f.at.Truncate(24*time.Hour)] += float64(f.total)
		orders++
		total += float64(f.total)
		if f.at.After(last) {
			last = f.at
		}
	}
	if orders == 0 {
		return scores
	}
	first, lastDay := now, time.Time{}
	for d := range days {
		if d.Before(first) {
			first = d
		}
		if d.After(lastDay) {
			lastDay = d
		}
	}
	h := clv.History{X: float64(len(days) - 1), TX: lastDay.Sub(first).Hours() / 24, T: now.Sub(first).Hours() / 24}
	if h.X > 0 {
		h.M = (total - days[first]) / h.X
	}
	scores["alive"] = model.Alive(h)
	scores["ltv"] = model.Expected(h, 30) * money.Mean(h)
	class := func(v float64, cuts ...float64) (n float64) {
		for _, c := range cuts {
			if v >= c {
				n++
			}
		}
		return n + 1
	}
	recency := 4 - class(now.Sub(last).Hours(), 12+1e-9, 48+1e-9)
	scores["rfm"] = recency*100 + class(orders, 2, 5)*10 + class(total, 100, 200)
	if orders >= 2 {
		scores["sum"] = 2 * orders
	}
	return scores
}

func made(random *rand.Rand, n, users int) []fact {
	facts := make([]fact, n)
	at := stagetest.Start
	for i := range facts {
		at = at.Add(time.Duration(random.IntN(3_600_000)) * time.Millisecond)
		f := fact{id: i, user: random.IntN(users), name: []string{"Visit", "Visit", "Order", "Return"}[random.IntN(4)], at: at, total: random.IntN(80)}
		if random.IntN(5) == 0 {
			f.at = at.Add(-time.Duration(random.IntN(72)) * time.Hour)
		}
		facts[i] = f
	}
	return facts
}

// changed is what the tests read of a message.
type changed struct {
	Type      string
	Timestamp time.Time
	ID        string
	Data      struct {
		Score    string
		Segment  string
		Value    *float64
		Previous *float64
		Reasons  map[string]float64
		Cause    string
		Profile  document
	}
	Meta struct {
		Sequence uint64
		Deltas   []float64
		Features map[string]string
	}
}

type document struct {
	ID          string `json:"profile_id"`
	Identifiers map[string][]string
	Scores      map[string]float64
	Segments    []string
}

func read(t *testing.T, lines []string) (list []changed) {
	t.Helper()
	for _, line := range lines {
		if _, text, ok := strings.Cut(line, " {"); ok {
			var m changed
			if err := json.Unmarshal([]byte("{"+text), &m); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			list = append(list, m)
		}
	}
	return list
}

// TestOracle: at every event and every timer the scores are what a naive evaluation of all events gives; what is told of a score
// follows one from the other, exactly by its rules.
func TestOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	r := stagetest.New(t, stages.Kinds, lawYAML)
	facts := made(random, 1200, 12)
	byUser := map[string][]fact{}
	last := map[string]float64{} // told last, by user and score
	ids := map[string]bool{}
	done, timers, told := 0, 0, map[string]int{}
	received := stagetest.Start
	for i, f := range facts {
		if f.at.After(received) {
			received = f.at
		}
		r.Advance(received) // timers before this event
		r.Commit()
		user := fmt.Sprint("u", f.user)
		check := func() {
			lines := r.Lines()
			for _, m := range read(t, lines[done:]) {
				who := m.Data.Profile.Identifiers["user_id"][0]
				for name, want := range naive(byUser[who], m.Timestamp) {
					if got, ok := m.Data.Profile.Scores[name]; !ok || math.Abs(got-want) > 1e-6*(1+math.Abs(want)) {
						t.Fatalf("event %d: %s of %s at %s is %v, want %v", i, name, who, m.Timestamp, got, want)
					}
				}
				if m.Data.Cause == "timer" {
					timers++
				}
				if m.Type != pipeline.ScoreChanged {
					continue
				}
				key := who + "/" + m.Data.Score
				previous, known := last[key]
				told[m.Data.Score]++
				switch {
				case ids[m.ID] || m.Data.Value == nil:
					t.Fatalf("%+v", m)
				case known != (m.Data.Previous != nil) || known && *m.Data.Previous != previous:
					t.Fatalf("previous of %+v, want %v", m, previous)
				case m.Data.Value != nil && *m.Data.Value != m.Data.Profile.Scores[m.Data.Score]:
					t.Fatalf("the message and its profile differ: %+v", m)
				}
				ids[m.ID] = true
				last[key] = *m.Data.Value
				contributions(t, m)
			}
			done = len(lines)
		}
		check()
		byUser[user] = append(byUser[user], f)
		r.Feed(f.record(received))
		r.Commit()
		check()
		if i%300 == 299 {
			r.Rebuild()
		}
	}
	if timers < 50 || told["heat"] < 100 || told["alive"] < 20 || told["ltv"] < 10 || told["rfm"] < 20 || told["sum"] < 50 {
		t.Errorf("%d timers, told %v: the test says too little", timers, told)
	}
	for _, doc := range r.Profiles() {
		var p document
		if err := json.Unmarshal([]byte(doc), &p); err != nil {
			t.Fatal(err)
		}
		heat, has := p.Scores["heat"]
		if want := has && heat >= 30; slices.Contains(p.Segments, "hot") != want {
			t.Errorf("heat %g and segments %v", heat, p.Segments)
		}
	}
}

// contributions checks that reasons explain the value.
func contributions(t *testing.T, m changed) {
	t.Helper()
	sum := 0.0
	for _, v := range m.Data.Reasons {
		sum += v
	}
	value := *m.Data.Value
	switch m.Data.Score {
	case "heat", "rfm":
	case "alive":
		if len(m.Data.Reasons) == 0 {
			sum = 1
		} else {
			sum = 1 / (1 + math.Exp(-sum))
		}
	case "ltv":
		sum = m.Data.Reasons["expected_purchases"] * m.Data.Reasons["average_value"]
	case "sum":
		sum = m.Data.Reasons["orders"]
	}
	if math.Abs(sum-value) > 1e-9*(1+math.Abs(value)) || len(m.Meta.Features) == 0 {
		t.Errorf("%s is %g, its reasons give %g: %v %v", m.Data.Score, value, sum, m.Data.Reasons, m.Meta.Features)
	}
}

// TestOrderDoesNotMatter: any order of arrival gives the same scores, bit by bit, and the same past.
func TestOrderDoesNotMatter(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	facts := made(random, 400, 3)
	at := facts[len(facts)-1].at
	run := func(list []fact) (docs, past []string) {
		r := stagetest.New(t, stages.Kinds, lawYAML)
		for _, f := range list {
			r.Feed(f.record(at))
		}
		r.Commit()
		for _, line := range strings.Split(r.State(), "\n") {
			// The number of updates, which depends on the order, stands before the first event's time; the past stands at the end.
			if strings.HasPrefix(line, "profile folded 1 ") {
				past = append(past, line[max(0, len(line)-400):])
			}
		}
		for _, doc := range r.Profiles() {
			var p document
			if err := json.Unmarshal([]byte(doc), &p); err != nil {
				t.Fatal(err)
			}
			docs = append(docs, fmt.Sprint(p.ID, p.Scores))
		}
		return docs, past
	}
	wantDocs, wantPast := run(facts)
	if len(wantDocs) != 3 || len(wantPast) != 3 {
		t.Fatalf("%d profiles, %d states", len(wantDocs), len(wantPast))
	}
	for range 5 {
		random.Shuffle(len(facts), func(i, j int) { facts[i], facts[j] = facts[j], facts[i] })
		if docs, past := run(facts); !slices.Equal(docs, wantDocs) || !slices.Equal(past, wantPast) {
			t.Fatalf("%v\nwant %v", docs, wantDocs)
		}
	}
}

func userID(name string) pipeline.ID {
	ev := pipeline.Event{UserID: name}
	pipeline.NewIdentities([]byte(stagetest.Key)).Identify(&ev)
	return ev.Primary
}

// TestMergeAndSplit: a merged profile has the scores of the events of both, the other one is told nothing more; after the split
// both are as before.
func TestMergeAndSplit(t *testing.T) {
	random := rand.New(rand.NewPCG(11, 12))
	facts := made(random, 300, 2)
	at := facts[len(facts)-1].at
	r, one := stagetest.New(t, stages.Kinds, lawYAML), stagetest.New(t, stages.Kinds, lawYAML)
	for _, f := range facts {
		r.Feed(f.record(at))
		f.user = 0
		one.Feed(f.record(at))
	}
	r.Commit()
	one.Commit()
	a, b := userID("u0"), userID("u1")
	before := []string{fmt.Sprint(r.Profile(a).Scores), fmt.Sprint(r.Profile(b).Scores)}
	want := fmt.Sprint(one.Profile(a).Scores)

	lines := len(r.Lines())
	r.Regroup(pipeline.CauseMerge, map[pipeline.ID]pipeline.ID{b: a})
	if got := fmt.Sprint(r.Profile(a).Scores); got != want {
		t.Errorf("merged %s, want %s", got, want)
	}
	merged := read(t, r.Lines()[lines:])
	scores := 0
	for _, m := range merged {
		if m.Type != pipeline.ScoreChanged {
			continue
		}
		scores++
		if m.Data.Profile.ID != a.String() || m.Data.Cause != pipeline.CauseMerge || m.Data.Previous == nil {
			t.Errorf("after the merge: %+v", m)
		}
	}
	if scores == 0 {
		t.Error("nothing was told of the merge")
	}
	lines = len(r.Lines())
	r.Regroup(pipeline.CauseSplit, map[pipeline.ID]pipeline.ID{b: b})
	if after := []string{fmt.Sprint(r.Profile(a).Scores), fmt.Sprint(r.Profile(b).Scores)}; !slices.Equal(after, before) {
		t.Errorf("after the split %v, want %v", after, before)
	}
	fresh := 0
	for _, m := range read(t, r.Lines()[lines:]) {
		if m.Type == pipeline.ScoreChanged && m.Data.Profile.ID == b.String() {
			fresh++
			if m.Data.Previous != nil {
				t.Errorf("of the part that was split off something was known: %+v", m)
			}
		}
	}
	if fresh == 0 {
		t.Error("nothing was told of the part that was split off")
	}
}
