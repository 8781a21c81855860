package pipeline

import "encoding/binary"

// Regroup tells a profile that an operation of the link log took members from it or gave it some.
type Regroup struct {
	Offset  uint64 // of the operation
	Profile ID
	Leave   []Leave // members that leave, with data or without
	From    []ID    // profiles from which a Move of this offset will come

	// Why, for profile.merged, profile.split and profile.erased.
	Kind      string // merge, split, quarantined, erased: what the operation did
	Rule      string // the operation: link, unlink, block, unblock, erase
	Reason    string
	MessageID string
	Now       int64 // received time of what caused it, Unix milliseconds
}

// Leave is one identifier that leaves a profile; to nobody (the nil UUID) if it was erased.
type Leave struct{ ID, To ID }

// Move carries what a profile gives to another one.
type Move struct {
	Offset    uint64 // of the operation
	From, To  ID
	Fragments []Fragment
	Whole     bool // the profile's own identifier goes, too: it is merged into To, and Decisions come with it
	Decisions []StageBytes
	Values    []Sighting // of identifiers that go along and stand in no fragment that does
	Last      bool       // the last one from From in this turn: the answer
	Now       int64
}

// Fragment is the data under one primary: what each stage keeps of it.
type Fragment struct {
	Primary  ID
	IDV      uint64 // highest offset of a change of its person that an event in it knew of
	Contents []StageBytes
}

// Sighting is an identifier as an event has shown it, for the profile that it belongs to.
type Sighting struct {
	ID          ID
	Type, Value string
	Profile     ID     // whose it is
	Offset      uint64 // of the link log: since then
	At          int64  // when it was seen, or came to the profile; Unix milliseconds
}

// StageBytes is what one stage keeps.
type StageBytes struct {
	Code  byte // of the stage
	Bytes []byte
}

// Values of the topic `resolved` beside events. Numbers are uvarints, strings and bytes have their length before them.
//
//	regroup   format, 'r', offset, 16 bytes profile, count and (16 bytes id, 16 bytes to), count and 16 bytes from,
//	          strings kind, rule, reason, message id, varint now
//	move      format, 'm', offset, 16 bytes from, 16 bytes to, byte flags (1 whole, 2 last), varint now,
//	          count and fragments (16 bytes primary, idv, count and (byte code, bytes)), count and decisions (byte code, bytes),
//	          count and values (bytes: a sighting)
//	sighting  format, 'i', 16 bytes identifier, strings type, value, 16 bytes profile, offset, varint at
const (
	resolvedRegroup  = 'r'
	resolvedMove     = 'm'
	resolvedSighting = 'i'

	flagWhole = 1
	flagLast  = 2
)

// Kinds of records in `resolved`, as ResolvedKind tells them.
const (
	KindEvent    = resolvedEvent
	KindRegroup  = resolvedRegroup
	KindMove     = resolvedMove
	KindSighting = resolvedSighting
)

// ResolvedKind is what a record of `resolved` is; 0 if that cannot be told.
func ResolvedKind(r *Record) byte {
	if len(r.Value) < 2 {
		return 0
	}
	return r.Value[1]
}

// Append appends the value of the record, whose key is the profile.
func (g *Regroup) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, resolvedFormat, resolvedRegroup), g.Offset)
	dst = append(dst, g.Profile[:]...)
	dst = binary.AppendUvarint(dst, uint64(len(g.Leave)))
	for _, l := range g.Leave {
		dst = append(append(dst, l.ID[:]...), l.To[:]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(g.From)))
	for _, f := range g.From {
		dst = append(dst, f[:]...)
	}
	dst = AppendText(AppendText(AppendText(AppendText(dst, g.Kind), g.Rule), g.Reason), g.MessageID)
	return binary.AppendVarint(dst, g.Now)
}

// ParseRegroup reads a record of that kind. Its bytes are copied.
func ParseRegroup(value []byte) (*Regroup, *RejectError) {
	d, rej := resolvedDecoder(value)
	if rej != nil {
		return nil, rej
	}
	g := &Regroup{Offset: d.Uvarint(), Profile: d.ID()}
	for n := d.Uvarint(); n > 0 && d.err == nil; n-- {
		g.Leave = append(g.Leave, Leave{d.ID(), d.ID()})
	}
	for n := d.Uvarint(); n > 0 && d.err == nil; n-- {
		g.From = append(g.From, d.ID())
	}
	g.Kind, g.Rule, g.Reason, g.MessageID = d.String(), d.String(), d.String(), d.String()
	g.Now = d.Varint()
	return g, d.rejected()
}

// Append appends the value of the record, whose key is To.
func (m *Move) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, resolvedFormat, resolvedMove), m.Offset)
	dst = append(append(dst, m.From[:]...), m.To[:]...)
	var flags byte
	if m.Whole {
		flags |= flagWhole
	}
	if m.Last {
		flags |= flagLast
	}
	dst = binary.AppendVarint(append(dst, flags), m.Now)
	dst = binary.AppendUvarint(dst, uint64(len(m.Fragments)))
	for i := range m.Fragments {
		f := &m.Fragments[i]
		dst = append(dst, f.Primary[:]...)
		dst = binary.AppendUvarint(dst, f.IDV)
		dst = AppendStageBytes(dst, f.Contents)
	}
	dst = binary.AppendUvarint(AppendStageBytes(dst, m.Decisions), uint64(len(m.Values)))
	for i := range m.Values {
		dst = AppendText(dst, text(m.Values[i].Append(nil)))
	}
	return dst
}

// Append appends the value of the record, whose key is Profile.
func (s *Sighting) Append(dst []byte) []byte {
	dst = append(append(dst, resolvedFormat, resolvedSighting), s.ID[:]...)
	dst = append(AppendText(AppendText(dst, s.Type), s.Value), s.Profile[:]...)
	return binary.AppendVarint(binary.AppendUvarint(dst, s.Offset), s.At)
}

// ParseSighting reads a record of that kind. Its bytes are copied.
func ParseSighting(value []byte) (*Sighting, *RejectError) {
	d, rej := resolvedDecoder(value)
	if rej != nil {
		return nil, rej
	}
	s := &Sighting{ID: d.ID(), Type: d.String(), Value: d.String(), Profile: d.ID(), Offset: d.Uvarint(), At: d.Varint()}
	return s, d.rejected()
}

// ParseMove reads a record of that kind. Its bytes are parts of value.
func ParseMove(value []byte) (*Move, *RejectError) {
	d, rej := resolvedDecoder(value)
	if rej != nil {
		return nil, rej
	}
	m := &Move{Offset: d.Uvarint(), From: d.ID(), To: d.ID()}
	flags := d.Byte()
	m.Whole, m.Last = flags&flagWhole != 0, flags&flagLast != 0
	m.Now = d.Varint()
	for n := d.Uvarint(); n > 0 && d.err == nil; n-- {
		m.Fragments = append(m.Fragments, Fragment{Primary: d.ID(), IDV: d.Uvarint(), Contents: d.StageBytes()})
	}
	m.Decisions = d.StageBytes()
	if d.Complete() { // of a version that had no values
		return m, nil
	}
	for n := d.Uvarint(); n > 0 && d.err == nil; n-- {
		s, rej := ParseSighting(d.Bytes())
		if rej != nil {
			return nil, rej
		}
		m.Values = append(m.Values, *s)
	}
	return m, d.rejected()
}

// AppendStageBytes appends a list: its length, then a byte code and the bytes of each.
func AppendStageBytes(dst []byte, list []StageBytes) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, x := range list {
		dst = append(binary.AppendUvarint(append(dst, x.Code), uint64(len(x.Bytes))), x.Bytes...)
	}
	return dst
}

func resolvedDecoder(value []byte) (*Decoder, *RejectError) {
	d := &Decoder{b: value}
	if f := d.Byte(); f != resolvedFormat {
		return nil, Reject("resolved_format", "the record has format %d, this build reads format %d: upgrade it", f, resolvedFormat)
	}
	d.Byte() // the kind
	return d, nil
}

// StageBytes takes a list that AppendStageBytes wrote.
func (d *Decoder) StageBytes() (list []StageBytes) {
	for n := d.Uvarint(); n > 0 && d.err == nil; n-- {
		list = append(list, StageBytes{d.Byte(), d.Bytes()})
	}
	return list
}

func (d *Decoder) rejected() *RejectError {
	if d.Complete() {
		return nil
	}
	return Reject("resolved_truncated", "the record ends in the middle of a field")
}
