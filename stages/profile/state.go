package profile

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/millstream-io/millstream/pipeline"
)

// Limits of one profile. Beyond them the content stays a function of the set of events, not of their order.
const (
	maxTraits      = 256     // the first ones in the order of their names stay
	maxPerType     = 100     // identifiers of one type; those that were seen first stay
	maxTraitBytes  = 8 << 10 // one value; an event with a longer one is refused
	maxNameBytes   = 255     // one name of a trait; likewise
	maxStateBytes  = 1 << 20 // limit of pipeline.Tx
	stateReserve   = 64 << 10
	maxMemoryBytes = maxStateBytes - stateReserve // Size of a state that still takes events; the encoded form is smaller
)

// state is what one fragment holds: a pipeline.Folded. It knows nothing of the configuration: attributes are kept by name and
// op, so a YAML in which others were added, moved or removed reads the same state. An attribute whose op was changed
// starts from nothing; one that comes back goes on where it was.
//
// Except updates, everything in it is a commutative, associative fold of the events; see absorb.
type state struct {
	updates     uint64 // events that changed something of the person
	first, last int64  // event times, Unix milliseconds; first > last: there was no event
	identifiers []identifier
	traits      []trait
	aggregates  []aggregate
	folds       uint64 // deltas folded into this object since it was made; not stored
}

// identifier is a value by which the person was known. Sorted by type, then value.
type identifier struct {
	typ, value string
	first      int64 // first seen, event time
}

// trait is a key of the traits. Sorted by name. A deleted one stays, with its time, so that an older event does not bring it back.
type trait struct {
	name  string
	at    stamp
	value value
}

// aggregate is the content of one attribute. Sorted by name, then op.
type aggregate struct {
	name    string // attribute.key
	op      op
	count   uint64   // count, avg
	number  int64    // sum, avg: millionths; minTime, maxTime: milliseconds; min, max: bits of a float64
	stamped *stamped // first, latest; never changed in place
	content content  // unique, with over, sequence, sessions, top, recent, union: *distinct, *window, *sequence, *sessions, *list;
	// what other stages need: past
}

// stamped is a value with its stamp.
type stamped struct {
	at    stamp
	value value
}

// content is what an attribute holds that is more than a number or a value. It is changed in place.
type content interface {
	absorb(o op, other content) // adds that of another state
	clone() content
	size() int // memory in bytes
	encode(dst []byte, o op) []byte
}

// set and the others are the content of one kind; nil if it is of another.
func (a *aggregate) set() *distinct { return contentOf[*distinct](a) }

func (a *aggregate) window() *window { return contentOf[*window](a) }

func (a *aggregate) sequence() *sequence { return contentOf[*sequence](a) }

func (a *aggregate) sessions() *sessions { return contentOf[*sessions](a) }

func (a *aggregate) values() *list { return contentOf[*list](a) }

func (a *aggregate) past() past { return contentOf[past](a) }

func contentOf[T content](a *aggregate) (c T) {
	if a != nil {
		c, _ = a.content.(T)
	}
	return c
}

// insert is slices.Insert with room for three more, instead of twice the room: there are many profiles, and each grows
// rarely.
func insert[T any](s []T, i int, v T) []T {
	if len(s) == cap(s) {
		s = append(make([]T, 0, len(s)+4), s...)
	}
	return slices.Insert(s, i, v)
}

func newState() pipeline.Folded {
	return &state{first: math.MaxInt64, last: math.MinInt64}
}

func (s *state) empty() bool { return s.first > s.last }

// Size estimates the memory, and is never below the encoded length.
func (s *state) Size() int {
	n := int(unsafe.Sizeof(*s))
	for i := range s.identifiers {
		n += int(unsafe.Sizeof(identifier{})) + len(s.identifiers[i].typ) + len(s.identifiers[i].value)
	}
	for i := range s.traits {
		t := &s.traits[i]
		n += int(unsafe.Sizeof(*t)) + len(t.name) + len(t.at.id) + len(t.value.text)
	}
	for i := range s.aggregates {
		a := &s.aggregates[i]
		n += int(unsafe.Sizeof(*a)) + len(a.name)
		if x := a.stamped; x != nil {
			n += int(unsafe.Sizeof(*x)) + len(x.at.id) + len(x.value.text)
		}
		if a.content != nil {
			n += a.content.size()
		}
	}
	return n
}

func (s *state) trait(name string) *trait {
	if i, ok := s.findTrait(name); ok {
		return &s.traits[i]
	}
	return nil
}

func (s *state) findTrait(name string) (int, bool) {
	return slices.BinarySearchFunc(s.traits, name, func(t trait, name string) int { return strings.Compare(t.name, name) })
}

// takesTrait tells whether a new trait of that name would stay.
func (s *state) takesTrait(name string) bool {
	return len(s.traits) < maxTraits || name < s.traits[len(s.traits)-1].name
}

func (s *state) setTrait(name string, at stamp, v value) {
	i, ok := s.findTrait(name)
	if ok {
		if t := &s.traits[i]; compareAt(at, v, t.at, t.value) > 0 {
			t.at, t.value = at, v
		}
		return
	}
	if s.takesTrait(name) {
		s.traits = insert(s.traits, i, trait{name, at, v})
		s.traits = s.traits[:min(len(s.traits), maxTraits)]
	}
}

func (s *state) findIdentifier(typ, value string) (int, bool) {
	return slices.BinarySearchFunc(s.identifiers, typ, func(x identifier, typ string) int {
		return cmp.Or(strings.Compare(x.typ, typ), strings.Compare(x.value, value))
	})
}

// takesIdentifier tells whether an identifier seen at that time would change the state.
func (s *state) takesIdentifier(typ, value string, ms int64) (takes, isNew bool) {
	if i, ok := s.findIdentifier(typ, value); ok {
		return ms < s.identifiers[i].first, false
	}
	last, n := s.lastOfType(typ)
	if n < maxPerType {
		return true, true
	}
	x := &s.identifiers[last]
	takes = cmp.Or(cmp.Compare(ms, x.first), strings.Compare(value, x.value)) < 0
	return takes, takes
}

// lastOfType is the identifier of the type that was seen last, and how many there are.
func (s *state) lastOfType(typ string) (last, n int) {
	for i := range s.identifiers {
		x := &s.identifiers[i]
		if x.typ != typ {
			continue
		}
		y := &s.identifiers[last]
		if n++; n == 1 || cmp.Or(cmp.Compare(x.first, y.first), strings.Compare(x.value, y.value)) > 0 {
			last = i
		}
	}
	return last, n
}

func (s *state) addIdentifier(typ, value string, ms int64) {
	i, ok := s.findIdentifier(typ, value)
	if ok {
		s.identifiers[i].first = min(s.identifiers[i].first, ms)
		return
	}
	s.identifiers = insert(s.identifiers, i, identifier{typ, value, ms})
	if last, n := s.lastOfType(typ); n > maxPerType {
		s.identifiers = slices.Delete(s.identifiers, last, last+1)
	}
}

// findAggregate looks at the place guess first: who goes through many attributes does so in the order of their names.
func (s *state) findAggregate(name string, o op, guess int) (int, bool) {
	if guess < len(s.aggregates) {
		if a := &s.aggregates[guess]; a.op == o && a.name == name {
			return guess, true
		}
	}
	return slices.BinarySearchFunc(s.aggregates, name, func(a aggregate, name string) int {
		return cmp.Or(strings.Compare(a.name, name), cmp.Compare(a.op, o))
	})
}

// any is the value as expressions see it; nil for a nil aggregate.
func (a *aggregate) any() any {
	if a == nil {
		return nil
	}
	switch a.op {
	case opCount:
		return float64(a.count)
	case opSum:
		return microsFloat(a.number)
	case opAvg:
		return mean(a.number, a.count)
	case opMin, opMax:
		return a.float()
	case opMinTime, opMaxTime:
		return pipeline.Millis(a.number)
	case opUnique:
		return a.set().count()
	case opSequence:
		return a.sequence().done
	case opSessions:
		return float64(a.sessions().count())
	case opTop, opRecent, opUnion:
		return a.values().texts()
	}
	return a.stamped.value.any()
}

func (a *aggregate) float() float64 { return math.Float64frombits(uint64(a.number)) }

// isNumber tells whether the value stands among the aggregates of the document; texts and lists stand
// among the traits.
func (a *aggregate) isNumber() bool {
	switch a.op {
	case opFirst, opLatest:
		return a.stamped.value.kind == kindNumber || a.stamped.value.kind == kindTime
	case opTop, opRecent, opUnion:
		return false
	}
	return true
}

// appendJSON appends the value exactly: sums without going through a float.
func (a *aggregate) appendJSON(dst []byte) []byte {
	switch a.op {
	case opCount:
		return strconv.AppendUint(dst, a.count, 10)
	case opSum:
		return appendMicros(dst, a.number)
	case opAvg, opMin, opMax, opUnique, opSessions:
		return appendFloat(dst, a.any().(float64))
	case opMinTime, opMaxTime:
		return appendSeconds(dst, a.number)
	case opTop, opRecent, opUnion:
		dst = append(dst, '[')
		for i, text := range a.values().texts() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = pipeline.AppendJSONString(dst, text)
		}
		return append(dst, ']')
	}
	return a.stamped.value.appendJSON(dst)
}
