package benchmarks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/engine"
)

// tickets measure how long something takes from when it is handed to the broker until it is read again: start hands out a
// number, finish gives it back. Each is measured once, however often it is given back.
type tickets struct {
	mu      sync.Mutex
	started []time.Time
	took    []time.Duration // in no order
	done    map[int]bool
}

func (t *tickets) start() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started = append(t.started, time.Now())
	return len(t.started) - 1
}

func (t *tickets) finish(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		t.done = map[int]bool{}
	}
	if 0 <= i && i < len(t.started) && !t.done[i] {
		t.done[i] = true
		t.took = append(t.took, time.Since(t.started[i]))
	}
}

func (t *tickets) finished() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.took)
}

// report replaces the time per operation by quantiles.
func (t *tickets) report(b *testing.B) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.took) == 0 {
		b.Fatal("nothing came back")
	}
	slices.Sort(t.took)
	at := func(q float64) float64 { return float64(t.took[int(q*float64(len(t.took)-1))].Microseconds()) / 1e3 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(.99), "p99-ms")
	b.ReportMetric(float64(len(t.took)), "measured")
}

// follow reads what is committed to a topic from now on, until ctx ends, as any outside client would.
func follow(ctx context.Context, b *testing.B, addrs []string, topic string, see func(value []byte)) {
	b.Helper()
	conf := sarama.NewConfig()
	conf.Version, conf.Consumer.IsolationLevel = sarama.V2_8_0_0, sarama.ReadCommitted
	conf.Consumer.MaxWaitTime = 10 * time.Millisecond
	consumer, err := sarama.NewConsumer(addrs, conf)
	check(b, err)
	var reading sync.WaitGroup
	for p := range int32(partitions) {
		pc, err := consumer.ConsumePartition(topic, p, sarama.OffsetNewest)
		check(b, err)
		context.AfterFunc(ctx, pc.AsyncClose)
		reading.Go(func() {
			for m := range pc.Messages() {
				see(m.Value)
			}
		})
	}
	b.Cleanup(func() { reading.Wait(); consumer.Close() })
}

// pace calls send for so many a second, in portions of 5 ms, for the given time; a portion is sent beside the next.
func pace(ctx context.Context, rate int, during time.Duration, send func(n int)) {
	const portion = 5 * time.Millisecond
	var sending sync.WaitGroup
	tick := time.NewTicker(portion)
	defer tick.Stop()
	begun, sent := time.Now(), 0
	for time.Since(begun) < during && ctx.Err() == nil {
		<-tick.C
		n := int(time.Since(begun).Seconds()*float64(rate)) - sent
		sent += n
		sending.Go(func() { send(n) })
	}
	sending.Wait()
}

// launch runs the pipeline until the benchmark ends.
func launch(ctx context.Context, b *testing.B, c *broker.Cluster, plan *pipeline.Plan) *engine.Counters {
	b.Helper()
	running, stop := context.WithCancel(ctx)
	counters := &engine.Counters{}
	ended := make(chan error, 1)
	go func() {
		ended <- engine.Run(running, plan, engine.Options{Cluster: c, Data: b.TempDir(), Logger: logger(), Counters: counters})
	}()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error("the pipeline:", err)
		}
	})
	return counters
}

// BenchmarkLatency measures how long it takes from an event's hand-over to the broker until a read_committed reader of `changes`
// has the profile with it: two hops, each a transaction per commit interval (50 ms). Its ceiling is one hop without anything in
// between: a record that is produced and read.
func BenchmarkLatency(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	addrs := addresses(b)
	const during = 10 * time.Second
	for _, rate := range []int{5_000, 20_000} {
		b.Run(fmt.Sprintf("hand-over/rate=%d", rate), func(b *testing.B) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			c, t := dial(ctx, b, addrs), &tickets{}
			topic := testenv.Name(b)
			check(b, c.EnsureTopics(ctx, []broker.Topic{{Name: topic, Partitions: partitions}}))
			follow(ctx, b, addrs, topic, func(value []byte) { t.finish(ticketOf(gjson.GetBytes(value, "properties.product").Str)) })
			t.send(ctx, b, c, topic, rate, during)
			t.report(b)
			cancel()
		})
		b.Run(fmt.Sprintf("profile/rate=%d", rate), func(b *testing.B) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			c, t := dial(ctx, b, addrs), &tickets{}
			plan := load(b, topicPrefix(b), "pipeline")
			counters := launch(ctx, b, c, plan)
			events := pipeline.TopicName(plan.Name, "events")
			warmUp(ctx, b, c, events, counters)
			follow(ctx, b, addrs, pipeline.TopicName(plan.Name, "changes"), func(value []byte) {
				t.finish(ticketOf(gjson.GetBytes(value, "data.profile.traits.last_item").Str))
			})
			t.send(ctx, b, c, events, rate, during)
			sent := int64(len(t.started))
			await(ctx, b, nil, func() bool { return counters.Read().In[pipeline.TaskProfile] >= sent })
			t.report(b)
			cancel()
		})
	}
}

// ticketOf is the number in the name of a product; -1 means none.
func ticketOf(product string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(product, "Item "))
	if err != nil {
		return -1
	}
	return n
}

// send paces events of 100,000 people; the product's name is the ticket.
func (t *tickets) send(ctx context.Context, b *testing.B, c *broker.Cluster, topic string, rate int, during time.Duration) {
	b.Helper()
	p, err := c.OpenProducer()
	check(b, err)
	defer p.Close()
	pace(ctx, rate, during, func(n int) {
		records := make([]pipeline.Record, n)
		for i := range records {
			number, person, now := t.start(), rand.IntN(100_000), time.Now()
			ev := pipeline.Event{Source: "web", ReceivedAt: now, MessageID: fmt.Sprintf("message-%d", number)}
			ev.AnonymousID, ev.UserID = fmt.Sprintf("device-%06d", person), fmt.Sprintf("user-%06d", person)
			ev.Raw = fmt.Appendf(nil, `{"messageId":%q,"type":"track","userId":%q,"anonymousId":%q,"timestamp":%q,"event":"Product Viewed","properties":{"product":"Item %d","price":12.5},"context":{"campaign":{"source":"spring"}}}`,
				ev.MessageID, ev.UserID, ev.AnonymousID, now.UTC().Format(pipeline.TimeFormat), number)
			records[i] = pipeline.EventRecord(&ev)
			records[i].Topic = topic
		}
		if err := p.Produce(ctx, records); err != nil {
			b.Error(err)
		}
	})
}

// warmUp waits until every partition has worked on something.
func warmUp(ctx context.Context, b *testing.B, c *broker.Cluster, topic string, counters *engine.Counters) {
	b.Helper()
	t := newTraffic(2_000, 0, 2_000, 1)
	await(ctx, b, nil, func() bool { // the engine creates the topics
		_, err := c.Ends(ctx, topic, []int32{0}, false)
		return err == nil
	})
	t.hold(ctx, b, c, topic, t.records)()
	await(ctx, b, nil, func() bool { return counters.Read().In[pipeline.TaskProfile] >= 2_000 })
}

// BenchmarkLogin measures how long it takes from the login by which an anonymous visitor and a known user become one person until
// there is one evaluated profile with the history of both in `changes`.
func BenchmarkLogin(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	addrs := addresses(b)
	const people = 500
	c, t := dial(ctx, b, addrs), &tickets{}
	plan := load(b, topicPrefix(b), "identity")
	counters := launch(ctx, b, c, plan)
	events := pipeline.TopicName(plan.Name, "events")
	warmUp(ctx, b, c, events, counters)
	p, err := c.OpenProducer()
	check(b, err)
	defer p.Close()
	before := counters.Read().In[pipeline.TaskProfile]
	for i := range people {
		send(ctx, b, p, events, fmt.Sprintf(`{"messageId":"v%d","type":"track","event":"Product Viewed","anonymousId":"visitor-%d"}`, i, i))
		send(ctx, b, p, events, fmt.Sprintf(`{"messageId":"o%d","type":"track","event":"Order Completed","userId":"member-%d","properties":{"revenue":50}}`, i, i))
	}
	await(ctx, b, nil, func() bool { return counters.Read().In[pipeline.TaskProfile] >= before+2*people })
	reading, ended := context.WithCancel(ctx)
	defer ended()
	follow(reading, b, addrs, pipeline.TopicName(plan.Name, "changes"), func(value []byte) {
		m := gjson.ParseBytes(value)
		profile := m.Get("data.profile")
		if m.Get("type").Str == pipeline.ProfileUpdated && profile.Get("aggregates.viewed").Int() == 1 && profile.Get("aggregates.orders").Int() == 1 {
			t.finish(ticketOf(strings.TrimPrefix(profile.Get("identifiers.user_id.0").Str, "member-")))
		}
	})
	b.ResetTimer()
	for i := range people {
		t.start()
		send(ctx, b, p, events, fmt.Sprintf(`{"messageId":"l%d","type":"identify","userId":"member-%d","anonymousId":"visitor-%d"}`, i, i, i))
		time.Sleep(20 * time.Millisecond) // 50 logins a second
	}
	await(ctx, b, nil, func() bool { return t.finished() == people })
	t.report(b)
	ended()
}

// send produces one event.
func send(ctx context.Context, b *testing.B, p *broker.Producer, topic, raw string) {
	b.Helper()
	m := gjson.Parse(raw)
	ev := pipeline.Event{Source: "web", ReceivedAt: time.Now(), MessageID: m.Get("messageId").Str, UserID: m.Get("userId").Str, AnonymousID: m.Get("anonymousId").Str, Raw: []byte(raw)}
	r := pipeline.EventRecord(&ev)
	r.Topic = topic
	check(b, p.Produce(ctx, []pipeline.Record{r}))
}
