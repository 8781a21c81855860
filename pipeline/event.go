package pipeline

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/tidwall/gjson"
)

// Event types, as senders write them, and the engine's own.
const (
	TypeTrack    = "track"
	TypeIdentify = "identify"
	TypePage     = "page"
	TypeScreen   = "screen"
	TypeGroup    = "group"
	TypeAlias    = "alias"

	// TypeEvaluate is an event without a body: "look at this profile again". The engine makes it; no sender can.
	TypeEvaluate = "evaluate"
)

// Causes of a transition, as in the messages.
const (
	CauseLive  = "live"  // an event
	CauseTimer = "timer" // time has passed
	CauseMerge = "merge" // profiles became one
	CauseSplit = "split" // one became several
)

// Limits of one event. Above them it is a dead letter (oversize), not an error of the batch.
const (
	MaxEventBytes = 512 << 10
	MaxEventDepth = 64 // nesting of objects and arrays
	MaxIDBytes    = 1 << 10
)

// Event is one event on its way through a task. Its bytes belong to the batch it came in; a stage that keeps some copies
// them.
type Event struct {
	// What the source stamped.
	Source     string
	MessageID  string    // the sender's, or "<source>/<mapped or derived id>"
	OwnID      bool      // MessageID is the sender's own, so the same in whatever source it comes
	ReceivedAt time.Time // the task's now: max(previous, the source's stamp)
	SentAt     string    // the batch's sentAt as written, "" if none
	Raw        []byte    // the event's own bytes, as received
	Context    []byte    // the batch's context object, JSON; nil if none
	Replay     string    // id of the dead letter that this is, "" for a first pass
	Refused    string    // why Raw is no event although it was read, see Refuse; "" for events
	Partition  int32     // where it was read
	Offset     int64

	// What Scan found in Raw. Strings may be parts of it: a stage that keeps some copies them too.
	Type        string
	Name        string // event of a track, name of a page or screen
	UserID      string
	AnonymousID string
	GroupID     string
	PreviousID  string
	Channel     string // "server", "browser", …
	Timestamp   string // as written
	OwnSentAt   string // the event's own sentAt, as written
	Original    string // originalTimestamp, as written
	Library     string // context.library.name
	Properties  []byte // sub-slice of Raw: the object, nil if absent
	Traits      []byte // sub-slice of Raw: traits, else context.traits; nil if absent
	OwnContext  []byte // sub-slice of Raw: the event's own context, nil if absent; Context is the batch's

	// What clean decided.
	Time         time.Time // corrected and clamped, milliseconds
	OriginalTime time.Time // what the sender claimed; zero if nothing usable
	Identifiers  []Identifier
	Late         bool // beyond the dedup horizon: accepted, and flagged

	// What identity decides.
	Primary   ID     // strongest identifier on the event; nil UUID: nobody
	Canonical ID     // the profile it belongs to now
	IDV       uint64 // offset of the last change of the profile's component, 0 if it was never linked
	// Owners tell of those identifiers that do not belong to Canonical as of IDV, because their link was refused, and of those
	// whose id does not follow from the value, because somebody with that value was erased.
	Owners []Owner

	// What the engine knows of the profile in the profile task.
	Turn  uint64 // offset of the last finished turn of regrouping, 0 if there was none
	Cause string // why this is looked at, see the causes
	// Held says that the profile is being regrouped: the event's data is taken, and nothing is decided or told until the end of
	// that, which is an event of type evaluate. Profile stays nil.
	Held bool
	// Fragments are the primaries under which the profile keeps data, the event's own included, sorted. Nil: only the profile's own
	// identifier.
	Fragments []ID

	// Forwarded says that the event was in `resolved` before, for a profile that its primary had left.
	Forwarded bool

	// What profile adds for the stages after it. Nil before, and for events without a profile.
	Profile *Profile
	Changed []string // names of what this event changed on the profile, without repeats; the stage reuses the slice for the next event
	// Inputs marks the attributes whose value changed, by Attribute.Index; what the stages after profile need to look at.
	Inputs AttributeSet
	// Shown marks the identifiers that the profile, or one that is Held the event's fragment, has not had before: bit i is
	// Identifiers[i].
	Shown uint32
}

// Owner is the profile of an identifier on an event.
type Owner struct {
	Index   int // in Event.Identifiers
	ID      ID  // of the identifier
	Profile ID
	IDV     uint64 // offset of the last change of the profile's component
}

// OwnerOf is the owner of an identifier by its index, nil if that is Canonical and the id follows from the value.
func (ev *Event) OwnerOf(i int) *Owner {
	for n := range ev.Owners {
		if ev.Owners[n].Index == i {
			return &ev.Owners[n]
		}
	}
	return nil
}

// Now is the time at which the stages look at the profile: when the event was received; at a due time, exactly that.
func (ev *Event) Now() time.Time {
	if ev.Type == TypeEvaluate && ev.Cause == CauseTimer {
		return ev.Time
	}
	return ev.ReceivedAt
}

// Refuse notes why a source could make no event of what it read. Raw is then what it read, and clean refuses it for that
// reason: what was read travels like an event, so that it is a dead letter exactly once.
func (ev *Event) Refuse(rej *RejectError) { ev.Refused = rej.Code + " " + rej.Reason }

// Refusal is what Refuse noted, nil if nothing.
func (ev *Event) Refusal() *RejectError {
	if ev.Refused == "" {
		return nil
	}
	code, reason, _ := strings.Cut(ev.Refused, " ")
	return &RejectError{Code: code, Reason: reason}
}

// Check tells whether Raw is acceptable as an event at all: size, UTF-8, depth, JSON, an object.
func (ev *Event) Check() *RejectError {
	if len(ev.Raw) > MaxEventBytes {
		return Reject("oversize", "the event has %d bytes, the limit is %d", len(ev.Raw), MaxEventBytes)
	}
	if !utf8.Valid(ev.Raw) {
		return Reject("not_utf8", "the event is not valid UTF-8")
	}
	if !shallow(ev.Raw) {
		return Reject("too_deep", "the event is nested more than %d deep", MaxEventDepth)
	}
	if !gjson.ValidBytes(ev.Raw) {
		return Reject("not_json", "the event is not valid JSON")
	}
	if b := bytes.TrimLeft(ev.Raw, " \t\r\n"); b[0] != '{' {
		return Reject("not_an_object", "the event is not a JSON object")
	}
	return nil
}

// text is b as a string, without a copy: b must never change again, which is so for what was read from a topic.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Scan reads the envelope of Raw into the event: one pass over the top level, keys case-sensitive, the first of duplicate
// keys counts. Raw must have passed Check, now or in an earlier task. Fields of a wrong type are rejected; the others are
// filled in all the same, so that a source can still choose a partition.
func (ev *Event) Scan() *RejectError {
	s := scanner{ev: ev}
	gjson.Parse(text(ev.Raw)).ForEach(s.field)
	if ev.Traits == nil {
		ev.Traits = s.contextTraits
	}
	return s.bad
}

// scanner collects one event's top level.
type scanner struct {
	ev            *Event
	seen          uint32 // bit per known key: the first of duplicates counts
	contextTraits []byte
	bad           *RejectError
}

// field takes one key of the top level.
func (s *scanner) field(key, v gjson.Result) bool {
	ev := s.ev
	switch key.Str {
	case "type":
		s.text(0, &ev.Type, key.Str, v)
	case "event":
		s.text(1, &ev.Name, key.Str, v)
	case "name":
		if ev.Name == "" { // a track's `event` wins over `name`, in either order
			s.text(2, &ev.Name, key.Str, v)
		}
	case "messageId":
		var id string
		if s.text(3, &id, key.Str, v) && id != "" {
			ev.OwnID = true
			if ev.MessageID == "" {
				ev.MessageID = id
			}
		}
	case "userId":
		s.text(4, &ev.UserID, key.Str, v)
	case "anonymousId":
		s.text(5, &ev.AnonymousID, key.Str, v)
	case "groupId":
		s.text(6, &ev.GroupID, key.Str, v)
	case "previousId":
		s.text(7, &ev.PreviousID, key.Str, v)
	case "channel":
		s.text(8, &ev.Channel, key.Str, v)
	case "timestamp":
		s.text(9, &ev.Timestamp, key.Str, v)
	case "originalTimestamp":
		s.text(10, &ev.Original, key.Str, v)
	case "sentAt":
		s.text(11, &ev.OwnSentAt, key.Str, v)
	case "properties":
		s.object(12, &ev.Properties, key.Str, v)
	case "traits":
		s.object(13, &ev.Traits, key.Str, v)
	case "context":
		var ctx []byte
		if s.object(14, &ctx, key.Str, v) && ctx != nil {
			ev.OwnContext = ctx
			v.ForEach(func(k, c gjson.Result) bool {
				switch {
				case k.Str == "traits" && c.IsObject() && s.contextTraits == nil:
					s.contextTraits = s.slice(c)
				case k.Str == "library" && ev.Library == "":
					ev.Library = c.Get("name").String()
				case k.Str == "channel" && ev.Channel == "":
					ev.Channel = c.String()
				}
				return true
			})
		}
	}
	return true
}

func (s *scanner) first(bit uint) bool {
	if s.seen&(1<<bit) != 0 {
		return false
	}
	s.seen |= 1 << bit
	return true
}

// text takes a string; a number counts as its own text (exports write customer numbers so), null as absent.
func (s *scanner) text(bit uint, dst *string, name string, v gjson.Result) bool {
	if !s.first(bit) {
		return false
	}
	switch v.Type {
	case gjson.String:
		*dst = v.Str
	case gjson.Number:
		*dst = v.Raw
	case gjson.Null:
	default:
		s.reject("field_type", "%s is neither a string nor a number", name)
		return false
	}
	return true
}

func (s *scanner) object(bit uint, dst *[]byte, name string, v gjson.Result) bool {
	if !s.first(bit) {
		return false
	}
	switch {
	case v.IsObject():
		*dst = s.slice(v)
	case v.Type == gjson.Null:
	default:
		s.reject("field_type", "%s is not an object", name)
		return false
	}
	return true
}

// slice is the value as a sub-slice of Raw.
func (s *scanner) slice(v gjson.Result) []byte {
	return s.ev.Raw[v.Index : v.Index+len(v.Raw)]
}

func (s *scanner) reject(code, format string, args ...any) {
	if s.bad == nil {
		s.bad = Reject(code, format, args...)
	}
}

// shallow tells whether the brackets of b, strings apart, nest at most MaxEventDepth deep.
func shallow(b []byte) bool {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if depth++; depth > MaxEventDepth {
				return false
			}
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		}
	}
	return true
}
