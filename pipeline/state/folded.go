package state

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millstream-io/millstream/pipeline"
)

func (s *stageTx) Load(key []byte, empty func() pipeline.Folded) (pipeline.Folded, error) {
	i, err := s.live(key, empty)
	if err != nil {
		return nil, err
	}
	return s.space.folded[i].object, nil
}

func (s *stageTx) Merge(key []byte, empty func() pipeline.Folded, delta []byte) (pipeline.Folded, error) {
	if err := checkLength("delta", len(key), len(delta)); err != nil {
		return nil, err
	}
	i, err := s.live(key, empty)
	if err != nil {
		return nil, err
	}
	e, o := &s.space.folded[i], &s.p.overlay
	o.undo = append(o.undo, e.undo(s.space, i))
	e.mutated = true // before Fold, which may panic
	if err := e.object.Fold(delta); err != nil {
		e.forget()
		return nil, fmt.Errorf("fold a delta of stage %d: %w", s.stage, err)
	}
	e.merged = appendBytes(e.merged, delta)
	return e.object, nil
}

// live returns the place of a folded key in the overlay, its object decoded.
func (s *stageTx) live(key []byte, empty func() pipeline.Folded) (int32, error) {
	if s.t.done || s.t.sealed {
		return 0, s.t.usable()
	}
	i, ok := s.space.foldedByKey[string(key)]
	if ok && s.space.folded[i].object != nil {
		return i, nil
	}
	if !ok {
		if s.p.store.options.Retention != Compacted {
			return 0, fmt.Errorf("folded key of stage %d: %w", s.stage, ErrRetention)
		}
		if err := checkLength("value", len(key), 0); err != nil {
			return 0, err
		}
		i = s.p.overlay.addFolded(s.space, s.folded[:], key)
	}
	e := &s.space.folded[i]
	e.empty = empty
	if err := s.decode(e); err != nil {
		return 0, fmt.Errorf("decode folded key of %s, stage %d: %w", s.p.who, s.stage, err)
	}
	return i, nil
}

// decode makes the object of an entry: the committed state and the deltas of this transaction. After an error the entry has
// no object, and the next call tries again.
func (s *stageTx) decode(e *foldedEntry) error {
	deltas := e.deltas()
	if !e.deleted && len(deltas) == 0 {
		if d := s.p.store.decoded.get(s.decodedKey(e.key())); d != nil {
			e.number, e.exists, e.located = d.number, true, true
			e.object, e.cached = d.object, d
			return nil
		}
	}
	object := e.empty()
	if !e.deleted {
		stored, err := s.read(s.folded, e.key())
		if err != nil {
			return err
		}
		number, exists, err := eachUpdate(stored, func(u entry) error {
			if u.tag == entryFull {
				return object.Decode(u.payload)
			}
			return eachDelta(u.payload, object.Fold)
		})
		if err != nil {
			return err
		}
		e.number, e.exists, e.located = number, exists, true
	}
	if err := eachDelta(deltas, object.Fold); err != nil {
		return err
	}
	e.object, e.mutated = object, len(deltas) > 0
	return nil
}

func (s *stageTx) decodedKey(key []byte) []byte {
	s.p.scratch = appendDecodedKey(s.p.scratch[:0], s.p.epoch, s.stage, key)
	return s.p.scratch
}

// deleteFolded deletes a folded key and says whether there was one.
func (s *stageTx) deleteFolded(key []byte) (bool, error) {
	i, ok := s.space.foldedByKey[string(key)]
	if !ok || !s.space.folded[i].located {
		number, cached, exists, err := s.numberOf(key)
		if !exists || err != nil {
			return false, err
		}
		if !ok {
			i = s.p.overlay.addFolded(s.space, s.folded[:], key)
		}
		e := &s.space.folded[i]
		e.number, e.cached, e.exists, e.located = number, cached, true, true
	}
	e, o := &s.space.folded[i], &s.p.overlay
	if len(e.deltas()) == 0 && (e.deleted || !e.exists) {
		return false, nil
	}
	o.undo = append(o.undo, e.undo(s.space, i))
	e.start, e.deleted = int32(len(e.merged)), e.exists
	e.forget()
	return true, nil
}

// numberOf returns the number of the last update of a folded key in the committed state, and its object if it is cached.
func (s *stageTx) numberOf(key []byte) (number uint64, cached *decoded, exists bool, err error) {
	if some, err := s.anyFolded(); !some || err != nil {
		return 0, nil, false, err
	}
	if d := s.p.store.decoded.get(s.decodedKey(key)); d != nil {
		return d.number, d, true, nil
	}
	stored, err := s.read(s.folded, key)
	if err != nil {
		return 0, nil, false, err
	}
	number, exists, err = eachUpdate(stored, nil)
	return number, nil, exists, err
}

// anyFolded says whether the stage has committed folded keys at all, so that stages without them delete without a read.
func (s *stageTx) anyFolded() (bool, error) {
	if some, asked := s.p.hasFolded[s.stage]; asked {
		return some, nil
	}
	it, err := s.p.store.db.NewIter(&pebble.IterOptions{
		LowerBound: s.folded[:], UpperBound: afterPrefix(s.folded[:]),
	})
	if err != nil {
		return false, fmt.Errorf("look for folded keys of %s, stage %d: %w", s.p.who, s.stage, err)
	}
	some := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return false, fmt.Errorf("look for folded keys of %s, stage %d: %w", s.p.who, s.stage, err)
	}
	s.p.hasFolded[s.stage] = some
	return some, nil
}
