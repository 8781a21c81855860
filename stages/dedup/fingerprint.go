package dedup

import (
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// fingerprint stands for what an event says: type, name, ids, claimed time, properties and traits; not when it was sent and
// not its context, which differ between two tries of one client. It does not depend on how the JSON is written (order of
// keys, white space, escapes, 1 or 1.0, null or absent), so that an export of an event is still that event.
//
// 64 bits are enough: a collision turns a conflict of two events with one id into a duplicate, and loses no other event.
func fingerprint(ev *pipeline.Event) (print [fingerprintBytes]byte) {
	var buf [512]byte
	b := buf[:0]
	for _, s := range [...]string{ev.Type, ev.Name, ev.UserID, ev.AnonymousID, ev.GroupID, ev.PreviousID} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	if !ev.OriginalTime.IsZero() {
		b = binary.AppendVarint(b, ev.OriginalTime.UnixMilli())
	}
	b = binary.BigEndian.AppendUint64(b, hashObject(ev.Properties))
	b = binary.BigEndian.AppendUint64(b, hashObject(ev.Traits))
	binary.BigEndian.PutUint64(print[:], xxhash.Sum64(b))
	return print
}

// hashObject is the hash of properties or traits; none at all are the same as empty ones.
func hashObject(object []byte) uint64 {
	if object == nil {
		return mix('{', 0)
	}
	return hashValue(gjson.ParseBytes(object))
}

// hashValue is the hash of a JSON value. Members of an object are added up, which makes their order irrelevant.
func hashValue(v gjson.Result) uint64 {
	switch v.Type {
	case gjson.String:
		return mix('s', xxhash.Sum64String(v.Str))
	case gjson.Number:
		if math.IsInf(v.Num, 0) { // beyond a float: as it is written
			return mix('N', xxhash.Sum64String(v.Raw))
		}
		return mix('n', math.Float64bits(v.Num+0)) // + 0 makes 0 of -0
	case gjson.True:
		return mix('t', 1)
	case gjson.False:
		return mix('f', 1)
	case gjson.Null:
		return mix('0', 1)
	}
	sum, i := uint64(0), uint64(0)
	array := v.IsArray()
	v.ForEach(func(key, member gjson.Result) bool {
		if array {
			i++
			sum += mix(i, hashValue(member))
		} else if member.Type != gjson.Null {
			sum += mix(xxhash.Sum64String(key.Str), hashValue(member))
		}
		return true
	})
	if array {
		return mix('[', sum)
	}
	return mix('{', sum)
}

// mix hashes two words into one.
func mix(a, b uint64) uint64 {
	var buf [16]byte
	binary.LittleEndian.PutUint64(buf[:], a)
	binary.LittleEndian.PutUint64(buf[8:], b)
	return xxhash.Sum64(buf[:])
}
