package pipeline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// EventRecord is the record of a new event in the topic `events`, as every source makes it: the value is the event's own
// bytes, untouched, the key its partition key. The event needs Source, MessageID, ReceivedAt and Raw, and Scan's results.
func EventRecord(ev *Event) Record {
	h := make([]Header, 0, 6)
	h = append(h, Header{HeaderVersion, []byte("1")},
		Header{HeaderSource, []byte(ev.Source)},
		Header{HeaderID, []byte(ev.MessageID)},
		Header{HeaderReceived, strconv.AppendInt(nil, ev.ReceivedAt.UnixMilli(), 10)})
	if ev.SentAt != "" {
		h = append(h, Header{HeaderSent, []byte(ev.SentAt)})
	}
	if ev.Context != nil {
		h = append(h, Header{HeaderContext, ev.Context})
	}
	if ev.Refused != "" {
		h = append(h, Header{HeaderRefused, []byte(ev.Refused)})
	}
	return Record{Topic: "events", Partition: -1, Key: []byte(ev.PartitionKey()), Value: ev.Raw, Headers: h}
}

// ParseEventRecord reads a record of `events` back; Scan has not been called yet. A record that no source of this version
// wrote is rejected.
func ParseEventRecord(r *Record, ev *Event) *RejectError {
	*ev = Event{Raw: r.Value, Partition: r.Partition, Offset: r.Offset, Identifiers: ev.Identifiers[:0]}
	version := false
	for i := range r.Headers {
		v := r.Headers[i].Value
		switch r.Headers[i].Key {
		case HeaderVersion:
			version = string(v) == "1"
		case HeaderSource:
			ev.Source = text(v)
		case HeaderID:
			ev.MessageID = text(v)
		case HeaderReceived:
			ms, err := strconv.ParseInt(text(v), 10, 64)
			if err != nil || ms < 0 || ms > maxMillis {
				return Reject("header_received", "the header %s is not a time in Unix milliseconds", HeaderReceived)
			}
			ev.ReceivedAt = Millis(ms)
		case HeaderSent:
			ev.SentAt = text(v)
		case HeaderContext:
			ev.Context = v
		case HeaderReplay:
			ev.Replay = text(v)
		case HeaderRefused:
			ev.Refused = text(v)
		}
	}
	switch {
	case !version:
		return Reject("header_version", "the header %s is not 1: the record was not written by a source of this version", HeaderVersion)
	case ev.Source == "" || ev.MessageID == "":
		return Reject("header_missing", "the record lacks %s or %s", HeaderSource, HeaderID)
	case ev.ReceivedAt.IsZero():
		return Reject("header_missing", "the record lacks %s", HeaderReceived)
	}
	return nil
}

// maxMillis is the year 2262, the end of Go's and ClickHouse's nanosecond times.
const maxMillis = math.MaxInt64 / int64(time.Millisecond)

// Values of the topic `resolved`:
//
//	byte 0    format, 1
//	byte 1    kind, 'e' = event
//	16 bytes  primary, 16 bytes canonical
//	uvarint   idv
//	varint    received_at, time, original_time (0 = none): Unix milliseconds
//	byte      flags: 1 late, 2 the message id is the sender's own, 4 forwarded: it was in the topic before, for another profile,
//	          8 there are owners
//	8 bytes   configuration hash, big endian
//	uvarint   number of identifiers; each: code byte, string name, string value
//	          if there are owners: uvarint number; each: uvarint index, 16 bytes profile, uvarint idv
//	strings   source, message id, replay, the batch's sentAt; bytes: batch context (uvarint length, then the bytes)
//	          then what Scan found, so that no reader scans again:
//	strings   type, name, user id, anonymous id, group id, previous id, channel, timestamp, sentAt, originalTimestamp, library
//	uvarints  start and length, in the event's own bytes, of properties, traits, context; length 0: absent
//	rest      the event's own bytes
const (
	resolvedFormat = 1
	resolvedEvent  = 'e'

	flagLate      = 1
	flagOwnID     = 2
	flagForwarded = 4
	flagOwners    = 8
)

// AppendResolved appends the value of the event's record in `resolved`. config is Plan.Hash of the task.
func AppendResolved(dst []byte, ev *Event, config uint64) []byte {
	dst = append(dst, resolvedFormat, resolvedEvent)
	dst = append(dst, ev.Primary[:]...)
	dst = append(dst, ev.Canonical[:]...)
	dst = binary.AppendUvarint(dst, ev.IDV)
	dst = binary.AppendVarint(dst, ev.ReceivedAt.UnixMilli())
	dst = binary.AppendVarint(dst, ev.Time.UnixMilli())
	original := int64(0)
	if !ev.OriginalTime.IsZero() {
		original = ev.OriginalTime.UnixMilli()
	}
	dst = binary.AppendVarint(dst, original)
	var flags byte
	if ev.Late {
		flags |= flagLate
	}
	if ev.OwnID {
		flags |= flagOwnID
	}
	if ev.Forwarded {
		flags |= flagForwarded
	}
	if len(ev.Owners) > 0 {
		flags |= flagOwners
	}
	dst = append(dst, flags)
	dst = binary.BigEndian.AppendUint64(dst, config)
	dst = binary.AppendUvarint(dst, uint64(len(ev.Identifiers)))
	for _, id := range ev.Identifiers {
		dst = append(dst, id.Type.Code)
		dst = AppendText(dst, id.Type.Name)
		dst = AppendText(dst, id.Value)
	}
	if len(ev.Owners) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(ev.Owners)))
		for _, o := range ev.Owners {
			dst = binary.AppendUvarint(append(append(binary.AppendUvarint(dst, uint64(o.Index)), o.ID[:]...), o.Profile[:]...), o.IDV)
		}
	}
	dst = AppendText(dst, ev.Source)
	dst = AppendText(dst, ev.MessageID)
	dst = AppendText(dst, ev.Replay)
	dst = AppendText(dst, ev.SentAt)
	dst = AppendText(dst, text(ev.Context))
	for _, s := range ev.envelope() {
		dst = AppendText(dst, *s)
	}
	for _, part := range [...][]byte{ev.Properties, ev.Traits, ev.OwnContext} {
		start := 0
		if part != nil {
			start = cap(ev.Raw) - cap(part) // a sub-slice ends where the whole ends
		}
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(start)), uint64(len(part)))
	}
	return append(dst, ev.Raw...)
}

// envelope is the strings that Scan finds.
func (ev *Event) envelope() [11]*string {
	return [...]*string{&ev.Type, &ev.Name, &ev.UserID, &ev.AnonymousID, &ev.GroupID, &ev.PreviousID, &ev.Channel, &ev.Timestamp,
		&ev.OwnSentAt, &ev.Original, &ev.Library}
}

// ParseResolved reads a record of `resolved` into ev, with what Scan had found, and returns the configuration hash. The ids
// of the identifiers are not filled in. A newer format is refused by name.
func ParseResolved(r *Record, ev *Event) (config uint64, rej *RejectError) {
	*ev = Event{Partition: r.Partition, Offset: r.Offset, Identifiers: ev.Identifiers[:0]}
	d := Decoder{b: r.Value}
	if f := d.Byte(); f != resolvedFormat {
		return 0, Reject("resolved_format", "the record has format %d, this build reads format %d: upgrade it", f, resolvedFormat)
	}
	if k := d.Byte(); k != resolvedEvent {
		return 0, Reject("resolved_kind", "the record is of kind %d, which this build does not know: upgrade it", k)
	}
	copy(ev.Primary[:], d.take(16))
	copy(ev.Canonical[:], d.take(16))
	ev.IDV = d.Uvarint()
	ev.ReceivedAt = Millis(d.Varint())
	ev.Time = Millis(d.Varint())
	if ms := d.Varint(); ms != 0 {
		ev.OriginalTime = Millis(ms)
	}
	flags := d.Byte()
	ev.Late, ev.OwnID, ev.Forwarded = flags&flagLate != 0, flags&flagOwnID != 0, flags&flagForwarded != 0
	config = d.Fixed64()
	for n := d.Uvarint(); n > 0 && d.err == nil; n-- {
		code := d.Byte()
		ev.Identifiers = append(ev.Identifiers, Identifier{Type: IdentifierType{Code: code, Name: d.Text()}, Value: d.Text()})
	}
	if flags&flagOwners != 0 {
		for n := d.Length(34); n > 0 && d.err == nil; n-- {
			o := Owner{Index: int(min(d.Uvarint(), MaxIdentifiers)), ID: d.ID(), Profile: d.ID(), IDV: d.Uvarint()}
			if o.Index >= len(ev.Identifiers) {
				d.Fail()
			}
			ev.Owners = append(ev.Owners, o)
		}
	}
	ev.Source, ev.MessageID, ev.Replay, ev.SentAt = d.Text(), d.Text(), d.Text(), d.Text()
	if c := d.take(int(min(d.Uvarint(), math.MaxInt32))); len(c) > 0 {
		ev.Context = c
	}
	for _, s := range ev.envelope() {
		*s = d.Text()
	}
	var parts [3]struct{ start, length uint64 }
	for i := range parts {
		parts[i].start, parts[i].length = d.Uvarint(), d.Uvarint()
	}
	ev.Raw = d.b
	for i, dst := range [...]*[]byte{&ev.Properties, &ev.Traits, &ev.OwnContext} {
		p := parts[i]
		if p.start > uint64(len(ev.Raw)) || p.length > uint64(len(ev.Raw))-p.start {
			d.err = fmt.Errorf("a part of the event is beyond its end")
		} else if p.length > 0 {
			*dst = ev.Raw[p.start : p.start+p.length]
		}
	}
	if d.err != nil {
		return 0, Reject("resolved_truncated", "the record ends in the middle of a field")
	}
	return config, nil
}

// AppendText appends a length and the text, as Decoder.Text and String take it.
func AppendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// Decoder takes fields off the front of bytes, in the forms that the topics and stores use; after the first error everything
// is zero. Bytes and Text are parts of what is decoded.
type Decoder struct {
	b   []byte
	err error
}

// NewDecoder decodes b.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Complete tells whether all was there, and nothing more.
func (d *Decoder) Complete() bool { return d.err == nil && len(d.b) == 0 }

// OK tells whether all was there so far.
func (d *Decoder) OK() bool { return d.err == nil }

// Fail says that what was taken makes no sense.
func (d *Decoder) Fail() { d.err = errors.New("malformed") }

func (d *Decoder) take(n int) []byte {
	if d.err != nil || n > len(d.b) {
		d.err = fmt.Errorf("%d bytes are missing", n-len(d.b))
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// Byte takes one byte.
func (d *Decoder) Byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// ID takes 16 bytes.
func (d *Decoder) ID() (id ID) {
	copy(id[:], d.take(16))
	return id
}

// Bytes takes a length and that many bytes.
func (d *Decoder) Bytes() []byte { return d.take(int(min(d.Uvarint(), math.MaxInt32))) }

// Text is Bytes as a string, not copied.
func (d *Decoder) Text() string { return text(d.Bytes()) }

// String is Bytes as a string, copied.
func (d *Decoder) String() string { return string(d.Bytes()) }

// Length takes the number of entries that follow, each of at least so many bytes.
func (d *Decoder) Length(least int) int {
	n := d.Uvarint()
	if n > uint64(len(d.b)/least) {
		d.Fail()
		return 0
	}
	return int(n)
}

// Fixed32 takes four bytes, big endian.
func (d *Decoder) Fixed32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Fixed64 takes eight bytes, big endian.
func (d *Decoder) Fixed64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Float takes the eight bytes, big endian, of an IEEE 754 number.
func (d *Decoder) Float() float64 { return math.Float64frombits(d.Fixed64()) }

// Uvarint takes an unsigned number.
func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || d.err != nil {
		d.err = fmt.Errorf("a number is cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Varint takes a signed number.
func (d *Decoder) Varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || d.err != nil {
		d.err = fmt.Errorf("a number is cut off")
		return 0
	}
	d.b = d.b[n:]
	return v
}
