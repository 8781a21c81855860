package segment_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

const lawYAML = `- clean: {}
- profile:
    orders: {count: events, event: Order}
    spent:  {sum: properties.total}
    last:   {max: timestamp}
- segment:
    buyer:  orders >= 1
    frugal: orders >= 2 and spent < 50
    pro:    traits.plan == "pro" or traits.address.tier == "gold"
    quiet:  not (orders >= 3)
    recent: last >= "2026-03-01T07:00:00Z"
    rich:   spent > 300 or traits.plan == "pro" and spent > 100
`

// profile is what the tests read of a document.
type profile struct {
	ID         string `json:"profile_id"`
	Traits     map[string]any
	Aggregates map[string]float64
	Segments   []string
}

// naive is what the conditions above mean, evaluated anew.
func (p profile) naive() []string {
	orders, ordered := p.Aggregates["orders"]
	spent, spends := p.Aggregates["spent"]
	last, seen := p.Aggregates["last"]
	plan := p.Traits["plan"]
	address, _ := p.Traits["address"].(map[string]any)
	in := []string{}
	for name, is := range map[string]bool{
		"buyer": ordered && orders >= 1, "frugal": ordered && orders >= 2 && spends && spent < 50,
		"pro": plan == "pro" || address["tier"] == "gold", "quiet": !(ordered && orders >= 3),
		"recent": seen && last >= float64(time.Date(2026, 3, 1, 7, 0, 0, 0, time.UTC).Unix()),
		"rich":   spends && (spent > 300 || plan == "pro" && spent > 100),
	} {
		if is {
			in = append(in, name)
		}
	}
	slices.Sort(in)
	return in
}

// TestOracle: after every event the segments are what a naive evaluation of the profile gives, and the messages of a profile
// tell exactly how it came there: enter and exit in turn, numbered without a gap, intervals that do not overlap.
func TestOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 3))
	r := stagetest.New(t, stages.Kinds, lawYAML)
	people := map[string]*log{}
	done := 0
	for i := range 1500 {
		at := stagetest.Start.Add(-time.Duration(random.IntN(5000)) * time.Second).Format(time.RFC3339)
		user := random.IntN(40)
		raw := fmt.Sprintf(`{"type":"track","event":%q,"userId":"u%d","timestamp":%q,"properties":{"total":%d}}`,
			[]string{"Order", "Visit"}[random.IntN(2)], user, at, random.IntN(200)-80)
		if random.IntN(3) == 0 {
			raw = fmt.Sprintf(`{"type":"identify","userId":"u%d","timestamp":%q,"traits":{%s}}`, user, at, []string{
				`"plan":"pro"`, `"plan":"free"`, `"plan":null`, `"plan":7`, `"address":{"tier":"gold"}`, `"address":{"tier":1}`, `"address":"gold"`, `"other":1`}[random.IntN(8)])
		}
		r.Feed(stagetest.Record("web", fmt.Sprint("m", i), stagetest.Start.Add(time.Duration(i)*time.Second), raw))
		r.Commit()
		if i%400 == 0 {
			r.Rebuild()
		}
		lines := r.Lines()
		for _, line := range lines[done:] {
			if _, text, ok := strings.Cut(line, " {"); ok {
				follow(t, people, "{"+text)
			}
		}
		done = len(lines)
	}
	total := 0
	for _, doc := range r.Profiles() {
		var p profile
		if err := json.Unmarshal([]byte(doc), &p); err != nil {
			t.Fatal(err)
		}
		if want := p.naive(); !slices.Equal(p.Segments, want) {
			t.Errorf("segments %v, want %v: %s", p.Segments, want, doc)
		}
		l := people[p.ID]
		if !slices.Equal(l.in(), p.Segments) {
			t.Errorf("the messages lead to %v, the profile is in %v", l.in(), p.Segments)
		}
		total += int(l.sequence)
	}
	if total < 300 {
		t.Errorf("only %d transitions: the test says too little", total)
	}
}

// log is what the messages have said of one profile.
type log struct {
	sequence uint64
	since    map[string]time.Time // of the segments it is in
	until    map[string]time.Time // when it left, of those it was in
}

func (l *log) in() []string {
	names := []string{}
	for name := range l.since {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// follow takes one message into the logs, and checks it against what was said before.
func follow(t *testing.T, people map[string]*log, text string) {
	t.Helper()
	var m struct {
		Type string
		ID   string
		Data struct {
			TransitionID string `json:"transition_id"`
			Segment      string
			EffectiveAt  time.Time `json:"effective_at"`
			EmittedAt    time.Time `json:"emitted_at"`
			Cause        string
			Profile      profile
		}
		Meta struct {
			Sequence uint64
			Delta    int
			Since    time.Time
			Op       string
		}
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	d := &m.Data
	l := people[d.Profile.ID]
	if l == nil {
		l = &log{since: map[string]time.Time{}, until: map[string]time.Time{}}
		people[d.Profile.ID] = l
	}
	since, in := l.since[d.Segment]
	entered := m.Type == "segment.entered"
	switch {
	case m.ID != d.TransitionID || d.Cause != "live":
		t.Errorf("ids or cause: %s", text)
	case m.Meta.Sequence != l.sequence+1:
		t.Errorf("sequence after %d: %s", l.sequence, text)
	case in == entered:
		t.Errorf("entered or exited twice: %s", text)
	case d.EffectiveAt.After(d.EmittedAt) || d.EffectiveAt.Before(l.until[d.Segment]) || in && d.EffectiveAt.Before(since):
		t.Errorf("effective time: %s", text)
	case entered && (m.Meta.Delta != 1 || m.Meta.Op != "enter" || !m.Meta.Since.Equal(d.EffectiveAt)):
		t.Errorf("meta: %s", text)
	case !entered && (m.Meta.Delta != -1 || m.Meta.Op != "exit" || !m.Meta.Since.Equal(since)):
		t.Errorf("meta: %s", text)
	case !slices.Equal(d.Profile.Segments, d.Profile.naive()):
		t.Errorf("the profile in the message is in %v, want %v: %s", d.Profile.Segments, d.Profile.naive(), text)
	}
	l.sequence = m.Meta.Sequence
	if entered {
		l.since[d.Segment] = d.EffectiveAt
	} else {
		delete(l.since, d.Segment)
		l.until[d.Segment] = d.EffectiveAt
	}
}
