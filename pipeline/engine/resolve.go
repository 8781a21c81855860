package engine

import (
	"context"
	"errors"
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

// resolveJob takes events through the stages of the resolve task.
type resolveJob struct {
	*engine
	chain *chain
	work  *work
	ev    pipeline.Event // reused

	scratch []byte
}

func newResolveJob(e *engine) *resolveJob {
	j := &resolveJob{engine: e}
	j.chain = newChain(e.plan.Resolve, j.out, e.Logger)
	return j
}

func (j *resolveJob) due() time.Time { return time.Time{} }

func (j *resolveJob) process(ctx context.Context, w *work) error {
	j.work = w
	j.chain.begin(w)
	for i := range w.batch.Records {
		r := &w.batch.Records[i]
		mark := len(w.out)
		w.tx.Savepoint()
		err := j.one(ctx, r)
		if err == nil {
			continue
		}
		var rej *pipeline.RejectError
		if !errors.As(err, &rej) {
			return err
		}
		w.tx.RollbackToSavepoint()
		w.out = w.out[:mark]
		w.refuse(j.engine, "events", r, rej, &j.ev)
	}
	return nil
}

// one takes one record of `events` through the stages.
func (j *resolveJob) one(ctx context.Context, r *pipeline.Record) error {
	if rej := pipeline.ParseEventRecord(r, &j.ev); rej != nil {
		rej.Stage = pipeline.TaskResolve
		return rej
	}
	j.work.now = max(j.work.now, j.ev.ReceivedAt.UnixMilli())
	j.ev.ReceivedAt = pipeline.Millis(j.work.now)
	return j.chain.process(ctx, &j.ev)
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
