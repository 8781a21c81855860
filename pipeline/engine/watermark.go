package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// watermark says how far time has come for the timers of this process: every event that was received at or before it has
// been through the profile task, in all partitions and on all machines. It never goes back. It is safe for concurrent use.
//
// It is found once a second per process, from Kafka alone. A reading takes the clock, then what the groups resolve and
// profile have committed, then the ends of `events` and `resolved`. The order makes it true:
//
//   - An event below resolve's committed offset is in `resolved`, below the end that was read after it. That end is the high
//     water mark: the offset of a transaction may be visible some moments before its records are, to those who read
//     committed records only, and those records lie above their end.
//   - An event at or above that offset is one that waits in `events`. Its partition has committed a stream time S, and resolve
//     never lets time go back within a partition, so the event counts as received at S or later.
//   - A partition of `events` where nothing waits has no such event. One that comes later is received later than the clock of
//     the reading, less clockSlack for what a source has stamped and not produced yet, and for clocks that differ.
//
// So a reading promises the smallest of that clock and of S − 1 ms over the partitions where something waits, provided that
// profile has passed the ends of `resolved`. Where it has, the promise holds at once: in a pipeline at rest, also one whose
// sources are down, time goes on with the clock. Else it is kept until a later reading finds that profile has passed them. In
// a partition that has never committed S is unknown, and time stands still while something waits there.
//
// Ends count transaction markers and aborted records as records, so a group passes them only because workers commit their
// progress over these too (broker.SubscriberConfig.Idle). What profile itself sends on to other partitions through `resolved`,
// when people merge and split, is above those ends: it alone may come later than a timer that it would have prevented.
type watermark struct {
	mu      sync.Mutex
	at      int64 // Unix milliseconds; 0: not known yet
	changed chan struct{}
}

const (
	watermarkGap     = time.Second      // between two readings
	watermarkTimeout = 10 * time.Second // of one reading: then it is too old to be of use
	clockSlack       = time.Second
)

func newWatermark() *watermark { return &watermark{changed: make(chan struct{})} }

// read returns the watermark and a channel that is closed when it has moved on.
func (w *watermark) read() (at int64, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at, w.changed
}

// raise moves the watermark on.
func (w *watermark) raise(at int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at <= w.at {
		return
	}
	w.at = at
	close(w.changed)
	w.changed = make(chan struct{})
}

// runWatermark finds the watermark until ctx ends. While Kafka is away it stands still.
func (e *engine) runWatermark(ctx context.Context) error {
	f := &frontier{}
	for {
		r, err := e.reading(ctx)
		if err == nil {
			e.watermark.raise(f.take(r))
			e.Step("time read")
		} else {
			e.Logger.Debug("the watermark stands still", "error", err)
		}
		if err := pipeline.Sleep(ctx, watermarkGap); err != nil {
			return err
		}
	}
}

// reading asks Kafka how far the tasks are.
func (e *engine) reading(ctx context.Context) (*reading, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, watermarkTimeout, errors.New("a reading of the watermark took too long"))
	defer cancel()
	r := &reading{clock: e.Now().UnixMilli()}
	parts := make([]int32, e.plan.Partitions)
	for i := range parts {
		parts[i] = int32(i)
	}
	events, resolved := e.topic("events"), e.topic("resolved")
	committed, err := e.Cluster.CommittedSoFar(ctx, e.topic(pipeline.TaskResolve), events, parts)
	if err != nil {
		return nil, err
	}
	if r.resolve, err = allProgress(committed); err != nil {
		return nil, fmt.Errorf("read the positions of task %s: %w", pipeline.TaskResolve, err)
	}
	if committed, err = e.Cluster.CommittedSoFar(ctx, e.topic(pipeline.TaskProfile), resolved, parts); err != nil {
		return nil, err
	}
	if r.profile, err = allProgress(committed); err != nil {
		return nil, fmt.Errorf("read the positions of task %s: %w", pipeline.TaskProfile, err)
	}
	if r.events, err = e.Cluster.Ends(ctx, events, parts, false); err != nil {
		return nil, err
	}
	r.resolved, err = e.Cluster.Ends(ctx, resolved, parts, false)
	return r, err
}

// reading is what Kafka knew, each field read after the one before. Maps are by partition.
type reading struct {
	clock            int64 // Unix milliseconds
	resolve, profile map[int32]progress
	events, resolved map[int32]int64 // ends
}

// progress is what a group has committed for a partition.
type progress struct {
	offset     int64 // -1: nothing
	streamTime int64 // Unix milliseconds; 0: not known
}

// allProgress reads what the workers commit, see groupPosition.
func allProgress(committed map[int32]broker.Position) (map[int32]progress, error) {
	all := make(map[int32]progress, len(committed))
	for partition, at := range committed {
		p := progress{offset: at.Offset}
		if f := strings.Fields(at.Metadata); len(f) == 3 && f[0] == metadataFormat {
			var err error
			if p.streamTime, err = strconv.ParseInt(f[2], 10, 64); err != nil {
				return nil, fmt.Errorf("read the stream time of partition %d: %w", partition, err)
			}
		}
		all[partition] = p
	}
	return all, nil
}

// frontier turns readings into a watermark. It is used by one goroutine.
type frontier struct {
	at       int64 // the watermark, Unix milliseconds
	promised int64 // becomes the watermark once profile has passed ends; 0: nothing
	ends     map[int32]int64
}

// take returns the watermark after a reading. A promise that is not kept yet stays until it is: newer ones would be kept later
// still, and for ever too late if profile is behind all the time.
func (f *frontier) take(r *reading) int64 {
	if f.promised > 0 && passed(r.profile, f.ends) {
		f.at, f.promised = f.promised, 0
	}
	if promise := r.promise(); f.promised == 0 && promise > f.at {
		f.promised, f.ends = promise, r.resolved
		if passed(r.profile, f.ends) {
			f.at, f.promised = f.promised, 0
		}
	}
	return f.at
}

// promise is the time up to which all events are below the ends of `resolved`.
func (r *reading) promise() int64 {
	promise := r.clock - clockSlack.Milliseconds()
	for partition, end := range r.events {
		if at := r.resolve[partition]; waits(at, end) {
			promise = min(promise, at.streamTime-1)
		}
	}
	return promise
}

// waits tells whether there is something between a committed offset and an end. An offset above the end is of a topic that
// was lost and made again: nothing is known of what is in it.
func waits(at progress, end int64) bool { return at.offset != end && (at.offset >= 0 || end > 0) }

// passed tells whether everything below the ends is done.
func passed(done map[int32]progress, ends map[int32]int64) bool {
	for partition, end := range ends {
		if end > 0 && done[partition].offset < end {
			return false
		}
	}
	return true
}
