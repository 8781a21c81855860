package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Keys in Pebble. Integers are big endian, so that a partition, a space and a stage are each one range of keys.
//
//	byte 0     number of the input topic in this store, 1..254; 0 for the store's own keys
//	byte 1-2   partition
//	byte 3     space: 0 the partition's position (ends here), 1 plain keys, 2 folded keys
//	byte 4     code of the stage
//	byte 5-    the stage's key
//
//	00 't' name   number (1 byte) of the input topic of that name
//
// Keys in a compacted changelog. The last byte tells the kind, so a key is logged under at most 33 names.
//
//	[topic 00] code key FF     plain key: the last value, or a tombstone
//	[topic 00] code key 00-1F  folded key: update n at n mod 32, or a tombstone
//	[topic 00] "~position"     position
//
// Keys in a changelog that is deleted by time:
//
//	[topic 00] "~writes"       writes of one transaction, in order; a long one takes several records
//	[topic 00] "~position"     position
//
// The part in brackets is there if the task has several input topics (Options.ManyInputs).
//
// Values. Each starts with its format byte.
//
//	plain value     01 bytes                     the same in Pebble and in the changelog
//	folded value    entry, entry, …              in Pebble; one entry per changelog record
//	  entry         01 n(uvarint) length(uvarint) full state    n mod 32 = 0
//	  entry         02 n(uvarint) length(uvarint) deltas        n mod 32 > 0
//	  deltas        length(uvarint) delta, …     all deltas of one transaction: one update
//	writes          01 write, write, …
//	  set           01 code length key length value
//	  delete        02 code length key
//	  delete range  03 code length from length to
//	position        see position.go
const (
	prefixLen = 5 // bytes before the stage's key in Pebble

	spacePosition = 0
	spacePlain    = 1
	spaceFolded   = 2

	formatPlain  = 1
	formatWrites = 1
	entryFull    = 1
	entryDeltas  = 2
	entryNewest  = entryDeltas

	slots     = 32   // a full state every that many updates
	slotPlain = 0xff // last byte of the changelog key of a plain key

	writeSet         = 1
	writeDelete      = 2
	writeDeleteRange = 3
)

const (
	keyPosition = "~position"
	keyWrites   = "~writes"
)

// maxKey and maxValue are the limits that pipeline.Tx promises, in bytes.
const (
	maxKey   = 1 << 10
	maxValue = 1 << 20
)

// afterPrefix returns the first key after all keys with that prefix. Every prefix here starts with a topic's number below
// 255, so there is one.
func afterPrefix(prefix []byte) []byte {
	after := bytes.Clone(prefix)
	for i := len(after) - 1; i >= 0; i-- {
		if after[i] != 0xff {
			after[i]++
			return after[:i+1]
		}
	}
	return after
}

// plainValue strips the format byte of a stored plain value.
func plainValue(stored []byte) ([]byte, error) {
	if len(stored) == 0 {
		return nil, fmt.Errorf("plain value without format byte: %w", ErrMalformed)
	}
	if stored[0] != formatPlain {
		return nil, formatError("plain value", stored[0], formatPlain)
	}
	return stored[1:], nil
}

// formatError tells a later format from a format byte that no version has written.
func formatError(what string, format byte, supported int) error {
	if int(format) > supported {
		return &NewerFormatError{What: what, Format: int(format), Supported: supported}
	}
	return fmt.Errorf("%s of format %d: %w", what, format, ErrMalformed)
}

// entry is one update of a folded key.
type entry struct {
	tag     byte
	number  uint64 // how many commits had changed the key before this one
	payload []byte // the full state, or the deltas
}

// appendEntryHeader appends what stands before the payload.
func appendEntryHeader(dst []byte, tag byte, number uint64, payloadLen int) []byte {
	dst = append(dst, tag)
	dst = binary.AppendUvarint(dst, number)
	return binary.AppendUvarint(dst, uint64(payloadLen))
}

// cutEntry takes the first entry off b.
func cutEntry(b []byte) (e entry, rest []byte, err error) {
	if len(b) == 0 {
		return e, nil, fmt.Errorf("folded value without entry: %w", ErrMalformed)
	}
	e.tag = b[0]
	if e.tag != entryFull && e.tag != entryDeltas {
		return e, nil, formatError("entry of a folded value", e.tag, entryNewest)
	}
	number, n := binary.Uvarint(b[1:])
	if n <= 0 {
		return e, nil, fmt.Errorf("number of an entry: %w", ErrMalformed)
	}
	e.number = number
	if (e.tag == entryFull) != (number%slots == 0) {
		return e, nil, fmt.Errorf("entry %d of kind %d: %w", number, e.tag, ErrMalformed)
	}
	e.payload, rest, err = cutBytes(b[1+n:])
	if err != nil {
		return e, nil, fmt.Errorf("entry %d: %w", number, err)
	}
	return e, rest, nil
}

// eachDelta calls fn for every delta of an update.
func eachDelta(payload []byte, fn func(delta []byte) error) error {
	for len(payload) > 0 {
		delta, rest, err := cutBytes(payload)
		if err != nil {
			return fmt.Errorf("delta: %w", err)
		}
		if err := fn(delta); err != nil {
			return err
		}
		payload = rest
	}
	return nil
}

// eachUpdate calls fn for the entries of a stored folded value that count. It is where the rules of the changelog are: a
// full state replaces whatever stands before it; an update counts if it is the next one after what has been folded, which
// skips updates that are read a second time and the older slots of a compacted log. It returns the number of the last
// entry that counted, and whether there was one.
func eachUpdate(stored []byte, fn func(entry) error) (number uint64, exists bool, err error) {
	for len(stored) > 0 {
		e, rest, err := cutEntry(stored)
		if err != nil {
			return 0, false, err
		}
		stored = rest
		if e.tag == entryDeltas && (!exists || e.number != number+1) {
			continue
		}
		if fn != nil {
			if err := fn(e); err != nil {
				return 0, false, fmt.Errorf("fold update %d: %w", e.number, err)
			}
		}
		number, exists = e.number, true
	}
	return number, exists, nil
}

// appendBytes appends b with its length before it.
func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// cutBytes takes a length and that many bytes off b.
func cutBytes(b []byte) (field, rest []byte, err error) {
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return nil, nil, fmt.Errorf("length beyond the end: %w", ErrMalformed)
	}
	end := n + int(length)
	return b[n:end:end], b[end:], nil
}
