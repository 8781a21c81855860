// Package engine runs a pipeline.Plan: it shares the partitions of each task's input between processes, restores their
// state, takes batches through the stages or to the sinks, and makes state, outputs and positions durable together.
//
// One idea per file:
//
//	engine.go      Run: topics, sources, tasks, and how they stop
//	settings.go    operation 0 of the link log: what was fixed at the first start
//	worker.go      one partition of one task: batch by batch, exactly once
//	position.go    what a commit says about where it stands
//	restore.go     from an assignment to a worker's first batch
//	links.go       the process's replica of the link log, and new links
//	linklog.go     the link log for operators
//	regrouptask.go the task that tells profiles who moves where
//	regroup.go     how the data of a profile follows the link log
//	chain.go       one event through the stages of a task
//	resolve.go     the task that turns events into resolved events
//	profile.go     the task that turns resolved events into changes
//	timers.go      when profiles are looked at although no event comes
//	watermark.go   how far time has come
//	sinktask.go    a task that hands changes to a Sink
//	park.go        records that a sink could not deliver yet
//	rangesink.go   a task whose sink stores ranges exactly once by itself
//	sources.go     from sources to the topic `events`
//	clients.go     Kafka for sources and sinks
//	counters.go    what went in, out, aside
//	grace.go       how long stopping may take
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/links"
	"github.com/millstream-io/millstream/pipeline/state"
)

// Options is what the program supplies to Run.
type Options struct {
	// Connect connects to Kafka. It waits for a broker until ctx ends; meanwhile sources listen, and tell their clients to
	// come again. Run closes what it returns.
	Connect func(ctx context.Context) (*broker.Cluster, error)
	Cluster *broker.Cluster // connected, and the caller's to close: instead of Connect
	Data    string          // folder for the state; it may be lost, and is rebuilt from Kafka
	Logger  *slog.Logger
	// ClickHouse and Say are handed to sources and sinks, see pipeline.Deps.
	ClickHouse func(ctx context.Context) (string, error)
	Say        func(line string)
	// Middleware wraps every task's handler, whose messages carry batches (pipeline.BatchOf). It must return the handler's
	// error.
	Middleware []message.HandlerMiddleware
	// Grace bounds the end: when it has passed since ctx ended, the connections to Kafka are cut, also those of Cluster, and
	// what is not committed is left to the next start. Some seconds later Run returns. 0 is 10 s.
	Grace time.Duration
	// Step, if set, is called with a name between every two steps that a crash could separate. Tests kill the process there.
	Step     func(name string)
	Counters *Counters // nil: not counted
	// Now is the clock by which sources stamp what they receive, and by which timers are due; time.Now if nil.
	Now func() time.Time
}

// Retentions of the topics, see docs/reference/topics.md.
const (
	week        = 7 * 24 * time.Hour
	deadLetters = 30 * 24 * time.Hour
	forever     = -time.Millisecond
	// tombstones is how long Kafka keeps a delete marker in a compacted topic. A local store that is older may have missed
	// one, so it is rebuilt.
	tombstones = 24 * time.Hour
)

// engine is one running plan.
type engine struct {
	Options
	plan      *pipeline.Plan
	producer  *broker.Producer
	ready     chan struct{} // closed when the topics are there, and producer may be used
	watermark *watermark

	connected atomic.Pointer[broker.Cluster] // Cluster, for those who do not wait for ready
	parts     parts
	others    others

	settings *links.Settings // operation 0 of the link log
	links    *links.Replica  // nil unless the pipeline stitches
	caughtUp chan struct{}   // closed when links has what the log held at the start
	// appendLinks appends to the link log and returns, when Kafka has it, an offset behind it.
	appendLinks func(ctx context.Context, records []pipeline.Record) (int64, error)

	// failed takes the first error that ends the run.
	failed chan error
}

// Run runs the plan until ctx ends, then lets sources finish what they have accepted and workers commit what they have in
// hand, and returns nil; nothing is left running. If that takes longer than Grace the rest is given up as by a kill, and a
// line in the log names it. It returns an error for what no retry can mend: another topology than at the first start, a
// position that was reset by hand, another process with the same instance id.
//
// Brokers and sinks that are away are waited for.
func Run(ctx context.Context, plan *pipeline.Plan, o Options) error {
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Counters == nil {
		o.Counters = &Counters{}
	}
	e := &engine{Options: o, plan: plan, ready: make(chan struct{}), caughtUp: make(chan struct{}), watermark: newWatermark(), failed: make(chan error, 1)}
	e.connected.Store(o.Cluster)
	sources, stop := context.WithCancel(ctx)
	done, bounded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(bounded)
		e.bound(sources.Done(), done)
	}()
	defer func() { close(done); <-bounded }()
	var feeding sync.WaitGroup
	drain := func() {
		stop()
		feeding.Wait()
	}
	for i := range plan.Sources {
		s := &plan.Sources[i]
		leave := e.parts.enter("source " + s.Name)
		feeding.Go(func() {
			defer leave()
			if err := e.runSource(sources, s); err != nil && sources.Err() == nil {
				e.fail(fmt.Errorf("source %s: %w", s.Name, err))
			}
		})
	}
	prepared := make(chan error, 1)
	go func() {
		defer e.parts.enter("start")()
		prepared <- e.prepare(sources)
	}()
	var err error
	select {
	case err = <-prepared:
	case err = <-e.failed: // a source that cannot start
		stop()
		<-prepared
	}
	if err == nil {
		close(e.ready)
		err = e.run(ctx, drain)
	}
	drain()
	return errors.Join(err, e.release())
}

// prepare connects, creates the topics, settles the settings and opens the producer of the sources.
func (e *engine) prepare(ctx context.Context) (err error) {
	if e.Connect != nil {
		if e.Cluster, err = e.Connect(ctx); err != nil {
			return err
		}
		e.connected.Store(e.Cluster)
	}
	if err := e.Cluster.EnsureTopics(ctx, e.topics()); err != nil {
		return fmt.Errorf("create topics of pipeline %s: %w", e.plan.Name, err)
	}
	if e.producer, err = e.Cluster.OpenProducer(); err != nil {
		return fmt.Errorf("open the producer of the sources: %w", err)
	}
	e.appendLinks = e.appendToLog
	if err := e.settle(ctx); err != nil || !e.plan.Stitching {
		return err
	}
	return e.openLinks(ctx)
}

func (e *engine) release() error {
	var errs []error
	if e.links != nil {
		errs = append(errs, e.links.Close())
	}
	if e.producer != nil {
		errs = append(errs, e.producer.Close())
	}
	if e.Connect != nil && e.Cluster != nil {
		errs = append(errs, e.Cluster.Close())
	}
	return errors.Join(errs...)
}

// topics lists every topic of the plan.
func (e *engine) topics() []broker.Topic {
	n := e.plan.Partitions
	deleted := func(name string, keep time.Duration) broker.Topic {
		return broker.Topic{Name: e.topic(name), Partitions: n, Config: map[string]string{"cleanup.policy": "delete", "retention.ms": fmt.Sprint(keep.Milliseconds())}}
	}
	compacted := func(name string) broker.Topic {
		return broker.Topic{Name: e.topic(name), Partitions: n, Config: map[string]string{"cleanup.policy": "compact", "delete.retention.ms": fmt.Sprint(tombstones.Milliseconds())}}
	}
	ts := []broker.Topic{
		deleted("events", week), deleted("resolved", week), deleted("changes", week), deleted("deliveries", week),
		deleted("dead_letters", deadLetters), deleted("state.resolve", e.plan.Horizon+week), compacted("state.profile"),
	}
	links := deleted("links", forever)
	links.Partitions = 1
	ts = append(ts, links)
	if e.plan.Stitching {
		regroup := compacted("state.regroup")
		regroup.Partitions = 1
		ts = append(ts, regroup)
	}
	for _, s := range e.plan.Sinks {
		ts = append(ts, compacted("state.sink."+s.Name))
	}
	return ts
}

// topic is the full name of a topic.
func (e *engine) topic(name string) string { return pipeline.TopicName(e.plan.Name, name) }

// short is a full topic name without the pipeline's prefix.
func (e *engine) short(topic string) string { return strings.TrimPrefix(topic, e.plan.Name+".") }

// run starts the tasks and waits for the end; then it lets the sources drain, and after them the tasks.
func (e *engine) run(ctx context.Context, drain func()) error {
	tasks, stopTasks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTasks()
	var running sync.WaitGroup
	start := func(what string, f func(context.Context) error) {
		leave := e.parts.enter(what)
		running.Go(func() {
			defer leave()
			if err := f(tasks); err != nil && tasks.Err() == nil {
				e.fail(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	if e.plan.Stitching {
		start("links", e.followLinks)
		start("outcomes of the links", e.forgetOutcomes)
		start("regroup", e.runRegroup)
	}
	start("resolve", e.runResolve)
	start("profile", e.runProfile)
	start("watermark", e.runWatermark)
	for i := range e.plan.Sinks {
		s := &e.plan.Sinks[i]
		start("sink "+s.Name, func(ctx context.Context) error { return e.runSink(ctx, s) })
	}

	var err error
	select {
	case <-ctx.Done():
		e.Logger.Info("draining", "grace", e.Grace)
	case err = <-e.failed:
	}
	drain()
	stopTasks()
	running.Wait()
	return err
}

// fail ends the run with err, if it is the first.
func (e *engine) fail(err error) {
	select {
	case e.failed <- err:
	default:
		e.Logger.Error("while stopping", "error", err)
	}
}

// openStore opens the store of a task.
func (e *engine) openStore(task string, r state.Retention) (*state.Store, error) {
	s, err := state.Open(filepath.Join(e.Data, "state", task), state.Options{Retention: r, Logger: e.Logger})
	if err != nil {
		return nil, fmt.Errorf("open the state of task %s: %w", task, err)
	}
	return s, nil
}
