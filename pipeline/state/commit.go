package state

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// recordBytes is where the changelog of a transaction that is deleted by time is cut into several records: half of the
// message that Kafka takes by default.
const recordBytes = 512 << 10

// Changelog ends the writing and calls emit for every record to produce to the changelog topic of the task, into the
// partition of the input, in this order; a nil value is a tombstone. The last one is the position. The bytes stay as they
// are until Commit, and for ever if the transaction is discarded. After an error only Discard is possible.
func (t *Transaction) Changelog(pos Position, emit func(key, value []byte)) error {
	if err := t.usable(); err != nil {
		return err
	}
	if t.err != nil {
		return t.err
	}
	p := t.p
	t.sealed = true
	t.batch = p.store.db.NewBatch()
	var err error
	if p.store.options.Retention == DeletedByTime {
		err = t.logWrites(emit)
	} else {
		err = t.logKeys(emit)
	}
	if err != nil {
		return fmt.Errorf("write changelog of %s: %w", p.who, err)
	}
	emit(p.ownKey(keyPosition), AppendPosition(nil, pos))
	return nil
}

// Commit writes the transaction to Pebble, with the position in the same batch; it does not wait for the disk. It is called
// once the Kafka transaction has committed; a transaction without a changelog may leave Changelog out. After an error the
// partition is unusable: close it, open it again, and apply the changelog.
func (t *Transaction) Commit(pos Position) error {
	if t.done {
		return t.usable()
	}
	if !t.sealed {
		if err := t.Changelog(pos, func(_, _ []byte) {}); err != nil {
			return err
		}
	}
	p := t.p
	if pos.Changelog < 0 {
		return fmt.Errorf("commit state of %s: changelog offset %d", p.who, pos.Changelog)
	}
	err := t.batch.Set(p.positionKey(), appendLocal(nil, pos, true), nil)
	if err == nil {
		err = p.store.db.Apply(t.batch, pebble.NoSync)
	}
	if err != nil {
		t.Discard()
		p.err = fmt.Errorf("commit state of %s at offset %d: %w", p.who, pos.Offsets, err)
		return p.err
	}
	_ = t.batch.Close() // only returns its memory
	p.position, p.known = pos, true
	t.fillCache()
	p.overlay.reset(false)
	t.end()
	return nil
}

// ownKey is the changelog key of something that is not a stage's.
func (p *Partition) ownKey(name string) []byte {
	return append(append([]byte(nil), p.logKey...), name...)
}

// logKey is the changelog key that is part of a name of the overlay.
func (t *Transaction) logKey(name []byte) []byte {
	key := name[prefixLen-1:]
	if len(t.p.logKey) == 0 {
		return key
	}
	long := t.p.overlay.bytes.take(len(t.p.logKey) + len(key))
	copy(long[copy(long, t.p.logKey):], key)
	return long
}

// logKeys writes batch and changelog of a compacted topic: one record per key.
func (t *Transaction) logKeys(emit func(key, value []byte)) error {
	for _, space := range t.p.overlay.spaces {
		for i := range space.plain {
			e := &space.plain[i]
			if err := t.writePlain(e); err != nil {
				return err
			}
			if e.state != unchanged {
				emit(t.logKey(e.name), e.value)
			}
		}
		for i := range space.folded {
			if err := t.logFolded(space, &space.folded[i], emit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Transaction) writePlain(e *plainEntry) error {
	key := e.name[:len(e.name)-1]
	switch e.state {
	case present:
		return t.batch.Set(key, e.value, nil)
	case deleted:
		return t.batch.Delete(key, nil)
	}
	return nil
}

// logFolded writes one folded key: tombstones for what was deleted, then the update. All deltas of the transaction are one
// update, so the numbers count commits.
func (t *Transaction) logFolded(space *space, e *foldedEntry, emit func(key, value []byte)) error {
	deltas := e.deltas()
	if e.deleted {
		t.logTombstones(e, len(deltas) > 0, emit)
	}
	key := e.name[:len(e.name)-1]
	if len(deltas) == 0 {
		if e.deleted {
			return t.batch.Delete(key, nil)
		}
		return nil
	}
	if e.exists && !e.deleted {
		e.number++
	} else {
		e.number = 0
	}
	update, err := t.encodeUpdate(space, e, deltas)
	if err != nil {
		return err
	}
	e.name[len(e.name)-1] = byte(e.number % slots)
	emit(t.logKey(e.name), update)
	if e.number%slots == 0 {
		return t.batch.Set(key, update, nil)
	}
	return t.batch.Merge(key, update, nil)
}

// logTombstones removes the slots that a deleted key has used. Slot 0 of a key that was made again gets its full state
// instead, behind the tombstones.
func (t *Transaction) logTombstones(e *foldedEntry, again bool, emit func(key, value []byte)) {
	first := uint64(0)
	if again {
		first = 1
	}
	for slot := first; slot <= min(e.number, slots-1); slot++ {
		name := t.p.overlay.bytes.take(len(e.name))
		copy(name, e.name)
		name[len(name)-1] = byte(slot)
		emit(t.logKey(name), nil)
	}
}

// encodeUpdate returns the entry of update e.number.
func (t *Transaction) encodeUpdate(space *space, e *foldedEntry, deltas []byte) ([]byte, error) {
	tag, payload := byte(entryDeltas), deltas
	if e.number%slots == 0 {
		if e.object == nil { // undone by a rollback and not read since
			number := e.number
			if err := t.stage(space.stage).decode(e); err != nil {
				return nil, err
			}
			e.number = number
		}
		t.p.scratch = e.object.Encode(t.p.scratch[:0])
		tag, payload = entryFull, t.p.scratch
	}
	var header [21]byte
	head := appendEntryHeader(header[:0], tag, e.number, len(payload))
	update := t.p.overlay.bytes.take(len(head) + len(payload))
	copy(update[copy(update, head):], payload)
	return update, nil
}

// fillCache hands the decoded objects over to the cache. The overlay may be dropped when it returns.
func (t *Transaction) fillCache() {
	p, some := t.p, false
	for _, space := range p.overlay.spaces {
		for i := range space.folded {
			e := &space.folded[i]
			written := len(e.deltas()) > 0
			if written {
				p.hasFolded[space.stage] = true
			}
			absent := !written && (e.deleted || !e.exists)
			cached := !written && e.cached != nil
			if e.object == nil || absent || cached {
				continue
			}
			if e.cached == nil {
				p.scratch = appendDecodedKey(p.scratch[:0], p.epoch, space.stage, e.key())
				e.cached = &decoded{key: string(p.scratch), object: e.object}
			}
			e.cached.number = e.number
			if p.store.decoded.set(e.cached) {
				some = true
			}
		}
	}
	if some {
		p.store.decoded.wait()
	}
}

// logWrites writes batch and changelog of a topic that is deleted by time: one record for all writes, or several if they are
// long. Ranges come first: what the transaction has written into a range since stands among the keys.
func (t *Transaction) logWrites(emit func(key, value []byte)) error {
	w := writes{p: t.p}
	for _, space := range t.p.overlay.spaces {
		for _, r := range space.ranges {
			w.add(writeDeleteRange, space.stage, r.from, r.to)
			prefix := t.p.keyPrefix(spacePlain, space.stage)
			from := append(prefix[:], r.from...)
			if err := t.batch.DeleteRange(from, append(prefix[:], r.to...), nil); err != nil {
				return err
			}
		}
	}
	for _, space := range t.p.overlay.spaces {
		for i := range space.plain {
			e := &space.plain[i]
			if err := t.writePlain(e); err != nil {
				return err
			}
			switch e.state {
			case present:
				w.add(writeSet, space.stage, e.key(), e.value[1:])
			case deleted:
				w.add(writeDelete, space.stage, e.key(), nil)
			}
		}
	}
	key := t.p.ownKey(keyWrites)
	for _, record := range w.finish() {
		emit(key, record)
	}
	return nil
}

// writes builds the records of logWrites in the partition's buffers.
type writes struct {
	p      *Partition
	record []byte
	used   int
}

func (w *writes) add(kind, stage byte, a, b []byte) {
	if len(w.record) > 0 && len(w.record)+len(a)+len(b) > recordBytes {
		w.cut()
	}
	if len(w.record) == 0 {
		if w.used < len(w.p.writes) {
			w.record = w.p.writes[w.used][:0]
		}
		w.record = append(w.record, formatWrites)
	}
	w.record = append(w.record, kind, stage)
	w.record = appendBytes(w.record, a)
	if kind != writeDelete {
		w.record = appendBytes(w.record, b)
	}
}

func (w *writes) cut() {
	if len(w.record) == 0 {
		return
	}
	if w.used < len(w.p.writes) {
		w.p.writes[w.used] = w.record
	} else {
		w.p.writes = append(w.p.writes, w.record)
	}
	w.used++
	w.record = nil
}

func (w *writes) finish() [][]byte {
	w.cut()
	return w.p.writes[:w.used]
}
