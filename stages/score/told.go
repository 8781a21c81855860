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
		dst = binary.BigEndian.AppendUint32(pipeline.AppendText(dst, d.name), d.version)
		dst = binary.AppendUvarint(appendNumber(dst, d.value), uint64(len(d.marks)))
		for _, m := range d.marks {
			dst = appendNumber(appendNumber(dst, m.by), m.value)
		}
	}
	return dst
}

// Decode replaces the contents with a full state.
func (t *told) Decode(full []byte) error {
	d := pipeline.NewDecoder(full)
	if f := d.Byte(); f != format {
		return formatError(f)
	}
	*t = told{number: d.Uvarint()}
	t.scores = make([]decision, d.Length(14))
	for i := range t.scores {
		x := decision{name: d.String(), version: d.Fixed32(), value: d.Float()}
		for range d.Length(16) {
			x.marks = append(x.marks, mark{d.Float(), d.Float()})
		}
		t.scores[i] = x
	}
	if !d.Complete() {
		return fmt.Errorf("decode score state: %w", errMalformed)
	}
	return nil
}

// Fold applies one delta.
func (t *told) Fold(delta []byte) error {
	d := pipeline.NewDecoder(delta)
	if f := d.Byte(); f != format {
		return formatError(f)
	}
	for d.OK() && !d.Complete() {
		kind, name := d.Byte(), d.String()
		i, found := t.search(name)
		switch kind {
		case deltaValue:
			if !found {
				t.scores = slices.Insert(t.scores, i, decision{name: name})
			}
			x := &t.scores[i]
			x.version, x.value = d.Fixed32(), d.Float()
			for range d.Length(8) {
				x.setMark(d.Float(), x.value)
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
			d.Fail()
		}
	}
	if !d.OK() {
		return fmt.Errorf("fold score delta: %w", errMalformed)
	}
	return nil
}

func appendChange(dst []byte, c *change) []byte {
	if c.gone {
		return pipeline.AppendText(append(dst, deltaGone), c.score.name)
	}
	dst = binary.BigEndian.AppendUint32(pipeline.AppendText(append(dst, deltaValue), c.score.name), c.score.version)
	dst = binary.AppendUvarint(appendNumber(dst, c.value), uint64(len(c.fired)))
	for _, by := range c.fired {
		dst = appendNumber(dst, by)
	}
	return dst
}

func appendNumber(dst []byte, v float64) []byte {
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(v))
}

func formatError(f byte) error {
	return fmt.Errorf("score state has format %d, this build reads format %d: upgrade it", f, format)
}
