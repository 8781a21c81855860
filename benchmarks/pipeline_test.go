package benchmarks

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/engine"
)

// events of each run: enough that start and end do not count.
const events = 200_000

// BenchmarkPipeline measures `events` -> clean, dedup, profile, segment -> `changes`, and its ceilings on the same events:
// a bare copy, and a copy with exactly-once transactions.
func BenchmarkPipeline(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addrs := addresses(b)
	var bare, exact, small figures
	b.Run("copy", func(b *testing.B) {
		for range b.N {
			bare = runCopy(ctx, b, addrs)
		}
		bare.report(b)
	})
	b.Run("exactly-once-copy", func(b *testing.B) {
		for range b.N {
			exact = runExactCopy(ctx, b, addrs)
		}
		exact.report(b)
		exact.over(b, bare, "copy")
	})
	for _, w := range []struct {
		file, name    string
		people, visit int
	}{
		{"pipeline", "people", 1_000, 10}, {"pipeline", "people", 100_000, 10}, {"pipeline", "people", 100_000, 1},
		{"identity", "stitched", 1_000, 10}, {"identity", "stitched", 100_000, 10},
	} {
		b.Run(fmt.Sprintf("%s=%d/visit=%d", w.name, w.people, w.visit), func(b *testing.B) {
			var f figures
			for range b.N {
				f = runPipeline(ctx, b, addrs, load(b, topicPrefix(b), w.file), w.people, w.visit)
			}
			f.report(b)
			f.over(b, bare, "copy")
			f.over(b, exact, "exactly-once-copy")
			f.over(b, small, "1k-people")
			if w.people == 1_000 && w.file == "pipeline" {
				small = f
			}
		})
	}
}

// topicPrefix is the name of a benchmark as a pipeline's name.
func topicPrefix(b *testing.B) string { return strings.ReplaceAll(testenv.Name(b), "=", "-") }

// runPipeline measures the engine from the moment at which it has seen everybody once and the events begin to flow, until
// each of them is committed in the profile task.
func runPipeline(ctx context.Context, b *testing.B, addrs []string, plan *pipeline.Plan, people, visit int) figures {
	b.Helper()
	c := dial(ctx, b, addrs)
	topic := pipeline.TopicName(plan.Name, "events")
	check(b, c.EnsureTopics(ctx, []broker.Topic{{Name: topic, Partitions: plan.Partitions}}))
	warm := max(people, 20_000)
	t := newTraffic(warm, events, people, visit)
	t.hold(ctx, b, c, topic, t.records[:warm])()

	running, stop := context.WithCancel(ctx)
	defer stop()
	counters := &engine.Counters{}
	ended := make(chan error, 1)
	go func() {
		ended <- engine.Run(running, plan, engine.Options{Cluster: c, Data: b.TempDir(), Logger: logger(), Counters: counters})
	}()
	resolved := pipeline.TopicName(plan.Name, "resolved")
	through := func(sent int) bool { // also what people who merge tell each other
		n := counters.Read()
		return n.In[pipeline.TaskResolve] >= int64(sent) && n.In[pipeline.TaskProfile] >= n.Out[resolved]
	}
	quiet, last := time.Now(), int64(0)
	await(ctx, b, ended, func() bool { // until those who were merged have told each other everything
		if n := counters.Read().In[pipeline.TaskProfile]; n != last {
			quiet, last = time.Now(), n
		}
		return through(warm) && time.Since(quiet) > time.Second
	})
	release := t.hold(ctx, b, c, topic, t.records[warm:])
	sent, unique, orders := len(t.records), t.unique, t.orders
	m := startMeter()
	release()
	await(ctx, b, ended, func() bool { return through(sent) })
	f := m.stop(events)
	stop()
	check(b, <-ended)

	n := counters.Read()
	if n.In[pipeline.TaskResolve] != int64(sent) || n.In[pipeline.TaskProfile] < int64(unique) || n.Dropped["dedup/duplicate"] != int64(sent-unique) || len(n.Dead) > 0 {
		b.Fatalf("sent %d events, %d unique; counted %+v", sent, unique, n)
	}
	if gotEvents, gotOrders := totals(ctx, b, c, plan); gotEvents != unique || gotOrders != orders {
		b.Fatalf("the profiles say %d events and %d orders, sent were %d and %d", gotEvents, gotOrders, unique, orders)
	}
	return f
}

// await polls until done says so; it fails when the engine ends before.
func await(ctx context.Context, b *testing.B, ended <-chan error, done func() bool) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case err := <-ended:
			b.Fatal("ended early:", err)
		case <-ctx.Done():
			b.Fatal(ctx.Err())
		}
	}
}

// totals adds up the last state of every profile in `changes`.
func totals(ctx context.Context, b *testing.B, c *broker.Cluster, plan *pipeline.Plan) (events, orders int) {
	b.Helper()
	type aggregates struct{ Events, Orders int }
	last := map[string]aggregates{}
	for p := range plan.Partitions {
		_, err := c.ReadToEnd(ctx, pipeline.TopicName(plan.Name, "changes"), p, 0, func(r *pipeline.Record) error {
			var m struct {
				Type string
				Data struct {
					Profile struct{ Aggregates aggregates }
				}
			}
			if err := json.Unmarshal(r.Value, &m); err != nil {
				return fmt.Errorf("read offset %d of changes %d: %w", r.Offset, p, err)
			}
			if strings.HasPrefix(m.Type, "profile.") {
				last[string(r.Key)] = m.Data.Profile.Aggregates
			}
			return nil
		})
		check(b, err)
	}
	for _, a := range last {
		events += a.Events
		orders += a.Orders
	}
	return events, orders
}
