package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// membership is what is kept of one profile: a pipeline.Folded.
//
// Layout of a full state (a string is its length as uvarint, and its bytes):
//
//	byte 0    format, 1
//	8 bytes   hash of the definitions by which it was last evaluated, big endian
//	uvarint   number of transitions so far
//	uvarint   number of decisions; each: string segment, 4 bytes version, byte 1 in or 0 out, varint Unix milliseconds
//
// Layout of a delta:
//
//	byte 0    format, 1
//	8 bytes   hash of the definitions
//	rest      byte '+' enters or '-' exits, string segment, 4 bytes version, varint Unix milliseconds; the number of transitions
//	          grows by one
//	          byte '0', string segment: is no longer declared
type membership struct {
	definitions uint64
	number      uint64
	decisions   []decision // sorted by segment
	names       []string   // of the segments that it is in; a new slice whenever it changes, because profiles point to it
}

// decision is the last transition of a segment that the profile is or was in.
type decision struct {
	segment string
	version uint32 // of the condition
	in      bool
	at      int64 // effective time, Unix milliseconds: in since then, or out since then
}

const (
	format = 1

	deltaEnter  = '+'
	deltaExit   = '-'
	deltaForget = '0'
)

var errMalformed = errors.New("malformed")

func newMembership() pipeline.Folded { return &membership{names: []string{}} }

// find returns the decision about a segment; never in it: the zero decision.
func (m *membership) find(segment string) decision {
	if i, ok := m.search(segment); ok {
		return m.decisions[i]
	}
	return decision{}
}

func (m *membership) search(segment string) (int, bool) {
	return slices.BinarySearchFunc(m.decisions, segment, func(x decision, name string) int { return strings.Compare(x.segment, name) })
}

// Size is the memory in bytes.
func (m *membership) Size() int {
	n := 128
	for i := range m.decisions {
		n += 64 + len(m.decisions[i].segment)
	}
	return n
}

// Encode appends the full state.
func (m *membership) Encode(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, format), m.definitions)
	dst = binary.AppendUvarint(dst, m.number)
	dst = binary.AppendUvarint(dst, uint64(len(m.decisions)))
	for i := range m.decisions {
		x := &m.decisions[i]
		dst = binary.BigEndian.AppendUint32(appendString(dst, x.segment), x.version)
		in := byte(0)
		if x.in {
			in = 1
		}
		dst = binary.AppendVarint(append(dst, in), x.at)
	}
	return dst
}

// Decode replaces the contents with a full state.
func (m *membership) Decode(full []byte) error {
	r := reader{b: full}
	if f := r.byte(); f != format {
		return formatError(f)
	}
	*m = membership{definitions: r.fixed64(), number: r.uvarint()}
	n := r.uvarint()
	if n > uint64(len(full)) {
		return fmt.Errorf("decode segment state: %w", errMalformed)
	}
	m.decisions = make([]decision, n)
	for i := range m.decisions {
		m.decisions[i] = decision{r.string(), r.fixed32(), r.byte() == 1, r.varint()}
	}
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("decode segment state: %w", errMalformed)
	}
	m.list()
	return nil
}

// list makes names anew.
func (m *membership) list() {
	m.names = make([]string, 0, len(m.decisions))
	for i := range m.decisions {
		if m.decisions[i].in {
			m.names = append(m.names, m.decisions[i].segment)
		}
	}
}

// Fold applies one delta.
func (m *membership) Fold(delta []byte) error {
	r := reader{b: delta}
	if f := r.byte(); f != format {
		return formatError(f)
	}
	m.definitions = r.fixed64()
	for len(r.b) > 0 && !r.bad {
		kind, segment := r.byte(), r.string()
		i, found := m.search(segment)
		switch kind {
		case deltaEnter, deltaExit:
			if !found {
				m.decisions = slices.Insert(m.decisions, i, decision{})
			}
			m.decisions[i] = decision{segment, r.fixed32(), kind == deltaEnter, r.varint()}
			m.number++
		case deltaForget:
			if found {
				m.decisions = slices.Delete(m.decisions, i, i+1)
			}
		default:
			r.bad = true
		}
	}
	if r.bad {
		return fmt.Errorf("fold segment delta: %w", errMalformed)
	}
	m.list()
	return nil
}

func appendDeltaHeader(dst []byte, definitions uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, format), definitions)
}

func appendTransition(dst []byte, t *transition) []byte {
	kind := byte(deltaExit)
	if t.enter {
		kind = deltaEnter
	}
	dst = appendString(append(dst, kind), t.segment.name)
	dst = binary.BigEndian.AppendUint32(dst, t.segment.version)
	return binary.AppendVarint(dst, t.effective)
}

func appendForget(dst []byte, segment string) []byte {
	return appendString(append(dst, deltaForget), segment)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func formatError(f byte) error {
	return fmt.Errorf("segment state has format %d, this build reads format %d: upgrade it", f, format)
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

func (r *reader) fixed64() uint64 {
	if t := r.take(8); t != nil {
		return binary.BigEndian.Uint64(t)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return uint64(r.number(int64(v), n))
}

func (r *reader) varint() int64 { return r.number(binary.Varint(r.b)) }

func (r *reader) number(v int64, n int) int64 {
	if n <= 0 || r.bad {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}
