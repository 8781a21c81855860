package profile

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/millstream-io/millstream/pipeline"
)

// sequence is whether some events happened in a given order within some time; a fact that stays. Of each step the times of
// its events are kept until then, the latest hundred, because a late event may be the missing one. Beyond a hundred the
// order of arrival can matter: what is not kept cannot complete the sequence with an event that comes later.
type sequence struct {
	done    bool
	within  int64     // milliseconds
	repeats uint64    // a bit for each step whose name an earlier step has
	times   [][]int64 // by step, sorted; none if done
}

const (
	maxSteps     = 10
	maxStepTimes = 100
)

func newSequence(within int64, repeats uint64, steps int) *sequence {
	return &sequence{within: within, repeats: repeats, times: make([][]int64, steps)}
}

// add takes an event that is the steps whose bits are set.
func (s *sequence) add(at int64, steps uint64) {
	if s.done {
		return
	}
	for i := range s.times {
		if steps&(1<<i) != 0 {
			s.note(i, at)
		}
	}
	s.check()
}

func (s *sequence) note(step int, at int64) {
	i, found := slices.BinarySearch(s.times[step], at)
	if found {
		return
	}
	times := insert(s.times[step], i, at)
	s.times[step] = times[max(0, len(times)-maxStepTimes):]
}

// check forgets the times once the sequence has happened: from some event of the first step on, the earliest event of each
// further step that is not before the one before it. A step whose name comes again needs a later event, so that none counts
// twice.
func (s *sequence) check() {
	for _, start := range s.times[0] {
		at := start
		for i := 1; i < len(s.times); i++ {
			from := at
			if s.repeats&(1<<i) != 0 {
				from++
			}
			k, _ := slices.BinarySearch(s.times[i], from)
			if k == len(s.times[i]) {
				return // nor from a later start
			}
			at = s.times[i][k]
		}
		if at-start <= s.within {
			s.done, s.times = true, nil
			return
		}
	}
}

func (s *sequence) absorb(_ op, c content) {
	o := c.(*sequence)
	if s.done || s.within != o.within {
		return
	}
	if o.done {
		s.done, s.times = true, nil
		return
	}
	for i := range min(len(s.times), len(o.times)) {
		for _, at := range o.times[i] {
			s.note(i, at)
		}
	}
	s.check()
}

func (s *sequence) clone() content {
	c := *s
	c.times = slices.Clone(s.times)
	for i := range c.times {
		c.times[i] = slices.Clone(c.times[i])
	}
	return &c
}

// size is the memory in bytes.
func (s *sequence) size() int {
	n := 64
	for _, times := range s.times {
		n += 24 + 10*cap(times)
	}
	return n
}

// Layout: varint within, uvarint repeats, uvarint number of steps, 0 if it has happened; for each uvarint number of times; each: varint, less the
// one before it.
func (s *sequence) encode(dst []byte, _ op) []byte {
	dst = binary.AppendUvarint(binary.AppendVarint(dst, s.within), s.repeats)
	dst = binary.AppendUvarint(dst, uint64(len(s.times)))
	for _, times := range s.times {
		dst = binary.AppendUvarint(dst, uint64(len(times)))
		before := int64(0)
		for _, at := range times {
			dst = binary.AppendVarint(dst, at-before)
			before = at
		}
	}
	return dst
}

func (r *reader) sequence() *sequence {
	s := &sequence{within: r.varint(), repeats: r.uvarint()}
	n := r.uvarint()
	if n > maxSteps || n == 1 {
		r.bad = true
		return s
	}
	if s.done = n == 0; s.done {
		return s
	}
	s.times = make([][]int64, n)
	for i := range s.times {
		n := r.uvarint()
		if n > maxStepTimes {
			r.bad = true
			return s
		}
		if n > 0 {
			s.times[i] = make([]int64, n)
		}
		before := int64(0)
		for k := range s.times[i] {
			before += r.varint()
			s.times[i][k] = before
		}
	}
	return s
}

// foldSequence is aggregate.fold for a sequence.
func (a *aggregate) foldSequence(at stamp, r *reader) error {
	within, repeats, n, steps := r.varint(), r.uvarint(), r.uvarint(), r.uvarint()
	if r.bad || n < 2 || n > maxSteps {
		return fmt.Errorf("fold profile delta: %w", errMalformed)
	}
	s := a.sequence()
	if s == nil {
		s = newSequence(within, repeats, int(n))
		a.content = s
	}
	if !s.done && len(s.times) != int(n) {
		return fmt.Errorf("fold profile delta: %w", errMalformed)
	}
	s.add(at.ms, steps)
	return nil
}

// sequenceChange is stage.change for a sequence.
func (s *stage) sequenceChange(b []byte, a *attribute, old, seen *aggregate, at stamp) (_ []byte, changes bool, _ *pipeline.RejectError) {
	if old != nil && old.sequence().done {
		return b, false, nil
	}
	steps, repeats := uint64(0), uint64(0)
	for i, name := range a.steps {
		if name == s.ev.Name {
			steps |= 1 << i
		}
		if slices.Index(a.steps, name) < i {
			repeats |= 1 << i
		}
	}
	if old != nil && old.sequence().has(at.ms, steps) {
		return b, false, nil
	}
	after := newSequence(a.within, repeats, len(a.steps))
	if seen != nil {
		after = seen.sequence().clone().(*sequence)
	}
	before := after.done
	after.add(at.ms, steps)
	b = binary.AppendUvarint(binary.AppendVarint(a.header(b), a.within), repeats)
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(len(a.steps))), steps)
	return b, after.done != before, nil
}

// has tells whether an event of that time is there at all its steps.
func (s *sequence) has(at int64, steps uint64) bool {
	for i := range s.times {
		if steps&(1<<i) != 0 {
			if _, found := slices.BinarySearch(s.times[i], at); !found {
				return false
			}
		}
	}
	return true
}
