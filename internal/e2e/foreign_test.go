package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millstream-io/millstream/internal/testenv"
)

const foreignPipeline = `
pipeline: ${NAME}
kafka: {brokers: "${BROKERS}", partitions: 1}
sources:
  orders:
    kafka:
      topic: ${NAME}-erp
      brokers: ${OTHER}
      set: {type: track, event: Order Completed}
      map: {timestamp: booked_at, properties.revenue: total}
      key: user_id
` + counting + `sinks:
  crm:
    kafka: {topic: "${NAME}-crm", key: "identifiers.user_id[0]", map: {orders: orders, revenue: revenue}}
    when: changed("orders")
`

// TestOrdersOfAForeignTopicCountOnce reads orders from a topic of another program, is killed, and writes what became of them to
// a third topic: every order is one event, the bad one one dead letter, and every message of the sink stands in its topic once.
func TestOrdersOfAForeignTopicCountOnce(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		for _, other := range []bool{false, true} {
			for _, kill := range []string{"source sent:1", "source sent:2", "source committed:1", "sent:2", "committed:2", "sent:3", "committed:3", "stored:3"} {
				if other && !strings.HasPrefix(kill, "source") {
					continue
				}
				t.Run(fmt.Sprintf("other=%v/%s", other, kill), func(t *testing.T) {
					t.Parallel()
					at := brokers
					if other {
						at = testenv.Embedded(t)
					}
					foreignOrders(t, brokers, at, other, kill)
				})
			}
		}
	})
}

func foreignOrders(t *testing.T, brokers, at []string, other bool, kill string) {
	const n = 30
	data, yaml := t.TempDir(), foreignPipeline
	if !other {
		yaml = strings.Replace(yaml, "      brokers: ${OTHER}\n", "", 1)
	}
	file := write(t, yaml)
	name, env := on(t, brokers, "OTHER="+at[0])
	erp := name + "-erp"
	makeTopic(t, at, erp, 2)
	sent := 0
	send := func(count int) {
		var records []*kgo.Record
		for range count {
			records = append(records, &kgo.Record{Topic: erp, Partition: int32(sent % 2), Key: []byte("u1"),
				Value: fmt.Appendf(nil, `{"booked_at":"2026-01-02T03:04:05Z","total":%d}`, sent)})
			sent++
		}
		produceTo(t, at, records...)
	}
	send(n / 3)
	produceTo(t, at, &kgo.Record{Topic: erp, Partition: 1, Key: []byte("u2"), Value: []byte(`{"total":`)})

	p := start(t, file, data, append(env, "MILLSTREAM_KILL_AT="+kill)...)
	if strings.HasSuffix(kill, ":1") {
		p.died()
		send(n / 3)
	} else {
		for range n / 3 { // each a transaction of its own, until it dies
			send(1)
			want := sent + 1
			eventually(t, func() error {
				select {
				case <-p.done:
					return nil
				default:
				}
				if got := len(committed(t, brokers, name+".events")); got < want {
					return fmt.Errorf("%d records in events, want %d", got, want)
				}
				return nil
			})
		}
		p.died()
	}
	p = start(t, file, data, env...)
	send(n - sent)

	type update struct{ Orders, Revenue float64 }
	var last update
	var updates []*kgo.Record
	eventually(t, func() error {
		updates = committed(t, brokers, name+"-crm")
		for _, r := range updates {
			if err := json.Unmarshal(r.Value, &last); err != nil {
				return err
			}
		}
		if last.Orders != n {
			return fmt.Errorf("the last message tells of %v orders, want %d", last.Orders, n)
		}
		return nil
	})
	if last.Revenue != n*(n-1)/2 {
		t.Errorf("the revenue is %v, want %d", last.Revenue, n*(n-1)/2)
	}
	p.stop()
	if events := committed(t, brokers, name+".events"); len(events) != n+1 {
		t.Errorf("%d records in events, want %d orders and a bad one", len(events), n)
	}
	letters := committed(t, brokers, name+".dead_letters")
	if len(letters) != 1 || string(letters[0].Value) != `{"total":` || header(letters[0], "ms-key") != "u2" || header(letters[0], "ms-dead-code") != "not_json" {
		t.Errorf("dead letters are %v", letters)
	}
	seen := map[string]int{}
	for _, r := range updates {
		seen[header(r, "ms-id")]++
		if string(r.Key) != "u1" {
			t.Errorf("a message has the key %q", r.Key)
		}
	}
	changes := committed(t, brokers, name+".changes")
	want := 0
	for _, r := range changes {
		var m struct {
			ID, Type string
			Data     struct{ Changed []string }
		}
		if err := json.Unmarshal(r.Value, &m); err != nil {
			t.Fatal(err)
		}
		if m.Type != "profile.created" && m.Type != "profile.updated" {
			continue
		}
		want++
		if seen[m.ID] != 1 {
			t.Errorf("the message %s stands %d times in the topic of the sink", m.ID, seen[m.ID])
		}
	}
	if len(updates) != want {
		t.Errorf("%d records in the topic of the sink, want %d", len(updates), want)
	}
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// client is a client of another program.
func client(t *testing.T, brokers []string, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(options, kgo.SeedBrokers(brokers...))...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func produceTo(t *testing.T, brokers []string, records ...*kgo.Record) {
	t.Helper()
	c := client(t, brokers, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func makeTopic(t *testing.T, brokers []string, topic string, partitions int32) {
	t.Helper()
	c := client(t, brokers)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrCreateTopicsRequest()
	one := kmsg.NewCreateTopicsRequestTopic()
	one.Topic, one.NumPartitions, one.ReplicationFactor = topic, partitions, 1
	req.Topics, req.TimeoutMillis = append(req.Topics, one), 10_000
	resp, err := req.RequestWith(ctx, c)
	if err != nil || len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("create %s: %v, %+v", topic, err, resp)
	}
}

// committed reads the committed records that a topic of one partition holds now; none if there is no such topic.
func committed(t *testing.T, brokers []string, topic string) []*kgo.Record {
	t.Helper()
	return committedIn(t, brokers, topic, 0)
}

// committedIn is committed for one of several partitions.
func committedIn(t *testing.T, brokers []string, topic string, partition int32) (all []*kgo.Record) {
	t.Helper()
	c := client(t, brokers)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, 1
	part := kmsg.NewListOffsetsRequestTopicPartition()
	part.Partition, part.Timestamp = partition, -1
	req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{part}}}
	resp, err := req.RequestWith(ctx, c)
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		return nil
	}
	end := resp.Topics[0].Partitions[0].Offset
	if end == 0 {
		return nil
	}
	r := client(t, brokers, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}))
	defer r.Close()
	for at := int64(0); at < end; {
		fetches := r.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%s was read up to %d of %d", topic, at, end)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			at = rec.Offset + 1
			if !rec.Attrs.IsControl() && rec.Offset < end {
				all = append(all, rec)
			}
		})
	}
	return all
}

const bridgePipeline = `
pipeline: ${NAME}
kafka: {brokers: "${BROKERS}", partitions: 1}
sources:
  orders: {kafka: {brokers: "${OTHER}", topic: erp, set: {type: track, event: Order Completed}, key: user_id}}
stages: [clean, profile: {orders: {count: events}}]
sinks:
  crm: {kafka: {brokers: "${OTHER}", topic: crm}}
`

// TestStopWhileAForeignClusterIsFrozen freezes the cluster that a source reads and a sink writes: the pipeline still ends by
// itself, and goes on later without a loss; what the sink sends again has the same ids.
func TestStopWhileAForeignClusterIsFrozen(t *testing.T) {
	t.Parallel()
	b := launch(t, nil, "broker", "--listen", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "broker"))
	address, _, _ := strings.Cut(b.line("broker "), " ")
	other := []string{address}
	_, env := on(t, testenv.Embedded(t), "OTHER="+address)
	p := start(t, write(t, bridgePipeline), t.TempDir(), env...)
	if line := p.line("kafka orders: waiting for topic erp, "); line != "which does not exist at "+address {
		t.Errorf("the operator is told %q", line)
	}
	makeTopic(t, other, "erp", 1)
	makeTopic(t, other, "crm", 1)
	arrived := func(n int) {
		t.Helper()
		eventually(t, func() error {
			ids := map[string]bool{}
			for _, r := range committed(t, other, "crm") {
				ids[header(r, "ms-id")] = true
			}
			if len(ids) != n {
				return fmt.Errorf("%d messages, want %d", len(ids), n)
			}
			return nil
		})
	}
	buy := func(user string) {
		t.Helper()
		produceTo(t, other, &kgo.Record{Topic: "erp", Key: []byte(user), Value: []byte("{}")})
	}
	buy("u1")
	arrived(1)
	freeze(t, b)
	p.stop()
	if p.said("the pipeline does not stop") > 0 {
		t.Error("the engine did not return")
	}
	if err := b.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	start(t, p.cmd.Args[2], p.cmd.Args[4], env...)
	buy("u2")
	arrived(2)
}
