package segment

import (
	"cmp"
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
//	uvarint   number of decisions; each: string segment, 4 bytes version, byte 1 in or 0 out, varint at, varint since
//	uvarint   number of brought memberships; each: string segment, 4 bytes version, varint at, varint since
//
// at and since are Unix milliseconds.
//
// Layout of a delta:
//
//	byte 0    format, 1
//	8 bytes   hash of the definitions
//	rest      byte '+' enters, 'c' is carried in, '-' exits: string segment, 4 bytes version, varint at, varint since; the
//	          number of transitions grows by one
//	          byte '0', string segment: is no longer declared
//	          byte 'w', string segment, 4 bytes version, varint at, varint since: a merged profile brought it
//	          byte '.', string "": what was brought is decided
//
// What Depart gives to Inherit is byte 0 format, 1, and the rest of a delta with 'w' alone.
type membership struct {
	definitions uint64
	number      uint64
	decisions   []decision // sorted by segment
	brought     []decision // memberships of merged profiles, not decided yet; sorted by segment
	names       []string   // of the segments that it is in; a new slice whenever it changes, because profiles point to it
}

// decision is the last transition of a segment that the profile is or was in.
type decision struct {
	segment string
	version uint32 // of the condition
	in      bool
	at      int64 // effective time of the transition, Unix milliseconds
	since   int64 // in: when the membership began, which may have been at a profile that was merged into this one
}

const (
	format = 1

	deltaEnter   = '+'
	deltaCarried = 'c'
	deltaExit    = '-'
	deltaForget  = '0'
	deltaBrought = 'w'
	deltaDecided = '.'
)

// leastEntry is the least number of bytes of a decision: two strings or numbers may be empty.
const leastEntry = 7

var errMalformed = errors.New("malformed")

func newMembership() pipeline.Folded { return &membership{names: []string{}} }

// find returns the decision about a segment; never in it: the zero decision.
func (m *membership) find(segment string) decision {
	if i, ok := m.search(segment); ok {
		return m.decisions[i]
	}
	return decision{}
}

func (m *membership) search(segment string) (int, bool) { return search(m.decisions, segment) }

func search(list []decision, segment string) (int, bool) {
	return slices.BinarySearchFunc(list, segment, func(x decision, name string) int { return strings.Compare(x.segment, name) })
}

// Size is the memory in bytes.
func (m *membership) Size() int {
	n := 128
	for i := range m.decisions {
		n += 64 + len(m.decisions[i].segment)
	}
	for i := range m.brought {
		n += 64 + len(m.brought[i].segment)
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
		dst = binary.BigEndian.AppendUint32(pipeline.AppendText(dst, x.segment), x.version)
		in := byte(0)
		if x.in {
			in = 1
		}
		dst = binary.AppendVarint(binary.AppendVarint(append(dst, in), x.at), x.since)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.brought)))
	for i := range m.brought {
		dst = m.brought[i].append(dst)
	}
	return dst
}

// Decode replaces the contents with a full state.
func (m *membership) Decode(full []byte) error {
	d := pipeline.NewDecoder(full)
	if f := d.Byte(); f != format {
		return formatError(f)
	}
	*m = membership{definitions: d.Fixed64(), number: d.Uvarint()}
	m.decisions = make([]decision, d.Length(leastEntry))
	for i := range m.decisions {
		m.decisions[i] = decision{d.String(), d.Fixed32(), d.Byte() == 1, d.Varint(), d.Varint()}
	}
	m.brought = make([]decision, d.Length(leastEntry))
	for i := range m.brought {
		m.brought[i] = decision{d.String(), d.Fixed32(), true, d.Varint(), d.Varint()}
	}
	if !d.Complete() {
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
	d := pipeline.NewDecoder(delta)
	if f := d.Byte(); f != format {
		return formatError(f)
	}
	m.definitions = d.Fixed64()
	for d.OK() && !d.Complete() {
		kind, segment := d.Byte(), d.String()
		i, found := m.search(segment)
		switch kind {
		case deltaEnter, deltaCarried, deltaExit:
			if !found {
				m.decisions = slices.Insert(m.decisions, i, decision{})
			}
			m.decisions[i] = decision{segment, d.Fixed32(), kind != deltaExit, d.Varint(), d.Varint()}
			m.number++
		case deltaForget:
			if found {
				m.decisions = slices.Delete(m.decisions, i, i+1)
			}
		case deltaBrought:
			m.bring(decision{segment, d.Fixed32(), true, d.Varint(), d.Varint()})
		case deltaDecided:
			m.brought = nil
		default:
			d.Fail()
		}
	}
	if !d.OK() {
		return fmt.Errorf("fold segment delta: %w", errMalformed)
	}
	m.list()
	return nil
}

// bring notes a membership of a merged profile. Of two of one segment the older one counts.
func (m *membership) bring(d decision) {
	i, found := search(m.brought, d.segment)
	if !found {
		m.brought = slices.Insert(m.brought, i, d)
	} else if b := m.brought[i]; cmp.Or(cmp.Compare(d.since, b.since), cmp.Compare(d.at, b.at), cmp.Compare(d.version, b.version)) < 0 {
		m.brought[i] = d
	}
}

// append appends segment, version and times.
func (d *decision) append(dst []byte) []byte {
	return binary.AppendVarint(binary.AppendVarint(binary.BigEndian.AppendUint32(pipeline.AppendText(dst, d.segment), d.version), d.at), d.since)
}

func appendDeltaHeader(dst []byte, definitions uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, format), definitions)
}

func appendTransition(dst []byte, t *transition) []byte {
	kind := byte(deltaExit)
	switch t.op {
	case opEnter:
		kind = deltaEnter
	case opCarried:
		kind = deltaCarried
	}
	d := decision{segment: t.segment, version: t.version, at: t.effective, since: t.since}
	return d.append(append(dst, kind))
}

func appendForget(dst []byte, segment string) []byte {
	return pipeline.AppendText(append(dst, deltaForget), segment)
}

func formatError(f byte) error {
	return fmt.Errorf("segment state has format %d, this build reads format %d: upgrade it", f, format)
}
