package segment_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// movie feeds events at given times, and tells the transitions as "op segment time cause".
type movie struct {
	t *testing.T
	r *stagetest.Runner
	n int
	m int // messages seen
}

func newMovie(t *testing.T, yaml string) *movie {
	return &movie{t: t, r: stagetest.New(t, stages.Kinds, yaml)}
}

func at(text string) time.Time {
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return moment
}

// event arrives at a time; happened "" means: then.
func (m *movie) event(name, received, happened string) {
	m.t.Helper()
	m.n++
	if happened == "" {
		happened = received
	}
	m.r.Feed(stagetest.Record("web", fmt.Sprint("m", m.n), at(received), fmt.Sprintf(`{"type":"track","event":%q,"userId":"u","timestamp":%q}`, name, happened)))
	m.r.Commit()
}

func (m *movie) expect(what string, want ...string) {
	m.t.Helper()
	all := messages(m.t, m.r.Lines())
	var got []string
	for _, x := range all[m.m:] {
		got = append(got, strings.Join([]string{x.Meta.Op, x.Data.Segment, x.Data.EffectiveAt.UTC().Format("01-02T15:04:05.999"), x.Data.Cause}, " "))
	}
	m.m = len(all)
	if !slices.Equal(got, want) {
		m.t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const monthYAML = `- clean: {}
- profile: {orders_30d: {count: events, event: Order, over: 30d}}
- segment: {buyer: orders_30d >= 1, loyal: orders_30d >= 2}
`

// TestTimeMovesPeople: a membership by a window ends at the exact time at which the order leaves it, once, whenever the next
// event comes.
func TestTimeMovesPeople(t *testing.T) {
	m := newMovie(t, monthYAML)
	m.event("Order", "2026-01-01T10:00:00Z", "")
	m.expect("first order", "enter buyer 01-01T10:00:00 live")
	m.event("Visit", "2026-01-31T09:59:59Z", "")
	m.expect("a second before")
	m.event("Visit", "2026-02-02T00:00:00Z", "")
	m.expect("next event", "exit buyer 01-31T10:00:00 timer")
	m.event("Visit", "2026-03-02T00:00:00Z", "")
	m.expect("later")
}

// TestLateOrdersMoveTheExit: a late order inside the window moves the exit that is pending, one outside causes nothing.
func TestLateOrdersMoveTheExit(t *testing.T) {
	m := newMovie(t, monthYAML)
	m.event("Order", "2026-01-01T10:00:00Z", "")
	m.expect("first order", "enter buyer 01-01T10:00:00 live")
	m.event("Order", "2026-01-20T00:00:00Z", "2025-12-21T00:00:00Z") // 30 days ago, to the millisecond
	m.expect("outside")
	m.event("Order", "2026-01-20T00:00:00Z", "2026-01-05T12:00:00Z")
	m.expect("inside", "enter loyal 01-05T12:00:00 live")
	m.event("Visit", "2026-02-20T00:00:00Z", "")
	m.expect("next event", "exit loyal 01-31T10:00:00 timer", "exit buyer 02-04T12:00:00 timer")
	m.event("Order", "2026-02-21T00:00:00Z", "2026-01-20T00:00:00Z")
	m.expect("outside by now")
	m.event("Order", "2026-02-21T00:00:00Z", "2026-01-23T00:00:00Z") // in the window, and it had left before
	m.expect("inside again", "enter buyer 02-04T12:00:00 live")
	m.r.Advance(at("2026-03-01T00:00:00Z"))
	m.r.Commit()
	m.expect("the end", "exit buyer 02-22T00:00:00 timer")
}

// TestDaysSince: comparisons with a constant change at their exact time, each way of writing them.
func TestDaysSince(t *testing.T) {
	m := newMovie(t, `- clean: {}
- profile: {last_seen: {max: timestamp}, renewal: {latest: traits.renewal}}
- segment:
    active:  days_since(last_seen) < 30
    between: 10 <= days_since(last_seen) < 20.5
    lapsed:  days_since(last_seen) > 30
    long:    not (90 > days_since(last_seen))
    odd:     days_since(last_seen) % 7 >= 6
    renews:  days_since(traits.renewal) >= -3
    third:   days_since(last_seen) * 3 > 40
`)
	m.event("Visit", "2026-01-01T10:00:00Z", "")
	m.expect("visit", "enter active 01-01T10:00:00 live")
	m.r.Feed(stagetest.Record("web", "r", at("2026-01-02T10:00:00Z"), `{"type":"identify","userId":"u","traits":{"renewal":"2026-01-20"},"timestamp":"2025-12-01T00:00:00Z"}`))
	m.r.Commit()
	m.expect("trait")
	m.event("Other", "2026-02-10T00:00:00Z", "2025-01-01T00:00:00Z")
	m.expect("time",
		"enter odd 01-07T10:00:00 timer", "exit odd 01-08T10:00:00 timer",
		"enter between 01-11T10:00:00 timer",
		"enter odd 01-14T10:00:00 timer",
		"exit odd 01-15T10:00:00 timer", "enter third 01-15T10:00:00 timer",
		"enter renews 01-17T00:00:00 timer",
		"enter odd 01-21T10:00:00 timer",
		"exit between 01-21T22:00:00 timer",
		"exit odd 01-22T10:00:00 timer",
		"enter odd 01-28T10:00:00 timer", "exit odd 01-29T10:00:00 timer",
		"exit active 01-31T10:00:00 timer",
		"enter lapsed 01-31T10:00:00.001 timer",
		"enter odd 02-04T10:00:00 timer", "exit odd 02-05T10:00:00 timer")
	m.event("Visit", "2026-02-10T01:00:00Z", "")
	m.expect("back", "enter active 02-10T01:00:00 live", "exit lapsed 02-10T01:00:00 live", "exit third 02-10T01:00:00 live")
}

// TestThenNot: in when the time has passed since the latest of the first event without the second; a late one of the second
// ends it, or prevents it.
func TestThenNot(t *testing.T) {
	m := newMovie(t, `- clean: {}
- profile: {}
- segment: {abandoned: {did: Product Added, then_not: Order Completed, within: 1h}}
`)
	m.event("Order Completed", "2026-01-01T09:00:00Z", "")
	m.event("Product Added", "2026-01-01T10:00:00Z", "")
	m.event("Product Added", "2026-01-01T10:20:00Z", "")
	m.event("Product Added", "2026-01-01T10:21:00Z", "2026-01-01T10:01:00Z") // late: not the latest
	m.event("Visit", "2026-01-01T11:19:59Z", "")
	m.expect("within the hour")
	m.event("Visit", "2026-01-01T12:00:00Z", "")
	m.expect("after it", "enter abandoned 01-01T11:20:00 timer")
	m.event("Order Completed", "2026-01-01T12:01:00Z", "2026-01-01T10:10:00Z")
	m.expect("an order before the latest")
	m.event("Order Completed", "2026-01-01T13:00:00Z", "")
	m.expect("bought", "exit abandoned 01-01T13:00:00 live")
	m.event("Product Added", "2026-01-02T10:00:00Z", "")
	m.event("Order Completed", "2026-01-02T10:59:59Z", "2026-01-02T10:00:00Z") // in the same millisecond: bought
	m.event("Visit", "2026-01-03T00:00:00Z", "")
	m.expect("bought within the hour")
	m.event("Product Added", "2026-01-03T10:00:00Z", "")
	m.event("Product Added", "2026-01-03T11:30:00Z", "")
	m.event("Visit", "2026-01-03T20:00:00Z", "")
	m.expect("added again", "enter abandoned 01-03T11:00:00 timer", "exit abandoned 01-03T11:30:00 live", "enter abandoned 01-03T12:30:00 timer")
	if doc := string(m.r.Profile(userID("u")).AppendJSON(nil)); !strings.Contains(doc, `"traits":{},"aggregates":{},"segments":["abandoned"]`) {
		t.Errorf("the document shows what the condition needs: %s", doc)
	}
}

// TestSequence: three events in order within the time, in whatever order they arrive.
func TestSequence(t *testing.T) {
	const yaml = `- clean: {}
- profile: {}
- segment: {funnel: {did: [A, B, C], within: 2h}, twice: {did: [B, B], within: 2h}, back: {did: [A, B, A], within: 4h}}
`
	type event struct{ name, at string }
	for what, c := range map[string]struct {
		events []event
		want   string
	}{
		"in order":       {[]event{{"A", "10:00"}, {"B", "11:00"}, {"C", "12:00"}}, "funnel"},
		"too slow":       {[]event{{"A", "10:00"}, {"B", "11:00"}, {"C", "12:01"}}, ""},
		"wrong order":    {[]event{{"A", "10:00"}, {"C", "11:00"}, {"B", "12:00"}}, ""},
		"a later start":  {[]event{{"A", "10:00"}, {"B", "11:00"}, {"A", "11:30"}, {"B", "12:15"}, {"C", "13:00"}}, "back funnel twice"},
		"one time":       {[]event{{"A", "10:00"}, {"B", "10:00"}, {"C", "10:00"}}, "funnel"},
		"twice the same": {[]event{{"B", "10:00"}, {"B", "10:00"}}, ""},
		"back":           {[]event{{"A", "10:00"}, {"B", "10:00"}, {"A", "14:00"}}, "back"},
		"too late back":  {[]event{{"A", "10:00"}, {"B", "10:00"}, {"A", "14:01"}}, ""},
	} {
		orders := [][]event{c.events, slices.Clone(c.events)}
		slices.Reverse(orders[1])
		for i, events := range orders {
			m := newMovie(t, yaml)
			for k, e := range events {
				m.event(e.name, "2026-01-01T15:00:00Z", "2026-01-01T"+e.at+":00Z")
				if k == i {
					m.r.Rebuild()
				}
			}
			m.r.Advance(at("2026-02-01T00:00:00Z"))
			if got := strings.Join(m.r.Profile(userID("u")).Segments, " "); got != c.want {
				t.Errorf("%s, order %d: in %q, want %q", what, i, got, c.want)
			}
		}
	}
	// The missing event may be that of another fragment.
	m := newMovie(t, yaml)
	m.event("A", "2026-01-01T10:00:00Z", "")
	m.event("C", "2026-01-01T11:00:00Z", "")
	m.r.Feed(stagetest.Record("web", "x", at("2026-01-01T12:00:00Z"), `{"type":"track","event":"B","userId":"v","timestamp":"2026-01-01T10:30:00Z"}`))
	m.r.Regroup(pipeline.CauseMerge, map[pipeline.ID]pipeline.ID{userID("v"): userID("u")})
	m.expect("merge", "enter funnel 01-01T12:00:00 merge")
	m.r.Regroup(pipeline.CauseSplit, map[pipeline.ID]pipeline.ID{userID("v"): userID("v")})
	m.expect("split", "exit funnel 01-01T12:00:00 split")
}
