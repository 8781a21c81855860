package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/state"
)

// resetError says that a group's offset is not where the state stands: somebody moved it.
type resetError struct {
	group, topic   string
	partition      int32
	offset, wanted int64
}

func (e *resetError) Error() string {
	return fmt.Sprintf("group %s stands at offset %d of %s partition %d, but its state at %d: the offset was moved by hand, and going on would lose or count twice what lies between; set it back to %d",
		e.group, e.offset, e.topic, e.partition, e.wanted, e.wanted)
}

// load brings the worker to where its predecessor's last commit left the partition. The order matters: the producer first,
// which ends and fences a predecessor's transaction, then the committed offset, then the changelog up to its last stable
// offset, and only then records.
func (w *worker) load(ctx context.Context) error {
	group, state := w.topic(w.task.name), w.topic("state."+w.task.name)
	var err error
	id := fmt.Sprintf("%s.%s-%d", group, w.short(w.task.input), w.partition)
	if w.kafka, err = w.Cluster.OpenTransactions(ctx, id); err != nil {
		return fmt.Errorf("open transactions %s: %w", id, err)
	}
	w.Step("fenced")
	at, err := w.Cluster.Committed(ctx, group, w.task.input, w.partition)
	if err != nil {
		return fmt.Errorf("ask for the offset of group %s in partition %d: %w", group, w.partition, err)
	}
	if w.part, err = w.task.store.Partition(w.task.input, w.partition); err != nil {
		return fmt.Errorf("take partition %d of task %s: %w", w.partition, w.task.name, err)
	}
	if err := w.restore(ctx, state, transactionNumber(at.Metadata)); err != nil {
		return err
	}
	w.refreshed = time.Now()

	pos, known := w.part.Position()
	switch {
	case pos.Algorithm > algorithm:
		return fmt.Errorf("%w: the state of task %s was written by algorithm version %d, this build knows %d: upgrade it", errStopped, w.task.name, pos.Algorithm, algorithm)
	case known && at.Offset >= 0 && at.Offset != pos.Offsets:
		return &resetError{group: group, topic: w.task.input, partition: w.partition, offset: at.Offset, wanted: pos.Offsets}
	case !known && at.Offset >= 0: // idle for longer than the changelog is kept
		pos.Offsets = at.Offset
		pos.Number = transactionNumber(at.Metadata)
	case !known:
		starts, err := w.Cluster.Starts(ctx, w.task.input, []int32{w.partition})
		if err != nil {
			return err
		}
		pos.Offsets = starts[w.partition]
	}
	if at.Offset < 0 && pos.Offsets > 0 {
		w.refreshed = time.Time{} // the group has forgotten: say at once where it stands, which others wait to know
	}
	w.pos = pos
	return nil
}

// restore applies what the local store lacks of the changelog; a store that cannot be trusted is rebuilt. committed is the
// number of the group's last transaction, 0 if it is not known.
func (w *worker) restore(ctx context.Context, topic string, committed uint64) error {
	local, known := w.part.Position()
	ends, err := w.Cluster.Ends(ctx, topic, []int32{w.partition}, true)
	if err != nil {
		return fmt.Errorf("ask for the end of %s: %w", topic, err)
	}
	starts, err := w.Cluster.Starts(ctx, topic, []int32{w.partition})
	if err != nil {
		return fmt.Errorf("ask for the start of %s: %w", topic, err)
	}
	from, end := local.Changelog, ends[w.partition]
	switch {
	case !known:
		from = 0
	case from > end:
		w.Logger.Error("the local state is ahead of Kafka, which has lost data; rebuilding it from the changelog", "task", w.task.name, "partition", w.partition, "local", from, "kafka", end)
		from = 0
	case w.task.forgotten(local, committed, starts[w.partition], time.Now()):
		w.Logger.Info("the local state is older than the changelog remembers; rebuilding it", "task", w.task.name, "partition", w.partition)
		from = 0
	}
	if from == 0 {
		if err := w.part.Reset(); err != nil {
			return fmt.Errorf("clear partition %d of task %s: %w", w.partition, w.task.name, err)
		}
	}
	progress := restoreProgress{worker: w, total: end - from, said: time.Now()}
	next, err := w.Cluster.ReadToEnd(ctx, topic, w.partition, from, func(r *pipeline.Record) error {
		progress.count()
		return w.part.Apply(r)
	})
	if err != nil {
		var newer *state.NewerFormatError
		if errors.As(err, &newer) {
			return fmt.Errorf("%w: %w", errStopped, err)
		}
		return fmt.Errorf("restore partition %d of task %s: %w", w.partition, w.task.name, err)
	}
	if err := w.part.Flush(next); err != nil {
		return fmt.Errorf("write the restored state of partition %d of task %s: %w", w.partition, w.task.name, err)
	}
	w.Step("restored")
	return nil
}

// forgotten tells whether the changelog may have forgotten something that the local store has missed: the records before
// start, or in a compacted one the delete markers of a key. What the store holds since the group's last transaction misses
// nothing, however long ago that was, and one that has never seen a record has no key that could be deleted.
func (t *task) forgotten(local state.Position, committed uint64, start int64, now time.Time) bool {
	switch {
	case local.Number == committed && committed > 0, local.StreamTime == 0:
		return false
	case local.Changelog < start:
		return true
	}
	return t.compacted && now.Sub(pipeline.Millis(local.StreamTime)) > tombstones/2
}

// restoreProgress tells the operator about long restores.
type restoreProgress struct {
	worker      *worker
	done, total int64
	said        time.Time
}

func (p *restoreProgress) count() {
	p.done++
	if p.done%4096 == 0 && time.Since(p.said) > 5*time.Second {
		p.said = time.Now()
		p.worker.Logger.Info("restoring", "task", p.worker.task.name, "partition", p.worker.partition, "records", p.done, "of_about", p.total)
	}
}
