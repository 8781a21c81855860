package profile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/millstream-io/millstream/pipeline"
)

// sessions are the stretches of time in which no two events in a row are further apart than the gap. The set of stretches
// depends on the set of events alone; a late event may join two. The latest 3,000 are kept, of which up to 2,000 are counted:
// so the number is right until there are more, also when late events join some.
type sessions struct {
	gap  int64     // milliseconds
	list []stretch // sorted, disjoint, further apart than gap
}

type stretch struct{ from, to int64 } // Unix milliseconds, both included

const (
	maxStretches = 3000
	maxSessions  = 2000
)

// add adds the time of an event, or a stretch.
func (s *sessions) add(x stretch) {
	i, _ := slices.BinarySearchFunc(s.list, x.from-s.gap, func(y stretch, from int64) int { return cmp.Compare(y.to, from) })
	j := i
	for ; j < len(s.list) && s.list[j].from <= x.to+s.gap; j++ {
		x.from, x.to = min(x.from, s.list[j].from), max(x.to, s.list[j].to)
	}
	if j > i {
		s.list[i] = x
		s.list = slices.Delete(s.list, i+1, j)
		return
	}
	s.list = insert(s.list, i, x)
	if n := len(s.list) - maxStretches; n > 0 {
		s.list = slices.Delete(s.list, 0, n)
	}
}

// covered tells whether a stretch already holds a time.
func (s *sessions) covered(at int64) bool {
	i, _ := slices.BinarySearchFunc(s.list, at, func(y stretch, at int64) int { return cmp.Compare(y.to, at) })
	return i < len(s.list) && s.list[i].from <= at
}

func (s *sessions) count() int { return min(len(s.list), maxSessions) }

func (s *sessions) absorb(_ op, c content) {
	if o := c.(*sessions); s.gap == o.gap {
		for _, x := range o.list {
			s.add(x)
		}
	}
}

func (s *sessions) clone() content {
	return &sessions{s.gap, slices.Clone(s.list)}
}

func (s *sessions) size() int { return 64 + 20*cap(s.list) }

// Layout: varint gap, uvarint number; each: varint from, less the end of the one before, uvarint length.
func (s *sessions) encode(dst []byte, _ op) []byte {
	dst = binary.AppendUvarint(binary.AppendVarint(dst, s.gap), uint64(len(s.list)))
	before := int64(0)
	for _, x := range s.list {
		dst = binary.AppendUvarint(binary.AppendVarint(dst, x.from-before), uint64(x.to-x.from))
		before = x.to
	}
	return dst
}

func (r *reader) sessions() *sessions {
	s := &sessions{gap: r.varint()}
	s.list = make([]stretch, r.length())
	before := int64(0)
	for i := range s.list {
		from := before + r.varint()
		before = from + int64(r.uvarint())
		s.list[i] = stretch{from, before}
	}
	return s
}

// foldSessions is aggregate.fold for sessions.
func (a *aggregate) foldSessions(at stamp, r *reader) error {
	gap := r.varint()
	s := a.sessions()
	if s == nil {
		s = &sessions{gap: gap}
		a.content = s
	}
	if r.bad || gap != s.gap {
		return fmt.Errorf("fold profile delta: %w", errMalformed)
	}
	s.add(stretch{at.ms, at.ms})
	return nil
}

// sessionsChange is stage.change for sessions.
func (s *stage) sessionsChange(b []byte, a *attribute, old, seen *aggregate, at stamp) (_ []byte, changes bool, _ *pipeline.RejectError) {
	if old != nil && old.sessions().covered(at.ms) {
		return b, false, nil
	}
	b = binary.AppendVarint(a.header(b), a.within)
	if seen == nil {
		return b, true, nil
	}
	after := seen.sessions().clone().(*sessions)
	after.add(stretch{at.ms, at.ms})
	return b, after.count() != seen.sessions().count(), nil
}
