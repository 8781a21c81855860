package profile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Layout of a full state. Integers are varints unless a width is given; fixed ones are big endian. A string is its length
// (uvarint) and its bytes.
//
//	byte 0    format, 1
//	uvarint   updates
//	varint    first, last: Unix milliseconds
//	uvarint   number of identifiers; each: string type, string value, varint first seen
//	uvarint   number of traits;      each: string name, stamp, value
//	uvarint   number of aggregates;  each: byte op, string name, content
//
//	stamp     byte 0: the same as the one before; or byte 1, varint Unix milliseconds, string message id
//	value     byte kind, string text
//	content   count: uvarint · sum: varint · avg: varint sum, uvarint count · min, max: 8 bytes, IEEE 754
//	          minTime, maxTime: varint · first, latest: stamp, value
//	          unique: byte 0, uvarint number, 8 bytes each, sorted; or byte 1 and 4096 registers of a byte
//	          with over (op + 32): see window.encode · sequence, sessions, top, recent, union: see
//	          encode of sequence, sessions, list
//	          what scores need: see decayed and purchases
//
// Layout of a delta, which is what one event says:
//
//	byte 0    format, 1
//	byte      1 if it counts as an update, else 0; or 2: the rest is the full state of a fragment that comes to this one; or 3:
//	          it counts as an update, and there is no rest
//	          varint Unix milliseconds, string message id: the stamp of everything below
//	rest      byte 'i', string type, string value
//	          byte 't', string name, value
//	          byte 'a', byte op, string name, and to fold: count: uvarint · sum, minTime, maxTime: varint ·
//	            avg: varint, uvarint count · min, max: 8 bytes · first, latest: value · unique: 8 bytes, the hash
//	            with over: varint over in milliseconds, then what it would be without
//	            sequence: varint within in milliseconds, uvarint repeats, uvarint number of steps, uvarint: a bit for each that
//	            this event is · sessions: varint gap in milliseconds · top, recent, union: string, a value
const (
	format = 1

	deltaIdentifier = 'i'
	deltaTrait      = 't'
	deltaAggregate  = 'a'
	deltaAbsorb     = 2 // in place of the update flag
	deltaTick       = 3
)

var errMalformed = errors.New("malformed")

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendValue(dst []byte, v value) []byte { return appendString(append(dst, v.kind), v.text) }

// Encode appends the full state.
func (s *state) Encode(dst []byte) []byte {
	dst = append(dst, format)
	dst = binary.AppendUvarint(dst, s.updates)
	dst = binary.AppendVarint(dst, s.first)
	dst = binary.AppendVarint(dst, s.last)
	dst = binary.AppendUvarint(dst, uint64(len(s.identifiers)))
	for i := range s.identifiers {
		x := &s.identifiers[i]
		dst = binary.AppendVarint(appendString(appendString(dst, x.typ), x.value), x.first)
	}
	var before stamp
	dst = binary.AppendUvarint(dst, uint64(len(s.traits)))
	for i := range s.traits {
		t := &s.traits[i]
		dst = appendStamp(appendString(dst, t.name), t.at, &before)
		dst = appendValue(dst, t.value)
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.aggregates)))
	for i := range s.aggregates {
		a := &s.aggregates[i]
		dst = appendString(append(dst, byte(a.op)), a.name)
		if a.content != nil {
			dst = a.content.encode(dst, a.op)
			continue
		}
		switch a.op {
		case opCount:
			dst = binary.AppendUvarint(dst, a.count)
		case opSum, opMinTime, opMaxTime:
			dst = binary.AppendVarint(dst, a.number)
		case opAvg:
			dst = binary.AppendUvarint(binary.AppendVarint(dst, a.number), a.count)
		case opMin, opMax:
			dst = binary.BigEndian.AppendUint64(dst, uint64(a.number))
		case opFirst, opLatest:
			dst = appendValue(appendStamp(dst, a.stamped.at, &before), a.stamped.value)
		}
	}
	return dst
}

func appendStamp(dst []byte, at stamp, before *stamp) []byte {
	if at == *before {
		return append(dst, 0)
	}
	*before = at
	return appendString(binary.AppendVarint(append(dst, 1), at.ms), at.id)
}

// encode appends the set.
func (d *distinct) encode(dst []byte, _ op) []byte {
	if d.registers != nil {
		return append(append(dst, 1), d.registers...)
	}
	dst = binary.AppendUvarint(append(dst, 0), uint64(len(d.hashes)))
	for _, h := range d.hashes {
		dst = binary.BigEndian.AppendUint64(dst, h)
	}
	return dst
}

// Decode replaces the contents with a full state.
func (s *state) Decode(full []byte) error {
	// One copy, of which all strings are parts.
	r := reader{s: string(full)}
	if f := r.byte(); f != format {
		return formatError("profile state", f)
	}
	*s = state{updates: r.uvarint(), first: r.varint(), last: r.varint()}
	s.identifiers = make([]identifier, r.length())
	for i := range s.identifiers {
		s.identifiers[i] = identifier{r.string(), r.string(), r.varint()}
	}
	var before stamp
	s.traits = make([]trait, r.length())
	for i := range s.traits {
		s.traits[i] = trait{r.string(), r.stamp(&before), r.value()}
	}
	s.aggregates = make([]aggregate, r.length())
	for i := range s.aggregates {
		r.aggregate(&s.aggregates[i], &before)
	}
	if r.bad || r.s != "" {
		return fmt.Errorf("decode profile state: %w", errMalformed)
	}
	return nil
}

func formatError(what string, f byte) error {
	return fmt.Errorf("%s has format %d, this build reads format %d: upgrade it", what, f, format)
}

// Fold applies one delta.
func (s *state) Fold(bytes []byte) error {
	r := reader{s: string(bytes)}
	if f := r.byte(); f != format {
		return formatError("profile delta", f)
	}
	s.folds++
	kind := r.byte()
	switch kind {
	case deltaTick:
		s.updates++
		return nil
	case deltaAbsorb:
		var o state
		if err := o.Decode([]byte(r.s)); err != nil {
			return err
		}
		s.absorb(&o)
		s.trim()
		return nil
	}
	s.updates += uint64(kind)
	at := stamp{ms: r.varint()}
	at.id = strings.Clone(r.string())
	s.first, s.last = min(s.first, at.ms), max(s.last, at.ms)
	next := 0 // aggregate
	for r.s != "" && !r.bad {
		switch r.byte() {
		case deltaIdentifier:
			s.addIdentifier(strings.Clone(r.string()), strings.Clone(r.string()), at.ms)
		case deltaTrait:
			s.setTrait(strings.Clone(r.string()), at, r.value().clone())
		case deltaAggregate:
			o, name := op(r.byte()), r.string()
			i, found := s.findAggregate(name, o, next)
			if !found {
				s.aggregates = insert(s.aggregates, i, aggregate{name: strings.Clone(name), op: o})
			}
			if err := s.aggregates[i].fold(at, &r, !found); err != nil {
				return err
			}
			next = i + 1
		default:
			r.bad = true
		}
	}
	if r.bad {
		return fmt.Errorf("fold profile delta: %w", errMalformed)
	}
	return nil
}

func (v value) clone() value { return value{v.kind, strings.Clone(v.text)} }

// fold applies what a delta says about one attribute; first says that it has no content yet.
func (a *aggregate) fold(at stamp, r *reader, first bool) error {
	if a.op.isWindow() {
		return a.foldWindow(at, r)
	}
	switch a.op {
	case opCount:
		a.count += r.uvarint()
	case opSum:
		a.number = clampedSum(a.number, r.varint())
	case opAvg:
		a.number = clampedSum(a.number, r.varint())
		a.count += r.uvarint()
	case opMin, opMax:
		x := math.Float64frombits(r.fixed64())
		if first || x < a.float() == (a.op == opMin) {
			a.number = int64(math.Float64bits(x))
		}
	case opMinTime, opMaxTime:
		x := r.varint()
		if first || x < a.number == (a.op == opMinTime) {
			a.number = x
		}
	case opFirst, opLatest:
		if v := r.value(); a.supersededBy(at, v) {
			a.stamped = &stamped{at, v.clone()}
		}
	case opUnique:
		if a.content == nil {
			a.content = &distinct{}
		}
		a.set().add(r.fixed64())
	case opDecayed, opPurchases:
		if a.content == nil {
			a.content = a.op.newPast()
		}
		a.past().fold(r)
	case opSequence:
		return a.foldSequence(at, r)
	case opSessions:
		return a.foldSessions(at, r)
	case opTop, opRecent, opUnion:
		if a.content == nil {
			a.content = &list{}
		}
		l := a.values()
		*l = l.add(a.op, listed{strings.Clone(r.string()), 1, at.ms}.only(a.op))
	default:
		return fmt.Errorf("fold profile delta: operation %d is not known to this build: upgrade it", a.op)
	}
	return nil
}

// foldWindow is fold for an attribute with over.
func (a *aggregate) foldWindow(at stamp, r *reader) error {
	over := r.varint()
	e := r.entry(a.op)
	e.at = at.ms
	w := a.window()
	if w == nil {
		w = newWindow(over)
		a.content = w
	}
	if r.bad || over <= 0 || over != w.over {
		return fmt.Errorf("fold profile delta: %w", errMalformed)
	}
	w.add(a.op, e)
	return nil
}

// reader takes fields off the front of s; after the first error everything is zero.
type reader struct {
	s   string
	bad bool
}

func (r *reader) take(n uint64) string {
	if r.bad || n > uint64(len(r.s)) {
		r.bad, r.s = true, ""
		return ""
	}
	t := r.s[:n]
	r.s = r.s[n:]
	return t
}

func (r *reader) byte() byte {
	if t := r.take(1); t != "" {
		return t[0]
	}
	return 0
}

func (r *reader) string() string { return r.take(r.uvarint()) }

// length is the number of entries that follow; each has at least two bytes.
func (r *reader) length() int {
	n := r.uvarint()
	if n > uint64(len(r.s)/2) {
		r.bad, r.s = true, ""
		return 0
	}
	return int(n)
}

func (r *reader) uvarint() (v uint64) {
	for shift := 0; shift < 64; shift += 7 {
		b := r.byte()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	r.bad = true
	return 0
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) fixed64() (v uint64) {
	for _, b := range []byte(r.take(8)) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (r *reader) value() value { return value{r.byte(), r.string()} }

func (r *reader) stamp(before *stamp) stamp {
	if r.byte() == 1 {
		*before = stamp{r.varint(), r.string()}
	}
	return *before
}

func (r *reader) aggregate(a *aggregate, before *stamp) {
	a.op, a.name = op(r.byte()), r.string()
	if a.op.isWindow() {
		a.content = r.window(a.op)
		return
	}
	switch a.op {
	case opCount:
		a.count = r.uvarint()
	case opSum, opMinTime, opMaxTime:
		a.number = r.varint()
	case opAvg:
		a.number, a.count = r.varint(), r.uvarint()
	case opMin, opMax:
		a.number = int64(r.fixed64())
	case opFirst, opLatest:
		a.stamped = &stamped{r.stamp(before), r.value()}
	case opUnique:
		d := &distinct{}
		r.distinct(d)
		a.content = d
	case opDecayed, opPurchases:
		p := a.op.newPast()
		p.read(r)
		a.content = p
	case opSequence:
		a.content = r.sequence()
	case opSessions:
		a.content = r.sessions()
	case opTop, opRecent, opUnion:
		a.content = r.list(a.op)
	default:
		r.bad = true
	}
}

func (r *reader) distinct(d *distinct) {
	if r.byte() == 1 {
		if d.registers = []byte(r.take(1 << precision)); len(d.registers) == 0 {
			return
		}
		for _, rank := range d.registers {
			if rank > 64-precision+1 {
				r.bad = true
				return
			}
		}
		d.estimate = estimate(d.registers)
		return
	}
	d.hashes = make([]uint64, r.length())
	for i := range d.hashes {
		d.hashes[i] = r.fixed64()
	}
}
