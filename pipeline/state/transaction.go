package state

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// Transaction gathers the writes of one commit interval in memory. It belongs to the owner of its partition and goes through
//
//	Begin → events, each after a Savepoint → Changelog → Commit
//
// with Discard possible at any point. After Commit or Discard its methods return ErrClosed, and writing panics.
type Transaction struct {
	p      *Partition
	stages []*stageTx
	done   bool
	why    error // it never began
	sealed bool  // Changelog was called: no more writes
	batch  *pebble.Batch
	err    error // of a write that has no way to return it
}

// Begin starts a transaction. One that is still open is discarded. If the partition is closed or unusable, or was restored
// without a Flush at the end, every method of the transaction says so.
func (p *Partition) Begin() *Transaction {
	p.discardOpen()
	t := &Transaction{p: p, why: p.err}
	if p.restore != nil && t.why == nil {
		t.why = errors.New("restored records are not flushed")
	}
	if t.why != nil {
		t.done = true
	} else {
		p.open = t
	}
	return t
}

// Stage returns the private key space of the stage with that code. Call it once per transaction or for every event.
func (t *Transaction) Stage(code byte) pipeline.Tx {
	return t.stage(code)
}

func (t *Transaction) stage(code byte) *stageTx {
	for _, s := range t.stages {
		if s.stage == code {
			return s
		}
	}
	s := &stageTx{
		t: t, p: t.p, stage: code, space: t.p.overlay.space(code),
		plain: t.p.keyPrefix(spacePlain, code), folded: t.p.keyPrefix(spaceFolded, code),
	}
	t.stages = append(t.stages, s)
	return s
}

// Savepoint marks where RollbackToSavepoint goes back to. There is one savepoint, the latest; before the first call it is
// the start of the transaction.
func (t *Transaction) Savepoint() {
	if t.usable() == nil {
		t.p.overlay.undo = t.p.overlay.undo[:0]
	}
}

// RollbackToSavepoint undoes every write since the savepoint, of all stages. Decoded objects that these writes changed are
// decoded again when they are next asked for; pointers to them must not be used any more.
func (t *Transaction) RollbackToSavepoint() {
	if t.usable() == nil {
		t.p.overlay.rollback()
		t.err = nil
	}
}

// Keep copies b into the memory of the transaction, which the next one uses again: the copy stays as it is until Commit, and
// for ever if the transaction is discarded after Changelog.
func (t *Transaction) Keep(b []byte) []byte {
	kept := t.p.overlay.bytes.take(len(b))
	copy(kept, b)
	return kept
}

// Err returns the first error of a Set or Delete since the savepoint: a *pipeline.RejectError if a key or value is longer
// than pipeline.Tx allows, else an error of the store. The engine asks after every event; Changelog returns it too.
func (t *Transaction) Err() error { return t.err }

// Discard ends the transaction without a trace. Bytes that Changelog handed out stay valid. It may be called twice, and
// after Commit.
func (t *Transaction) Discard() {
	if t.done {
		return
	}
	for _, s := range t.p.overlay.spaces {
		for i := range s.folded {
			if e := &s.folded[i]; e.mutated {
				e.forget()
			}
		}
	}
	if t.batch != nil {
		_ = t.batch.Close() // only returns its memory
	}
	if t.sealed {
		t.p.writes = nil
	}
	t.p.overlay.reset(t.sealed)
	t.end()
}

func (t *Transaction) end() {
	t.done, t.batch = true, nil
	t.p.open = nil
}

// usable returns why the transaction takes no more reads and writes.
func (t *Transaction) usable() error {
	if t.why != nil {
		return fmt.Errorf("transaction of %s: %w", t.p.who, t.why)
	}
	if t.done {
		return fmt.Errorf("transaction of %s: %w", t.p.who, ErrClosed)
	}
	if t.sealed {
		return fmt.Errorf("transaction of %s after its changelog: %w", t.p.who, ErrClosed)
	}
	return nil
}
