package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/engine"
)

// base is where the tests' time starts. Times in events and messages are milliseconds after it.
var base = startOfTime()

// startOfTime is a moment ago, so that a folder is not rebuilt because it is old. The process to be killed is told it.
func startOfTime() time.Time {
	if k, err := readKilled(); err == nil {
		return pipeline.Millis(k.base)
	}
	return time.Now().Truncate(time.Millisecond).UTC()
}

// clock is a clock that stands still until it is set, and counts the readings of the watermark that were taken by it.
type clock struct {
	mu       sync.Mutex
	ms       int64
	readings int
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return base.Add(time.Duration(c.ms) * time.Millisecond)
}

func (c *clock) set(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ms = ms
}

func (c *clock) step(name string) {
	if name == "time read" {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.readings++
	}
}

func (c *clock) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readings
}

// timed makes a machine whose stages are those of alarmPlan, by a clock at 0.
func timed(t *testing.T, brokers []string) (*machine, *clock, *alarmClock) {
	m, c, a := newMachine(t, brokers), &clock{}, &alarmClock{release: make(chan struct{})}
	m.plan, m.now, m.step = alarmPlan(m.plan.Name, a), c.now, c.step
	return m, c, a
}

// alarmClock is what the stages of one pipeline share with the test.
type alarmClock struct {
	release   chan struct{}           // closed: gated events go on
	evaluated func(user string) error // called at each evaluation; may be nil
}

func alarmPlan(name string, a *alarmClock) *pipeline.Plan {
	return &pipeline.Plan{Name: name, Hash: 1, Partitions: 1, Commit: 10 * time.Millisecond, Horizon: time.Hour, Identities: pipeline.NewIdentities([]byte(name)),
		Resolve: []pipeline.StagePlan{{Kind: "gate", Code: 1, New: func() pipeline.Stage { return gate{a} }}},
		Profile: []pipeline.StagePlan{{Kind: "alarm", Code: 1, New: func() pipeline.Stage { return alarm{a} }}}}
}

// gate is the resolve task: it takes the user for the profile, and holds back events called "gated …" until it is released.
type gate struct{ *alarmClock }

func (s gate) Process(ctx context.Context, _ pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	if bad := ev.Scan(); bad != nil {
		return bad
	}
	if strings.HasPrefix(ev.Name, "gated ") {
		select {
		case <-s.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ev.Time, ev.Canonical = ev.ReceivedAt, profileOf(ev.UserID)
	ev.Primary = ev.Canonical
	return emit.Event(ev)
}

func profileOf(user string) pipeline.ID { return pipeline.HashID([]byte(user)) }

// alarm is the profile task. What an event is called says what it does: its last two words, if the first is "wake" the
// second says how long after the event to wake the profile. Each event and each awakening is told, except of the users of a
// crowd, of whom only awakenings are. An event called "held" is one of a profile that is being regrouped. The evaluation of
// user "broken" is refused.
type alarm struct{ *alarmClock }

func (s alarm) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	user := ev.UserID
	if ev.Type == pipeline.TypeEvaluate {
		name, err := tx.Get(ev.Canonical[:])
		if err != nil {
			return err
		}
		user = string(name)
		if s.evaluated != nil {
			if err := s.evaluated(user); err != nil {
				return err
			}
		}
	} else {
		tx.Set(ev.Canonical[:], []byte(user))
	}
	at := ev.Time.Sub(base).Milliseconds()
	words := strings.Fields(ev.Name)
	switch {
	case user == "broken" && ev.Type == pipeline.TypeEvaluate:
		emit.Message(s.say(ev, "said of an evaluation that is refused"))
		return pipeline.Reject("broken", "the user is called so")
	case ev.Type == pipeline.TypeEvaluate && ev.Cause == pipeline.CauseTimer:
		emit.Message(s.say(ev, fmt.Sprintf("%s woken %d", user, at)))
	case ev.Type != pipeline.TypeEvaluate && !strings.HasPrefix(user, "crowd"):
		emit.Message(s.say(ev, fmt.Sprintf("%s %s", user, ev.Name)))
	}
	if n := len(words); n > 1 && words[n-2] == "wake" {
		ms, err := strconv.Atoi(words[n-1])
		if err != nil {
			return err
		}
		emit.Wake(ev.Time.Add(time.Duration(ms)*time.Millisecond + time.Hour))
		emit.Wake(ev.Time.Add(time.Duration(ms) * time.Millisecond)) // the earliest counts
		emit.Wake(ev.Time.Add(time.Duration(ms)*time.Millisecond + time.Second))
	}
	ev.Held = ev.Name == "held"
	return emit.Event(ev)
}

// say makes a message whose timestamp is the task's now.
func (s alarm) say(ev *pipeline.Event, text string) pipeline.Message {
	return pipeline.Message{ID: pipeline.HashID([]byte(text)), Type: "told", Timestamp: ev.ReceivedAt, ProfileID: ev.Canonical, Data: strconv.AppendQuote(nil, text)}
}

// event is an event of a user, received at that time after base.
func event(user, name string, at int64) pipeline.Record {
	ev := pipeline.Event{Source: "test", MessageID: user + name, ReceivedAt: base.Add(time.Duration(at) * time.Millisecond), UserID: user,
		Raw: fmt.Appendf(nil, `{"type":"track","event":%q,"userId":%q}`, name, user)}
	return pipeline.EventRecord(&ev)
}

// nothingMore waits for three readings of the watermark, each of which would have fired what is due.
func (m *machine) nothingMore(c *clock, told ...string) {
	m.t.Helper()
	from := c.count()
	m.eventually(func() error {
		if n := c.count() - from; n < 4 { // the first may have begun before
			return fmt.Errorf("%d readings of the watermark", n)
		}
		return nil
	})
	m.tells(told...)
}

// TestTimers sets timers, replaces and removes some, and lets time pass, also with a new process that has only the changelog:
// each fires once, at its time, and no earlier.
func TestTimers(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		m, c, _ := timed(t, brokers)
		m.produce("events",
			event("a", "wake 5000", 0), event("replaced", "wake 5000", 0), event("earlier", "wake 50000", 0), event("removed", "wake 5000", 0), event("held", "wake 5000", 0),
			event("replaced", "wake 9000", 0), event("earlier", "wake 5500", 0), event("removed", "ordered", 0), event("held", "held", 0), event("broken", "wake 5000", 0))
		told := []string{"a wake 5000", "replaced wake 5000", "earlier wake 50000", "removed wake 5000", "held wake 5000",
			"replaced wake 9000", "earlier wake 5500", "removed ordered", "held held", "broken wake 5000"}
		r := m.start()
		m.tells(told...)
		c.set(5999) // the watermark is one second behind
		m.nothingMore(c, told...)

		r.drain()
		m.data = t.TempDir()
		r = m.start()
		m.nothingMore(c, told...)
		c.set(6000)
		m.eventually(func() error {
			if n := len(m.told()); n < len(told)+2 {
				return fmt.Errorf("told %d messages", n)
			}
			return nil
		})
		woken := m.told()[len(told):] // of the same time: in the order of their ids
		if len(woken) != 2 || !strings.Contains(strings.Join(woken, ", "), "a woken 5000") || !strings.Contains(strings.Join(woken, ", "), "held woken 5000") {
			t.Fatalf("woken %q, want a and held", woken)
		}
		told = append(told, woken...)
		c.set(6500)
		m.tells(append(told, "earlier woken 5500")...)
		c.set(20_000)
		m.tells(append(told, "earlier woken 5500", "replaced woken 9000")...)
		r.drain()

		m.data = t.TempDir()
		m.start()
		c.set(100_000)
		m.nothingMore(c, append(told, "earlier woken 5500", "replaced woken 9000")...)
		if !strings.Contains(m.log.String(), "code=broken") {
			t.Error("the log does not tell of the evaluation that was refused")
		}
	})
}

// TestTimerWaitsForEarlierEvents stops the pipeline for an hour. Meanwhile a timer is due, but an event that puts it off was
// received before: it waits in `events`, for long also after the start. The timer does not fire; the one that the event asked
// for does, and is told the time at which it was due.
func TestTimerWaitsForEarlierEvents(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		m, c, a := timed(t, brokers)
		m.produce("events", event("a", "wake 10000", 0))
		r := m.start()
		m.tells("a wake 10000")
		r.drain()

		m.produce("events", event("a", "gated wake 20000", 9000))
		c.set(3_600_000)
		m.start()
		m.nothingMore(c, "a wake 10000")
		close(a.release)
		m.tells("a wake 10000", "a gated wake 20000", "a woken 29000")
		m.nothingMore(c, "a wake 10000", "a gated wake 20000", "a woken 29000")
	})
}

// TestTimerComesBeforeLaterEventsOfItsProfile: an event that was received after a timer's time finds the profile as the timer has
// left it, although the watermark is not there yet.
func TestTimerComesBeforeLaterEventsOfItsProfile(t *testing.T) {
	t.Parallel()
	m, c, _ := timed(t, testenv.Embedded(t))
	told := []string{"a wake 5000", "c wake 6000", "b x", "a woken 5000", "a y"}
	m.produce("events", event("a", "wake 5000", 0), event("c", "wake 6000", 0), event("b", "x", 6500), event("a", "y", 7000))
	m.start()
	m.tells(told...)
	m.nothingMore(c, told...)
	c.set(8000)
	m.tells(append(told, "c woken 6000")...)
}

// TestTimersOfOnePartition has a timer in one of several partitions; in the others nothing was ever written.
func TestTimersOfOnePartition(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		m, c, _ := timed(t, brokers)
		m.plan.Partitions = 4
		m.produce("events", event("a", "wake 5000", 0))
		m.start()
		m.tells("a wake 5000")
		c.set(10_000)
		m.tells("a wake 5000", "a woken 5000")
	})
}

// TestTimersAskAgain has an evaluation ask for the next one, for times that have long passed too: each comes at its time.
func TestTimersAskAgain(t *testing.T) {
	t.Parallel()
	m, c, _ := timed(t, testenv.Embedded(t))
	m.plan.Profile[0].New = func() pipeline.Stage { return daily{} }
	m.produce("events", event("a", "x", 0))
	c.set(4*24*3_600_000 + 1000)
	m.start()
	m.tells("a 0", "a 1", "a 2", "a 3", "a 4")
	c.set(6 * 24 * 3_600_000)
	m.tells("a 0", "a 1", "a 2", "a 3", "a 4", "a 5")
	var last time.Time
	for _, r := range m.records("changes") {
		msg, err := pipeline.ParseMessage(r.Key, r.Value)
		m.check(err)
		if msg.Timestamp.Before(last) {
			t.Errorf("the task's time goes back from %v to %v", last, msg.Timestamp)
		}
		last = msg.Timestamp
	}
}

// daily wakes every profile each day, and tells which day it is.
type daily struct{}

func (daily) Process(_ context.Context, _ pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	emit.Message(alarm{}.say(ev, fmt.Sprintf("a %d", ev.Time.Sub(base)/(24*time.Hour))))
	emit.Wake(ev.Time.Add(24 * time.Hour))
	return emit.Event(ev)
}

// TestTimersAreTriedAgain has the second of three timers fail once: the transaction is made anew, and none is lost.
func TestTimersAreTriedAgain(t *testing.T) {
	t.Parallel()
	m, c, a := timed(t, testenv.Embedded(t))
	calls := 0
	a.evaluated = func(string) error {
		if calls++; calls == 2 {
			return errors.New("the disk is full")
		}
		return nil
	}
	m.produce("events", event("crowd1", "wake 5000", 0), event("crowd2", "wake 6000", 0), event("crowd3", "wake 7000", 0))
	m.start()
	m.committed(pipeline.TaskProfile, "resolved", 3)
	c.set(10_000)
	m.tells("crowd1 woken 5000", "crowd2 woken 6000", "crowd3 woken 7000")
}

// TestTimersWhenTheGroupsAreForgotten deletes the groups, as Kafka does with those that were away for long, after all was
// worked on: nobody knows then whether something waits, until the tasks say so.
func TestTimersWhenTheGroupsAreForgotten(t *testing.T) {
	t.Parallel()
	brokers := testenv.Embedded(t)
	m, c, _ := timed(t, brokers)
	m.produce("events", event("a", "wake 5000", 0))
	r := m.start()
	m.tells("a wake 5000")
	m.atRest()
	r.drain()
	admin, err := sarama.NewClusterAdmin(brokers, sarama.NewConfig())
	m.check(err)
	defer admin.Close()
	for _, task := range []string{pipeline.TaskResolve, pipeline.TaskProfile} {
		m.check(admin.DeleteConsumerGroup(m.topic(task)))
	}
	c.set(10_000)
	m.start()
	m.tells("a wake 5000", "a woken 5000")
}

// TestManyTimersAtOnce has the timers of 100,000 profiles due at the same second: no transaction takes more than its share of
// them, and an event that comes when the first have fired does not wait for the last.
func TestManyTimersAtOnce(t *testing.T) {
	const crowd, most = 100_000, 1000
	m, c, a := timed(t, testenv.Embedded(t))
	var inHand, mostInHand, transactions, fired atomic.Int64
	begun, goOn := make(chan struct{}), make(chan struct{})
	a.evaluated = func(string) error {
		inHand.Add(1)
		if fired.Add(1) == 1 {
			close(begun)
			<-goOn
		}
		return nil
	}
	m.wrap = []message.HandlerMiddleware{func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			b, _ := pipeline.BatchOf(msg)
			if b.Topic != m.topic("resolved") {
				return h(msg)
			}
			inHand.Store(0)
			out, err := h(msg)
			if n := inHand.Load(); n > 0 {
				mostInHand.Store(max(n, mostInHand.Load()))
				transactions.Add(1)
			}
			return out, err
		}
	}}
	records := make([]pipeline.Record, crowd)
	for i := range records {
		records[i] = event("crowd"+strconv.Itoa(i), "wake "+strconv.Itoa(10_000+i%1000), 0)
	}
	m.produce("events", records...)
	m.start()
	m.committed(pipeline.TaskProfile, "resolved", crowd)
	c.set(20_000)
	await(t, "the first timer", begun)
	m.produce("events", event("b", "ordered", 19_500))
	m.eventually(func() error {
		if n := len(m.records("resolved")); n != crowd+1 {
			return fmt.Errorf("%d records in resolved", n)
		}
		return nil
	})
	close(goOn)
	m.eventually(func() error {
		if n := fired.Load(); n < crowd {
			return fmt.Errorf("%d timers have fired", n)
		}
		return nil
	})
	var told []string
	m.eventually(func() error {
		if told = m.told(); len(told) < crowd+1 {
			return fmt.Errorf("told %d messages", len(told))
		}
		return nil
	})
	if n := mostInHand.Load(); n != most || transactions.Load() < crowd/most {
		t.Errorf("%d transactions with up to %d timers each, want %d", transactions.Load(), n, most)
	}
	if told[len(told)-1] == "b ordered" {
		t.Error("the event has waited for all timers")
	}
	woken := map[string]bool{}
	for _, text := range told {
		woken[text] = true
	}
	if len(woken) != crowd+1 || fired.Load() != crowd {
		t.Errorf("%d different messages, %d timers fired, want %d", len(woken), fired.Load(), crowd)
	}
}

// TestTimerFiresOnce kills a process between every two steps of the transaction in which a timer fires. The next process
// fires it again or knows that it has fired.
func TestTimerFiresOnce(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		m, c, _ := timed(t, brokers)
		m.cluster = m.dial(brokers, named)
		var told []string
		for i, step := range []string{"processed", "sent", "committed", "stored", "acknowledged"} {
			at := int64(i * 100_000)
			c.set(at)
			m.produce("events", event("a", fmt.Sprintf("%s wake 10000", step), at))
			told = append(told, fmt.Sprintf("a %s wake 10000", step))
			r := m.start()
			m.tells(told...)
			m.atRest()
			r.drain()

			c.set(at + 50_000)
			m.killedAt(brokers, c, step)
			told = append(told, fmt.Sprintf("a woken %d", at+10_000))
			r = m.start()
			m.tells(told...)
			m.nothingMore(c, told...)
			r.drain()
		}
	})
}

// named gives a process a name in its groups, so that its successor need not wait until it is given up.
func named(c *broker.Config) { c.InstanceID = "timers" }

// atRest waits until all is committed, transaction markers included: then the next transaction is that of a timer.
func (m *machine) atRest() {
	m.t.Helper()
	for task, input := range map[string]string{pipeline.TaskResolve: "events", pipeline.TaskProfile: "resolved"} {
		ends, err := m.cluster.Ends(m.context(), m.topic(input), []int32{0}, false)
		m.check(err)
		m.committed(task, input, ends[0])
	}
}

// killedVariable says what the process to be killed is to do.
const killedVariable = "MILLSTREAM_TEST_KILLED"

// killed is its contents.
type killed struct {
	broker, data, pipeline string
	base, at               int64 // the clock: Unix milliseconds, and milliseconds after it
	step                   string
}

func (k killed) String() string {
	return fmt.Sprintln(k.broker, k.data, k.pipeline, k.base, k.at, k.step)
}

func readKilled() (k killed, err error) {
	_, err = fmt.Sscan(os.Getenv(killedVariable), &k.broker, &k.data, &k.pipeline, &k.base, &k.at, &k.step)
	return k, err
}

// killedAt runs the pipeline in a process that kills itself at a step.
func (m *machine) killedAt(brokers []string, c *clock, step string) {
	m.t.Helper()
	cmd := exec.Command(os.Args[0])
	k := killed{broker: brokers[0], data: m.data, pipeline: m.plan.Name, base: base.UnixMilli(), at: c.now().Sub(base).Milliseconds(), step: step}
	cmd.Env = append(os.Environ(), killedVariable+"="+k.String())
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		m.check(cmd.Process.Kill())
		<-ended
		m.t.Fatalf("the process has not come to step %s", step)
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		m.t.Fatalf("the process ended with %v instead of being killed at step %s", cmd.ProcessState, step)
	}
}

// runToBeKilled is that process.
func runToBeKilled() error {
	k, err := readKilled()
	if err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	conf := broker.Config{Brokers: []string{k.broker}, TransactionTimeout: time.Second, Logger: quiet}
	named(&conf)
	cluster, err := broker.Dial(context.Background(), conf)
	if err != nil {
		return err
	}
	c := &clock{}
	c.set(k.at)
	kill := func(at string) {
		if at == k.step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	err = engine.Run(context.Background(), alarmPlan(k.pipeline, &alarmClock{}), engine.Options{Cluster: cluster, Data: k.data, Logger: quiet, Now: c.now, Step: kill})
	return errors.Join(err, errors.New("it was not killed"))
}
