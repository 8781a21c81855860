package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millstream-io/millstream/pipeline"
)

const timePipeline = inOrder + `stages:
  - clean
  - dedup
  - profile: {orders_30d: {count: events, event: Order Completed, over: 30d}}
  - segment: {active: orders_30d >= 1}
sinks:
  out: {file: {path: "${OUT}"}, when: entered("active") or exited("active")}
`

// ages is a run of timePipeline, which stands still in between, with the program's clock set at each start.
type ages struct {
	t         *testing.T
	p         *process
	env       []string
	name      string
	file      string
	data, out string
	sent      int
}

func newAges(t *testing.T, brokers []string) *ages {
	a := &ages{t: t, file: write(t, timePipeline), data: t.TempDir(), out: t.TempDir()}
	a.name, a.env = on(t, brokers, "OUT="+a.out)
	return a
}

// runs starts the pipeline, after its end, at this time.
func (a *ages) runs(clock string) {
	a.t.Helper()
	if a.p != nil {
		a.p.stop()
	}
	a.p = start(a.t, a.file, a.data, append(a.env, "MILLSTREAM_CLOCK="+clock)...)
}

// ordered is an order at that time.
func (a *ages) ordered(user, at string) string {
	a.sent++
	return fmt.Sprintf(`{"messageId":"m%d","type":"track","event":"Order Completed","userId":"%s","timestamp":"%s"}`, a.sent, user, at)
}

// told is what the file says of the segment, by user: "entered live 2026-01-01T…", with the time since when it is so.
func (a *ages) told() map[string][]string {
	a.t.Helper()
	all, err := notices(a.out)
	if err != nil {
		a.t.Fatal(err)
	}
	said, ids := map[string][]string{}, map[string]bool{}
	for i := range all {
		c := &all[i]
		if ids[c.ID] {
			a.t.Errorf("message %s of type %s stands twice", c.ID, c.Type)
		}
		ids[c.ID] = true
		if verb, ok := strings.CutPrefix(c.Type, "segment."); ok {
			user := c.Data.Profile.Identifiers["user_id"][0]
			said[user] = append(said[user], verb+" "+c.Data.Cause+" "+c.Data.EffectiveAt)
		}
	}
	return said
}

// comes waits until a user's last transition is this one.
func (a *ages) comes(user, want string) {
	a.t.Helper()
	eventually(a.t, func() error {
		if said := a.told()[user]; len(said) == 0 || !strings.HasPrefix(said[len(said)-1], want) {
			return fmt.Errorf("of %s was told %q, want %q at the end", user, said, want)
		}
		return nil
	})
}

// everything waits until all that was posted has been processed: somebody who orders now enters after it.
func (a *ages) everything() {
	a.t.Helper()
	a.sent++
	marker := fmt.Sprintf("marker-%d", a.sent)
	a.p.batch(a.t, fmt.Sprintf(`{"messageId":"%s","type":"track","event":"Order Completed","userId":"%[1]s"}`, marker))
	a.comes(marker, "entered live")
}

// exits are a user's transitions after the first, which is to have entered.
func (a *ages) exits(user string, want ...string) {
	a.t.Helper()
	said := a.told()[user]
	if len(said) == 0 || !strings.HasPrefix(said[0], "entered live") || !slices.Equal(said[1:], want) {
		a.t.Errorf("of %s was told %q, want that they have entered, then %q", user, said, want)
	}
}

// TestTimeMovesPeople lets people leave a window of 30 days while nothing runs: they are told of once, as of the moment that is
// 30 days after their last order, not of the restart. A late order inside the window has moved that, one outside has not.
func TestTimeMovesPeople(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		const order = "2026-01-01T10:00:00Z"
		a := newAges(t, brokers)
		a.runs("2026-01-30T00:00:00Z")
		a.p.batch(t, a.ordered("lapsed", order), a.ordered("late", order), a.ordered("outside", order))
		a.p.batch(t, a.ordered("late", "2026-01-03T08:00:00Z"), a.ordered("outside", "2025-12-30T23:59:59Z"), a.ordered("never", "2025-12-30T23:59:59Z"))
		a.everything()
		for _, user := range []string{"lapsed", "late", "outside"} {
			a.exits(user)
		}

		a.runs("2026-02-02T12:00:00Z")
		a.comes("lapsed", "exited")
		a.comes("outside", "exited")
		a.comes("late", "exited")
		a.everything()
		a.runs("2026-02-03T00:00:00Z")
		a.everything()
		a.p.stop()
		a.exits("lapsed", "exited timer 2026-01-31T10:00:00.000Z")
		a.exits("outside", "exited timer 2026-01-31T10:00:00.000Z")
		a.exits("late", "exited timer 2026-02-02T08:00:00.000Z")
		if said := a.told()["never"]; len(said) > 0 {
			t.Errorf("of somebody whose only order came too late was told %q", said)
		}
	})
}

// TestAnOrderThatWaitsUnreadPreventsAnExit stops the pipeline. The order that prevents an exit comes to `events` meanwhile, ten
// seconds before it is due and behind many others, and the pipeline comes back when the exit is overdue.
func TestAnOrderThatWaitsUnreadPreventsAnExit(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		a := newAges(t, brokers)
		a.runs("2026-01-31T00:00:00Z")
		a.p.batch(t, a.ordered("stays", "2026-01-01T10:00:00Z"), a.ordered("leaves", "2026-01-01T10:00:01Z"))
		a.everything()
		a.p.stop()
		a.p = nil

		var waiting []*kgo.Record
		add := func(user, text string) {
			r := pipeline.EventRecord(&pipeline.Event{Source: "web", MessageID: fmt.Sprintf("w%d", len(waiting)), Raw: []byte(text),
				UserID: user, ReceivedAt: time.Date(2026, 1, 31, 9, 59, 50, 0, time.UTC)})
			k := &kgo.Record{Topic: a.name + ".events", Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				k.Headers = append(k.Headers, kgo.RecordHeader(h))
			}
			waiting = append(waiting, k)
		}
		for i := range 10_000 {
			user := fmt.Sprintf("u%d", i)
			add(user, `{"type":"track","event":"Product Viewed","userId":"`+user+`"}`)
		}
		add("stays", a.ordered("stays", "2026-01-31T09:59:50Z"))
		produceTo(t, brokers, waiting...)

		a.runs("2026-01-31T10:00:30Z")
		a.comes("leaves", "exited")
		a.everything()
		a.exits("leaves", "exited timer 2026-01-31T10:00:01.000Z")
		a.exits("stays")
		a.runs("2026-03-02T10:00:00Z")
		a.comes("stays", "exited")
		a.p.stop()
		a.exits("stays", "exited timer 2026-03-02T09:59:50.000Z")
	})
}
