package state

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// stageTx is the pipeline.Tx of one stage. Folded keys are in folded.go.
type stageTx struct {
	t      *Transaction
	p      *Partition
	stage  byte
	space  *space
	plain  [prefixLen]byte
	folded [prefixLen]byte
}

var _ pipeline.Tx = (*stageTx)(nil)

func (s *stageTx) Get(key []byte) ([]byte, error) {
	if s.t.done || s.t.sealed {
		return nil, s.t.usable()
	}
	if i, ok := s.space.byKey[string(key)]; ok {
		switch e := &s.space.plain[i]; e.state {
		case present:
			return e.value[1:], nil
		case deleted:
			return nil, nil
		}
	}
	if len(s.space.ranges) > 0 && s.space.inRange(key) {
		return nil, nil
	}
	stored, err := s.read(s.plain, key)
	if stored == nil || err != nil {
		return nil, err
	}
	return plainValue(stored)
}

// read returns what Pebble has under a key, nil if absent. The bytes are valid until the next call.
func (s *stageTx) read(prefix [prefixLen]byte, key []byte) ([]byte, error) {
	p := s.p
	p.scratch = append(append(p.scratch[:0], prefix[:]...), key...)
	stored, closer, err := p.store.db.Get(p.scratch)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state of %s, stage %d: %w", p.who, s.stage, err)
	}
	p.valueBytes = append(p.valueBytes[:0], stored...)
	return p.valueBytes, closer.Close()
}

func (s *stageTx) Set(key, value []byte) {
	s.mustWrite()
	if !s.fits("value", len(key), len(value)) {
		return
	}
	e := s.change(key)
	e.value = s.p.overlay.bytes.take(1 + len(value))
	e.value[0] = formatPlain
	copy(e.value[1:], value)
	e.state = present
}

func (s *stageTx) Delete(key []byte) {
	s.mustWrite()
	if !s.fits("value", len(key), 0) {
		return
	}
	if s.p.store.options.Retention == Compacted {
		found, err := s.deleteFolded(key)
		if found && err == nil {
			var value []byte // a key is mostly of one kind, and asking is cheaper than a tombstone in vain
			if value, err = s.Get(key); value == nil && err == nil {
				return
			}
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
	e := s.change(key)
	e.value, e.state = nil, deleted
}

// change returns the entry of a plain key that is about to be written.
func (s *stageTx) change(key []byte) *plainEntry {
	o := &s.p.overlay
	i := o.plainAt(s.space, s.plain[:], key)
	e := &s.space.plain[i]
	o.undo = append(o.undo, undo{space: s.space, kind: undoPlain, index: i, state: e.state, value: e.value})
	return e
}

// mustWrite panics where a write would be lost in silence: pipeline.Tx gives Set and Delete no error to return.
func (s *stageTx) mustWrite() {
	if s.t.done || s.t.sealed {
		panic("state: write in a transaction that has ended")
	}
}

// fits refuses what is longer than pipeline.Tx allows, for the whole event.
func (s *stageTx) fits(what string, key, value int) bool {
	err := checkLength(what, key, value)
	if err != nil {
		s.fail(err)
	}
	return err == nil
}

func checkLength(what string, key, value int) error {
	if key > maxKey {
		return pipeline.Reject("state_key_too_long", "a state key has %d bytes, at most %d are possible", key, maxKey)
	}
	if value > maxValue {
		return pipeline.Reject("state_value_too_long", "a state %s has %d bytes, at most %d are possible", what, value, maxValue)
	}
	return nil
}

func (s *stageTx) fail(err error) {
	if s.t.err == nil {
		s.t.err = err
	}
}

func (s *stageTx) DeleteRange(from, to []byte) error {
	if err := s.t.usable(); err != nil {
		return err
	}
	if s.p.store.options.Retention != DeletedByTime {
		return fmt.Errorf("delete a range of keys of stage %d: %w", s.stage, ErrRetention)
	}
	if err := checkLength("key", max(len(from), len(to)), 0); err != nil {
		return err
	}
	if bytes.Compare(from, to) >= 0 {
		return nil
	}
	o, sp := &s.p.overlay, s.space
	sp.order()
	for _, i := range sp.ordered[sp.from(from):] {
		e := &sp.plain[i]
		if bytes.Compare(e.key(), to) >= 0 {
			break
		}
		o.undo = append(o.undo, undo{space: sp, kind: undoPlain, index: i, state: e.state, value: e.value})
		e.value, e.state = nil, unchanged // the range answers from here on
	}
	o.undo = append(o.undo, undo{space: sp, kind: undoRange, length: int32(len(sp.ranges))})
	kept := o.bytes.take(len(from) + len(to))
	n := copy(kept, from)
	copy(kept[n:], to)
	sp.ranges = append(sp.ranges, keyRange{from: kept[:n:n], to: kept[n:]})
	return nil
}

func (s *stageTx) Scan(prefix []byte, fn func(key, value []byte) error) error {
	return s.scan(prefix, prefix, fn)
}

// ScanFrom visits the plain keys of a stage that have the prefix and are not below from, which has the prefix too, as
// pipeline.Tx.Scan does. The way to the first one does not lead over the keys below it, deleted ones included: a queue whose
// head moves on is read in constant time.
func (t *Transaction) ScanFrom(code byte, prefix, from []byte, fn func(key, value []byte) error) error {
	return t.stage(code).scan(prefix, from, fn)
}

func (s *stageTx) scan(prefix, from []byte, fn func(key, value []byte) error) (err error) {
	if err := s.t.usable(); err != nil {
		return err
	}
	lower := append(append([]byte(nil), s.plain[:]...), from...)
	upper := afterPrefix(append(append([]byte(nil), s.plain[:]...), prefix...))
	it, err := s.p.store.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("scan state of %s, stage %d: %w", s.p.who, s.stage, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()

	sp := s.space
	sp.order()
	own := sp.ordered[sp.from(from):]
	stored := it.First()
	for {
		var e *plainEntry
		if len(own) > 0 {
			if e = &sp.plain[own[0]]; !bytes.HasPrefix(e.key(), prefix) {
				e, own = nil, nil
			}
		}
		if e == nil && !stored {
			return it.Error()
		}
		order := 1 // the stored key is next
		if e != nil {
			order = -1
			if stored {
				order = bytes.Compare(e.key(), it.Key()[prefixLen:])
			}
		}
		if order <= 0 {
			own = own[1:]
		}
		if order <= 0 && e.state == present {
			err = fn(e.key(), e.value[1:])
		} else if order > 0 || order == 0 && e.state == unchanged {
			err = s.visitStored(it, fn)
		}
		if err != nil {
			return err
		}
		if order >= 0 {
			stored = it.Next()
		}
	}
}

// visitStored calls fn for the key that the iterator is at, unless the transaction has deleted it with a range.
func (s *stageTx) visitStored(it *pebble.Iterator, fn func(key, value []byte) error) error {
	key := it.Key()[prefixLen:]
	if s.space.inRange(key) {
		return nil
	}
	stored, err := it.ValueAndErr()
	if err != nil {
		return fmt.Errorf("scan state of %s, stage %d: %w", s.p.who, s.stage, err)
	}
	value, err := plainValue(stored)
	if err != nil {
		return fmt.Errorf("scan state of %s, stage %d: %w", s.p.who, s.stage, err)
	}
	return fn(key, value)
}
