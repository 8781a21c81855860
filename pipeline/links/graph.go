package links

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// Keys of the store. An identifier that was never linked, blocked or counted has none.
//
//	i id            → profile, 16 bytes; absent: the id itself. Of an erased one: its successor
//	m profile       → the members, 16 bytes each, sorted by id; absent: the profile's own id alone
//	v profile       → offset of the operation that changed its members last, 8 bytes; absent: 0
//	e strong weak   → byte 0, or 1 if an operator took the link back
//	f weak strong   → nothing: the same link from the other end
//	b id            → of a successor: the id that follows from the value, 16 bytes
//	x               → nothing: somebody was erased
//	s id            → byte of flags, then how many links lead to it from stronger ones (uvarint)
//	o offset        → JSON of the outcome, until the regroup task is through
//	~               → position, see replica.go
const (
	keyProfile = 'i'
	keyMembers = 'm'
	keyChanged = 'v'
	keyEdge    = 'e'
	keyReverse = 'f'
	keyState   = 's'
	keyOutcome = 'o'
	keyOrigin  = 'b'
	keyErased  = 'x'
	keyPlace   = '~'

	flagBlocked     = 1 // by an operator
	flagQuarantined = 2 // shared by too many
	flagAmbiguous   = 4 // the weak end of a refused link
	flagErased      = 8 // alone
)

// graph reads and writes the store for the one goroutine that applies the log: the writes of the batch in hand lie over it.
// After the first error everything reads as absent; err tells.
type graph struct {
	db      *pebble.DB
	writes  map[string][]byte               // nil: deleted
	links   map[pipeline.ID][]pipeline.Link // added in this batch, by either end
	touched map[pipeline.ID]bool            // what a cache may have wrong after the batch
	dropped bool                            // links were dropped in this batch
	err     error
}

func newGraph(db *pebble.DB) *graph {
	return &graph{db: db, writes: map[string][]byte{}, links: map[pipeline.ID][]pipeline.Link{}, touched: map[pipeline.ID]bool{}}
}

func key(kind byte, ids ...pipeline.ID) []byte {
	k := make([]byte, 1, 33)
	k[0] = kind
	for _, id := range ids {
		k = append(k, id[:]...)
	}
	return k
}

func (g *graph) get(k []byte) []byte {
	if v, ok := g.writes[string(k)]; ok {
		return v
	}
	v, err := read(g.db, k)
	if err != nil && g.err == nil {
		g.err = err
	}
	return v
}

// read copies a value, nil if absent.
func read(db *pebble.DB, k []byte) ([]byte, error) {
	v, closer, err := db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the links: %w", err)
	}
	defer closer.Close()
	return append([]byte{}, v...), nil
}

func (g *graph) set(k, v []byte) { g.writes[string(k)] = v }

func (g *graph) delete(k []byte) { g.writes[string(k)] = nil }

// profile is the profile that an identifier belongs to.
func (g *graph) profile(id pipeline.ID) pipeline.ID {
	if v := g.get(key(keyProfile, id)); len(v) == 16 {
		return pipeline.ID(v)
	}
	return id
}

// members are the identifiers of a profile.
func (g *graph) members(profile pipeline.ID) []pipeline.ID {
	v := g.get(key(keyMembers, profile))
	if len(v) == 0 {
		return []pipeline.ID{profile}
	}
	ids := make([]pipeline.ID, len(v)/16)
	for i := range ids {
		copy(ids[i][:], v[16*i:])
	}
	return ids
}

// setProfile makes members, which hold the profile's own id, one profile.
func (g *graph) setProfile(profile pipeline.ID, members []pipeline.ID) {
	slices.SortFunc(members, func(a, b pipeline.ID) int { return slices.Compare(a[:], b[:]) })
	v := make([]byte, 0, 16*len(members))
	for _, m := range members {
		v = append(v, m[:]...)
		if m == profile {
			g.delete(key(keyProfile, m))
		} else {
			g.set(key(keyProfile, m), profile[:])
		}
	}
	if len(members) == 1 {
		g.delete(key(keyMembers, profile))
	} else {
		g.set(key(keyMembers, profile), v)
	}
}

// dissolve forgets the members of a profile that is about to be made anew, or of one that is no more.
func (g *graph) dissolve(profile pipeline.ID) { g.delete(key(keyMembers, profile)) }

// setChanged notes that the members of a profile changed at that offset.
func (g *graph) setChanged(profile pipeline.ID, offset uint64) {
	g.set(key(keyChanged, profile), binary.BigEndian.AppendUint64(nil, offset))
}

// hasLink tells whether the log has had the link.
func (g *graph) hasLink(l pipeline.Link) bool { return g.get(key(keyEdge, l.Strong, l.Weak)) != nil }

// denied tells whether an operator took the link back.
func (g *graph) denied(l pipeline.Link) bool {
	v := g.get(key(keyEdge, l.Strong, l.Weak))
	return len(v) == 1 && v[0] == 1
}

func (g *graph) setLink(l pipeline.Link, denied bool) {
	isNew := !g.hasLink(l)
	v := []byte{0}
	if denied {
		v[0] = 1
	}
	g.set(key(keyEdge, l.Strong, l.Weak), v)
	if isNew {
		g.set(key(keyReverse, l.Weak, l.Strong), []byte{})
		g.links[l.Strong] = append(g.links[l.Strong], l)
		g.links[l.Weak] = append(g.links[l.Weak], l)
	}
}

// linksOf are all links of an identifier, denied ones too.
func (g *graph) linksOf(id pipeline.ID) []pipeline.Link {
	found := map[pipeline.Link]bool{}
	for _, l := range g.links[id] {
		found[l] = true
	}
	for _, kind := range []byte{keyEdge, keyReverse} {
		g.scan(key(kind, id), func(k []byte) {
			l := pipeline.Link{Strong: id, Weak: pipeline.ID(k[17:33])}
			if kind == keyReverse {
				l.Strong, l.Weak = l.Weak, l.Strong
			}
			found[l] = true
		})
	}
	if g.dropped {
		maps.DeleteFunc(found, func(l pipeline.Link, _ bool) bool { return !g.hasLink(l) })
	}
	return slices.Collect(maps.Keys(found))
}

func (g *graph) scan(prefix []byte, fn func(key []byte)) {
	it, err := g.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err == nil {
		for ok := it.First(); ok; ok = it.Next() {
			fn(it.Key())
		}
		err = it.Close()
	}
	if err != nil && g.err == nil {
		g.err = fmt.Errorf("scan the links: %w", err)
	}
}

// after is the first key behind all keys with the prefix.
func after(prefix []byte) []byte {
	k := slices.Clone(prefix)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i]++; k[i] != 0 {
			return k[:i+1]
		}
	}
	return nil
}

func (g *graph) state(id pipeline.ID) (flags byte, shared int) {
	v := g.get(key(keyState, id))
	if len(v) == 0 {
		return 0, 0
	}
	n, _ := binary.Uvarint(v[1:])
	return v[0], int(n)
}

func (g *graph) setState(id pipeline.ID, flags byte, shared int) {
	g.touched[id] = true
	if flags == 0 && shared == 0 {
		g.delete(key(keyState, id))
		return
	}
	g.set(key(keyState, id), binary.AppendUvarint([]byte{flags}, uint64(shared)))
}

func (g *graph) setFlag(id pipeline.ID, flag byte, on bool) {
	flags, shared := g.state(id)
	if (flags&flag != 0) == on {
		return
	}
	g.setState(id, flags^flag, shared)
}

// usable tells whether the identifier says anything about a person.
func (g *graph) usable(id pipeline.ID) bool {
	flags, _ := g.state(id)
	return flags&(flagBlocked|flagQuarantined) == 0
}
