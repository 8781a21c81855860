package links

import (
	"fmt"
	"slices"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// applier applies operations to a graph.
type applier struct {
	*graph
	rules *Settings
	moved map[pipeline.ID]pipeline.ID // by the operation in hand: identifier → the profile it was in
}

// apply applies one operation. Whatever the operation, the same log gives the same people.
func (a *applier) apply(o *Operation, offset uint64) (*Outcome, error) {
	out := &Outcome{Offset: offset, Op: o.Op, Reason: o.Reason, By: o.MessageID}
	if o.At != nil {
		out.At = *o.At
	} else {
		out.At = time.UnixMilli(0).UTC()
	}
	a.moved = map[pipeline.ID]pipeline.ID{}
	switch o.Op {
	case OpLink, OpUnlink:
		l, ok := a.meant(o)
		if !ok {
			break
		}
		out.Strong, out.Weak = l.Strong, l.Weak
		out.From, out.Into = a.profile(l.Weak), a.profile(l.Strong)
		if o.Op == OpLink {
			a.link(l, o.MessageID == "", out)
		} else {
			a.unlink(l)
		}
	case OpBlock, OpUnblock:
		out.Strong = a.current(*o.ID)
		out.From = a.profile(out.Strong)
		out.Into = out.From
		a.block(out.Strong, o.Op == OpBlock)
	case OpErase:
		a.erase(a.current(*o.ID), out)
	}
	a.finish(out)
	return out, a.err
}

// link joins the profiles of two identifiers, unless a limit forbids it. byOperator: it also ends an earlier unlink.
func (a *applier) link(l pipeline.Link, byOperator bool, out *Outcome) {
	denied := a.denied(l)
	if a.hasLink(l) && !(denied && byOperator) {
		return // a repeated link changes nothing
	}
	a.setLink(l, false)
	flags, shared := a.state(l.Weak)
	a.setState(l.Weak, flags, shared+1)
	if denied {
		a.derive(l.Strong, l.Weak)
		if a.profile(l.Strong) != a.profile(l.Weak) {
			out.Kind, out.Reason = Refused, "a limit, or an identifier that is blocked or shared by too many, forbids it"
		}
		return
	}
	if !a.usable(l.Strong) || !a.usable(l.Weak) {
		out.Kind, out.Reason = Refused, "one of the identifiers is blocked or shared by too many"
		return
	}
	if limit := a.rules.typeOf(l.Weak).SharedBy; limit > 0 && shared+1 > limit {
		a.setFlag(l.Weak, flagQuarantined, true)
		a.derive(l.Strong, l.Weak)
		out.Kind, out.Reason = Quarantined, fmt.Sprintf("more than %d stronger identifiers share this %s", limit, a.rules.typeOf(l.Weak).Name)
		return
	}
	from, into := a.profile(l.Weak), a.profile(l.Strong)
	if from == into {
		return
	}
	if reason := a.join(from, into); reason != "" {
		a.setFlag(l.Weak, flagAmbiguous, true)
		out.Kind, out.Reason = Refused, reason
		return
	}
	out.Kind = Merge
}

// join makes one profile of two, or says which limit forbids it.
func (a *applier) join(x, y pipeline.ID) (refused string) {
	members := append(a.members(x), a.members(y)...)
	for _, t := range a.rules.Types {
		n := 0
		for _, m := range members {
			if m[0] == t.Code {
				n++
			}
		}
		if t.Limit > 0 && n > t.Limit {
			return fmt.Sprintf("a profile has at most %d %s", t.Limit, t.Name)
		}
	}
	winner, loser := x, y
	if a.rules.Compare(y, x) < 0 {
		winner, loser = y, x
	}
	for _, m := range a.members(loser) {
		a.note(m, loser)
	}
	a.dissolve(loser)
	a.setProfile(winner, members)
	return ""
}

// note keeps the profile in which the operation found an identifier.
func (a *applier) note(id, profile pipeline.ID) {
	if _, ok := a.moved[id]; !ok {
		a.moved[id] = profile
	}
}

func (a *applier) unlink(l pipeline.Link) {
	if a.denied(l) {
		return
	}
	if a.hasLink(l) {
		flags, shared := a.state(l.Weak)
		a.setState(l.Weak, flags, max(shared-1, 0))
	}
	a.setLink(l, true)
	a.derive(l.Strong, l.Weak)
}

func (a *applier) block(id pipeline.ID, on bool) {
	flags, shared := a.state(id)
	next := flags &^ (flagBlocked | flagQuarantined)
	if on {
		next = flags | flagBlocked
	}
	if next == flags {
		return
	}
	was := a.usable(id)
	a.setState(id, next, shared)
	if a.usable(id) != was {
		a.derive(id)
	}
}

// finish notes the change in the profiles that lost or gained members, and fills the outcome's rows.
func (a *applier) finish(out *Outcome) {
	for id, from := range a.moved {
		if to := a.profile(id); to != from {
			out.Rows = append(out.Rows, Row{ID: id, From: from, To: to})
		}
	}
	slices.SortFunc(out.Rows, func(x, y Row) int { return slices.Compare(x.ID[:], y.ID[:]) })
	for _, profile := range out.Touched() {
		a.setChanged(profile, out.Offset)
		for _, m := range a.members(profile) {
			a.touched[m] = true
		}
	}
	for _, r := range out.Rows {
		a.touched[r.ID] = true
	}
	if len(out.Rows) > 0 && out.Kind == Nothing {
		out.Kind = Split
		if a.joined(out) {
			out.Kind = Merge
		}
	}
}

// joined tells whether all that a link has done is to make one profile of two: one that ends an unlink derives, like what
// takes people apart.
func (a *applier) joined(out *Outcome) bool {
	if out.Op != OpLink || out.From == out.Into || a.profile(out.Strong) != a.profile(out.Weak) {
		return false
	}
	return !slices.ContainsFunc(out.Rows, func(r Row) bool { return r.From != out.Rows[0].From || r.To != out.Rows[0].To })
}

// Touched are the profiles that lost or gained members, in the order of their ids.
func (o *Outcome) Touched() []pipeline.ID {
	var list []pipeline.ID
	for _, r := range o.Rows {
		list = append(list, r.From, r.To)
	}
	slices.SortFunc(list, func(a, b pipeline.ID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(list)
}
