package profile_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

const windowYAML = `- clean: {}
- profile:
    n:     {count: events, event: Order, over: 6h}
    spent: {sum: properties.total, over: 6h}
    mean:  {avg: properties.total, over: 3h}
    least: {min: properties.total, over: 6h}
    most:  {max: properties.total, over: 90m}
    skus:  {unique: properties.sku, over: 6h}
    since: {min: timestamp, over: 6h}
`

// happened is one event of the test below.
type happened struct {
	user, total, sku int
	at, received     time.Time
}

// naiveWindows is what the attributes above mean, at a time, by the events that were received until then.
func naiveWindows(list []happened, user int, now time.Time) map[string]float64 {
	in := func(over time.Duration) (found []happened) {
		for _, h := range list {
			if h.user == user && !h.received.After(now) && h.at.After(now.Add(-over)) && !h.at.After(now) {
				found = append(found, h)
			}
		}
		return found
	}
	values := map[string]float64{}
	if all := in(6 * time.Hour); len(all) > 0 {
		skus, total := map[int]bool{}, 0
		least, first := all[0].total, all[0].at
		for _, h := range all {
			total += h.total
			skus[h.sku] = true
			least = min(least, h.total)
			if h.at.Before(first) {
				first = h.at
			}
		}
		values["n"], values["spent"], values["least"], values["skus"] = float64(len(all)), float64(total), float64(least), float64(len(skus))
		values["since"] = float64(first.UnixMilli()) / 1000
	}
	if all := in(3 * time.Hour); len(all) > 0 {
		total := 0
		for _, h := range all {
			total += h.total
		}
		values["mean"] = float64(total) / float64(len(all))
	}
	for _, h := range in(90 * time.Minute) {
		if most, ok := values["most"]; !ok || float64(h.total) > most {
			values["most"] = float64(h.total)
		}
	}
	return values
}

var timerLine = regexp.MustCompile(`^timer (\S+): profile (\S+) version=(\d+) changed=\[(.*)\] segments=\[\]$`)

// TestWindows: after each event every attribute is what its window holds, and between events the profile is evaluated at
// exactly the milliseconds at which one changes, and says which.
func TestWindows(t *testing.T) {
	random := rand.New(rand.NewPCG(21, 22))
	r := stagetest.New(t, stages.Kinds, windowYAML)
	const users = 3
	var list []happened
	now, done, timers := stagetest.Start, 0, 0
	versions := map[string]int{} // by profile
	for i := range 400 {
		before := now
		now = now.Add(time.Duration(random.IntN([]int{3_600_000, 100_000}[i%2])) * time.Millisecond)
		h := happened{random.IntN(users), random.IntN(9) - 2, random.IntN(5), now.Add(-time.Duration(random.IntN(8*3_600_000)) * time.Millisecond), now}
		if random.IntN(4) == 0 { // a clock that is ahead
			h.at = now.Add(time.Duration(random.IntN(300_000)) * time.Millisecond)
		}
		r.Feed(stagetest.Record("web", fmt.Sprint("m", i), now, fmt.Sprintf(`{"type":"track","event":"Order","userId":"u%d","timestamp":%q,"properties":{"total":%d,"sku":%d}}`,
			h.user, h.at.Format(time.RFC3339Nano), h.total, h.sku)))
		r.Commit()
		if i%50 == 0 {
			r.Rebuild()
		}
		var got []string
		for _, line := range r.Lines()[done:] {
			if m := timerLine.FindStringSubmatch(line); m != nil && m[4] != "" {
				got = append(got, fmt.Sprintf("%s %s changed=[%s]", m[1], m[2], m[4]))
				version, err := strconv.Atoi(m[3])
				if err != nil || version <= versions[m[2]] {
					t.Errorf("what is told has no higher version than %d: %s", versions[m[2]], line)
				}
				versions[m[2]] = version
			}
		}
		lines := r.Lines()
		done = len(lines)
		_, said, _ := strings.Cut(lines[done-1], " changed=")
		if names := changedNames(naiveWindows(list, h.user, now), naiveWindows(append(list, h), h.user, now)); said != fmt.Sprintf("%v segments=[]", names) && i > 20 {
			t.Fatalf("event %d says %s, want %v", i, said, names)
		}
		if want := boundaries(list, users, before, now); !slices.Equal(got, want) {
			t.Fatalf("event %d, timers\n%s\nwant\n%s", i, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		timers += len(got)
		list = append(list, h)
		for user := range users {
			p := r.Profile(userID(fmt.Sprint("u", user)))
			if p == nil {
				continue
			}
			var doc struct{ Aggregates map[string]float64 }
			if err := json.Unmarshal(p.AppendJSON(nil), &doc); err != nil {
				t.Fatal(err)
			}
			if want := naiveWindows(list, user, now); fmt.Sprint(doc.Aggregates) != fmt.Sprint(want) {
				t.Fatalf("event %d, user %d: %v, want %v", i, user, doc.Aggregates, want)
			}
		}
	}
	if timers < 300 {
		t.Errorf("only %d timers: the test says too little", timers)
	}
}

// boundaries are the times after before until now at which an attribute of a profile changes without an event, and what changes.
func boundaries(list []happened, users int, before, now time.Time) []string {
	type change struct {
		at   time.Time
		id   pipeline.ID
		text string
	}
	var changes []change
	for user := range users {
		times := map[time.Time]bool{}
		for _, h := range list {
			for _, over := range []time.Duration{0, 90 * time.Minute, 3 * time.Hour, 6 * time.Hour} {
				if at := h.at.Add(over); h.user == user && at.After(before) && !at.After(now) {
					times[at] = true
				}
			}
		}
		for at := range times {
			earlier, later := naiveWindows(list, user, at.Add(-time.Millisecond)), naiveWindows(list, user, at)
			names := changedNames(earlier, later)
			if id := userID(fmt.Sprint("u", user)); len(names) > 0 {
				changes = append(changes, change{at, id, fmt.Sprintf("%s changed=%v", id.String()[:8], names)})
			}
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return strings.Compare(a.id.String(), b.id.String())
	})
	var lines []string
	for _, c := range changes {
		lines = append(lines, c.at.UTC().Format(pipeline.TimeFormat)+" "+c.text)
	}
	return lines
}

func changedNames(before, after map[string]float64) []string {
	names := []string{}
	for _, name := range []string{"least", "mean", "most", "n", "since", "skus", "spent"} {
		a, ok1 := before[name]
		b, ok2 := after[name]
		if a != b || ok1 != ok2 {
			names = append(names, name)
		}
	}
	return names
}

// TestCrowdedWindows: of many events in a 64th of a window nothing is lost while they are in it, and nothing stays when all
// have left; the order does not matter.
func TestCrowdedWindows(t *testing.T) {
	const yaml = "- clean: {}\n- profile:\n    n: {count: events, over: 64h}\n    skus: {unique: properties.sku, over: 64h}\n"
	random := rand.New(rand.NewPCG(1, 1))
	records := make([]pipeline.Record, 600)
	for i := range records {
		at := stagetest.Start.Add(-time.Duration(random.IntN(10*3_600_000)) * time.Millisecond)
		records[i] = stagetest.Record("web", fmt.Sprint("m", i), stagetest.Start,
			fmt.Sprintf(`{"type":"track","event":"View","userId":"u","timestamp":%q,"properties":{"sku":%d}}`, at.Format(time.RFC3339Nano), i%20))
	}
	var states []string
	for range 3 {
		random.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		r := stagetest.New(t, stages.Kinds, yaml)
		r.Feed(records...)
		r.Commit()
		states = append(states, commutative(t, r))
		aggregates := func() string {
			_, doc, _ := strings.Cut(string(r.Profile(userID("u")).AppendJSON(nil)), `"aggregates":`)
			doc, _, _ = strings.Cut(doc, "}")
			return doc
		}
		if got := aggregates(); got != `{"n":600,"skus":20` {
			t.Errorf("all in the window: %s", got)
		}
		r.Advance(stagetest.Start.Add(59 * time.Hour)) // half have left, within a 64th
		var n int
		if _, err := fmt.Sscanf(aggregates(), `{"n":%d,`, &n); err != nil || n < 240 || n > 370 {
			t.Errorf("half in the window: %s, %v", aggregates(), err)
		}
		r.Advance(stagetest.Start.Add(64 * time.Hour))
		if got := aggregates(); got != "{" {
			t.Errorf("none in the window: %s", got)
		}
	}
	if states[0] != states[1] || states[0] != states[2] {
		t.Error("the state depends on the order")
	}
}
