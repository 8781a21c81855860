package pipeline

import "time"

// Profile is what the stages after `profile` and the engine see of one person. It is made anew for each event; State is the
// live object behind it.
type Profile struct {
	ID      ID
	Turn    uint64 // offset of the last finished turn of regrouping, 0 if there was none
	Version uint64 // updates and transitions so far: grows with each event or due time that changed something, within a turn
	Created bool   // this event made the profile
	Empty   bool   // it has no event any more, all have gone to other profiles: it is in no segment and has no score
	State   ProfileState

	Segments []string           // what segment found, sorted; nil before it
	Scores   map[string]float64 // what score found; nil before it
}

// ProfileState is the state that the stage `profile` keeps of one profile.
type ProfileState interface {
	// Value returns the value of an attribute (a declared name, or traits.x): nil if it is absent, else string, float64,
	// bool, time.Time or []string; of a Past the Decayed or Purchases.
	Value(name string) any
	// AppendDocument appends the profile as receivers see it: {profile_id, previous_ids, identifiers, traits, aggregates,
	// segments, scores, first_seen, last_seen}.
	AppendDocument(dst []byte, p *Profile) []byte
}

// AppendJSON appends the profile as receivers see it.
func (p *Profile) AppendJSON(dst []byte) []byte { return p.State.AppendDocument(dst, p) }

// Value returns the value of an attribute, scores included, as State.Value does.
func (p *Profile) Value(name string) any {
	if score, ok := p.Scores[name]; ok {
		return score
	}
	return p.State.Value(name)
}

// AttributeType is the type of what a name stands for in expressions.
type AttributeType uint8

// The types of attributes. Expressions know two more, which no attribute has.
const (
	Any    AttributeType = iota // traits.x: whatever the sender wrote
	Number                      // float64
	Text                        // string
	Time                        // Unix seconds in messages and tables
	Bool
)

// Attribute is a name that expressions over a profile may use: an aggregate or trait declared under `profile`, later a
// score. Undeclared traits are traits.x.
type Attribute struct {
	Name  string
	Type  AttributeType
	Index int // position among the declared attributes, from 0; hidden ones count down from MaxAttributes-2
}

// MaxAttributes bounds the declared attributes of one pipeline. The last index stands for all undeclared traits.
const MaxAttributes = 256

// TraitsIndex is the index that stands for all undeclared traits together.
const TraitsIndex = MaxAttributes - 1

// AttributeSet is a set of attribute indexes.
type AttributeSet [MaxAttributes / 64]uint64

// Add puts index i into the set.
func (s *AttributeSet) Add(i int) { s[i/64] |= 1 << (i % 64) }

// Has tells whether index i is in the set.
func (s *AttributeSet) Has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// Intersects tells whether the sets have an index in common.
func (s *AttributeSet) Intersects(o *AttributeSet) bool {
	for i := range s {
		if s[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

// Sequence is the order of what is said about one profile: the offset of its last turn, then a number that counts up. It is
// also the version in ClickHouse's Replacing tables.
func Sequence(turn, number uint64) uint64 { return turn<<32 | number&0xffffffff }

// Millis is Unix milliseconds as a time in UTC.
func Millis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// TopicName is the name of a pipeline's topic: "<pipeline>.<name>".
func TopicName(pipeline, name string) string { return pipeline + "." + name }
