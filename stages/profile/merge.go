package profile

import (
	"math"
	"slices"
)

// absorb adds all that another state holds. It is commutative and associative, limits included: fragments in any order and
// grouping give the state of all their events in one. The other state stays as it is, and shares nothing with this one.
//
// A sum that would be beyond an int64 stays at its end: an event that would lead there is refused, but two fragments may be
// below it each.
func (s *state) absorb(o *state) {
	s.folds++
	s.updates += o.updates
	s.first, s.last = min(s.first, o.first), max(s.last, o.last)
	for i := range o.identifiers {
		x := &o.identifiers[i]
		s.addIdentifier(x.typ, x.value, x.first)
	}
	for i := range o.traits {
		t := &o.traits[i]
		s.setTrait(t.name, t.at, t.value)
	}
	next := 0
	for i := range o.aggregates {
		x := &o.aggregates[i]
		at, found := s.findAggregate(x.name, x.op, next)
		if !found {
			s.aggregates = insert(s.aggregates, at, x.clone())
		} else {
			s.aggregates[at].absorb(x)
		}
		next = at + 1
	}
}

// absorb adds the content of the same attribute in another state.
func (a *aggregate) absorb(o *aggregate) {
	if a.content != nil {
		a.content.absorb(a.op, o.content)
		return
	}
	switch a.op {
	case opCount:
		a.count += o.count
	case opSum, opAvg:
		a.number = clampedSum(a.number, o.number)
		a.count += o.count
	case opMin, opMax:
		if x := o.float(); x < a.float() == (a.op == opMin) {
			a.number = o.number
		}
	case opMinTime:
		a.number = min(a.number, o.number)
	case opMaxTime:
		a.number = max(a.number, o.number)
	case opFirst, opLatest:
		if a.supersededBy(o.stamped.at, o.stamped.value) {
			a.stamped = o.stamped
		}
	}
}

func (a *aggregate) clone() aggregate {
	c := *a
	if a.content != nil {
		c.content = a.content.clone()
	}
	return c
}

// clone is a copy that can be changed without changing this one.
func (s *state) clone() *state {
	c := *s
	c.identifiers, c.traits = slices.Clone(s.identifiers), slices.Clone(s.traits)
	c.aggregates = make([]aggregate, len(s.aggregates), len(s.aggregates)+1)
	for i := range s.aggregates {
		c.aggregates[i] = s.aggregates[i].clone()
	}
	return &c
}

// trim takes away what a store could not hold: the last traits, then the last attributes, in the order of their names. Only
// two fragments that become one can be so large.
func (s *state) trim() {
	for s.Size() > maxMemoryBytes && len(s.traits) > 0 {
		s.traits = s.traits[:len(s.traits)-1]
	}
	for s.Size() > maxMemoryBytes && len(s.aggregates) > 0 {
		s.aggregates = s.aggregates[:len(s.aggregates)-1]
	}
}

// clampedSum adds two sums; beyond an int64 it is the end of the range.
func clampedSum(a, b int64) int64 {
	sum, ok := addMicros(a, b)
	switch {
	case ok:
		return sum
	case b > 0:
		return math.MaxInt64
	}
	return math.MinInt64
}

func (d *distinct) clone() content {
	return &distinct{hashes: slices.Clone(d.hashes), registers: slices.Clone(d.registers), estimate: d.estimate}
}

// absorb makes the set the union of both.
func (d *distinct) absorb(_ op, c content) {
	o := c.(*distinct)
	if o.registers == nil {
		for _, h := range o.hashes {
			d.add(h)
		}
		return
	}
	if d.registers == nil {
		hashes := d.hashes
		*d = *o.clone().(*distinct)
		for _, h := range hashes {
			d.raise(h)
		}
	} else {
		for i, r := range o.registers {
			d.registers[i] = max(d.registers[i], r)
		}
	}
	d.estimate = estimate(d.registers)
}
