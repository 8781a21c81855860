package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/engine"
)

// The test binary is also the process that TestTimerFiresOnce kills.
func TestMain(m *testing.M) {
	if os.Getenv(killedVariable) == "" {
		testenv.Main(m)
	}
	if err := runToBeKilled(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// machine is a pipeline of one partition whose stages number what they see, on a real broker. Every event that is lost,
// doubled or half undone shows in the numbers: the n-th event that passes is the n-th for both tasks.
type machine struct {
	t       *testing.T
	cluster *broker.Cluster
	plan    *pipeline.Plan
	data    string
	step    func(name string) // engine.Options.Step
	grace   time.Duration
	now     func() time.Time // engine.Options.Now
	wrap    []message.HandlerMiddleware
	log     *logged
}

func newMachine(t *testing.T, brokers []string) *machine {
	m := &machine{t: t, data: t.TempDir(), log: &logged{}}
	m.cluster = m.dial(brokers)
	stages := func(task string) []pipeline.StagePlan {
		return []pipeline.StagePlan{
			{Kind: "number", Code: 1, New: func() pipeline.Stage { return number{task} }},
			{Kind: "judge", Code: 2, New: func() pipeline.Stage { return judge{task} }},
		}
	}
	m.plan = &pipeline.Plan{Identities: pipeline.NewIdentities([]byte("key")), Name: testenv.Name(t), Hash: 1, Partitions: 1, Commit: 10 * time.Millisecond, Horizon: time.Hour,
		Resolve: stages(pipeline.TaskResolve), Profile: stages(pipeline.TaskProfile)}
	return m
}

func (m *machine) dial(brokers []string, change ...func(*broker.Config)) *broker.Cluster {
	m.t.Helper()
	conf := broker.Config{Brokers: brokers, TransactionTimeout: time.Second, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&conf)
	}
	c, err := broker.Dial(m.context(), conf)
	m.check(err)
	m.t.Cleanup(func() { m.check(c.Close()) })
	return c
}

// sink makes the sink the pipeline's only one. It reads the topic `events`.
func (m *machine) sink(sink any) {
	m.plan.Sinks = []pipeline.SinkPlan{{Name: "out", Kind: "test", Topics: []string{"events"},
		Open: func(context.Context, pipeline.Deps) (any, error) { return sink, nil }}}
}

// context bounds one call to the broker, so that what hangs says where.
func (m *machine) context() context.Context {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("this call took more than a minute"))
	m.t.Cleanup(cancel)
	return ctx
}

func (m *machine) check(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// eventually polls until ok returns no error.
func (m *machine) eventually(ok func() error) {
	m.t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	m.t.Fatalf("waited a minute: %v", err)
}

// await receives, at most for a minute.
func await[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(time.Minute):
		t.Fatal("waited a minute for " + what)
		panic("not reached")
	}
}

// run is a running engine.
type run struct {
	m     *machine
	stop  context.CancelFunc
	ended chan error
}

// start starts the engine. The test's end stops it.
func (m *machine) start() *run {
	ctx, stop := context.WithCancel(context.Background())
	r := &run{m: m, stop: stop, ended: make(chan error, 1)}
	o := engine.Options{Cluster: m.cluster, Data: m.data, Logger: slog.New(slog.NewTextHandler(m.log, nil)), Step: m.step, Grace: m.grace, Now: m.now, Middleware: m.wrap}
	go func() {
		r.ended <- engine.Run(ctx, m.plan, o)
		close(r.ended)
	}()
	m.t.Cleanup(func() {
		stop()
		if err := await(m.t, "the end of the engine", r.ended); err != nil {
			m.t.Error(err)
		}
		if m.t.Failed() {
			m.t.Logf("log of the engine:\n%s", m.log)
		}
	})
	return r
}

// drain ends the engine as SIGTERM does and waits.
func (r *run) drain() {
	r.m.t.Helper()
	r.stop()
	r.m.check(await(r.m.t, "the end of the engine", r.ended))
}

// logged keeps the engine's log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// events makes the records of events with these names; the name is the message id too.
func events(names ...string) []pipeline.Record {
	records := make([]pipeline.Record, len(names))
	for i, name := range names {
		ev := pipeline.Event{Source: "test", MessageID: name, ReceivedAt: time.Now().Truncate(time.Millisecond), UserID: "u",
			Raw: fmt.Appendf(nil, `{"type":"track","event":%q,"userId":"u"}`, name)}
		records[i] = pipeline.EventRecord(&ev)
	}
	return records
}

// send produces events as a source does.
func (m *machine) send(names ...string) {
	m.t.Helper()
	m.produce("events", events(names...)...)
}

// produce produces records to a topic of the pipeline, which may not exist yet.
func (m *machine) produce(topic string, records ...pipeline.Record) {
	m.t.Helper()
	m.check(m.cluster.EnsureTopics(m.context(), []broker.Topic{{Name: m.topic(topic), Partitions: m.plan.Partitions}}))
	p, err := m.cluster.OpenProducer()
	m.check(err)
	defer p.Close()
	for i := range records {
		records[i].Topic = m.topic(topic)
	}
	m.check(p.Produce(m.context(), records))
}

func (m *machine) topic(name string) string { return pipeline.TopicName(m.plan.Name, name) }

// records reads the committed records of a topic, partition by partition.
func (m *machine) records(topic string) []pipeline.Record {
	m.t.Helper()
	var all []pipeline.Record
	for p := range m.plan.Partitions {
		_, err := m.cluster.ReadToEnd(m.context(), m.topic(topic), p, 0, func(r *pipeline.Record) error {
			c := *r
			c.Key, c.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
			all = append(all, c)
			return nil
		})
		m.check(err)
	}
	return all
}

// told is what the profile task has said of each event, in order: name, number in the resolve task, number in the profile
// task.
func (m *machine) told() []string {
	m.t.Helper()
	var all []string
	for _, r := range m.records("changes") {
		msg, err := pipeline.ParseMessage(r.Key, r.Value)
		m.check(err)
		var text string
		m.check(json.Unmarshal(msg.Data, &text))
		all = append(all, text)
	}
	return all
}

// tells waits until exactly this was told.
func (m *machine) tells(want ...string) {
	m.t.Helper()
	m.eventually(func() error {
		if got := m.told(); strings.Join(got, ", ") != strings.Join(want, ", ") {
			return fmt.Errorf("told %q, want %q", got, want)
		}
		return nil
	})
}

// committed waits until a task has committed its input up to an offset.
func (m *machine) committed(task, topic string, offset int64) {
	m.t.Helper()
	m.eventually(func() error {
		at, err := m.cluster.Committed(m.context(), m.topic(task), m.topic(topic), 0)
		m.check(err)
		if at.Offset < offset {
			return fmt.Errorf("task %s stands at %d of %s, want %d", task, at.Offset, topic, offset)
		}
		return nil
	})
}

// number counts events. The resolve task's count travels to the profile task, which tells both. The event <task>-forget
// removes the count, and <task>-pass changes nothing.
type number struct{ task string }

func (s number) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	if s.task == pipeline.TaskResolve {
		if bad := ev.Scan(); bad != nil {
			return bad
		}
	}
	switch ev.Name {
	case s.task + "-forget":
		tx.Delete([]byte(numberKey))
		emit.Drop("forgotten")
		return nil
	case s.task + "-pass":
		emit.Drop("passed over")
		return nil
	}
	n, err := increment(tx)
	if err != nil {
		return err
	}
	if s.task == pipeline.TaskResolve {
		ev.SentAt = strconv.Itoa(n)
		return emit.Event(ev)
	}
	emit.Message(saying(ev, fmt.Sprintf("%s %s %d", ev.Name, ev.SentAt, n)))
	return emit.Event(ev)
}

const numberKey = "n"

func increment(tx pipeline.Tx) (int, error) {
	b, err := tx.Get([]byte(numberKey))
	if err != nil {
		return 0, err
	}
	n, _ := strconv.Atoi(string(b)) // absent: 0
	tx.Set([]byte(numberKey), strconv.AppendInt(nil, int64(n+1), 10))
	return n + 1, nil
}

func saying(ev *pipeline.Event, text string) pipeline.Message {
	return pipeline.Message{ID: pipeline.HashID([]byte(text)), Type: "told", Timestamp: ev.ReceivedAt, ProfileID: pipeline.HashID([]byte(ev.UserID)),
		Data: strconv.AppendQuote(nil, text)}
}

// judge refuses, in its task, events that are called <task>-<how>.
type judge struct{ task string }

func (s judge) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	how, mine := strings.CutPrefix(ev.Name, s.task+"-")
	if !mine {
		return emit.Event(ev)
	}
	emit.Message(saying(ev, "said of an event that is refused"))
	switch how {
	case "refused":
		return pipeline.Reject("judged", "the event is called so")
	case "panic":
		panic("the event is called so")
	case "key":
		tx.Set(make([]byte, 2<<10), nil) // longer than a key may be
	}
	return emit.Event(ev)
}
