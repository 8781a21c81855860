package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/state"
)

// Limits of one transaction of a stage task. An interval that brings more is several transactions.
const (
	batchBytes   = 1 << 20
	batchRecords = 20_000
)

// runResolve runs the task that turns the records of `events` into those of `resolved`: clean, unique, with the profile
// they belong to.
func (e *engine) runResolve(ctx context.Context) error {
	store, err := e.openStore(pipeline.TaskResolve, state.DeletedByTime)
	if err != nil {
		return err
	}
	t := &task{name: pipeline.TaskResolve, input: e.topic("events"), store: store, reader: e.stageReader(),
		newJob: func(int32) job { return newResolveJob(e) }, assigned: e.runResumers}
	return errors.Join(e.runTask(ctx, t), store.Close())
}

func (e *engine) stageReader() broker.SubscriberConfig {
	return broker.SubscriberConfig{MaxBytes: batchBytes, MaxRecords: batchRecords, Interval: e.plan.Commit, Idle: time.Second}
}

// resolveJob takes events through the stages of the resolve task. If one of these needs the link log, all events of a batch go
// through the stages before it, then what they state is linked, and then they go on. A batch in which that would be unfair is
// divided, see divide.go.
type resolveJob struct {
	*engine
	first  *chain // the stages before the linker, or all
	rest   *chain // the linker and the stages after it; nil: there is none
	linker pipeline.Linker
	work   *work

	events []pipeline.Event  // reused, one per record of a batch; one in all without a linker
	passed []*pipeline.Event // those that came out of first
	// refused are records of the batch in hand that a stage of rest has refused: what stages of first wrote for them must go,
	// too, so the batch is processed again without them.
	refused map[int64]*pipeline.RejectError

	scratch []byte
}

func newResolveJob(e *engine) *resolveJob {
	j := &resolveJob{engine: e, events: make([]pipeline.Event, 1), refused: map[int64]*pipeline.RejectError{}}
	j.first = newChain(e.plan.Resolve, j.out, e.Logger)
	for i := range j.first.steps {
		linker, ok := j.first.steps[i].stage.(pipeline.Linker)
		if !ok {
			continue
		}
		linker.Use(e.links)
		j.linker = linker
		j.rest = j.first.split(i, func(ev *pipeline.Event) error { j.passed = append(j.passed, ev); return nil })
		break
	}
	return j
}

func (j *resolveJob) due() (time.Time, <-chan struct{}) { return time.Time{}, nil }

func (j *resolveJob) process(ctx context.Context, w *work) error {
	j.work = w
	j.first.begin(w)
	if j.rest == nil {
		return j.each(ctx, &j.events[0])
	}
	j.passed = j.passed[:0]
	for len(j.events) < len(w.batch.Records) {
		j.events = append(j.events, pipeline.Event{})
	}
	if err := j.each(ctx, nil); err != nil {
		return err
	}
	if err := j.state(ctx, j.linker, j.passed, j.divide); err != nil {
		return fmt.Errorf("%w: %w", errOutside, err)
	}
	j.rest.begin(w)
	again := false
	for _, ev := range j.passed {
		err := j.rest.process(ctx, ev)
		var rej *pipeline.RejectError
		switch {
		case err == nil:
		case errors.As(err, &rej):
			j.refused[ev.Offset], again = rej, true
		default:
			return err
		}
	}
	if again {
		return errAgain
	}
	clear(j.refused)
	return nil
}

// each takes the records of the batch through the first stages, one after the other in ev, or each in an event of its own if
// ev is nil.
func (j *resolveJob) each(ctx context.Context, ev *pipeline.Event) error {
	w := j.work
	for i := range w.batch.Records {
		r := &w.batch.Records[i]
		at := ev
		if at == nil {
			at = &j.events[i]
		}
		mark := len(w.out)
		w.tx.Savepoint()
		err := j.one(ctx, r, at)
		if err == nil {
			continue
		}
		var rej *pipeline.RejectError
		if !errors.As(err, &rej) {
			return err
		}
		w.tx.RollbackToSavepoint()
		w.out = w.out[:mark]
		w.refuse(j.engine, "events", r, rej, at)
	}
	return nil
}

// one takes one record of `events` through the first stages.
func (j *resolveJob) one(ctx context.Context, r *pipeline.Record, ev *pipeline.Event) error {
	if rej := pipeline.ParseEventRecord(r, ev); rej != nil {
		rej.Stage = pipeline.TaskResolve
		return rej
	}
	if rej := j.refused[r.Offset]; rej != nil {
		_ = ev.Scan() // for the ids in the dead letter; that it can be scanned was seen before
		j.plan.Identities.Identify(ev)
		return rej
	}
	j.work.now = max(j.work.now, ev.ReceivedAt.UnixMilli())
	ev.ReceivedAt = pipeline.Millis(j.work.now)
	return j.first.process(ctx, ev)
}

// out takes an event after the last stage. Events of nobody are spread by their message id.
func (j *resolveJob) out(ev *pipeline.Event) error {
	w := j.work
	if ev.Canonical != (pipeline.ID{}) {
		j.scratch = pipeline.AppendID(j.scratch[:0], ev.Canonical)
	} else {
		j.scratch = append(j.scratch[:0], ev.MessageID...)
	}
	key := w.tx.Keep(j.scratch)
	j.scratch = pipeline.AppendResolved(j.scratch[:0], ev, j.plan.Hash)
	w.out = append(w.out, pipeline.Record{Topic: "resolved", Partition: -1, Key: key, Value: w.tx.Keep(j.scratch)})
	return nil
}

// refuse adds the dead letter of a record of topic to the transaction. ev is what is known of it, nil if nothing.
func (w *work) refuse(e *engine, topic string, r *pipeline.Record, rej *pipeline.RejectError, ev *pipeline.Event) {
	w.dead.add(rej.Stage+"/"+rej.Code, 1)
	var ids []pipeline.ID
	if ev != nil {
		for _, id := range ev.Identifiers {
			if id.ID != (pipeline.ID{}) {
				ids = append(ids, id.ID)
			}
		}
		if len(ids) == 0 && ev.Primary != (pipeline.ID{}) {
			ids = append(ids, ev.Primary)
		}
	}
	w.out = append(w.out, pipeline.NewDeadLetter(topic, r, rej, e.plan.Hash, ids, pipeline.Millis(w.now)).AsRecord())
}
