package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/state"
)

// runProfile runs the task that turns the records of `resolved` into profiles and the messages of `changes`.
func (e *engine) runProfile(ctx context.Context) error {
	store, err := e.openStore(pipeline.TaskProfile, state.Compacted)
	if err != nil {
		return err
	}
	t := &task{name: pipeline.TaskProfile, input: e.topic("resolved"), store: store, compacted: true, reader: e.stageReader(),
		newJob: func(int32) job { return newProfileJob(e) }}
	return errors.Join(e.runTask(ctx, t), store.Close())
}

// profileJob takes resolved events through the stages of the profile task. Stages speak per event; of a profile that
// changed several times in one transaction only the last state is told, in one profile.updated.
type profileJob struct {
	*engine
	chain *chain
	work  *work
	ev    pipeline.Event // reused

	updates map[pipeline.ID]*update
	order   []pipeline.ID // of updates, by first change
	undone  bool          // an event was rolled back: profiles seen before it may be gone
	timers  timers

	rosters, values pipeline.Tx // of the running transaction
	lately          lately

	key, value, data, meta []byte // scratch
}

// update is what is still to be told of a profile in this transaction.
type update struct {
	profile *pipeline.Profile
	created bool
	changed []string // without repeats
}

func newProfileJob(e *engine) *profileJob {
	j := &profileJob{engine: e, updates: map[pipeline.ID]*update{}}
	j.chain = newChain(e.plan.Profile, func(*pipeline.Event) error { return nil }, e.Logger)
	return j
}

func (j *profileJob) process(ctx context.Context, w *work) error {
	j.work = w
	clear(j.updates)
	j.order, j.undone = j.order[:0], false
	j.chain.begin(w)
	j.rosters, j.values = w.tx.Stage(codeRegroup), w.tx.Stage(codeValues)
	j.lately.begin()
	j.timers.begin(w)
	if err := j.fire(ctx); err != nil {
		return err
	}
	for i := range w.batch.Records {
		r := &w.batch.Records[i]
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
		j.undone = true
		w.refuse(j.engine, "resolved", r, rej, &j.ev)
	}
	if j.undone {
		if err := j.lookAgain(ctx); err != nil {
			return err
		}
	}
	j.tellUpdates()
	return nil
}

// one takes a record. Only events can be refused.
func (j *profileJob) one(ctx context.Context, r *pipeline.Record) error {
	switch pipeline.ResolvedKind(r) {
	case pipeline.KindRegroup:
		return broken(j.regroup(ctx, r))
	case pipeline.KindMove:
		return broken(j.move(ctx, r))
	case pipeline.KindSighting:
		return broken(j.sighting(r))
	}
	config, rej := pipeline.ParseResolved(r, &j.ev)
	if rej != nil {
		rej.Stage = pipeline.TaskProfile
		return rej
	}
	if j.ev.Canonical != (pipeline.ID{}) {
		if err := j.fireBefore(ctx, j.ev.Canonical, max(j.work.now, j.ev.ReceivedAt.UnixMilli())); err != nil {
			return err
		}
	}
	if j.plan.Stitching && j.ev.Canonical != (pipeline.ID{}) {
		gone, err := j.place(&j.ev, config)
		if gone || err != nil {
			return err
		}
	}
	j.work.now = max(j.work.now, j.ev.ReceivedAt.UnixMilli())
	j.ev.ReceivedAt = pipeline.Millis(j.work.now)
	if err := j.chain.process(ctx, &j.ev); err != nil {
		return err
	}
	return j.through()
}

// note keeps what an event that is through has changed.
func (j *profileJob) note(ev *pipeline.Event) {
	p := ev.Profile
	if p == nil {
		return
	}
	u := j.updates[p.ID]
	if u == nil {
		// Time alone can move a profile from segment to segment: nothing else of it has changed then, and it has.
		if len(ev.Changed) == 0 && !p.Created && len(j.chain.messages) == 0 {
			return
		}
		u = j.update(p)
	}
	u.profile = p
	u.created = u.created || p.Created
	if u.changed == nil {
		u.changed = make([]string, 0, len(ev.Changed)+2)
	}
	for _, name := range ev.Changed {
		if !slices.Contains(u.changed, name) {
			u.changed = append(u.changed, name)
		}
	}
}

// update begins the notes on a profile.
func (j *profileJob) update(p *pipeline.Profile) *update {
	u := &update{profile: p}
	j.updates[p.ID] = u
	j.order = append(j.order, p.ID)
	return u
}

// forget drops what was noted of a profile: it is no more.
func (j *profileJob) forget(id pipeline.ID) {
	if j.updates[id] != nil {
		delete(j.updates, id)
		j.order = slices.DeleteFunc(j.order, func(x pipeline.ID) bool { return x == id })
	}
}

// tell produces the messages of one event.
func (j *profileJob) tell(messages []pipeline.Message) {
	for i := range messages {
		j.tellOne(&messages[i])
	}
}

func (j *profileJob) tellOne(m *pipeline.Message) {
	w := j.work
	j.key, j.value = pipeline.AppendID(j.key[:0], m.ProfileID), m.AppendJSON(j.value[:0])
	w.out = append(w.out, pipeline.Record{Topic: "changes", Partition: -1, Key: w.tx.Keep(j.key), Value: w.tx.Keep(j.value)})
}

// lookAgain evaluates the changed profiles once more after a rollback, which made the objects that were noted invalid.
// Nothing changes by it: it only finds the live objects.
func (j *profileJob) lookAgain(ctx context.Context) error {
	for _, id := range slices.Clone(j.order) {
		err := j.fireBefore(ctx, id, j.work.now)
		if err == nil {
			err = j.wake(ctx, id, pipeline.Millis(j.work.now), "")
		}
		if err != nil {
			return fmt.Errorf("evaluate a profile again: %v", err) //nolint:errorlint // not a rejection any more: no event is to blame
		}
		if j.ev.Profile == nil { // it is being regrouped: the evaluation at the end of that tells everything
			j.forget(id)
		}
	}
	return nil
}

// tellUpdates produces one profile.created or profile.updated for each profile that changed.
func (j *profileJob) tellUpdates() {
	for _, id := range j.order {
		u := j.updates[id]
		slices.Sort(u.changed)
		m := pipeline.Message{Type: pipeline.ProfileUpdated, Timestamp: pipeline.Millis(j.work.now), ProfileID: id}
		if u.created {
			m.Type = pipeline.ProfileCreated
		}
		j.meta = append(j.meta[:0], `{"version":`...)
		start := len(j.meta)
		j.meta = strconv.AppendUint(j.meta, pipeline.Sequence(u.profile.Turn, u.profile.Version), 10)
		m.ID = pipeline.HashID([]byte("profile.updated"), id[:], j.meta[start:])
		j.meta = append(j.meta, '}')
		j.data = append(u.profile.AppendJSON(append(j.data[:0], `{"profile":`...)), `,"changed":[`...)
		for i, name := range u.changed {
			if i > 0 {
				j.data = append(j.data, ',')
			}
			j.data = pipeline.AppendJSONString(j.data, name)
		}
		j.data = append(j.data, `]}`...)
		m.Data, m.Meta = j.data, j.meta
		j.tellOne(&m)
	}
}
