// Package oracle is the naive answer: what the pipeline's results must be, computed with one thread, in memory, in the plainest
// way. It imports no stage and nothing of the engine, so that a mistake there is not repeated here.
package oracle

import (
	"bytes"
	"maps"
	"slices"
)

// ID is an identifier or a profile.
type ID = [16]byte

// Type is what people depend on of an identifier type. The first byte of an ID is the code.
type Type struct {
	Code     byte
	Limit    int // identifiers of the type per person; 0: any number
	SharedBy int // stronger identifiers per value; 0: any number
}

// Operation is one operation of the link log: "link", "unlink", "block", "unblock", "erase".
type Operation struct {
	Op       string
	A, B     ID   // the stronger and the weaker one; of block, unblock and erase A
	Operator bool // link: asked for by a person, so it ends an unlink
}

// People is who is who after a prefix of the log.
type People struct {
	types     []Type // strongest first
	canon     map[ID]ID
	changed   map[ID]uint64 // canonical → offset of the last change of its members
	unusable  map[ID]bool
	ambiguous map[ID]bool
	edges     map[[2]ID]bool // value: holds, not denied
	blocked   map[ID]bool    // by an operator
	erased    map[ID]ID      // erased identifier → whoever has its value now
	erasures  map[ID]uint64  // erased identifier → offset of the operation

	// Next gives the id of whoever has the value of an identifier after the operation at an offset erased it.
	Next func(id ID, offset uint64) ID
}

// NewPeople returns people of whom nothing is known.
func NewPeople(types []Type) *People {
	return &People{types: types, canon: map[ID]ID{}, changed: map[ID]uint64{}, unusable: map[ID]bool{}, ambiguous: map[ID]bool{}, edges: map[[2]ID]bool{},
		blocked: map[ID]bool{}, erased: map[ID]ID{}, erasures: map[ID]uint64{}}
}

// Person is the canonical identifier of an identifier.
func (p *People) Person(id ID) ID {
	if c, ok := p.canon[id]; ok {
		return c
	}
	return id
}

// Changed is the offset of the last operation that changed the members of a person.
func (p *People) Changed(person ID) uint64 { return p.changed[person] }

// Apply applies the operation at an offset and returns the identifiers whose person is another one now, with the person before.
//
// Somebody who is erased moves to nobody, and is not returned.
func (p *People) Apply(o Operation, offset uint64) map[ID]ID {
	a, b := p.Now(o.A), p.Now(o.B)
	if (a != o.A || b != o.B) && o.Op == "link" && !o.Operator {
		return nil // said of somebody who is erased
	}
	if o.A, o.B = a, b; o.B != (ID{}) && p.compare(a, b) > 0 && (o.Op == "unlink" || o.Operator) {
		o.A, o.B = b, a
	}
	before := map[ID]ID{}
	for _, id := range p.all(o) {
		before[id] = p.Person(id)
	}
	edge := [2]ID{o.A, o.B}
	holds, known := p.edges[edge]
	switch o.Op {
	case "link":
		switch {
		case known && (holds || !o.Operator):
		case known:
			p.edges[edge] = true
			p.derive(o.A, o.B)
		default:
			p.edges[edge] = true
			p.link(o.A, o.B)
		}
	case "unlink":
		if !known || holds {
			p.edges[edge] = false
			p.derive(o.A, o.B)
		}
	case "block", "unblock":
		if block := o.Op == "block"; p.unusable[o.A] != block {
			p.unusable[o.A] = block
			p.derive(o.A)
		}
		p.blocked[o.A] = o.Op == "block"
	case "erase":
		p.erase(o.A, offset)
	}
	moved := map[ID]ID{}
	for id, was := range before {
		if _, gone := p.erased[id]; gone {
			continue
		}
		if now := p.Person(id); now != was {
			moved[id] = was
			p.changed[now], p.changed[was] = offset, offset
		}
	}
	return moved
}

func (p *People) all(o Operation) []ID {
	list := []ID{o.A, o.B}
	for e := range p.edges {
		list = append(list, e[0], e[1])
	}
	return list
}

// Now is whoever has the value of an identifier now.
func (p *People) Now(id ID) ID {
	for {
		next, gone := p.erased[id]
		if !gone {
			return id
		}
		id = next
	}
}

// Erased tells by which operation an identifier was erased.
func (p *People) Erased(id ID) (offset uint64, gone bool) {
	offset, gone = p.erasures[id]
	return offset, gone
}

// AllErased are the identifiers that were erased.
func (p *People) AllErased() []ID { return slices.Collect(maps.Keys(p.erased)) }

// erase forgets all identifiers of a person and every link of one of them.
func (p *People) erase(id ID, offset uint64) {
	person := p.Person(id)
	gone := map[ID]bool{id: true}
	for m, c := range p.canon {
		if c == person {
			gone[m] = true
		}
	}
	var others []ID
	for e := range p.edges {
		if gone[e[0]] || gone[e[1]] {
			delete(p.edges, e)
			others = append(others, e[0], e[1])
		}
	}
	for m := range gone {
		next := p.Next(m, offset)
		p.erased[m], p.erasures[m] = next, offset
		p.unusable[next], p.blocked[next] = p.blocked[m], p.blocked[m]
		delete(p.canon, m)
		delete(p.ambiguous, m)
	}
	p.derive(slices.DeleteFunc(others, func(m ID) bool { return gone[m] })...)
}

func (p *People) link(a, b ID) {
	if p.unusable[a] || p.unusable[b] {
		return
	}
	if t := p.typeOf(b); t.SharedBy > 0 && p.sharedBy(b) > t.SharedBy {
		p.unusable[b] = true
		p.derive(a, b)
		return
	}
	if !p.join(a, b) {
		p.ambiguous[b] = true
	}
}

// join makes one person of two and tells whether the limits allow it.
func (p *People) join(a, b ID) bool {
	ca, cb := p.Person(a), p.Person(b)
	if ca == cb {
		return true
	}
	both := map[ID]bool{ca: true, cb: true}
	for id, c := range p.canon {
		if c == ca || c == cb {
			both[id] = true
		}
	}
	for _, t := range p.types {
		n := 0
		for id := range both {
			if id[0] == t.Code {
				n++
			}
		}
		if t.Limit > 0 && n > t.Limit {
			return false
		}
	}
	winner := ca
	if p.compare(cb, ca) < 0 {
		winner = cb
	}
	for id := range both {
		p.canon[id] = winner
	}
	return true
}

func (p *People) sharedBy(b ID) (n int) {
	for e, holds := range p.edges {
		if e[1] == b && holds {
			n++
		}
	}
	return n
}

// derive makes everybody anew whom the seeds reach over links or as members of one person.
func (p *People) derive(seeds ...ID) {
	region := map[ID]bool{}
	for _, id := range seeds {
		region[id] = true
	}
	for grown := true; grown; {
		grown = false
		add := func(id ID) {
			if !region[id] {
				region[id], grown = true, true
			}
		}
		for id, c := range p.canon {
			if region[id] {
				add(c)
			} else if region[c] {
				add(id)
			}
		}
		for e, holds := range p.edges {
			if holds && !p.unusable[e[0]] && !p.unusable[e[1]] && (region[e[0]] || region[e[1]]) {
				add(e[0])
				add(e[1])
			}
		}
	}
	for id := range region {
		delete(p.canon, id)
		delete(p.ambiguous, id)
	}
	var edges [][2]ID
	for e, holds := range p.edges {
		if holds && region[e[0]] && !p.unusable[e[0]] && !p.unusable[e[1]] {
			edges = append(edges, e)
		}
	}
	slices.SortFunc(edges, func(x, y [2]ID) int {
		if c := p.compare(x[0], y[0]); c != 0 {
			return c
		}
		return p.compare(x[1], y[1])
	})
	for _, e := range edges {
		if !p.join(e[0], e[1]) {
			p.ambiguous[e[1]] = true
		}
	}
}

// Resolve is the primary and the person of an event with these identifiers, strongest first. nobody stands for the person
// whom an ambiguous identifier may mean.
func (p *People) Resolve(ids []ID, nobody func(ID) ID) (primary, person ID) {
	ids = p.now(ids)
	for _, id := range ids {
		switch {
		case p.unusable[id]:
			continue
		case p.ambiguous[id]:
			return nobody(id), nobody(id)
		}
		return id, p.Person(id)
	}
	return nobody(ids[0]), nobody(ids[0])
}

// Unknown are the links that an event with these identifiers, strongest first, states for the first time.
func (p *People) Unknown(ids []ID) (links [][2]ID) {
	hub, found := ID{}, false
	for _, id := range p.now(ids) {
		switch {
		case p.unusable[id]:
		case !found:
			if hub, found = id, true; p.ambiguous[id] {
				return nil
			}
		default:
			if _, known := p.edges[[2]ID{hub, id}]; !known && id != hub {
				links = append(links, [2]ID{hub, id})
			}
		}
	}
	return links
}

// now are the identifiers of an event with those who have their values now, strongest first.
func (p *People) now(ids []ID) []ID {
	list := make([]ID, len(ids))
	for i, id := range ids {
		list[i] = p.Now(id)
	}
	slices.SortFunc(list, p.compare)
	return list
}

func (p *People) typeOf(id ID) Type {
	for _, t := range p.types {
		if t.Code == id[0] {
			return t
		}
	}
	return Type{}
}

func (p *People) compare(a, b ID) int {
	ra, rb := p.rank(a), p.rank(b)
	if ra != rb {
		return ra - rb
	}
	return bytes.Compare(a[:], b[:])
}

func (p *People) rank(id ID) int {
	for i, t := range p.types {
		if t.Code == id[0] {
			return i
		}
	}
	return len(p.types) + int(id[0])
}

// Clone returns a copy.
func (p *People) Clone() *People {
	return &People{types: p.types, canon: maps.Clone(p.canon), changed: maps.Clone(p.changed), unusable: maps.Clone(p.unusable),
		ambiguous: maps.Clone(p.ambiguous), edges: maps.Clone(p.edges),
		blocked: maps.Clone(p.blocked), erased: maps.Clone(p.erased), erasures: maps.Clone(p.erasures), Next: p.Next}
}
