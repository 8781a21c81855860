package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// foreign is a topic of other programs, and a source that reads it.
type foreign struct {
	t       *testing.T
	brokers []string
	topic   string
	config  Config
	cluster *broker.Cluster
	log     bytes.Buffer // of the source
	mu      sync.Mutex   // guards log
	said    chan string  // lines for the operator
	look    time.Duration
}

// newForeign makes a topic with that number of partitions; 0: there is none yet.
func newForeign(t *testing.T, brokers []string, partitions int32) *foreign {
	t.Helper()
	f := &foreign{t: t, brokers: brokers, topic: testenv.Name(t), said: make(chan string, 100), look: 50 * time.Millisecond}
	f.config = Config{Topic: f.topic, From: oldest, Set: map[string]any{"type": "track", "event": "Order Completed"}, Map: map[string]string{"user_id": "customer_no"}}
	f.dial()
	t.Cleanup(f.hangUp)
	if partitions > 0 {
		f.make(partitions)
	}
	return f
}

func (f *foreign) dial() {
	f.t.Helper()
	c, err := broker.Dial(f.context(), broker.Config{Brokers: f.brokers, Logger: slog.New(slog.DiscardHandler), TransactionTimeout: time.Second})
	f.check(err)
	f.cluster = c
}

func (f *foreign) hangUp() { _ = f.cluster.Close() } // also a second time

func (f *foreign) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *foreign) context() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("this call took more than a minute"))
	f.t.Cleanup(cancel)
	return ctx
}

func (f *foreign) make(partitions int32) {
	f.t.Helper()
	f.check(f.cluster.EnsureTopics(f.context(), []broker.Topic{{Name: f.topic, Partitions: partitions}}))
}

// send writes the values to a partition.
func (f *foreign) send(partition int32, values ...string) {
	f.t.Helper()
	records := make([]pipeline.Record, len(values))
	for i, v := range values {
		records[i] = pipeline.Record{Partition: partition, Value: []byte(v)}
	}
	f.produce(records...)
}

func (f *foreign) produce(records ...pipeline.Record) {
	f.t.Helper()
	p, err := f.cluster.OpenProducer()
	f.check(err)
	defer p.Close()
	for i := range records {
		records[i].Topic = f.topic
	}
	f.check(p.Produce(f.context(), records))
}

// admin runs a command of Kafka's administration.
func (f *foreign) admin(command func(sarama.ClusterAdmin) error) {
	f.t.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	a, err := sarama.NewClusterAdmin(f.brokers, conf)
	f.check(err)
	defer a.Close()
	f.check(command(a))
}

// Write takes the source's log.
func (f *foreign) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

func (f *foreign) logged() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

// open makes a source with a cluster of its own.
func (f *foreign) open() *Source {
	f.t.Helper()
	open, problems := Kind.Build("orders", &f.config, &pipeline.Env{Pipeline: "shop"})
	if problems != nil {
		f.t.Fatal(problems)
	}
	logger := slog.New(slog.NewTextHandler(f, nil))
	s, err := open(f.context(), pipeline.Deps{Logger: logger, Say: func(line string) { f.said <- line },
		Kafka: func(ctx context.Context, _ *pipeline.KafkaAddress) (pipeline.KafkaClient, error) {
			c, err := broker.Dial(ctx, broker.Config{Brokers: f.brokers, Logger: logger})
			return broker.NewClient(c, true), err
		}})
	f.check(err)
	source := s.(*Source)
	source.look = f.look
	return source
}

// reading is a source at work.
type reading struct {
	f        *foreign
	source   *Source
	out      <-chan *message.Message
	stop     context.CancelFunc
	position []byte // of the last batch that was acknowledged
}

// read starts a source at a position.
func (f *foreign) read(position []byte) *reading {
	f.t.Helper()
	r := &reading{f: f, source: f.open(), position: position}
	f.check(r.source.Resume(position))
	ctx, stop := context.WithCancel(context.Background())
	out, err := r.source.Subscribe(ctx, "events")
	f.check(err)
	r.out, r.stop = out, stop
	f.t.Cleanup(r.end)
	return r
}

func (r *reading) end() {
	r.stop()
	r.f.check(r.source.Close())
}

// next waits for a batch.
func (r *reading) next() (*message.Message, *pipeline.Batch) {
	r.f.t.Helper()
	select {
	case m, ok := <-r.out:
		if !ok {
			r.f.t.Fatal("the source has ended")
		}
		b, _ := pipeline.BatchOf(m)
		return m, b
	case <-time.After(time.Minute):
		r.f.t.Fatalf("waited a minute for a batch; log:\n%s", r.f.logged())
	}
	return nil, nil
}

func (r *reading) ack(m *message.Message, b *pipeline.Batch) {
	r.position = b.Position
	m.Ack()
}

// take acknowledges until n events have come, and returns their records.
func (r *reading) take(n int) (records []pipeline.Record) {
	r.f.t.Helper()
	for len(records) < n {
		m, b := r.next()
		records = append(records, b.Records...)
		r.ack(m, b)
	}
	if len(records) > n {
		r.f.t.Fatalf("%d events, want %d", len(records), n)
	}
	return records
}

// order is a record of a foreign program.
func order(n int) string { return fmt.Sprintf(`{"customer_no":%d,"total":%d.50}`, n%7, n) }

func orders(from, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = order(from + i)
	}
	return list
}

// totals counts the events by properties.total, and checks that ids are unique.
func totals(t *testing.T, records []pipeline.Record) map[string]int {
	t.Helper()
	seen, ids := map[string]int{}, map[string]bool{}
	for i := range records {
		var ev pipeline.Event
		if rej := pipeline.ParseEventRecord(&records[i], &ev); rej != nil {
			t.Fatal(rej)
		}
		if rej := ev.Scan(); rej != nil {
			t.Fatal(rej)
		}
		if ids[ev.MessageID] {
			t.Errorf("the message id %s stands twice", ev.MessageID)
		}
		ids[ev.MessageID] = true
		seen[string(ev.Properties)]++
	}
	return seen
}

// once checks that the events are those of the orders, each once.
func once(t *testing.T, records []pipeline.Record, from, n int) {
	t.Helper()
	seen := totals(t, records)
	for i := from; i < from+n; i++ {
		if key := `{"total":` + strconv.Itoa(i) + `.50}`; seen[key] != 1 {
			t.Errorf("order %d came %d times", i, seen[key])
		}
	}
	if len(records) != n {
		t.Errorf("%d events, want %d", len(records), n)
	}
}

func (f *foreign) eventually(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	f.t.Fatalf("waited a minute for %s; log:\n%s", what, f.logged())
}
