package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/state"
)

// timers is when the profiles of one partition are to be looked at although no event comes: at most one timer each, in the
// profile task's store, under a stage code that no stage has. It is written in the transaction of the event whose stages
// asked (pipeline.Emit.Wake), so it survives restarts, lost folders and moves of the partition as all state does.
//
//	't' time (8 bytes, big endian, Unix milliseconds) profile (16 bytes)   nothing
//	'p' profile                                                           format, 1; time (8 bytes)
//
// In memory is only a bound: nothing is due before next. So a partition without timers reads and writes nothing, and a scan
// starts where the last one has ended, not at all that was removed since.
type timers struct {
	tx    *state.Transaction
	keys  pipeline.Tx
	after uint64 // number of the transaction before this one
	known bool   // next is right
	next  int64  // Unix milliseconds; never if there are no timers

	index, own, value []byte // scratch
}

// timer is one that is due.
type timer struct {
	at      int64 // Unix milliseconds
	profile pipeline.ID
}

const (
	codeTimers byte = 0 // stages have codes from 1
	spaceTimes byte = 't'
	spaceOwn   byte = 'p'

	formatTimer = 1
	never       = math.MaxInt64

	// timersPerTransaction bounds what is added to a transaction when many timers are due at once; the rest follows in the
	// next ones, with the records that have come meanwhile.
	timersPerTransaction = 1000
)

// begin goes on in the transaction w. If the one before was not committed, what it made of next is forgotten.
func (t *timers) begin(w *work) {
	t.tx, t.keys = w.tx, w.tx.Stage(codeTimers)
	if w.after == t.after {
		t.known = false
	}
	t.after = w.after
}

// take returns up to limit timers that are due at that time, in order. The caller removes each.
func (t *timers) take(at int64, limit int) (due []timer, err error) {
	from := t.next
	switch {
	case !t.known:
		from = 0
	case at < t.next:
		return nil, nil
	}
	t.known, t.next = true, never
	err = t.tx.ScanFrom(codeTimers, []byte{spaceTimes}, indexKey(nil, from, pipeline.ID{}), func(key, _ []byte) error {
		if len(key) != 1+8+16 {
			return fmt.Errorf("a timer's key has %d bytes", len(key))
		}
		d := timer{at: int64(binary.BigEndian.Uint64(key[1:]))}
		copy(d.profile[:], key[9:])
		if d.at > at || len(due) == limit {
			t.next = d.at
			return errEnough
		}
		due = append(due, d)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		t.known = false
		return nil, fmt.Errorf("read timers: %w", err)
	}
	return due, nil
}

// remove removes a timer that take has returned.
func (t *timers) remove(d timer) {
	t.index = indexKey(t.index, d.at, d.profile)
	t.keys.Delete(t.index)
	t.keys.Delete(append(append(t.own[:0], spaceOwn), d.profile[:]...))
}

// of returns the time of a profile's timer, never if it has none until then.
func (t *timers) of(profile pipeline.ID, until int64) (int64, error) {
	if t.known && t.next > until {
		return never, nil
	}
	t.own = append(append(t.own[:0], spaceOwn), profile[:]...)
	stored, err := t.keys.Get(t.own)
	if err != nil {
		return 0, fmt.Errorf("read a timer: %w", err)
	}
	return parseTimer(stored)
}

// parseTimer reads what is stored of a profile's timer, nil if it has none.
func parseTimer(stored []byte) (int64, error) {
	if stored == nil {
		return never, nil
	}
	if len(stored) != 9 || stored[0] != formatTimer {
		return 0, fmt.Errorf("a timer has an unknown format; this build reads format %d", formatTimer)
	}
	return int64(binary.BigEndian.Uint64(stored[1:])), nil
}

// set gives a profile a timer in place of the one it has; never: none.
func (t *timers) set(profile pipeline.ID, at int64) error {
	if at == never && t.known && t.next == never {
		return nil
	}
	t.own = append(append(t.own[:0], spaceOwn), profile[:]...)
	stored, err := t.keys.Get(t.own)
	if err != nil {
		return fmt.Errorf("read a timer: %w", err)
	}
	old, err := parseTimer(stored)
	if err != nil {
		return err
	}
	if old == at {
		return nil
	}
	if old != never {
		t.index = indexKey(t.index, old, profile)
		t.keys.Delete(t.index)
	}
	if at == never {
		t.keys.Delete(t.own)
		return t.tx.Err()
	}
	t.index = indexKey(t.index, at, profile)
	t.value = binary.BigEndian.AppendUint64(append(t.value[:0], formatTimer), uint64(at))
	t.keys.Set(t.index, nil)
	t.keys.Set(t.own, t.value)
	t.next = min(t.next, at)
	return t.tx.Err()
}

func indexKey(dst []byte, at int64, profile pipeline.ID) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst[:0], spaceTimes), uint64(at))
	return append(dst, profile[:]...)
}

// due is now if a timer is due, else it says what to wait for.
func (j *profileJob) due() (time.Time, <-chan struct{}) {
	at, changed := j.watermark.read()
	switch {
	case !j.timers.known, j.timers.next <= at:
		return time.Unix(0, 0), nil
	case j.timers.next == never:
		return time.Time{}, nil
	}
	return time.Time{}, changed
}

// look finds the first timer.
func (j *profileJob) look(tx *state.Transaction) error {
	j.timers.tx = tx
	_, err := j.timers.take(0, 0)
	return err
}

// fire evaluates the profiles whose timers are due. They go before the records of the batch, which were received after the
// watermark.
func (j *profileJob) fire(ctx context.Context) error {
	at, _ := j.watermark.read()
	due, err := j.timers.take(at, timersPerTransaction)
	if err != nil {
		return err
	}
	refused := 0
	var last *pipeline.RejectError
	for _, d := range due {
		rej, err := j.fireOne(ctx, d)
		if err != nil {
			return err
		}
		if rej != nil {
			last = rej
			refused++
		}
	}
	if refused > 0 {
		j.Logger.Error("profiles could not be evaluated at their time; they are as they were", "profiles", refused, "stage", last.Stage, "code", last.Code, "partition", j.work.batch.Partition)
	}
	return nil
}

// fireOne evaluates the profile of a timer that is due. There is no event that could be a dead letter if a stage refuses:
// the profile's next event asks for a timer again.
func (j *profileJob) fireOne(ctx context.Context, d timer) (rej *pipeline.RejectError, _ error) {
	w := j.work
	j.timers.remove(d)
	w.tx.Savepoint()
	w.now = max(w.now, d.at)
	err := j.wake(ctx, d.profile, pipeline.Millis(d.at), pipeline.CauseTimer)
	if err == nil {
		return nil, nil
	}
	if !errors.As(err, &rej) {
		return nil, err
	}
	w.tx.RollbackToSavepoint()
	j.undone = true
	w.dropped.add(rej.Stage+"/timer_"+rej.Code, 1)
	return rej, nil
}

// fireBefore evaluates a profile at its times until then, although the watermark may not be there yet: it is about to be looked
// at as of then, and asks for a timer in place of the one that waits. So what time does to a profile comes in order, at its
// times. The event in hand stays.
func (j *profileJob) fireBefore(ctx context.Context, profile pipeline.ID, until int64) error {
	for range timersPerTransaction {
		at, err := j.timers.of(profile, until)
		if err != nil || at > until {
			return err
		}
		ev := j.ev
		_, err = j.fireOne(ctx, timer{at, profile})
		j.ev = ev
		if err != nil {
			return err
		}
		j.work.tx.Savepoint() // a refusal of the event undoes the event alone
	}
	return nil
}

// wake takes an event without a body through the stages, which look at the profile as it is at that time. Time does nothing
// to a profile that is being regrouped: the evaluation that ends the hold asks for a timer anew.
func (j *profileJob) wake(ctx context.Context, profile pipeline.ID, at time.Time, cause string) error {
	o, err := j.roster(profile, false)
	if err != nil {
		return err
	}
	j.ev = pipeline.Event{Type: pipeline.TypeEvaluate, Cause: cause, Primary: profile, Canonical: profile,
		ReceivedAt: pipeline.Millis(j.work.now), Time: at}
	j.attach(&j.ev, o)
	if j.ev.Held && cause == pipeline.CauseTimer {
		return nil
	}
	if err := j.chain.process(ctx, &j.ev); err != nil {
		return err
	}
	return j.through()
}

// through takes note of the event in hand, which is through the stages: what is to be told, and when its profile is to be
// looked at again. A profile that is being regrouped keeps its timer.
func (j *profileJob) through() error {
	j.tell(j.chain.messages)
	j.note(&j.ev)
	if err := j.announce(&j.ev); err != nil {
		return err
	}
	if j.ev.Held || j.ev.Canonical == (pipeline.ID{}) {
		return nil
	}
	return j.timers.set(j.ev.Canonical, wakeTime(j.chain.wake, j.ev.Time))
}

// wakeTime is when the event's profile is to be looked at again: not before the time that a stage asked for, and after the
// event's own, so that time goes on whatever stages ask for.
func wakeTime(asked, event time.Time) int64 {
	if asked.IsZero() {
		return never
	}
	at := asked.UnixMilli()
	if asked.After(pipeline.Millis(at)) {
		at++
	}
	return max(at, event.UnixMilli()+1, 1)
}

// looker is a job that reads its store before the first batch.
type looker interface {
	look(tx *state.Transaction) error
}

// look lets the job read its store, outside of any transaction.
func (w *worker) look() error {
	l, ok := w.job.(looker)
	if !ok {
		return nil
	}
	tx := w.part.Begin()
	defer tx.Discard()
	return l.look(tx)
}
