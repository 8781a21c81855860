package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/links"
	"github.com/millstream-io/millstream/pipeline/state"
)

// runRegroup runs the task that consumes the link log and tells the profiles, in log order, who gives what to whom: one
// record per operation and profile that gains or loses members. An operation that changes nobody tells nobody.
func (e *engine) runRegroup(ctx context.Context) error {
	store, err := e.openStore(taskRegroup, state.Compacted)
	if err != nil {
		return err
	}
	t := &task{name: taskRegroup, input: e.topic("links"), store: store, compacted: true,
		reader: broker.SubscriberConfig{MaxBytes: batchBytes, MaxRecords: 1_000, Interval: linkInterval, Idle: time.Second},
		newJob: func(int32) job { return &regroupJob{engine: e} }}
	return errors.Join(e.runTask(ctx, t), store.Close())
}

// regroupJob tells what the operations of a batch did. The replica has it; the records only say where it must be.
type regroupJob struct{ *engine }

func (j *regroupJob) due() (time.Time, <-chan struct{}) { return time.Time{}, nil }

func (j *regroupJob) process(ctx context.Context, w *work) error {
	if err := j.awaitLinks(ctx, w.batch.Next); err != nil {
		return err
	}
	if len(w.batch.Records) == 0 {
		return nil
	}
	return j.links.Outcomes(w.batch.Records[0].Offset, w.batch.Next, func(o *links.Outcome) error {
		w.now = max(w.now, o.At.UnixMilli())
		j.regroup(w, o)
		return j.tell(w, o)
	})
}

// regroup produces the records of one operation, in the order of the profiles' ids.
func (j *regroupJob) regroup(w *work, o *links.Outcome) {
	if o.Kind == links.Erased {
		j.erase(w, o)
	}
	for _, profile := range o.Touched() {
		g := pipeline.Regroup{Offset: o.Offset, Profile: profile, Kind: kindOfRows(o), Rule: o.Op, Reason: o.Reason, MessageID: o.By, Now: w.now}
		for _, r := range o.Rows {
			switch {
			case r.From == profile:
				g.Leave = append(g.Leave, pipeline.Leave{ID: r.ID, To: r.To})
			case r.To == profile && !slices.Contains(g.From, r.From):
				g.From = append(g.From, r.From)
			}
		}
		w.out = append(w.out, pipeline.Record{Topic: "resolved", Partition: -1, Key: pipeline.AppendID(nil, profile), Value: g.Append(nil)})
	}
}

// kindOfRows is what happened to those who changed their profile: if somebody was erased, those who had to do with the person.
func kindOfRows(o *links.Outcome) string {
	if o.Kind == links.Erased {
		return links.Split
	}
	return o.Kind
}

// tell produces what the tables need: what happened between profiles, and who owns each identifier now.
func (j *regroupJob) tell(w *work, o *links.Outcome) error {
	if o.Kind == links.Erased {
		if err := j.tellErased(w, o); err != nil {
			return err
		}
	}
	about := o.Weak
	if about == (pipeline.ID{}) { // block and unblock have one identifier
		about = o.Strong
	}
	for i, p := range pairs(o) {
		kind := kindOfRows(o)
		if o.Kind == links.Erased && p.into == (pipeline.ID{}) {
			kind = links.Erased
		}
		data, err := json.Marshal(map[string]any{
			"log_offset": o.Offset, "kind": kind, "from": p.from, "into": p.into, "id_type": j.typeName(about), "rule": o.Op,
			"reason": o.Reason, "message_id": o.By, "at": o.At.UTC().Format(pipeline.TimeFormat),
			"strong": o.Strong, "weak": o.Weak,
		})
		if err != nil {
			return fmt.Errorf("encode the outcome of offset %d of the links: %w", o.Offset, err)
		}
		j.say(w, pipeline.IdentityMerge, o.Strong, data, o.Offset, i)
	}
	for i, r := range o.Rows {
		data, err := json.Marshal(map[string]any{"primary_id": r.ID, "profile_id": r.To, "log_offset": o.Offset})
		if err != nil {
			return fmt.Errorf("encode the owner of an identifier, offset %d of the links: %w", o.Offset, err)
		}
		j.say(w, pipeline.IdentityOverride, r.ID, data, o.Offset, i)
	}
	return nil
}

// pair is a profile that lost identifiers, and one that they went into.
type pair struct{ from, into pipeline.ID }

// pairs are those of an operation, each once. One that moved nobody, but is worth a row, has the profiles of its two
// identifiers: those that would have become one. A person who was erased went to nobody.
func pairs(o *links.Outcome) []pair {
	if o.Kind == links.Nothing {
		return nil
	}
	var list []pair
	if len(o.Rows) == 0 || o.Kind == links.Erased {
		list = append(list, pair{o.From, o.Into})
	}
	known := map[pair]bool{}
	for _, r := range o.Rows {
		if p := (pair{r.From, r.To}); !known[p] {
			known[p] = true
			list = append(list, p)
		}
	}
	return list
}

func (j *regroupJob) say(w *work, kind string, key pipeline.ID, data []byte, offset uint64, index int) {
	m := pipeline.Message{Type: kind, Timestamp: pipeline.Millis(w.now), ProfileID: key, Data: data}
	m.ID = pipeline.HashID([]byte(kind), fmt.Appendf(nil, "%d %d", offset, index))
	w.out = append(w.out, pipeline.Record{Topic: "changes", Partition: -1, Key: pipeline.AppendID(nil, key), Value: m.AppendJSON(nil)})
}

func (j *regroupJob) typeName(id pipeline.ID) string {
	for _, t := range j.settings.Types {
		if t.Code == id[0] {
			return t.Name
		}
	}
	return ""
}
