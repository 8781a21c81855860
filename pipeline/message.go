package pipeline

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"
)

// ID is an identifier id, a profile id or a transition id: a UUID of version 8 (RFC 9562), written in 36 characters.
type ID = uuid.UUID

// Message types, as receivers and the topic `changes` see them.
const (
	ProfileCreated = "profile.created"
	ProfileUpdated = "profile.updated"
	SegmentEntered = "segment.entered"
	SegmentExited  = "segment.exited"
	ProfileMerged  = "profile.merged"
	ProfileSplit   = "profile.split"
	ProfileErased  = "profile.erased"
	ScoreChanged   = "score.changed"

	// What happens to identifiers; for the tables alone.
	IdentityMerge      = "identity.merge"      // for the table merges
	IdentityOverride   = "identity.override"   // for the table overrides
	IdentityIdentifier = "identity.identifier" // for the table identifiers
	IdentityErased     = "identity.erased"     // for the table erasures; all tables forget the person

	// How memberships go with a profile that is merged into another; for the tables alone.
	SegmentCarried = "segment.carried" // the other profile has the membership now
	SegmentPassed  = "segment.passed"  // the profile that is merged has it no more
)

// Message is one entry of the topic `changes`: a Standard Webhooks envelope. Timestamp is the event's processing time
// (Event.ReceivedAt), so that a replay writes the same bytes.
type Message struct {
	ID        ID // constant over replays and retries; the webhook-id
	Type      string
	Timestamp time.Time
	ProfileID ID              // key of the record
	Data      json.RawMessage // what receivers get
	Meta      json.RawMessage // what the tables need beyond data, never sent to a receiver; nil: none
}

// MessageVersion is the `v` of the envelope.
const MessageVersion = 1

// AppendJSON appends the value of the record in `changes`. Data and Meta must be valid JSON; they are copied as they are.
func (m *Message) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, m.Type...)
	dst = append(dst, `","timestamp":"`...)
	dst = AppendTime(dst, m.Timestamp)
	dst = append(dst, `","v":1,"id":"`...)
	dst = AppendID(dst, m.ID)
	dst = append(dst, `","data":`...)
	dst = append(dst, m.Data...)
	if m.Meta != nil {
		dst = append(dst, `,"meta":`...)
		dst = append(dst, m.Meta...)
	}
	return append(dst, '}')
}

// Internal tells that the message is for the tables alone and must not reach other receivers: what happens to identifiers,
// and how memberships travel with a merge.
func (m *Message) Internal() bool {
	return strings.HasPrefix(m.Type, "identity.") || m.Type == SegmentCarried || m.Type == SegmentPassed
}

// ParseMessage reads the value of a record in `changes`; key is the record's key. A newer version is refused by name. Data and
// Meta are parts of value.
func ParseMessage(key, value []byte) (*Message, error) {
	whole := gjson.Parse(text(value))
	if !gjson.ValidBytes(value) || !whole.IsObject() {
		return nil, undecodable()
	}
	m, version, ok := &Message{}, int64(0), true
	whole.ForEach(func(k, v gjson.Result) bool {
		var err error
		switch k.Str {
		case "type":
			m.Type, ok = v.Str, v.Type == gjson.String
		case "timestamp":
			m.Timestamp, err = time.Parse(time.RFC3339, v.Str)
		case "v":
			version = v.Int()
		case "id":
			m.ID, err = uuid.Parse(v.Str)
		case "data":
			m.Data = value[v.Index : v.Index+len(v.Raw)]
		case "meta":
			m.Meta = value[v.Index : v.Index+len(v.Raw)]
		}
		ok = ok && err == nil
		return ok
	})
	switch {
	case !ok:
		return nil, undecodable()
	case version != MessageVersion:
		return nil, Reject("message_version", "the message has version %d, this build reads version %d: upgrade it", version, MessageVersion)
	}
	var err error
	if m.ProfileID, err = uuid.ParseBytes(key); err != nil {
		return nil, Reject("message_key", "the message's key is not a profile id")
	}
	return m, nil
}

func undecodable() error {
	return Reject("message_undecodable", "the message is not the JSON of a Millstream message")
}

// TimeFormat is how times are written in messages: UTC, milliseconds.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// AppendTime appends t in TimeFormat. Go has a fast path for RFC 3339, of which TimeFormat is one form.
func AppendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	dst = t.AppendFormat(dst, time.RFC3339)
	ms := t.Nanosecond() / 1e6
	return append(dst[:len(dst)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// AppendID appends the 36 characters of an id.
func AppendID(dst []byte, id ID) []byte {
	var h [32]byte
	hex.Encode(h[:], id[:])
	dst = append(append(dst, h[:8]...), '-')
	dst = append(append(dst, h[8:12]...), '-')
	dst = append(append(dst, h[12:16]...), '-')
	dst = append(append(dst, h[16:20]...), '-')
	return append(dst, h[20:]...)
}

// AppendJSONString appends s as a JSON string; plain text, which is most of it, in one piece.
func AppendJSONString(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return gjson.AppendJSONString(dst, s)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}

// HashID returns the UUID of version 8 that stands for the parts: the same parts give the same id in every process and
// after every replay. Parts are length-prefixed, so ("a", "bc") and ("ab", "c") differ.
func HashID(parts ...[]byte) ID {
	var buf [256]byte
	b := buf[:0]
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	sum := sha256.Sum256(b)
	return versioned(ID(sum[:16]))
}

// versioned stamps version 8 and the RFC variant.
func versioned(id ID) ID {
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
