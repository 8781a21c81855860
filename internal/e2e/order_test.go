package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const orderStages = `  export: {file: {path: "${IN}/*.ndjson"}}
stages:
  - clean
  - dedup
  - profile:
      all:     {count: events}
      orders:  {count: events, event: Order Completed}
      revenue: {sum: properties.revenue, event: Order Completed}
sinks:
`

// theOrder is one order as an SDK sends it; exports of SDK events keep its messageId.
const theOrder = `{"messageId":"order-1","type":"track","event":"Order Completed","userId":"u1","timestamp":"2026-01-02T03:04:05Z","properties":{"revenue":50.00}}`

// marker is an event of the same person. It is processed after what was sent before it by the same source, so where it is
// seen, that has been processed too.
func marker(n int) string {
	return fmt.Sprintf(`{"messageId":"marker-%d","type":"track","event":"Marker","userId":"u1","timestamp":"2026-01-02T03:04:05Z"}`, n)
}

// repeatOrder sends the order twice in a batch, again after a restart, and again in an export. arrived waits until a number
// of different events has arrived and checks them.
func repeatOrder(t *testing.T, file, in, data string, env []string, arrived func(p *process, events int)) *process {
	t.Helper()
	send := func(p *process, events string) {
		t.Helper()
		p.batch(t, events)
	}
	p := start(t, file, data, env...)
	send(p, theOrder+","+theOrder+","+marker(1))
	arrived(p, 2)
	p.stop()
	p = start(t, file, data, env...)
	send(p, theOrder+","+marker(2))
	arrived(p, 3)
	export := filepath.Join(t.TempDir(), "export.ndjson")
	if err := os.WriteFile(export, []byte(theOrder+"\n"+marker(3)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(export, filepath.Join(in, "export.ndjson")); err != nil { // complete when it is seen
		t.Fatal(err)
	}
	arrived(p, 4)
	return p
}

// TestARepeatedOrderCountsOnceInProfiles reads the profile messages from the file sink and from the topic itself.
func TestARepeatedOrderCountsOnceInProfiles(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		in, out, data := t.TempDir(), t.TempDir(), t.TempDir()
		name, env := on(t, brokers, "IN="+in, "OUT="+out)
		file := write(t, onTheWeb+orderStages+"  out: {file: {path: \"${OUT}\"}}\n")
		var lines []string
		p := repeatOrder(t, file, in, data, env, func(_ *process, events int) {
			t.Helper()
			eventually(t, func() (err error) {
				if lines, err = fileLines(out); err != nil {
					return err
				}
				if len(lines) == 0 {
					return fmt.Errorf("no message in the file")
				}
				last := lines[len(lines)-1]
				if n := eventsOf(t, last); n != events {
					return fmt.Errorf("the last message tells of %d events, want %d", n, events)
				}
				return checkOrder(last, 1, 50)
			})
		})
		changes := readChanges(t, brokers, name+".changes", 4)
		p.stop()
		seen := map[string]bool{}
		var orders []string
		for _, line := range changes {
			if seen[line.id] {
				t.Errorf("message %s is in changes twice", line.id)
			}
			seen[line.id] = true
			if err := checkOrder(line.text, 1, 50); err == nil {
				orders = append(orders, line.id)
			} else if len(orders) > 0 {
				t.Errorf("the order was taken back or counted again: %v", err)
			}
		}
		if lines, err := fileLines(out); err != nil || len(lines) != len(changes) {
			t.Errorf("%d messages in the file, %d in changes, %v", len(lines), len(changes), err)
		}
		if len(orders) == 0 {
			t.Error("no message in changes tells of the order")
		}
	})
}

// eventsOf is how many events the profile in a message has counted.
func eventsOf(t *testing.T, line string) int {
	t.Helper()
	var m struct {
		Data struct {
			Profile struct{ Aggregates struct{ All int } }
		}
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	return m.Data.Profile.Aggregates.All
}

// change is a message of the topic changes.
type change struct{ id, text string }

// readChanges reads what is committed, up to the message that tells of a number of events.
func readChanges(t *testing.T, brokers []string, topic string, events int) []change {
	t.Helper()
	c := client(t, brokers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []change
	for !slices.ContainsFunc(all, func(m change) bool { return eventsOf(t, m.text) == events }) {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("read %s after %d messages: %v", topic, len(all), err)
		}
		f.EachRecord(func(r *kgo.Record) {
			var m struct{ ID, Type string }
			if err := json.Unmarshal(r.Value, &m); err != nil || m.ID == "" {
				t.Fatalf("a message without an id: %v: %q", err, r.Value)
			}
			if strings.HasPrefix(m.Type, "identity.") {
				return // for the tables alone
			}
			all = append(all, change{m.ID, string(r.Value)})
		})
	}
	return all
}

// TestARepeatedOrderIsOneRow asks ClickHouse for the order after each time it was sent.
func TestARepeatedOrderIsOneRow(t *testing.T) {
	t.Parallel()
	needEngine(t)
	in, data := t.TempDir(), t.TempDir()
	_, env := on(t, []string{"embedded"}, "IN="+in)
	file := write(t, onTheWeb+orderStages+"  analytics: {clickhouse: {url: embedded}}\n")
	p := repeatOrder(t, file, in, data, env, func(p *process, events int) {
		t.Helper()
		p.answers(t, data, time.Minute, map[string]string{
			"SELECT count() FROM events": fmt.Sprint(events),
			"SELECT count(), sum(revenue) FROM events WHERE event = 'Order Completed'":          "1\t50",
			"SELECT count(), any(aggregates['orders']), any(aggregates['revenue']) FROM people": "1\t1\t50",
			"SELECT any(aggregates['all']) FROM people":                                         fmt.Sprint(events),
		})
	})
	p.stop()
}
