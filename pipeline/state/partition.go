package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Partition is the state of one partition of one input topic. It belongs to one goroutine, from Store.Partition to Close.
type Partition struct {
	store  *Store
	who    owner
	number byte   // of the topic
	epoch  uint64 // in the keys of decoded values
	prefix [3]byte
	logKey []byte // what the changelog keys of this partition start with, mostly nothing

	position Position
	known    bool

	overlay overlay
	open    *Transaction // the running one
	restore *pebble.Batch
	err     error // closed, or a commit failed half-way: nothing more is possible

	hasFolded  map[byte]bool // whether a stage has folded keys in Pebble; asked once
	scratch    []byte        // for keys
	valueBytes []byte        // what Get returned
	writes     [][]byte      // changelog records of DeletedByTime, used again
}

func newPartition(s *Store, who owner, number byte, epoch uint64) (*Partition, error) {
	p := &Partition{store: s, who: who, number: number, epoch: epoch, hasFolded: map[byte]bool{}, valueBytes: []byte{}}
	p.prefix[0] = number
	binary.BigEndian.PutUint16(p.prefix[1:], uint16(who.partition))
	if s.options.ManyInputs {
		p.logKey = append([]byte(who.topic), 0)
	}
	stored, closer, err := s.db.Get(p.positionKey())
	if errors.Is(err, pebble.ErrNotFound) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read position: %w", err)
	}
	defer closer.Close()
	p.position, p.known, err = decodeLocal(stored)
	return p, err
}

func (p *Partition) positionKey() []byte { return append(p.prefix[:], spacePosition) }

// keyPrefix returns what the keys of a space of a stage start with.
func (p *Partition) keyPrefix(space, stage byte) [prefixLen]byte {
	return [prefixLen]byte{p.prefix[0], p.prefix[1], p.prefix[2], space, stage}
}

// Position returns the position of the last commit or of the last restored record, and whether one is known. Changelog, the
// next offset of the changelog to apply, is set in both cases.
func (p *Partition) Position() (Position, bool) { return p.position, p.known }

// Reset removes everything that the partition has stored, position included, so that it can be rebuilt from the start of the
// changelog. An open transaction is discarded.
func (p *Partition) Reset() error {
	if p.err != nil {
		return fmt.Errorf("reset state of %s: %w", p.who, p.err)
	}
	p.discardOpen()
	p.dropRestore()
	upper := afterPrefix(p.prefix[:])
	if err := p.store.db.DeleteRange(p.prefix[:], upper, pebble.NoSync); err != nil {
		return fmt.Errorf("reset state of %s: %w", p.who, err)
	}
	p.position, p.known = Position{}, false
	p.forgetDecoded()
	return nil
}

// forgetDecoded makes sure that no decoded value of before is used again.
func (p *Partition) forgetDecoded() {
	p.store.mu.Lock()
	p.epoch = p.store.nextEpoch()
	p.store.mu.Unlock()
	clear(p.hasFolded)
}

// Close ends the ownership. An open transaction is discarded and restored records since the last Flush are dropped; both are
// in the changelog. A second call returns ErrClosed.
func (p *Partition) Close() error {
	if errors.Is(p.err, ErrClosed) {
		return fmt.Errorf("close state of %s: %w", p.who, p.err)
	}
	p.discardOpen()
	p.dropRestore()
	p.err = ErrClosed
	p.overlay = overlay{}
	p.store.mu.Lock()
	delete(p.store.owners, p.who)
	p.store.mu.Unlock()
	return nil
}

func (p *Partition) discardOpen() {
	if p.open != nil {
		p.open.Discard()
	}
}

// String names the partition in errors.
func (o owner) String() string { return fmt.Sprintf("%s-%d", o.topic, o.partition) }
