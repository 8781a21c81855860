package score

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// told is what the world was told last of one profile: a pipeline.Folded.
//
// Layout of a full state (a string is its length as uvarint, and its bytes; a number 8 bytes, IEEE 754, big endian):
//
//	byte 0    format, 1
//	uvarint   number of changes so far
//	uvarint   number of scores; each: string name, 4 bytes version, number value, uvarint number of marks; each mark: number by,
//	          number value
//
// Layout of a delta:
//
//	byte 0    format, 1
//	rest      byte '=', string name, 4 bytes version, number value, uvarint n, n numbers: the deltas whose marks are set to it
//	          byte '!', string name: it has no value any more
//	          byte '0', string name: it is no longer declared
//
// '=' and '!' count as changes.
type told struct {
	number uint64
	scores []decision // sorted by name
}

// decision is what was told last of one score.
type decision struct {
	name    string
	version uint32
	value   float64
	marks   []mark // sorted by by
}

// mark is the value at which a change by so much was told last.
type mark struct{ by, value float64 }

const (
	format = 1

	deltaValue  = '='
	deltaGone   = '!'
	deltaForget = '0'
)

var errMalformed = errors.New("malformed")

func newTold() pipeline.Folded { return &told{} }

func (t *told) find(name string) (decision, bool) {
	if i, ok := t.search(name); ok {
		return t.scores[i], true
	}
	return decision{}, false
}

func (t *told) search(name string) (int, bool) {
	return slices.BinarySearchFunc(t.scores, name, func(d decision, name string) int { return strings.Compare(d.name, name) })
}

// mark returns the value of a mark; without one it is 0.
func (d *decision) mark(by float64) float64 {
	for _, m := range d.marks {
		if m.by == by {
			return m.value
		}
	}
	return 0
}

func (d *decision) setMark(by, value float64) {
	i, found := slices.BinarySearchFunc(d.marks, by, func(m mark, by float64) int {
		switch {
		case m.by < by:
			return -1
		case m.by > by:
			return 1
		}
		return 0
	})
	if !found {
		d.marks = slices.Insert(d.marks, i, mark{by: by})
	}
	d.marks[i].value = value
}

// Size is the memory in bytes.
func (t *told) Size() int {
	n := 64
	for i := range t.scores {
		n += 80 + len(t.scores[i].name) + 16*len(t.scores[i].marks)
	}
	return n
}

// Encode appends the full state.
func (t *told) Encode(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, format), t.number)
	dst = binary.AppendUvarint(dst, uint64(len(t.scores)))
	for i := range t.scores {
		d := &t.scores[i]
		dst = binary.BigEndian.AppendUint32(appendString(dst, d.name), d.version)
		dst = binary.AppendUvarint(appendNumber(dst, d.value), uint64(len(d.marks)))
		for _, m := range d.marks {
			dst = appendNumber(appendNumber(dst, m.by), m.value)
		}
	}
	return dst
}

// Decode replaces the contents with a full state.
func (t *told) Decode(full []byte) error {
	r := reader{b: full}
	if f := r.byte(); f != format {
		return formatError(f)
	}
	*t = told{number: r.uvarint()}
	t.scores = make([]decision, r.length(14))
	for i := range t.scores {
		d := decision{name: r.string(), version: r.fixed32(), value: r.number()}
		for range r.length(16) {
			d.marks = append(d.marks, mark{r.number(), r.number()})
		}
		t.scores[i] = d
	}
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("decode score state: %w", errMalformed)
	}
	return nil
}

// Fold applies one delta.
func (t *told) Fold(delta []byte) error {
	r := reader{b: delta}
	if f := r.byte(); f != format {
		return formatError(f)
	}
	for len(r.b) > 0 && !r.bad {
		kind, name := r.byte(), r.string()
		i, found := t.search(name)
		switch kind {
		case deltaValue:
			if !found {
				t.scores = slices.Insert(t.scores, i, decision{name: name})
			}
			d := &t.scores[i]
			d.version, d.value = r.fixed32(), r.number()
			for range r.length(8) {
				d.setMark(r.number(), d.value)
			}
			t.number++
		case deltaGone, deltaForget:
			if found {
				t.scores = slices.Delete(t.scores, i, i+1)
			}
			if kind == deltaGone {
				t.number++
			}
		default:
			r.bad = true
		}
	}
	if r.bad {
		return fmt.Errorf("fold score delta: %w", errMalformed)
	}
	return nil
}

func appendChange(dst []byte, c *change) []byte {
	if c.gone {
		return appendString(append(dst, deltaGone), c.score.name)
	}
	dst = binary.BigEndian.AppendUint32(appendString(append(dst, deltaValue), c.score.name), c.score.version)
	dst = binary.AppendUvarint(appendNumber(dst, c.value), uint64(len(c.fired)))
	for _, by := range c.fired {
		dst = appendNumber(dst, by)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendNumber(dst []byte, v float64) []byte {
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(v))
}

func formatError(f byte) error {
	return fmt.Errorf("score state has format %d, this build reads format %d: upgrade it", f, format)
}

// reader takes fields off the front of b; after the first error everything is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	t := r.b[:n]
	r.b = r.b[n:]
	return t
}

func (r *reader) byte() byte {
	if t := r.take(1); t != nil {
		return t[0]
	}
	return 0
}

func (r *reader) string() string { return string(r.take(r.uvarint())) }

func (r *reader) fixed32() uint32 {
	if t := r.take(4); t != nil {
		return binary.BigEndian.Uint32(t)
	}
	return 0
}

func (r *reader) number() float64 {
	if t := r.take(8); t != nil {
		return math.Float64frombits(binary.BigEndian.Uint64(t))
	}
	return 0
}

// length is the number of entries that follow, each of at least so many bytes.
func (r *reader) length(least int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/least) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || r.bad {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}
