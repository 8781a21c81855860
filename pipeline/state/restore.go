package state

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// restoreBytes is how much Apply gathers before it writes to Pebble.
const restoreBytes = 1 << 20

// Apply folds one record of the changelog into the partition. Records are applied in order, from Position().Changelog, or any
// offset before it, to the end of the changelog: only then the state is that of the last commit. It writes to Pebble from
// time to time, so an interrupted restore goes on where it was; Flush writes the rest. Records of other input topics
// (Options.ManyInputs) are skipped. Errors: ErrMalformed, *NewerFormatError, an open transaction, or one of Pebble; after one
// of them the partition can only be closed.
//
// No record is compared with what is stored: Pebble appends the updates of a folded key, and whether one counts is decided
// when the key is read (eachUpdate). So a restore reads nothing.
func (p *Partition) Apply(rec *pipeline.Record) error {
	if err := p.canRestore(); err != nil {
		return err
	}
	key, ours := bytes.CutPrefix(rec.Key, p.logKey)
	if !ours {
		return nil
	}
	if p.restore == nil {
		p.restore = p.store.db.NewBatch()
		p.forgetDecoded()
	}
	if err := p.applyRecord(key, rec.Value); err != nil {
		p.err = fmt.Errorf("apply changelog record %d of %s: %w", rec.Offset, p.who, err)
		return p.err
	}
	if p.restore.Len() >= restoreBytes {
		return p.Flush(rec.Offset + 1)
	}
	return nil
}

// Flush writes what Apply has gathered, and that the changelog has been applied up to next.
func (p *Partition) Flush(next int64) error {
	if err := p.canRestore(); err != nil {
		return err
	}
	if next < 0 {
		return fmt.Errorf("restore state of %s: changelog offset %d", p.who, next)
	}
	if p.restore == nil {
		p.restore = p.store.db.NewBatch()
	}
	position := p.position
	position.Changelog = next
	err := p.restore.Set(p.positionKey(), appendLocal(nil, position, p.known), nil)
	if err == nil {
		err = p.store.db.Apply(p.restore, pebble.NoSync)
	}
	p.dropRestore()
	if err != nil {
		p.err = fmt.Errorf("restore state of %s up to changelog offset %d: %w", p.who, next, err)
		return p.err
	}
	p.position = position
	return nil
}

func (p *Partition) canRestore() error {
	if p.err != nil {
		return fmt.Errorf("restore state of %s: %w", p.who, p.err)
	}
	if p.open != nil {
		return fmt.Errorf("restore state of %s: %w", p.who, errors.New("a transaction is open"))
	}
	return nil
}

func (p *Partition) dropRestore() {
	if p.restore != nil {
		_ = p.restore.Close() // only returns its memory
		p.restore = nil
	}
}

func (p *Partition) applyRecord(key, value []byte) error {
	if string(key) == keyPosition {
		position, err := DecodePosition(value)
		if err != nil {
			return err
		}
		position.Changelog = p.position.Changelog
		p.position, p.known = position, true
		return nil
	}
	if p.store.options.Retention == DeletedByTime {
		if string(key) != keyWrites {
			return fmt.Errorf("unknown key: %w", ErrMalformed)
		}
		return p.applyWrites(value)
	}
	if len(key) < 2 || len(key) > maxKey+2 {
		return fmt.Errorf("key of %d bytes: %w", len(key), ErrMalformed)
	}
	stage, slot := key[0], key[len(key)-1]
	switch {
	case slot == slotPlain:
		return p.applyPlain(stage, key[1:len(key)-1], value)
	case slot < slots:
		return p.applyUpdate(stage, key[1:len(key)-1], slot, value)
	}
	return fmt.Errorf("key of kind %d: %w", slot, ErrMalformed)
}

// stored returns the key in Pebble. It is valid until the next call.
func (p *Partition) stored(space, stage byte, key []byte) []byte {
	prefix := p.keyPrefix(space, stage)
	p.scratch = append(append(p.scratch[:0], prefix[:]...), key...)
	return p.scratch
}

func (p *Partition) applyPlain(stage byte, key, value []byte) error {
	stored := p.stored(spacePlain, stage, key)
	if value == nil {
		return p.restore.Delete(stored, nil)
	}
	if _, err := plainValue(value); err != nil {
		return err
	}
	return p.restore.Set(stored, value, nil)
}

// applyUpdate applies one record of a folded key. Any tombstone removes the key: those of one delete precede the full state
// of the key that is made again, and only some of them may be left in a compacted log. A full state always replaces, because
// the key may have been made again since, with lower numbers.
func (p *Partition) applyUpdate(stage byte, key []byte, slot byte, value []byte) error {
	stored := p.stored(spaceFolded, stage, key)
	if value == nil {
		return p.restore.Delete(stored, nil)
	}
	e, rest, err := cutEntry(value)
	if err != nil {
		return err
	}
	if len(rest) > 0 || byte(e.number%slots) != slot {
		return fmt.Errorf("update %d in slot %d: %w", e.number, slot, ErrMalformed)
	}
	if e.tag == entryFull {
		return p.restore.Set(stored, value, nil)
	}
	if err := eachDelta(e.payload, func([]byte) error { return nil }); err != nil {
		return err
	}
	return p.restore.Merge(stored, value, nil)
}

func (p *Partition) applyWrites(record []byte) error {
	if len(record) == 0 {
		return fmt.Errorf("writes without format byte: %w", ErrMalformed)
	}
	if record[0] != formatWrites {
		return formatError("writes", record[0], formatWrites)
	}
	for rest := record[1:]; len(rest) > 0; {
		if len(rest) < 2 {
			return fmt.Errorf("write without stage: %w", ErrMalformed)
		}
		kind, stage := rest[0], rest[1]
		var a, b []byte
		var err error
		if a, rest, err = cutBytes(rest[2:]); err != nil {
			return err
		}
		if kind != writeDelete {
			if b, rest, err = cutBytes(rest); err != nil {
				return err
			}
		}
		if err := p.applyWrite(kind, stage, a, b); err != nil {
			return err
		}
	}
	return nil
}

func (p *Partition) applyWrite(kind, stage byte, a, b []byte) error {
	stored := p.stored(spacePlain, stage, a)
	switch kind {
	case writeSet:
		p.valueBytes = append(append(p.valueBytes[:0], formatPlain), b...)
		return p.restore.Set(stored, p.valueBytes, nil)
	case writeDelete:
		return p.restore.Delete(stored, nil)
	case writeDeleteRange:
		if bytes.Compare(a, b) >= 0 {
			return fmt.Errorf("range that ends before it starts: %w", ErrMalformed)
		}
		prefix := p.keyPrefix(spacePlain, stage)
		return p.restore.DeleteRange(stored, append(prefix[:], b...), nil)
	}
	return fmt.Errorf("write of kind %d: %w", kind, ErrMalformed)
}
