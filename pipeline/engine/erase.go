package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// How a person is forgotten. The link log gives each identifier of the person another id from that operation on, so the old ids
// are of the erased person alone:
//
//   - The regroup task tells the erased profile, in log order as it tells all changes, that all its members leave, to nobody; so it
//     tells the profiles of those who may be any of several people, one for each member. The tables it tells all the ids.
//   - The profile takes this turn after the answers to all earlier ones: then all that was ever kept of its members is there. It
//     deletes that, and says profile.erased if anybody has heard of it. Nothing follows.
//   - What stays is a pointer to nobody for each id. An event that a worker has resolved before it knew of the operation comes
//     under an old id: it meets the pointer and is dropped. One that was resolved later is somebody else's.

// idsPerErasure bounds one message that tells the tables who was erased.
const idsPerErasure = 1000

// erase produces the records of an operation that erased a person.
func (j *regroupJob) erase(w *work, o *links.Outcome) {
	gone := func(profile pipeline.ID, members ...pipeline.ID) {
		g := pipeline.Regroup{Offset: o.Offset, Profile: profile, Kind: o.Kind, Rule: o.Op, Reason: o.Reason, MessageID: o.By, Now: w.now}
		for _, m := range members {
			g.Leave = append(g.Leave, pipeline.Leave{ID: m}) // to nobody
		}
		w.out = append(w.out, pipeline.Record{Topic: "resolved", Partition: -1, Key: pipeline.AppendID(nil, profile), Value: g.Append(nil)})
	}
	members := make([]pipeline.ID, len(o.Erased))
	for i := range o.Erased {
		members[i] = o.Erased[i].ID
	}
	gone(o.From, members...)
	for _, m := range members {
		nobody := j.plan.Identities.Ambiguous(m)
		gone(nobody, nobody)
	}
}

// erasure is one id in the message that tells the tables who was erased.
type erasure struct {
	links.Erasure
	Nobody pipeline.ID `json:"ambiguous"` // the profile of those whom the identifier may have meant
}

// tellErased produces what the tables need to forget a person. It comes before profile.erased, in the same partition.
func (j *regroupJob) tellErased(w *work, o *links.Outcome) error {
	index := 0
	for part := range slices.Chunk(o.Erased, idsPerErasure) {
		list := make([]erasure, len(part))
		for i, e := range part {
			list[i] = erasure{Erasure: e, Nobody: j.plan.Identities.Ambiguous(e.ID)}
		}
		data, err := json.Marshal(map[string]any{"log_offset": o.Offset, "profile_id": o.From, "at": o.At.UTC().Format(pipeline.TimeFormat), "ids": list})
		if err != nil {
			return fmt.Errorf("encode the erasure at offset %d of the links: %w", o.Offset, err)
		}
		j.say(w, pipeline.IdentityErased, o.From, data, o.Offset, index)
		index++
	}
	return nil
}

// erases tells that the turn is the erasure of its profile.
func (t *turn) erases() bool {
	return t.kind == links.Erased && len(t.leave) > 0 && t.leave[0].To == uuid.Nil
}

// erase deletes all that is kept of a profile, but that its ids were erased.
func (j *profileJob) erase(ctx context.Context, o *roster, t *turn) error {
	known := false
	for _, l := range t.leave {
		if at, ok := o.fragment(l.ID); ok {
			contents, err := j.chain.take(o.profile, l.ID)
			if err != nil {
				return err
			}
			known = known || len(contents) > 0
			o.fragments = slices.Delete(o.fragments, at, at+1)
		}
		o.point(l.ID, uuid.Nil, t.offset)
	}
	if err := j.unlearn(o.profile); err != nil {
		return err
	}
	decisions, err := j.end(ctx, o, t)
	if err != nil {
		return err
	}
	if known || len(decisions) > 0 { // else nobody has heard of the profile
		j.tellOne(j.people(pipeline.ProfileErased, o.profile, "", uuid.Nil, t))
	}
	return j.timers.set(o.profile, never)
}
