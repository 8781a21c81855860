package stagetest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/state"
)

// Runner runs one partition of a pipeline's stages. Records of `events` go in; lines that say what became of each come out.
type Runner struct {
	// Refuse, if set, is asked at the end of each task whether the event is to be refused there, after all stages have had it.
	Refuse func(task string, ev *pipeline.Event) bool
	// Held are the profiles that are being regrouped, as the profile task is told.
	Held map[pipeline.ID]bool

	t       testing.TB
	plan    *Plan
	dir     string
	resolve *task
	profile *task

	lines     []string // committed
	open      []string // of the running transaction
	profiles  map[pipeline.ID]bool
	people    people
	clock     clock
	rebuilds  int
	processed int64 // records so far, the offset of the next
}

// task is one task's stages and store.
type task struct {
	name      string
	plans     []pipeline.StagePlan
	retention state.Retention
	store     *state.Store
	partition *state.Partition
	tx        *state.Transaction
	steps     []*step
	changelog []pipeline.Record
	number    uint64
	now       int64
	keys      map[foldedKey]func() pipeline.Folded // every folded key that was ever touched
	out       func(ev *pipeline.Event) error
	messages  []pipeline.Message
	dropped   string
	wake      time.Time // the earliest that a stage asked for during the event; zero: none
}

type foldedKey struct {
	code byte
	key  string
}

// New builds the stages and opens a store for each task in a temporary folder.
func New(t testing.TB, kinds []pipeline.StageKind, stages string) *Runner {
	t.Helper()
	plan, problems, err := Build(kinds, stages)
	if err != nil || len(problems) > 0 {
		t.Fatalf("build stages: %v %q", err, problems)
	}
	r := &Runner{t: t, plan: plan, dir: t.TempDir(), profiles: map[pipeline.ID]bool{}, people: newPeople(), clock: newClock()}
	r.resolve = &task{name: pipeline.TaskResolve, plans: plan.Resolve, retention: state.DeletedByTime}
	r.profile = &task{name: pipeline.TaskProfile, plans: plan.Profile, retention: state.Compacted}
	for _, k := range []*task{r.resolve, r.profile} {
		k.keys = map[foldedKey]func() pipeline.Folded{}
		r.openTask(k, filepath.Join(r.dir, k.name))
	}
	t.Cleanup(func() { r.close() })
	return r
}

func (r *Runner) openTask(k *task, dir string) {
	r.t.Helper()
	var err error
	if k.store, err = state.Open(dir, state.Options{Retention: k.retention, MemtableBytes: 1 << 20}); err != nil {
		r.t.Fatal(err)
	}
	if k.partition, err = k.store.Partition("input", 0); err != nil {
		r.t.Fatal(err)
	}
	r.begin(k, true)
}

// begin starts a transaction, with new stages if fresh is set.
func (r *Runner) begin(k *task, fresh bool) {
	k.tx = k.partition.Begin()
	if fresh {
		k.steps = nil
		for i, p := range k.plans {
			stage := p.New()
			if linker, ok := stage.(pipeline.Linker); ok {
				linker.Use(&r.people)
			}
			k.steps = append(k.steps, &step{task: k, at: i, kind: p.Kind, code: p.Code, stage: stage})
		}
	}
	for _, s := range k.steps {
		s.tx = &watchedTx{Tx: k.tx.Stage(s.code), code: s.code, keys: k.keys}
	}
}

func (r *Runner) close() {
	for _, k := range []*task{r.resolve, r.profile} {
		if err := errors.Join(k.partition.Close(), k.store.Close()); err != nil {
			r.t.Error(err)
		}
	}
}

// Feed takes records through both tasks, within the running transactions. Before each record the profiles are evaluated that
// asked for it at a time until then.
func (r *Runner) Feed(records ...pipeline.Record) {
	r.t.Helper()
	for i := range records {
		rec := records[i]
		r.fire(&rec)
		rec.Offset = r.processed
		r.processed++
		var ev pipeline.Event
		parse := func() *pipeline.RejectError { return pipeline.ParseEventRecord(&rec, &ev) }
		if !r.one(r.resolve, &ev, parse) {
			continue
		}
		r.say(&ev, "resolved time=%s%s primary=%s", ev.Time.Format(pipeline.TimeFormat), flags(&ev), shortID(ev.Primary))
		if len(r.profile.steps) == 0 {
			continue
		}
		value := pipeline.AppendResolved(nil, &ev, 0)
		var resolved pipeline.Event
		r.one(r.profile, &resolved, func() *pipeline.RejectError {
			_, rej := pipeline.ParseResolved(&pipeline.Record{Value: value, Offset: rec.Offset}, &resolved)
			r.people.assign(&resolved)
			resolved.Held = r.Held[resolved.Canonical]
			return rej
		})
	}
}

// one takes an event through one task, and tells whether it came out at the end.
func (r *Runner) one(k *task, ev *pipeline.Event, parse func() *pipeline.RejectError) bool {
	k.tx.Savepoint()
	k.messages, k.dropped, k.wake = k.messages[:0], "", time.Time{}
	through := false
	k.out = func(ev *pipeline.Event) error {
		if r.Refuse != nil && r.Refuse(k.name, ev) {
			return pipeline.Reject("refused", "by the test")
		}
		through = true
		return nil
	}
	var err error
	if rej := parse(); rej != nil {
		err = rej
	} else {
		k.now = max(k.now, ev.ReceivedAt.UnixMilli())
		ev.ReceivedAt = pipeline.Millis(k.now)
		err = errors.Join(k.enter(0, ev), k.tx.Err())
	}
	var rej *pipeline.RejectError
	switch {
	case errors.As(err, &rej):
		k.tx.RollbackToSavepoint()
		r.say(ev, "dead %s: %s", rej.Stage+"/"+rej.Code, rej.Reason)
		return false
	case err != nil:
		r.t.Fatalf("offset %d: %v", ev.Offset, err)
	case k.dropped != "":
		r.say(ev, "dropped %s", k.dropped)
	case k == r.profile:
		r.clock.set(ev, k.wake)
		r.tellProfile(ev)
	}
	return through
}

func (r *Runner) tellProfile(ev *pipeline.Event) {
	if p := ev.Profile; p == nil {
		r.say(ev, "no profile")
	} else {
		r.profiles[p.ID] = !p.Empty
		r.say(ev, "profile %s version=%d%s changed=%v segments=%v", shortID(p.ID), p.Version, map[bool]string{true: " created"}[p.Created], ev.Changed, p.Segments)
	}
	r.tellMessages(ev)
}

func (r *Runner) tellMessages(ev *pipeline.Event) {
	for i := range r.profile.messages {
		m := &r.profile.messages[i]
		r.say(ev, "%s %s", shortID(m.ProfileID), m.AppendJSON(nil))
	}
}

// say adds a line about an event.
func (r *Runner) say(ev *pipeline.Event, format string, args ...any) {
	r.open = append(r.open, ev.MessageID+": "+fmt.Sprintf(format, args...))
}

func flags(ev *pipeline.Event) string {
	if ev.Late {
		return " late"
	}
	return ""
}

func shortID(id pipeline.ID) string { return id.String()[:8] }

// Commit commits the running transactions.
func (r *Runner) Commit() {
	r.t.Helper()
	for _, k := range []*task{r.resolve, r.profile} {
		k.number++
		pos := state.Position{Offsets: r.processed, StreamTime: k.now, Number: k.number}
		err := k.tx.Changelog(pos, func(key, value []byte) {
			rec := pipeline.Record{Offset: int64(len(k.changelog)), Key: bytes.Clone(key)}
			if value != nil {
				rec.Value = append([]byte{}, value...)
			}
			k.changelog = append(k.changelog, rec)
		})
		pos.Changelog = int64(len(k.changelog))
		if err = errors.Join(err, k.tx.Commit(pos)); err != nil {
			r.t.Fatal(err)
		}
		r.begin(k, false)
	}
	r.lines, r.open = append(r.lines, r.open...), nil
	r.clock.commit()
}

// Undo discards the running transactions. The stages stay, with what they have in memory. The records since the last Commit
// have to be fed again.
func (r *Runner) Undo() {
	r.open, r.processed = nil, r.resolve.committed().Offsets
	r.clock.undo()
	for _, k := range []*task{r.resolve, r.profile} {
		k.tx.Discard()
		k.now = k.committed().StreamTime
		r.begin(k, false)
	}
}

func (k *task) committed() state.Position {
	pos, _ := k.partition.Position()
	return pos
}

// Crash discards the running transactions and the stages.
func (r *Runner) Crash() {
	r.Undo()
	for _, k := range []*task{r.resolve, r.profile} {
		r.begin(k, true)
	}
}

// Replan goes on with the stages of another plan, as after an edit of the configuration. The tasks keep their state.
func (r *Runner) Replan(plan *Plan) {
	r.plan, r.resolve.plans, r.profile.plans = plan, plan.Resolve, plan.Profile
	r.Crash()
}

// Rebuild crashes, and restores the stores from their changelogs into empty folders.
func (r *Runner) Rebuild() {
	r.t.Helper()
	r.Crash()
	r.close()
	r.rebuilds++
	for _, k := range []*task{r.resolve, r.profile} {
		r.openTask(k, filepath.Join(r.dir, fmt.Sprintf("%s-%d", k.name, r.rebuilds)))
		k.tx.Discard()
		for i := range k.changelog {
			if err := k.partition.Apply(&k.changelog[i]); err != nil {
				r.t.Fatal(err)
			}
		}
		if err := k.partition.Flush(int64(len(k.changelog))); err != nil {
			r.t.Fatal(err)
		}
		r.begin(k, true)
	}
}

// Lines returns what was said about committed events.
func (r *Runner) Lines() []string { return slices.Clone(r.lines) }

// State returns the contents of both stores as text, one key a line: plain values, and the encoded form of folded ones.
func (r *Runner) State() string {
	return r.resolve.state(r.t) + r.profile.state(r.t)
}

func (k *task) state(t testing.TB) string {
	t.Helper()
	var lines []string
	for _, s := range k.steps {
		err := s.tx.Scan(nil, func(key, value []byte) error {
			lines = append(lines, fmt.Sprintf("%s plain %x = %x", s.kind, key, value))
			return nil
		})
		if err != nil && len(k.keys) == 0 {
			t.Fatal(err)
		}
	}
	for at, empty := range k.keys {
		object, err := k.tx.Stage(at.code).Load([]byte(at.key), empty)
		if err != nil {
			t.Fatal(err)
		}
		if encoded := object.Encode(nil); !bytes.Equal(encoded, empty().Encode(nil)) {
			lines = append(lines, fmt.Sprintf("%s folded %d %s = %s", k.name, at.code, hex.EncodeToString([]byte(at.key)), hex.EncodeToString(encoded)))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n"
}

// Profiles returns the documents of all profiles, sorted: what a CRM would see if all were sent now.
func (r *Runner) Profiles() []string {
	r.t.Helper()
	var docs []string
	for id, live := range r.profiles {
		if !live || len(r.people.members[id]) == 0 && r.people.members[id] != nil {
			continue
		}
		docs = append(docs, string(r.Profile(id).AppendJSON(nil)))
	}
	sort.Strings(docs)
	return docs
}

// Profile evaluates a profile and returns it, nil if it does not exist.
func (r *Runner) Profile(id pipeline.ID) *pipeline.Profile {
	r.t.Helper()
	ev := r.evaluation(id, pipeline.Millis(r.profile.now), "")
	r.profile.out = func(*pipeline.Event) error { return nil }
	if err := r.profile.enter(0, ev); err != nil {
		r.t.Fatal(err)
	}
	return ev.Profile
}

// step is a stage in its task, and what the stage emits to.
type step struct {
	task  *task
	at    int
	kind  string
	code  byte
	stage pipeline.Stage
	tx    pipeline.Tx
	ended int
}

func (k *task) enter(at int, ev *pipeline.Event) error {
	if at == len(k.steps) {
		return k.out(ev)
	}
	s := k.steps[at]
	s.ended = 0
	err := s.stage.Process(context.Background(), s.tx, ev, s)
	var rej *pipeline.RejectError
	if errors.As(err, &rej) {
		if rej.Stage == "" {
			rej.Stage = s.kind
		}
		return err
	}
	if err == nil && s.ended != 1 {
		return fmt.Errorf("stage %s ended the event %d times", s.kind, s.ended)
	}
	return err
}

func (s *step) Event(ev *pipeline.Event) error {
	s.ended++
	return s.task.enter(s.at+1, ev)
}

func (s *step) Message(m pipeline.Message) { s.task.messages = append(s.task.messages, m) }

func (s *step) Wake(at time.Time) {
	if k := s.task; k.wake.IsZero() || at.Before(k.wake) {
		k.wake = at
	}
}

// Drop ends the event.
func (s *step) Drop(reason string) {
	s.ended++
	s.task.dropped = s.kind + "/" + reason
}

// watchedTx notes the folded keys, which a store cannot list.
type watchedTx struct {
	pipeline.Tx
	code byte
	keys map[foldedKey]func() pipeline.Folded
}

func (w *watchedTx) Load(key []byte, empty func() pipeline.Folded) (pipeline.Folded, error) {
	w.keys[foldedKey{w.code, string(key)}] = empty
	return w.Tx.Load(key, empty)
}

func (w *watchedTx) Merge(key []byte, empty func() pipeline.Folded, delta []byte) (pipeline.Folded, error) {
	w.keys[foldedKey{w.code, string(key)}] = empty
	return w.Tx.Merge(key, empty, delta)
}
