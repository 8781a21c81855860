package state

import (
	"encoding/binary"
	"fmt"
)

// Position says up to where a partition's state has come. It is written with every commit, in the same Pebble batch and in
// the same Kafka transaction as the state.
//
//	byte 0     format, 1
//	varint     Offsets
//	varint     StreamTime
//	8 bytes    Config, big endian
//	uvarint    Number
//	uvarint    Algorithm
//
// In Pebble it is kept together with how far the changelog has been applied, which a restore knows earlier:
//
//	byte 0     format, 1
//	uvarint    Changelog
//	rest       the position as above; nothing if none is known yet
type Position struct {
	Offsets    int64  // offset of the next input record
	StreamTime int64  // the task's time, Unix milliseconds
	Config     uint64 // hash of the configuration that processed the input
	Number     uint64 // number of the transaction
	Algorithm  uint32 // version of the algorithms that changed the state
	Changelog  int64  // next offset of the changelog to apply; local only, 0 in the changelog itself
}

const formatPosition = 1

// AppendPosition appends the encoded position, without Changelog.
func AppendPosition(dst []byte, p Position) []byte {
	dst = append(dst, formatPosition)
	dst = binary.AppendVarint(dst, p.Offsets)
	dst = binary.AppendVarint(dst, p.StreamTime)
	dst = binary.BigEndian.AppendUint64(dst, p.Config)
	dst = binary.AppendUvarint(dst, p.Number)
	return binary.AppendUvarint(dst, uint64(p.Algorithm))
}

// DecodePosition is the reverse of AppendPosition. A later format is a *NewerFormatError.
func DecodePosition(b []byte) (Position, error) {
	if len(b) == 0 {
		return Position{}, fmt.Errorf("position without format byte: %w", ErrMalformed)
	}
	if b[0] != formatPosition {
		return Position{}, formatError("position", b[0], formatPosition)
	}
	r := reader{b: b[1:]}
	var p Position
	p.Offsets = r.varint()
	p.StreamTime = r.varint()
	p.Config = r.fixed64()
	p.Number = r.uvarint()
	algorithm := r.uvarint()
	p.Algorithm = uint32(algorithm)
	if r.bad || len(r.b) > 0 || algorithm != uint64(p.Algorithm) {
		return Position{}, fmt.Errorf("position: %w", ErrMalformed)
	}
	return p, nil
}

// appendLocal appends what Pebble keeps: the progress of the changelog, and the position if it is known.
func appendLocal(dst []byte, p Position, known bool) []byte {
	dst = append(dst, formatPosition)
	dst = binary.AppendUvarint(dst, uint64(p.Changelog))
	if !known {
		return dst
	}
	return AppendPosition(dst, p)
}

// decodeLocal is the reverse of appendLocal.
func decodeLocal(b []byte) (p Position, known bool, err error) {
	if len(b) == 0 {
		return p, false, fmt.Errorf("stored position without format byte: %w", ErrMalformed)
	}
	if b[0] != formatPosition {
		return p, false, formatError("stored position", b[0], formatPosition)
	}
	r := reader{b: b[1:]}
	changelog := int64(r.uvarint())
	if r.bad || changelog < 0 {
		return p, false, fmt.Errorf("stored position: %w", ErrMalformed)
	}
	if len(r.b) > 0 {
		if p, err = DecodePosition(r.b); err != nil {
			return Position{}, false, err
		}
		known = true
	}
	p.Changelog = changelog
	return p, known, nil
}

// reader takes integers off b; the first that is not there sets bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return take(r, v, n)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	return take(r, v, n)
}

func (r *reader) fixed64() uint64 {
	if len(r.b) < 8 {
		return take(r, uint64(0), 0)
	}
	return take(r, binary.BigEndian.Uint64(r.b), 8)
}

func take[T any](r *reader, v T, n int) T {
	if n <= 0 {
		r.bad, r.b = true, nil
		var zero T
		return zero
	}
	r.b = r.b[n:]
	return v
}
