package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/sinks/sinktest"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// target is a topic, and a sink that writes to it.
type target struct {
	t       *testing.T
	brokers []string
	cluster *broker.Cluster
	config  Config
	said    chan string
}

const partitions = 3

// newTarget describes a topic that does not exist yet; other makes the cluster another one than the pipeline's.
func newTarget(t *testing.T, brokers []string, other bool) *target {
	t.Helper()
	g := &target{t: t, brokers: brokers, config: Config{Topic: testenv.Name(t)}, said: make(chan string, 10)}
	if other {
		g.config.Brokers = brokers
	}
	c, err := broker.Dial(g.context(), broker.Config{Brokers: brokers, Logger: slog.New(slog.DiscardHandler)})
	g.check(err)
	g.cluster = c
	t.Cleanup(func() { c.Close() })
	return g
}

func (g *target) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *target) context() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("this call took more than a minute"))
	g.t.Cleanup(cancel)
	return ctx
}

func (g *target) make(config map[string]string) *target {
	g.t.Helper()
	g.check(g.cluster.EnsureTopics(g.context(), []broker.Topic{{Name: g.config.Topic, Partitions: partitions, Config: config}}))
	return g
}

func (g *target) open() pipeline.Sink {
	g.t.Helper()
	open, problems := Kind.Build("crm", &g.config, &pipeline.Env{Pipeline: "shop", Partitions: partitions})
	if problems != nil {
		g.t.Fatal(problems)
	}
	s, err := open(g.context(), pipeline.Deps{Logger: slog.New(slog.DiscardHandler), Say: func(line string) { g.said <- line },
		Kafka: func(ctx context.Context, at *pipeline.KafkaAddress) (pipeline.KafkaClient, error) {
			if at == nil {
				return broker.NewClient(g.cluster, false), nil
			}
			c, err := broker.Dial(ctx, broker.Config{Brokers: at.Brokers, Logger: slog.New(slog.DiscardHandler)})
			return broker.NewClient(c, true), err
		}})
	g.check(err)
	return s.(pipeline.Sink)
}

// records reads the topic.
func (g *target) records() (all []pipeline.Record) {
	g.t.Helper()
	for part := range int32(partitions) {
		_, err := g.cluster.ReadToEnd(g.context(), g.config.Topic, part, 0, func(r *pipeline.Record) error {
			all = append(all, *r)
			return nil
		})
		g.check(err)
	}
	return all
}

func (g *target) ids() (ids []pipeline.ID) {
	g.t.Helper()
	for _, r := range g.records() {
		var id pipeline.ID
		g.check(id.UnmarshalText(r.Header("ms-id")))
		ids = append(ids, id)
	}
	return ids
}

// commit writes records as the engine does.
func (g *target) commit(t *testing.T, records []pipeline.Record) {
	p, err := g.cluster.OpenProducer()
	if err == nil {
		defer p.Close()
		err = p.Produce(g.context(), records)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestContractOnTheOwnCluster(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		sinktest.Run(t, func(t *testing.T) sinktest.Subject {
			g := newTarget(t, brokers, false)
			return sinktest.Subject{Open: func(*testing.T) pipeline.Sink { return g.open() }, Received: func(*testing.T) []pipeline.ID { return g.ids() },
				ExactlyOnce: true, Commit: g.commit}
		})
	})
}

func TestContractOnAnotherCluster(t *testing.T) {
	t.Run("kafka", func(t *testing.T) {
		brokers := testenv.Kafka(t)
		sinktest.Run(t, func(t *testing.T) sinktest.Subject { return otherSubject(newTarget(t, brokers, true)) })
	})
	t.Run("embedded", func(t *testing.T) {
		sinktest.Run(t, func(t *testing.T) sinktest.Subject {
			b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
			s := otherSubject(newTarget(t, b.Addrs(), true))
			s.Hang = func(t *testing.T) {
				b.Fault(func(key int16) testenv.Fault {
					if key == testenv.KeyProduce {
						return testenv.Fault{Cut: testenv.CutBefore}
					}
					return testenv.Fault{}
				})
			}
			return s
		})
	})
}

func otherSubject(g *target) sinktest.Subject {
	g.make(nil)
	return sinktest.Subject{Open: func(*testing.T) pipeline.Sink { return g.open() }, Received: func(*testing.T) []pipeline.ID { return g.ids() }}
}

// write hands messages over; a commit on the own cluster is left out.
func (g *target) write(s pipeline.Sink, records ...pipeline.Record) []pipeline.Outcome {
	g.t.Helper()
	list := make([]pipeline.Attempt, len(records))
	for i := range records {
		list[i] = pipeline.Attempt{Record: &records[i], Number: 1}
	}
	got, err := s.Write(g.context(), nil, list)
	g.check(err)
	return got
}

func TestKeysAndValues(t *testing.T) {
	brokers := testenv.Embedded(t)
	m := sinktest.Message(0, 4)
	whole := *m
	whole.Meta = nil
	for name, test := range map[string]struct{ key, wantKey, field, wantValue string }{
		"the message":    {"", m.ProfileID.String(), "", string(whole.AppendJSON(nil))},
		"mapped":         {"identifiers.user_id[0]", "u4", "lower(traits.plan)", `{"field":"gold","previous_ids":[]}`},
		"a number":       {"aggregates.orders_90d", "4", "data.segment", `{"field":"vip","previous_ids":[]}`},
		"no such value":  {"identifiers.phone[0]", m.ProfileID.String(), "traits.nope", `{"previous_ids":[]}`},
		"of the message": {`data.segment + "/" + profile_id`, "vip/" + m.ProfileID.String(), "type", `{"field":"segment.entered","previous_ids":[]}`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newTarget(t, brokers, false)
			g.config.Key = test.key
			if test.field != "" {
				g.config.Map = map[string]string{"field": test.field}
			}
			s := g.open()
			defer s.Close()
			o := g.write(s, sinktest.Records(0, 4, 1)...)[0]
			if o.Record == nil || string(o.Record.Key) != test.wantKey || string(o.Record.Value) != test.wantValue {
				t.Fatalf("outcome is %+v\nwith record %+v", o, o.Record)
			}
			if o.Record.Topic != g.config.Topic || string(o.Record.Header("ms-id")) != m.ID.String() || !json.Valid(o.Record.Value) {
				t.Errorf("record is %+v", o.Record)
			}
		})
	}
}

// TestMessageThatTheTopicDoesNotTake: one large message is a dead letter, and its neighbours arrive.
func TestMessageThatTheTopicDoesNotTake(t *testing.T) {
	g := newTarget(t, testenv.Kafka(t), true).make(map[string]string{"max.message.bytes": "5000"})
	s := g.open()
	defer s.Close()
	records := sinktest.Records(0, 0, 9)
	large := func(n, size int) {
		m := sinktest.Message(0, n)
		m.Data = fmt.Appendf(nil, `{"x":%q}`, rubbish(size))
		records[n].Value = m.AppendJSON(nil)
	}
	large(3, 20_000)
	large(7, maxRecord)
	var want []pipeline.ID
	for i, o := range g.write(s, records...) {
		if i == 3 || i == 7 {
			if o.Kind != pipeline.Rejected || o.Code != "oversize" || o.Reason == "" {
				t.Errorf("outcome of the large message %d is %+v", i, o)
			}
			continue
		}
		if o.Kind != pipeline.Delivered {
			t.Errorf("outcome %d is %+v", i, o)
		}
		want = append(want, sinktest.Message(0, i).ID)
	}
	got := g.ids()
	for _, id := range want {
		if !slices.Contains(got, id) {
			t.Errorf("message %s has not arrived", id)
		}
	}
}

// rubbish does not compress.
func rubbish(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(pipeline.HashID(fmt.Append(nil, i)).String())
	}
	return b.String()[:n]
}

func TestTopicIsWaitedForOrMade(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		g := newTarget(t, brokers, false)
		g.check(g.open().Close())
		if n, err := g.cluster.Partitions(g.context(), g.config.Topic); err != nil || n != partitions {
			t.Errorf("the topic on the pipeline's cluster has %d partitions, %v", n, err)
		}
		g.config.Topic += "-other"
		g.config.Brokers = brokers
		opened := make(chan pipeline.Sink)
		go func() { opened <- g.open() }()
		if line := <-g.said; line != "kafka crm: waiting for topic "+g.config.Topic+", which does not exist at "+brokers[0] {
			t.Errorf("the operator is told %q", line)
		}
		g.make(nil)
		select {
		case s := <-opened:
			g.check(s.Close())
		case <-time.After(time.Minute):
			t.Fatal("the sink was not opened after the topic was made")
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		config Config
		want   []string
	}{
		"fine":       {Config{Topic: "crm.updates", Key: "traits.email", Map: map[string]string{"a": "type"}}, nil},
		"nothing":    {Config{}, []string{"[topic] topic is missing: write the name of a topic"}},
		"circle":     {Config{Topic: "shop.events"}, []string{`[topic] "shop.events" is one of the pipeline's own topics, which would make a circle: choose another`}},
		"no brokers": {Config{Topic: "a", SASL: &pipeline.KafkaSASL{Mechanism: pipeline.Plain, User: "u", Password: pipeline.NewSecret("p")}}, []string{"[sasl] sasl belongs to brokers of its own; the pipeline's cluster is described under kafka"}},
		"readable": {Config{Topic: "a", Brokers: []string{"kafka:9092"}, SASL: &pipeline.KafkaSASL{Mechanism: pipeline.Plain, User: "u", Password: pipeline.NewSecret("p")}}, []string{
			"[sasl] without TLS the login and all data can be read on the way: set tls: true, or insecure: true here if the network is your own"}},
		"expressions": {Config{Topic: "a", Key: "nope", Map: map[string]string{"a": "1 +"}}, []string{"[map a] the expression ends too early: something is missing after an operator, or a bracket is not closed", `[key] unknown name "nope"`}},
		"empty map":   {Config{Topic: "a", Map: map[string]string{}}, []string{"[map] map has 0 fields, it must have 1 … 256; without map the whole message is sent"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := Kind.Build("crm", &test.config, &pipeline.Env{Pipeline: "shop"})
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprint(p.Path, " ", p.Message))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("problems are\n%q, want\n%q", got, test.want)
			}
		})
	}
}
