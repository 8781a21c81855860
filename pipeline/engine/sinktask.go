package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/state"
)

const (
	sinkRecords  = 512 // attempts of one Write
	sinkInterval = 20 * time.Millisecond

	codeSink byte = 1 // the sink's own keys in the task's store
	codePark byte = 2 // what waits for another try
)

// runSink opens a sink and runs its task.
func (e *engine) runSink(ctx context.Context, s *pipeline.SinkPlan) error {
	opened, err := s.Open(ctx, e.deps("sink", s.Name))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	switch sink := opened.(type) {
	case pipeline.RangeSink:
		return errors.Join(e.runRangeSink(ctx, s, sink), sink.Close())
	case pipeline.Sink:
		return errors.Join(e.runPlainSink(ctx, s, sink), sink.Close())
	}
	return fmt.Errorf("a %s is neither a Sink nor a RangeSink", s.Kind)
}

// deps is what a source or sink gets from the program. Its lines say themselves whose they are.
func (e *engine) deps(what, name string) pipeline.Deps {
	return pipeline.Deps{Logger: e.Logger, Data: filepath.Join(e.Data, what+"s", name), ClickHouse: e.ClickHouse, Kafka: e.kafkaClient, Say: e.Say, Clock: e.Now}
}

// runPlainSink runs the task of a Sink: Write first, then one transaction with its state, what it logs and the position.
func (e *engine) runPlainSink(ctx context.Context, s *pipeline.SinkPlan, sink pipeline.Sink) error {
	if len(s.Topics) != 1 {
		return fmt.Errorf("a %s reads %d topics, a transactional sink reads one", s.Kind, len(s.Topics))
	}
	name := "sink." + s.Name
	store, err := e.openStore(name, state.Compacted)
	if err != nil {
		return err
	}
	t := &task{name: name, input: e.topic(s.Topics[0]), store: store, compacted: true,
		reader: broker.SubscriberConfig{MaxBytes: batchBytes, MaxRecords: sinkRecords, Interval: sinkInterval, Idle: time.Second},
		newJob: func(int32) job { return &sinkJob{engine: e, plan: s, sink: sink, topic: s.Topics[0]} }}
	return errors.Join(e.runTask(ctx, t), store.Close())
}

// sinkJob hands the records of one partition to a sink, those of one key in order: after a record that has to wait, later
// ones of its key wait behind it.
type sinkJob struct {
	*engine
	plan  *pipeline.SinkPlan
	sink  pipeline.Sink
	topic string
	lot   *lot // nil: to be read from the store
}

func (j *sinkJob) due() (time.Time, <-chan struct{}) {
	if j.lot == nil { // what waits in the store is not known yet: look at once, also if no record comes
		return time.Unix(0, 0), nil
	}
	return j.lot.due(), nil
}

func (j *sinkJob) process(ctx context.Context, w *work) (err error) {
	defer func() {
		if err != nil {
			j.lot = nil // it may be ahead of the store now
		}
	}()
	if n := len(w.batch.Records); n > 0 {
		w.now = max(w.now, w.batch.Records[n-1].Time.UnixMilli())
	}
	tx := w.tx.Stage(codePark)
	if j.lot == nil {
		if j.lot, err = readLot(tx); err != nil {
			return err
		}
	}
	attempts, places, err := j.gather(tx, w)
	if err != nil || len(attempts) == 0 {
		return err
	}
	outcomes, err := j.sink.Write(ctx, w.tx.Stage(codeSink), attempts)
	if err != nil {
		return fmt.Errorf("%w: write %d records of partition %d to sink %s: %w", errOutside, len(attempts), w.batch.Partition, j.plan.Name, err)
	}
	if len(outcomes) != len(attempts) {
		return fmt.Errorf("sink %s gave %d outcomes for %d records", j.plan.Name, len(outcomes), len(attempts))
	}
	for i := range outcomes {
		if err := j.settle(tx, w, &attempts[i], places[i], &outcomes[i]); err != nil {
			return err
		}
	}
	return w.tx.Err()
}

// gather collects what is to be tried now: first what has waited and is due, then the new records. places says where in
// the lot an attempt is, nil for new ones.
func (j *sinkJob) gather(tx pipeline.Tx, w *work) (attempts []pipeline.Attempt, places []*place, err error) {
	attempts, places, err = j.lot.take(tx, time.Now(), sinkRecords)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	for i := range w.batch.Records {
		r := &w.batch.Records[i]
		switch {
		case !j.wanted(w, r):
		case j.lot.holds(r.Key):
			j.lot.add(tx, &pipeline.Attempt{Record: r, Number: 1, QueuedAt: now}, time.Time{})
			w.parked.add(j.plan.Name, 1)
		default:
			attempts = append(attempts, pipeline.Attempt{Record: r, Number: 1, QueuedAt: now})
			places = append(places, nil)
		}
	}
	return attempts, places, nil
}

// wanted applies the sink's `when`. A message that cannot be read is a dead letter.
func (j *sinkJob) wanted(w *work, r *pipeline.Record) bool {
	if j.plan.When == nil {
		return true
	}
	m, err := pipeline.ParseMessage(r.Key, r.Value)
	ok := false
	if err == nil {
		ok, err = j.plan.When(m)
	}
	var rej *pipeline.RejectError
	switch {
	case errors.As(err, &rej):
		j.reject(w, r, rej)
		return false
	case err != nil:
		j.reject(w, r, pipeline.Reject("when", "the condition of the sink cannot be evaluated: %v", err))
		return false
	case !ok:
		w.dropped.add("sink."+j.plan.Name+"/when", 1)
	}
	return ok
}

// settle does what an outcome asks for.
func (j *sinkJob) settle(tx pipeline.Tx, w *work, a *pipeline.Attempt, at *place, o *pipeline.Outcome) error {
	if o.Delivery != nil {
		if err := j.log(w, o.Delivery); err != nil {
			return err
		}
	}
	if o.Kind == pipeline.RetryAt {
		next := *a
		if o.Delivery != nil { // it was really tried
			next.Number++
		}
		if at == nil {
			j.lot.add(tx, &next, o.At)
			w.parked.add(j.plan.Name, 1)
		} else {
			j.lot.postpone(tx, at, &next, o.At)
		}
		return nil
	}
	if o.Record != nil {
		w.elsewhere = append(w.elsewhere, *o.Record)
	}
	if o.Kind == pipeline.Rejected {
		j.reject(w, a.Record, pipeline.Reject(o.Code, "%s", o.Reason))
	}
	if at != nil {
		j.lot.remove(tx, at)
		w.parked.add(j.plan.Name, -1)
	}
	return nil
}

func (j *sinkJob) reject(w *work, r *pipeline.Record, rej *pipeline.RejectError) {
	rej.Stage = "sink." + j.plan.Name
	w.refuse(j.engine, j.topic, r, rej, nil)
}

// log adds a delivery to the topic `deliveries`.
func (j *sinkJob) log(w *work, d *pipeline.Delivery) error {
	value, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode a delivery: %w", err)
	}
	w.out = append(w.out, pipeline.Record{Topic: "deliveries", Partition: -1, Key: []byte(d.ProfileID.String()), Value: value})
	return nil
}
