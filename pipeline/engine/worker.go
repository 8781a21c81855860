package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/state"
)

// task is a group of workers that share one input topic.
type task struct {
	name  string // "resolve", "profile", "sink.<name>"
	input string // full topic name
	// compacted says that the changelog is compacted: it forgets delete markers, so an old local store is rebuilt.
	compacted bool
	store     *state.Store
	reader    broker.SubscriberConfig // limits of a batch
	newJob    func(partition int32) job
	assigned  func(ctx context.Context, partition int32) error // runs beside the worker of a partition, until ctx ends; may be nil
}

// job is what a task does with the batches of one partition. It is used by one goroutine.
type job interface {
	// process works the batch into w: state through w.tx, records to produce into w.out, the task's time into w.now. It may
	// be called again with the same batch after an error or an abort, in a new transaction; what it remembered of the first
	// call must be gone by then.
	process(ctx context.Context, w *work) error
	// due is when process wants to be called although no record came; zero: never. It is asked again after each batch, and when
	// the channel is closed, which may be nil.
	due() (time.Time, <-chan struct{})
}

// work is one transaction in the making.
type work struct {
	tx    *state.Transaction
	batch *pipeline.Batch
	now   int64  // the task's time, Unix milliseconds: never goes back
	after uint64 // number of the last commit
	out   []pipeline.Record
	// elsewhere are records for topics that are not the pipeline's, named in full.
	elsewhere []pipeline.Record

	dropped, dead, parked Tally // for Counters, once it is committed
}

// worker makes the batches of one partition durable, each exactly once. It is one goroutine.
//
// The order: the records are processed in memory; outputs, changelog and position go into one Kafka transaction together
// with the input offset; after its commit the state's batch is written; then the batch is acknowledged. A crash between the
// two commits leaves the store behind Kafka, and the restore applies what it lacks.
type worker struct {
	*engine
	task      *task
	partition int32
	session   *broker.Session
	part      *state.Partition
	kafka     *broker.Transactions
	job       job
	pos       state.Position    // of the last commit
	records   []pipeline.Record // memory for work.out
	refreshed time.Time         // when pos.Changelog was last brought up to date
}

var (
	// errAgain asks for another try at once, with what the job has learned.
	errAgain  = errors.New("again")
	errReload = errors.New("the partition must be loaded again")
	// errStopped marks what no other try can mend: the partition stands still, loudly.
	errStopped = errors.New("partition stopped")
	// errOutside marks trouble of something outside, such as a full disk under a sink: it is tried again for ever.
	errOutside = errors.New("outside")
)

const (
	stageTries   = 3                // for errors that are neither rejections nor the broker's
	alarmGap     = time.Minute      // between two lines about a stopped partition
	idlePosition = time.Hour        // how often an idle worker writes its position again, so that retention keeps one
	refreshGap   = 10 * time.Second // how often the store notes how much of the changelog it holds
)

// runTask joins the task's group and works until ctx ends.
func (e *engine) runTask(ctx context.Context, t *task) error {
	group := e.topic(t.name)
	return e.Cluster.Join(ctx, group, []string{t.input}, func(ctx context.Context, a broker.Assignment) error {
		if t.assigned != nil {
			beside := make(chan struct{})
			go func() {
				defer close(beside)
				if err := t.assigned(ctx, a.Partition); err != nil && ctx.Err() == nil {
					e.fail(err)
				}
			}()
			defer func() { <-beside }()
		}
		return e.own(ctx, t, a)
	})
}

// own works on an assigned partition until it is revoked.
func (e *engine) own(ctx context.Context, t *task, a broker.Assignment) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		begun := time.Now()
		w := &worker{engine: e, task: t, partition: a.Partition, session: a.Session}
		err := w.run(ctx)
		var reset *resetError
		var range_ *broker.OutOfRangeError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, broker.ErrSessionOver):
			return err
		case errors.As(err, &reset):
			e.fail(err)
			<-ctx.Done()
			return nil
		case errors.Is(err, errStopped), errors.As(err, &range_):
			e.standStill(ctx, t, a.Partition, err)
			return nil
		case errors.Is(err, errReload):
			e.Logger.Warn("loading the partition again", "task", t.name, "partition", a.Partition)
		default:
			e.Logger.Error("partition failed; trying again", "task", t.name, "partition", a.Partition, "error", err)
		}
		if time.Since(begun) > time.Minute {
			pause = 50 * time.Millisecond
		}
		if pipeline.Sleep(ctx, pause) != nil {
			return nil
		}
	}
}

// standStill keeps the partition, so that nobody else trips over the same record, and says so.
func (e *engine) standStill(ctx context.Context, t *task, partition int32, err error) {
	for {
		e.Logger.Error("partition stands still; nothing is lost, but nothing moves until this is mended and the process restarted",
			"task", t.name, "partition", partition, "error", err)
		if pipeline.Sleep(ctx, alarmGap) != nil {
			return
		}
	}
}

// run is one life of the worker: load, then batch by batch until ctx ends or something breaks.
func (w *worker) run(ctx context.Context) (err error) {
	if err := w.load(ctx); err != nil {
		return errors.Join(err, w.close())
	}
	defer func() { err = errors.Join(err, w.close()) }()
	w.job = w.task.newJob(w.partition)
	if err := w.look(); err != nil {
		return err
	}

	conf := w.task.reader
	conf.Partition, conf.Offset = w.partition, w.pos.Offsets
	sub := w.Cluster.NewSubscriber(conf)
	defer func() { err = errors.Join(err, sub.Close()) }()
	batches, err := sub.Subscribe(ctx, w.task.input)
	if err != nil {
		return fmt.Errorf("read partition %d of %s: %w", w.partition, w.task.input, err)
	}
	handle := w.handler()
	for {
		m := w.next(ctx, batches)
		if m == nil {
			if err := ctx.Err(); err != nil {
				return err
			}
			return fmt.Errorf("reading of partition %d of %s ended: %w", w.partition, w.task.input, readerError(sub))
		}
		if _, err := handle(m); err != nil {
			m.Nack()
			return err
		}
		m.Ack()
		w.Step("acknowledged")
	}
}

// readerError is why a subscriber closed its channel.
func readerError(sub message.Subscriber) error {
	if s, ok := sub.(interface{ Err() error }); ok && s.Err() != nil {
		return s.Err()
	}
	return errors.New("no reason given")
}

// handler is the worker as a Watermill handler, with the program's middleware around it. What it returns is never published
// by a router: outputs belong to the transaction.
func (w *worker) handler() message.HandlerFunc {
	h := func(m *message.Message) ([]*message.Message, error) {
		b, _ := pipeline.BatchOf(m)
		// Revocation does not cut a batch in two: it is finished within the grace period, or its transaction is lost.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(m.Context()), w.Grace+broker.DefaultTransactionTimeout)
		defer cancel()
		return nil, w.work(ctx, b)
	}
	for _, m := range w.Middleware {
		h = m(h)
	}
	return h
}

// next waits for a batch, for the job's due time, or for the hour at which an idle worker repeats its position. Nil means
// that the reader has ended. A batch that is there goes before what is due.
func (w *worker) next(ctx context.Context, batches <-chan *message.Message) *message.Message {
	for ctx.Err() == nil {
		select {
		case m := <-batches:
			return m
		default:
		}
		until := w.refreshed.Add(idlePosition)
		due, changed := w.job.due()
		if !due.IsZero() && due.Before(until) {
			until = due
		}
		t := time.NewTimer(time.Until(until))
		select {
		case <-ctx.Done():
		case <-changed:
		case m := <-batches:
			t.Stop()
			return m
		case <-t.C:
			b := &pipeline.Batch{Topic: w.task.input, Partition: w.partition, Next: w.pos.Offsets}
			return pipeline.NewBatchMessage(ctx, "", b)
		}
		t.Stop()
	}
	return nil
}

// work processes one batch and makes it durable.
func (w *worker) work(ctx context.Context, b *pipeline.Batch) error {
	k, err := w.process(ctx, b)
	var divided *dividedError
	if errors.As(err, &divided) {
		for _, part := range divided.parts(b) {
			if err := w.work(ctx, part); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	next := w.pos
	next.Offsets, next.StreamTime, next.Config, next.Algorithm = b.Next, k.now, w.plan.Hash, algorithm
	next.Number++
	records, err := w.changelog(k, next)
	if err != nil {
		k.tx.Discard()
		return err
	}
	w.Step("processed")
	if err := w.commit(ctx, records, next); err != nil {
		k.tx.Discard()
		return err
	}
	w.Step("committed")
	if err := w.bringUpToDate(ctx, &next); err != nil {
		k.tx.Discard()
		return errors.Join(errReload, err)
	}
	if err := k.tx.Commit(next); err != nil {
		return errors.Join(errReload, fmt.Errorf("write the state of partition %d of task %s: %w", w.partition, w.task.name, err))
	}
	w.pos = next
	w.Counters.committed(w.task.name, k)
	clear(k.out)
	w.records = k.out
	w.Step("stored")
	return nil
}

// process runs the job; errors that are not the record's fault are tried three times.
func (w *worker) process(ctx context.Context, b *pipeline.Batch) (*work, error) {
	var err error
	for try := 0; try < stageTries; try++ {
		if try > 0 {
			w.Logger.Warn("processing a batch again", "task", w.task.name, "partition", w.partition, "offset", b.Next, "error", err)
			if err := pipeline.Sleep(ctx, time.Duration(try)*200*time.Millisecond); err != nil {
				return nil, err
			}
		}
		k := &work{tx: w.part.Begin(), batch: b, now: w.pos.StreamTime, after: w.pos.Number, out: w.records[:0]}
		if err = w.job.process(ctx, k); err == nil {
			return k, nil
		}
		k.tx.Discard()
		if errors.Is(err, errAgain) {
			try = -1
			continue
		}
		if ctx.Err() != nil || errors.Is(err, errOutside) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: process offsets up to %d of partition %d in task %s: %w", errStopped, b.Next, w.partition, w.task.name, err)
}

// changelog adds the state's records to the outputs.
func (w *worker) changelog(k *work, next state.Position) ([]pipeline.Record, error) {
	records := k.out
	for i := range records {
		records[i].Topic = w.topic(records[i].Topic)
	}
	records = append(records, k.elsewhere...)
	topic := w.topic("state." + w.task.name)
	err := k.tx.Changelog(next, func(key, value []byte) {
		records = append(records, pipeline.Record{Topic: topic, Partition: w.partition, Key: key, Value: value})
	})
	if err != nil {
		return nil, fmt.Errorf("log the state of partition %d of task %s: %w", w.partition, w.task.name, err)
	}
	k.out = records
	return records, nil
}

// commit puts the records and the position into one transaction, and tries until it is certain how it ended.
func (w *worker) commit(ctx context.Context, records []pipeline.Record, next state.Position) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := w.attempt(ctx, records, next)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, broker.ErrAborted):
			w.Logger.Debug("transaction aborted; again", "task", w.task.name, "partition", w.partition, "error", err)
		case errors.Is(err, broker.ErrUndecided):
			done, err := w.decide(ctx, next)
			if err != nil || done {
				return err
			}
		default:
			return err
		}
		if err := pipeline.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (w *worker) attempt(ctx context.Context, records []pipeline.Record, next state.Position) error {
	if err := w.kafka.Begin(); err != nil {
		return err
	}
	for i := range records {
		if err := w.kafka.Send(&records[i]); err != nil {
			return errors.Join(err, w.abort(ctx, err))
		}
	}
	w.Step("sent")
	return w.kafka.Commit(ctx, w.session, w.topic(w.task.name), w.task.input, w.partition, groupPosition(next))
}

// abort gives up the open transaction after a failed Send, if that is still to be done.
func (w *worker) abort(ctx context.Context, cause error) error {
	if errors.Is(cause, broker.ErrUndecided) || errors.Is(cause, broker.ErrAborted) || errors.Is(cause, broker.ErrSessionOver) {
		return nil
	}
	return w.kafka.Abort(ctx)
}

// decide finds out whether the transaction to next was committed.
func (w *worker) decide(ctx context.Context, next state.Position) (committed bool, err error) {
	if err := w.kafka.Reopen(ctx); err != nil {
		return false, err
	}
	at, err := w.Cluster.Committed(ctx, w.topic(w.task.name), w.task.input, w.partition)
	if err != nil {
		return false, err
	}
	n := transactionNumber(at.Metadata)
	w.Logger.Warn("the outcome of a transaction was unknown", "task", w.task.name, "partition", w.partition, "committed", n == next.Number)
	switch n {
	case next.Number:
		return true, nil
	case next.Number - 1:
		return false, nil
	}
	return false, errReload
}

// bringUpToDate notes now and then in the position how far the store is in its changelog: all that was committed before
// this transaction is in it already. The end is asked before this transaction's records are stored, so it may count too few
// records, never too many; applying some twice is harmless.
func (w *worker) bringUpToDate(ctx context.Context, next *state.Position) error {
	if time.Since(w.refreshed) < refreshGap {
		return nil
	}
	w.refreshed = time.Now()
	topic := w.topic("state." + w.task.name)
	ends, err := w.Cluster.Ends(ctx, topic, []int32{w.partition}, true)
	if err != nil {
		return fmt.Errorf("ask for the end of %s: %w", topic, err)
	}
	next.Changelog = ends[w.partition]
	return nil
}

// close gives up the partition.
func (w *worker) close() error {
	var errs []error
	if w.kafka != nil {
		errs = append(errs, w.kafka.Close())
	}
	if w.part != nil {
		errs = append(errs, w.part.Close())
	}
	return errors.Join(errs...)
}
