package profile

import (
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// flagAt is where the update flag of a delta stands.
const flagAt = 1

// changes compares an event with its fragment and with the person, of which the fragment is a part or all. It returns the delta
// of the fragment, nil if the event changes nothing at all, and notes in ev what becomes different for those who read the
// person: a value that is confirmed by a later event is in the delta, because its
// time counts, but not in ev.Changed. The rejections come before anything is written.
func (s *stage) changes(st, person *state, ev *pipeline.Event) ([]byte, *pipeline.RejectError) {
	at := stamp{ev.Time.UnixMilli(), ev.MessageID}
	b := appendString(binary.AppendVarint(append(s.delta[:0], format, 0), at.ms), at.id)
	start := len(b)

	b = s.identifierChanges(b, st, person, ev, at)
	b, rej := s.traitChanges(b, st, person, ev, at)
	if rej == nil {
		b, rej = s.aggregateChanges(b, st, person, ev, at)
	}
	s.delta = b
	if rej != nil {
		ev.Changed = ev.Changed[:0]
		return nil, rej
	}
	if len(b) == start && st.first <= at.ms && at.ms <= st.last {
		return nil, nil
	}
	if len(ev.Changed) > 0 {
		b[flagAt] = 1
	}
	if len(b)+st.Size() > maxMemoryBytes {
		ev.Changed = ev.Changed[:0]
		return nil, pipeline.Reject("profile_too_large", "the profile would grow beyond %d bytes", maxMemoryBytes)
	}
	return b, nil
}

// changed notes a name, once.
func changed(ev *pipeline.Event, name string) {
	for _, n := range ev.Changed {
		if n == name {
			return
		}
	}
	ev.Changed = append(ev.Changed, name)
}

func (s *stage) identifierChanges(b []byte, st, person *state, ev *pipeline.Event, at stamp) []byte {
	for i := range ev.Identifiers {
		id := &ev.Identifiers[i]
		takes, isNew := st.takesIdentifier(id.Type.Name, id.Value, at.ms)
		if takes {
			b = appendString(appendString(append(b, deltaIdentifier), id.Type.Name), id.Value)
		}
		if person != st {
			_, isNew = person.takesIdentifier(id.Type.Name, id.Value, at.ms)
		}
		if isNew {
			ev.Shown |= 1 << i
			changed(ev, id.Type.Name)
		}
	}
	return b
}

// traitChanges looks at the traits of the event, its own or those of its context. The traits of a group call are those of
// the group, not of the person.
func (s *stage) traitChanges(b []byte, st, person *state, ev *pipeline.Event, at stamp) ([]byte, *pipeline.RejectError) {
	if ev.Traits == nil || ev.Type == pipeline.TypeGroup {
		return b, nil
	}
	var rej *pipeline.RejectError
	s.seen = s.seen[:0]
	gjson.ParseBytes(ev.Traits).ForEach(func(key, v gjson.Result) bool {
		name := key.Str
		for _, n := range s.seen {
			if n == name { // the first of duplicate keys counts
				return true
			}
		}
		s.seen = append(s.seen, name)
		switch {
		case len(s.seen) > maxTraits:
			rej = pipeline.Reject("traits_limit", "the event has more than %d traits", maxTraits)
			return false
		case len(name) > maxNameBytes:
			rej = pipeline.Reject("traits_limit", "the name of a trait has %d bytes, the limit is %d", len(name), maxNameBytes)
			return false
		case len(v.Raw) > maxTraitBytes:
			rej = pipeline.Reject("traits_limit", "a trait has %d bytes, the limit is %d", len(v.Raw), maxTraitBytes)
			return false
		}
		b = traitChange(b, st, person, ev, name, at, valueOf(v))
		return true
	})
	return b, rej
}

func traitChange(b []byte, st, person *state, ev *pipeline.Event, name string, at stamp, v value) []byte {
	takes, differs := st.newTrait(name, at, v)
	if !takes {
		return b
	}
	if person != st {
		_, differs = person.newTrait(name, at, v)
	}
	if differs {
		changed(ev, name)
		ev.Inputs.Add(pipeline.TraitsIndex)
	}
	return appendValue(appendString(append(b, deltaTrait), name), v)
}

// newTrait tells whether the state takes a value of a trait, and whether the trait then differs from what it was.
func (s *state) newTrait(name string, at stamp, v value) (takes, differs bool) {
	t := s.trait(name)
	if t == nil {
		takes = s.takesTrait(name)
		return takes, takes && v != value{}
	}
	takes = compareAt(at, v, t.at, t.value) > 0
	return takes, takes && v != t.value
}

func (s *stage) aggregateChanges(b []byte, st, person *state, ev *pipeline.Event, at stamp) ([]byte, *pipeline.RejectError) {
	s.ev = ev
	clear(s.present)
	defer func() { s.ev = nil }()
	next, nextSeen := 0, 0 // aggregates
	for _, a := range s.concerned(ev) {
		if a.traits && ev.Type == pipeline.TypeGroup {
			continue
		}
		if a.where != nil {
			holds, err := a.where.Bool(s.vars)
			if err != nil {
				return b, pipeline.Reject("where_failed", "the condition of attribute %s cannot be evaluated", a.name)
			}
			if !holds {
				continue
			}
		}
		var old *aggregate
		if i, ok := st.findAggregate(a.key, a.op, next); ok {
			old, next = &st.aggregates[i], i+1
		}
		seen := old
		if person != st {
			seen = nil
			if i, ok := person.findAggregate(a.key, a.op, nextSeen); ok {
				seen, nextSeen = &person.aggregates[i], i+1
			}
		}
		length := len(b)
		var isChange bool
		var rej *pipeline.RejectError
		b, isChange, rej = s.change(b, a, old, seen, at)
		if rej != nil {
			return b, rej
		}
		if len(b) > length && isChange {
			if !a.hidden {
				changed(ev, a.name)
			}
			ev.Inputs.Add(a.index)
		}
	}
	return b, nil
}

// change appends what the event says about the attribute, nothing if that is nothing new for old, the fragment's content, and
// tells whether the value of seen, the person's content, becomes another one. Both may be nil.
func (s *stage) change(b []byte, a *attribute, old, seen *aggregate, at stamp) (_ []byte, changes bool, _ *pipeline.RejectError) {
	if a.over > 0 {
		return s.windowChange(b, a, old, seen, at)
	}
	switch a.op {
	case opCount:
		return binary.AppendUvarint(a.header(b), 1), true, nil
	case opMinTime, opMaxTime:
		x := a.millis(s.ev)
		if !old.improvedBy(x) {
			return b, false, nil
		}
		return binary.AppendVarint(a.header(b), x), seen.improvedBy(x), nil
	case opFirst, opLatest:
		return s.stampedChange(b, a, old, seen, at)
	case opDecayed, opPurchases:
		return s.pastChange(b, a, old)
	case opSequence:
		return s.sequenceChange(b, a, old, seen, at)
	case opSessions:
		return s.sessionsChange(b, a, old, seen, at)
	case opTop, opRecent, opUnion:
		return s.listChange(b, a, old, seen, at)
	}
	e, has, rej := s.read(a)
	if rej != nil || !has {
		return b, false, rej
	}
	switch a.op {
	case opUnique:
		if old != nil && !old.set().adds(e.key) {
			return b, false, nil
		}
		changes = seen == nil || seen.set().adds(e.key)
	case opMin, opMax:
		x := math.Float64frombits(uint64(e.number))
		if !old.improvedByNumber(x) {
			return b, false, nil
		}
		changes = seen.improvedByNumber(x)
	default:
		if old != nil {
			if _, ok := addMicros(old.number, e.number); !ok {
				return b, false, pipeline.Reject("sum_range", "the total of attribute %s would be beyond ±9,223,372,036,854.775807", a.name)
			}
		}
		changes = seen == nil || seen.movedBy(e)
	}
	return e.append(a.header(b), a.op), changes, nil
}

// movedBy tells whether a sum or mean becomes another number.
func (a *aggregate) movedBy(e entry) bool {
	if a.op == opAvg {
		return mean(a.number, a.count) != mean(clampedSum(a.number, e.number), a.count+e.count)
	}
	return e.number != 0
}

// windowChange is change for an attribute with over. What is out of the window now changes nothing that anybody sees. It is kept
// all the same until newer events say that it is over: what is kept depends on the events alone, not on when they come.
func (s *stage) windowChange(b []byte, a *attribute, old, seen *aggregate, at stamp) (_ []byte, changes bool, _ *pipeline.RejectError) {
	e := entry{at: at.ms, count: 1}
	switch a.op.plain() {
	case opCount:
	case opMinTime, opMaxTime:
		e.number = a.millis(s.ev)
	default:
		var has bool
		var rej *pipeline.RejectError
		if e, has, rej = s.read(a); rej != nil || !has {
			return b, false, rej
		}
		e.at = at.ms
	}
	now := s.ev.Now().UnixMilli()
	if old != nil && old.window().outdated(at.ms) {
		return b, false, nil
	}
	b = e.append(a.header(b), a.op)
	if seen == nil {
		return b, at.ms > now-a.over && at.ms <= now, nil
	}
	counts, coarse := seen.window().takes(e, now)
	if !counts || coarse {
		return b, coarse, nil
	}
	before := seen.in(now)
	if before == nil {
		return b, true, nil
	}
	switch a.op.plain() {
	case opUnique:
		fresh := true
		seen.window().each(now, func(x *entry) { fresh = fresh && x.key != e.key })
		return b, fresh, nil
	case opMin, opMax:
		return b, before.improvedByNumber(math.Float64frombits(uint64(e.number))), nil
	case opMinTime, opMaxTime:
		return b, before.improvedBy(e.number), nil
	case opSum, opAvg:
		return b, before.movedBy(e), nil
	}
	return b, true, nil
}

// read reads the attribute's path as what is counted: a number, in millionths or as the bits of a float, or the hash of a value.
// has is false if the event says nothing.
func (s *stage) read(a *attribute) (e entry, has bool, _ *pipeline.RejectError) {
	result := s.result(a)
	if result.Type == gjson.Null { // absent, too
		return e, false, nil
	}
	if result.Type == gjson.String && result.Str == "" { // an empty cell of a table
		return e, false, nil
	}
	e.count = 1
	if a.op.plain() == opUnique {
		e.key = xxhash.Sum64String(textOf(result))
		return e, true, nil
	}
	text := result.Raw
	switch result.Type {
	case gjson.String:
		text = result.Str
	case gjson.Number:
	default:
		return e, false, a.notANumber()
	}
	if o := a.op.plain(); o == opMin || o == opMax {
		x, ok := parseFloat(text)
		if !ok {
			return e, false, a.notANumber()
		}
		e.number = int64(math.Float64bits(x))
		return e, true, nil
	}
	number, ok := parseDecimal(text)
	if !ok {
		return e, false, a.notANumber()
	}
	if e.number, ok = number.micros(); !ok {
		return e, false, pipeline.Reject("sum_range", "%s of attribute %s is beyond ±999,999,999,999.999999", a.path, a.name)
	}
	return e, true, nil
}

// improvedBy tells whether a time is beyond the smallest or largest so far.
func (a *aggregate) improvedBy(x int64) bool {
	return a == nil || x != a.number && x < a.number == (a.op == opMinTime)
}

// improvedByNumber tells whether a number is beyond the smallest or largest so far.
func (a *aggregate) improvedByNumber(x float64) bool {
	return a == nil || x != a.float() && x < a.float() == (a.op == opMin)
}

// stampedChange is change for first and latest.
func (s *stage) stampedChange(b []byte, a *attribute, old, seen *aggregate, at stamp) (_ []byte, changes bool, _ *pipeline.RejectError) {
	var v value
	if a.time {
		v = timeValue(a.millis(s.ev))
	} else {
		result := s.result(a)
		deletes := result.Raw == "null" && a.traits && a.op == opLatest
		if v = valueOf(result); v.kind == kindNone && !deletes {
			return b, false, nil
		}
	}
	if len(v.text) > maxTraitBytes {
		return b, false, pipeline.Reject("traits_limit", "%s of attribute %s has %d bytes, the limit is %d", a.path, a.name, len(v.text), maxTraitBytes)
	}
	if !old.supersededBy(at, v) {
		return b, false, nil
	}
	changes = v != value{}
	if seen != nil {
		changes = seen.supersededBy(at, v) && v != seen.stamped.value
	}
	return appendValue(a.header(b), v), changes, nil
}

// supersededBy tells whether a value is earlier than the first, or later than the latest, so far.
func (a *aggregate) supersededBy(at stamp, v value) bool {
	if a == nil || a.stamped == nil {
		return true
	}
	c := compareAt(at, v, a.stamped.at, a.stamped.value)
	return c > 0 && a.op == opLatest || c < 0 && a.op == opFirst
}

// result is what the event has at the attribute's path. It is read once for all attributes with that path.
func (s *stage) result(a *attribute) gjson.Result {
	if !s.present[a.read] {
		s.present[a.read], s.results[a.read] = true, a.path.Result(s.ev)
	}
	return s.results[a.read]
}

// millis is the time that the path means, timestamp or received_at.
func (a *attribute) millis(ev *pipeline.Event) int64 {
	if a.path.String() == "received_at" {
		return ev.ReceivedAt.UnixMilli()
	}
	return ev.Time.UnixMilli()
}

func (a *attribute) header(b []byte) []byte {
	b = appendString(append(b, deltaAggregate, byte(a.op)), a.key)
	if a.over > 0 {
		b = binary.AppendVarint(b, a.over)
	}
	return b
}

func (a *attribute) notANumber() *pipeline.RejectError {
	return pipeline.Reject("not_a_number", "%s of attribute %s is not a number", a.path, a.name)
}

// textOf is what two values have in common that count as one: the number 1 and the text "1" are the same customer number.
func textOf(r gjson.Result) string {
	if r.Type == gjson.String {
		return r.Str
	}
	return r.Raw
}
