package links

import (
	"encoding/binary"
	"slices"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// An erased identifier means nobody any more, for ever: what still comes under its id was said of the person who is erased. Whoever
// comes with the same value later has another id, the successor, of which nothing is known. So nobody has to tell by the clock
// whether something belongs to the old person or to the new one.

// Erasure is one identifier that an operation erased.
type Erasure struct {
	ID        pipeline.ID `json:"id"`
	Origin    pipeline.ID `json:"origin"`    // the id that follows from the value; another one than ID if it was erased before
	Successor pipeline.ID `json:"successor"` // the id of whoever comes with the value from now on
}

// Successor is the id that stands for an identifier's value after the operation at an offset erased it. It keeps the code
// of the type.
func Successor(id pipeline.ID, offset uint64) pipeline.ID {
	next := pipeline.HashID([]byte("erased"), id[:], binary.BigEndian.AppendUint64(nil, offset))
	next[0] = id[0]
	return next
}

// erase forgets a person: the identifiers, their links, whether an operator took them back or not, and that they were refused or
// shared by too many. That one is blocked stays: it is said of the value. Those who were linked with the person, and were not
// a part of it, are made anew without these links.
func (a *applier) erase(id pipeline.ID, out *Outcome) {
	profile := a.profile(id)
	out.Kind, out.Strong, out.From = Erased, id, profile
	members := a.members(profile)
	var others []pipeline.ID
	for _, m := range members {
		for _, l := range a.linksOf(m) {
			if !a.denied(l) {
				flags, shared := a.state(l.Weak)
				a.setState(l.Weak, flags, max(shared-1, 0))
			}
			a.dropLink(l)
			for _, end := range []pipeline.ID{l.Strong, l.Weak} {
				if !slices.Contains(members, end) {
					others = append(others, end)
				}
			}
		}
	}
	a.dissolve(profile)
	a.delete(key(keyChanged, profile))
	for _, m := range members {
		e := Erasure{ID: m, Origin: a.origin(m), Successor: Successor(m, out.Offset)}
		flags, _ := a.state(m)
		a.set(key(keyProfile, m), e.Successor[:])
		a.setState(m, flagErased, 0)
		a.set(key(keyOrigin, e.Successor), e.Origin[:])
		a.setState(e.Successor, flags&flagBlocked, 0)
		out.Erased = append(out.Erased, e)
	}
	a.set([]byte{keyErased}, []byte{})
	a.derive(others...)
}

// current is the id that stands for an identifier now: itself, unless it was erased.
func (g *graph) current(id pipeline.ID) pipeline.ID {
	for {
		flags, _ := g.state(id)
		next := g.profile(id)
		if flags&flagErased == 0 || next == id || g.err != nil {
			return id
		}
		id = next
	}
}

// origin is the id that follows from the identifier's value.
func (g *graph) origin(id pipeline.ID) pipeline.ID {
	if v := g.get(key(keyOrigin, id)); len(v) == 16 {
		return pipeline.ID(v)
	}
	return id
}

// dropLink forgets that the log has had the link.
func (g *graph) dropLink(l pipeline.Link) {
	g.delete(key(keyEdge, l.Strong, l.Weak))
	g.delete(key(keyReverse, l.Weak, l.Strong))
	g.dropped = true
}

// meant is the link that an operation is about now. What an event stated of somebody before the erasure is no link any more;
// the worker that wrote it learns of the erasure at once and states it anew. An operator means whoever has the values now.
func (a *applier) meant(o *Operation) (l pipeline.Link, ok bool) {
	l = pipeline.Link{Strong: a.current(*o.Strong), Weak: a.current(*o.Weak)}
	if l.Strong == *o.Strong && l.Weak == *o.Weak {
		return l, true
	}
	if a.rules.Compare(l.Strong, l.Weak) > 0 {
		l.Strong, l.Weak = l.Weak, l.Strong
	}
	return l, o.MessageID == ""
}

// now are an event's identifiers as they are to be taken now, strongest first: ids, unless one of them was erased. The caller
// holds mu.
func (r *Replica) now(ids []pipeline.Identifier) ([]pipeline.Identifier, error) {
	if !r.erased {
		return ids, nil
	}
	same := true
	for i := range ids {
		id, err := r.successor(ids[i].ID)
		if err != nil {
			return nil, err
		}
		if id == ids[i].ID {
			continue
		}
		if same {
			ids, same = slices.Clone(ids), false
		}
		ids[i].ID = id
	}
	if !same {
		slices.SortStableFunc(ids, func(x, y pipeline.Identifier) int { return r.Rules.Compare(x.ID, y.ID) })
	}
	return ids, nil
}

// successor is the id that stands for an identifier now.
func (r *Replica) successor(id pipeline.ID) (pipeline.ID, error) {
	for {
		p, err := r.find(id)
		if err != nil || !p.erased() || p.profile == id {
			return id, err
		}
		id = p.profile
	}
}

// Current is the id that stands for an identifier now: itself, unless it was erased. erased tells that it was.
func (r *Replica) Current(id pipeline.ID) (current pipeline.ID, erased bool, err error) {
	if err := r.enter(); err != nil {
		return id, false, err
	}
	defer r.leave()
	r.mu.RLock()
	defer r.mu.RUnlock()
	current, err = r.successor(id)
	return current, current != id, err
}

// Known tells whether the log has said anything of an identifier: a link, that it is blocked, or that it was erased. Most
// identifiers are never linked, so that it has not means little.
func (r *Replica) Known(id pipeline.ID) (bool, error) {
	if err := r.enter(); err != nil {
		return false, err
	}
	defer r.leave()
	r.mu.RLock()
	defer r.mu.RUnlock()
	g := newGraph(r.db)
	flags, shared := g.state(id)
	known := flags != 0 || shared > 0 || g.origin(id) != id || len(g.linksOf(id)) > 0
	return known && id != uuid.Nil, g.err
}
