package benchmarks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// traffic is a seeded stream of events of a fixed number of people, so that state of different sizes meets the same events
// (internal/workload has as many people as its events need), and what must come out of it.
type traffic struct {
	events  [][]byte
	records []pipeline.Record
	unique  int
	orders  int // of unique events
}

// Shares in percent.
const (
	repeated = 4
	ordered  = 20
)

// newTraffic returns count events, some of them repeated: at any time 1,000 random people are there, each for visit events on
// average, mixed with those of the others. A visit of 1 makes every event that of a random person. Before these come first
// events, one of each person in turn.
func newTraffic(first, count, people, visit int) *traffic {
	t := &traffic{}
	r := rand.New(rand.NewPCG(1, uint64(people)))
	var visitors [1000]struct{ person, left int }
	start := time.Now().Add(-time.Hour).UTC()
	for sent := range first + count {
		if sent > first && r.IntN(100) < repeated {
			repeat := sent - 1 - r.IntN(min(sent-first, 5000))
			t.events, t.records = append(t.events, t.events[repeat]), append(t.records, t.records[repeat])
			continue
		}
		person := sent % people
		if sent >= first {
			v := &visitors[r.IntN(len(visitors))]
			if v.left == 0 {
				v.person, v.left = r.IntN(people), 1+r.IntN(2*visit-1)
			}
			v.left--
			person = v.person
		}
		ev := event(r, t.unique, person, start.Add(time.Duration(sent)*time.Millisecond), &t.orders)
		t.unique++
		t.events, t.records = append(t.events, ev.Raw), append(t.records, pipeline.EventRecord(&ev))
	}
	return t
}

func event(r *rand.Rand, number, person int, at time.Time, orders *int) pipeline.Event {
	ev := pipeline.Event{Source: "web", ReceivedAt: time.Now(), MessageID: fmt.Sprintf("message-%08d", number),
		UserID: fmt.Sprintf("user-%06d", person), AnonymousID: fmt.Sprintf("device-%06d", person)}
	price := 5 + r.IntN(20_000)
	what := fmt.Sprintf(`"event":"Product Viewed","properties":{"product":"Item %d","price":%d.%02d}`, r.IntN(500), price/100, price%100)
	if r.IntN(100) < ordered {
		*orders++
		what = fmt.Sprintf(`"event":"Order Completed","properties":{"order_id":"%d","product":"Item %d","revenue":%d.%02d,"currency":"GBP"}`, number, r.IntN(500), price/100, price%100)
	}
	campaign := [...]string{"spring", "newsletter", "retargeting"}[r.IntN(3)]
	ev.Raw = fmt.Appendf(nil, `{"messageId":%q,"type":"track","userId":%q,"anonymousId":%q,"timestamp":%q,%s,"context":{"library":{"name":"analytics.js","version":"2.0.0"},"campaign":{"source":%q,"medium":"email"}}}`,
		ev.MessageID, ev.UserID, ev.AnonymousID, at.Format("2006-01-02T15:04:05.000Z"), what, campaign)
	return ev
}

// preload creates the topic and fills it.
func (t *traffic) preload(ctx context.Context, b *testing.B, c *broker.Cluster, topic string, partitions int32) {
	b.Helper()
	check(b, c.EnsureTopics(ctx, []broker.Topic{{Name: topic, Partitions: partitions}}))
	t.hold(ctx, b, c, topic, t.records)()
}

// hold writes records in a transaction, and returns what commits it: until then they are in the topic, and nobody sees them.
func (t *traffic) hold(ctx context.Context, b *testing.B, c *broker.Cluster, topic string, records []pipeline.Record) (release func()) {
	b.Helper()
	tx, err := c.OpenTransactions(ctx, topic+"."+testenv.Name(b))
	check(b, err)
	check(b, tx.Begin())
	for _, r := range records {
		r.Topic = topic
		check(b, tx.Send(&r))
	}
	return func() {
		check(b, tx.CommitWithoutOffsets(ctx))
		check(b, tx.Close())
	}
}
