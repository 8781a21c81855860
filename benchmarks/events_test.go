package benchmarks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

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

func newTraffic(count, people int) *traffic {
	t := &traffic{}
	r := rand.New(rand.NewPCG(1, uint64(people)))
	start := time.Now().Add(-time.Hour).UTC()
	var sent []pipeline.Event
	for len(sent) < count {
		if len(sent) > 0 && r.IntN(100) < repeated {
			sent = append(sent, sent[len(sent)-1-r.IntN(min(len(sent), 5000))])
			continue
		}
		ev := event(r, t.unique, people, start.Add(time.Duration(len(sent))*time.Millisecond), &t.orders)
		t.unique++
		sent = append(sent, ev)
	}
	for i := range sent {
		t.events = append(t.events, sent[i].Raw)
		t.records = append(t.records, pipeline.EventRecord(&sent[i]))
	}
	return t
}

func event(r *rand.Rand, number, people int, at time.Time, orders *int) pipeline.Event {
	person := r.IntN(people)
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
	p, err := c.OpenProducer()
	check(b, err)
	defer p.Close()
	for at := 0; at < len(t.records); at += 5000 {
		chunk := make([]pipeline.Record, 0, 5000) // the producer owns what it gets
		for _, r := range t.records[at:min(at+5000, len(t.records))] {
			r.Topic = topic
			chunk = append(chunk, r)
		}
		check(b, p.Produce(ctx, chunk))
	}
}
