package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// againPipeline loads the same files in up to three ways: rows with a column that identifies them, rows without one, and
// events with the message ids of their senders. MORE is for further sources.
const againPipeline = inOrder + `  orders: {file: {path: "${IN}/orders*.csv", set: &set {type: track, event: Order Completed}, map: {message_id: Order, user_id: Customer}, expr: &expr {properties.revenue: number(Price) * number(Pieces)}}}
  lines:  {file: {path: "${IN}/lines.csv", set: *set, map: &map {user_id: Customer}, expr: *expr}}
  export: {file: {path: "${IN}/export.ndjson"}}
MORE
` + counting + `      markers: {count: events, event: Marker}
sinks:
  analytics: {clickhouse: {url: "${URL}"}}
`

// Seven orders of 96.00; person 17 has four of them, 21.05. Two of the lines are identical and different facts.
var againFiles = map[string]string{
	"orders.csv":    "Order,Customer,Price,Pieces\n1001,17,2.50,4\n1002,42,19.95,1\n",
	"lines.csv":     "Customer,Price,Pieces\n17,1.00,2\n17,1.00,2\n42,5.00,1\n",
	"export.ndjson": theOrder + "\n" + `{"messageId":"order-2","type":"track","event":"Order Completed","userId":"17","properties":{"revenue":7.05}}` + "\n",
}

// TestLoadingFilesAgainWithoutTheirPositions loads files whose positions are lost, then under another file name, then
// through other sources: the rows are in `events` again, and dedup drops those that it can know.
func TestLoadingFilesAgainWithoutTheirPositions(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		in := t.TempDir()
		for name, text := range againFiles {
			if err := os.WriteFile(filepath.Join(in, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l := &loader{t: t, brokers: brokers, data: t.TempDir()}
		l.name, l.env = on(t, brokers, "URL="+engine(t), "IN="+in)
		l.load("", 7)
		l.holds(7, "96")

		for _, source := range []string{"orders", "lines", "export"} {
			deleteTopic(t, brokers, l.name+".state.source."+source)
		}
		l.load("", 7)
		l.holds(7, "96")

		// A column identifies an order in whatever file it stands, an event's own id is the same for every source.
		if err := os.WriteFile(filepath.Join(in, "orders-again.csv"), []byte(againFiles["orders.csv"]), 0o600); err != nil {
			t.Fatal(err)
		}
		l.load(`  copy: {file: {path: "${IN}/export.ndjson"}}`, 4)
		l.holds(7, "96")
		// Rows without an id are known by source, file and line: through another source they are other events.
		l.load(`  other: {file: {path: "${IN}/lines.csv", set: *set, map: *map, expr: *expr}}`, 3)
		l.holds(10, "105")
	})
}

// loader runs a pipeline again and again.
type loader struct {
	t                *testing.T
	brokers          []string
	name, data       string
	env              []string
	records, markers int
	process          *process
}

// load runs the pipeline, with more sources, until a number of further records is in `events` and has been processed.
func (l *loader) load(more string, records int) {
	l.t.Helper()
	if l.process != nil {
		l.process.stop()
	}
	l.process = start(l.t, write(l.t, strings.Replace(againPipeline, "MORE", more, 1)), l.data, l.env...)
	l.records += records
	before := consume(l.t, l.brokers, l.name+".events", l.records)
	// What comes now is processed after them: there is one partition.
	l.markers++
	l.process.batch(l.t, fmt.Sprintf(`{"messageId":"marker-%d","type":"track","event":"Marker","userId":"marker"},{"messageId":"bad-%d"}`, l.markers, l.markers))
	l.process.answers(l.t, l.data, patience, map[string]string{
		"SELECT count() FROM events WHERE user_id = 'marker'":                                      fmt.Sprint(l.markers),
		"SELECT sum(aggregates['markers']) FROM people":                                            fmt.Sprint(l.markers),
		"SELECT countIf(code = 'type_missing'), countIf(code != 'type_missing') FROM dead_letters": fmt.Sprintf("%d\t0", l.markers),
	})
	if len(before) != l.records {
		l.t.Errorf("%d records in events, want %d", len(before), l.records)
	}
	l.records += 2
}

// holds checks what ClickHouse has.
func (l *loader) holds(orders int, revenue string) {
	l.t.Helper()
	for query, want := range map[string]string{
		"SELECT count(), uniqExact(message_id), sum(revenue) FROM events WHERE event = 'Order Completed'":        fmt.Sprintf("%d\t%d\t%s", orders, orders, revenue),
		"SELECT sum(aggregates['orders']), round(sum(aggregates['revenue']), 2) FROM people":                     fmt.Sprintf("%d\t%s", orders, revenue),
		"SELECT aggregates['orders'], aggregates['revenue'] FROM people WHERE has(identifiers['user_id'], 'u1')": "1\t50",
	} {
		got, err := l.process.clickhouse(l.data, query)
		if err != nil || got != want {
			l.t.Errorf("%s: %q, %v, want %q", query, got, err, want)
		}
	}
}

// deleteTopic deletes a topic and waits until it is gone.
func deleteTopic(t *testing.T, brokers []string, topic string) {
	t.Helper()
	c := client(t, brokers)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{topic}
	req.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: &topic}}
	req.TimeoutMillis = 10_000
	resp, err := req.RequestWith(ctx, c)
	if err != nil {
		t.Fatalf("delete %s: %v", topic, err)
	}
	for _, r := range resp.Topics {
		if r.ErrorCode != 0 {
			t.Fatalf("delete %s: error %d", topic, r.ErrorCode)
		}
	}
	eventually(t, func() error {
		if slices.Contains(topics(t, brokers, topic), "") {
			return fmt.Errorf("topic %s is still there", topic)
		}
		return nil
	})
}
