package clickhouse

import (
	"math"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// changeBatch turns messages of `changes` into rows of profiles, segment_log, scores and the tables of identity. Messages of other
// types are for other readers; so are profile.split, which is followed by the profile as it is then, and profile.erased, before
// which identity.erased has said more.
type changeBatch struct {
	profiles    profileRows
	segments    segmentRows
	scores      scoreRows
	merges      mergeRows
	overrides   overrideRows
	identifiers identifierRows
	erasures    erasureRows
}

func newChangeBatch() *changeBatch {
	b := new(changeBatch)
	b.profiles.init()
	b.segments.init()
	b.scores.init()
	b.merges.init()
	b.overrides.init()
	b.identifiers.init()
	b.erasures.init()
	return b
}

func (b *changeBatch) tables() []*rows {
	return []*rows{&b.profiles.rows, &b.segments.rows, &b.scores.rows, &b.merges.rows, &b.overrides.rows, &b.identifiers.rows, &b.erasures.rows}
}

func (b *changeBatch) add(r *pipeline.Record) *pipeline.RejectError {
	m, err := pipeline.ParseMessage(r.Key, r.Value)
	if err != nil {
		return asReject(err)
	}
	data, meta := gjson.Parse(view(m.Data)), gjson.Parse(view(m.Meta))
	switch m.Type {
	case pipeline.ProfileCreated, pipeline.ProfileUpdated:
		return b.profiles.add(m, data, meta)
	case pipeline.ProfileMerged:
		return b.profiles.merged(m, data, meta)
	case pipeline.SegmentEntered, pipeline.SegmentExited, pipeline.SegmentCarried, pipeline.SegmentPassed:
		return b.segments.add(m, data, meta)
	case pipeline.ScoreChanged:
		return b.scores.add(m, data, meta)
	case pipeline.IdentityMerge:
		return b.merges.add(data)
	case pipeline.IdentityOverride:
		return b.overrides.add(data)
	case pipeline.IdentityIdentifier:
		return b.identifiers.add(data)
	case pipeline.IdentityErased:
		return b.erasures.add(data)
	}
	return nil
}

// profileRows is the table profiles.
type profileRows struct {
	rows
	flat flattener

	id              *proto.ColUUID
	version         *proto.ColUInt64
	deleted         *proto.ColUInt8
	mergedInto      *proto.ColNullable[uuid.UUID]
	first, last     *proto.ColDateTime64
	identifiers     *proto.ColMap[string, []string]
	traits          textMap
	aggregates      numberMap
	segments        *proto.ColArr[string]
	scores          numberMap
	updated         *proto.ColDateTime64
	aggregate       []pair // of the row in hand
	score           []pair
	segmentsInHand  []string
	identifierNames []string
}

type pair struct {
	name  string
	value float64
}

func (t *profileRows) init() {
	t.rows = rows{table: "profiles"}
	t.id = column(&t.rows, "profile_id", new(proto.ColUUID))
	t.people = []*proto.ColUUID{t.id}
	t.version = column(&t.rows, "version", new(proto.ColUInt64))
	t.deleted = column(&t.rows, "deleted", new(proto.ColUInt8))
	t.mergedInto = column(&t.rows, "merged_into", new(proto.ColUUID).Nullable())
	t.first = column(&t.rows, "first_seen", newTimes())
	t.last = column(&t.rows, "last_seen", newTimes())
	t.identifiers = column(&t.rows, "identifiers", proto.NewMap[string, []string](newLowText(), new(proto.ColStr).Array()))
	t.traits = column(&t.rows, "traits", newTextMap())
	t.aggregates = column(&t.rows, "aggregates", newNumberMap())
	t.segments = column(&t.rows, "segments", newLowText().Array())
	t.scores = column(&t.rows, "scores", newNumberMap())
	t.updated = column(&t.rows, "updated_at", newTimes())
}

// document is a profile as receivers see it, its parts not read yet.
type document struct {
	identifiers, traits, aggregates, segments, scores, first, last gjson.Result
}

func readDocument(o gjson.Result) (d document) {
	o.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "identifiers":
			d.identifiers = v
		case "traits":
			d.traits = v
		case "aggregates":
			d.aggregates = v
		case "segments":
			d.segments = v
		case "scores":
			d.scores = v
		case "first_seen":
			d.first = v
		case "last_seen":
			d.last = v
		}
		return true
	})
	return d
}

// add appends the profile that the message carries: data.profile, or data itself. The version orders the rows of a profile.
func (t *profileRows) add(m *pipeline.Message, data, meta gjson.Result) *pipeline.RejectError {
	p := data.Get("profile")
	if !p.IsObject() {
		p = data
	}
	version, ok := t.sequence(meta.Get("version"))
	if !ok || !p.IsObject() {
		return pipeline.Reject("profile_incomplete", "the message lacks the profile or meta.version")
	}
	d := readDocument(p)
	first, okFirst := readTime(d.first)
	last, okLast := readTime(d.last)
	if !okFirst || !okLast {
		return pipeline.Reject("profile_time", "first_seen or last_seen of the profile is not a time")
	}
	var others []gjson.Result
	var finite bool
	if t.aggregate, others, finite = readNumbers(t.aggregate[:0], d.aggregates); !finite {
		return pipeline.Reject("number_range", "an aggregate of the profile is beyond what a float holds")
	}
	if t.score, _, finite = readNumbers(t.score[:0], d.scores); !finite {
		return pipeline.Reject("number_range", "a score of the profile is beyond what a float holds")
	}

	t.id.Append(m.ProfileID)
	t.version.Append(version)
	t.deleted.Append(0)
	t.mergedInto.Append(proto.Null[uuid.UUID]())
	t.first.AppendRaw(stored(first))
	t.last.AppendRaw(stored(last))
	t.appendIdentifiers(d.identifiers)
	t.appendTraits(d.traits, others)
	appendNumbers(t.aggregates, t.aggregate)
	t.appendSegments(d.segments)
	appendNumbers(t.scores, t.score)
	t.updated.AppendRaw(stored(m.Timestamp))
	return nil
}

// merged appends the end of a profile whose identifiers all belong to another one now. Its contents are in the other's row.
// A later profile of that id has a higher version.
func (t *profileRows) merged(m *pipeline.Message, data, meta gjson.Result) *pipeline.RejectError {
	into, err := uuid.Parse(data.Get("into").Str)
	version, ok := t.sequence(meta.Get("version"))
	if err != nil || !ok {
		return pipeline.Reject("profile_incomplete", "the message lacks into or meta.version")
	}
	t.id.Append(m.ProfileID)
	t.version.Append(version)
	t.deleted.Append(0)
	t.mergedInto.Append(proto.NewNullable(into))
	t.first.AppendRaw(0)
	t.last.AppendRaw(0)
	t.appendIdentifiers(gjson.Result{})
	t.flat.begin(0)
	t.flat.appendTo(t.traits)
	appendNumbers(t.aggregates, nil)
	t.appendSegments(gjson.Result{})
	appendNumbers(t.scores, nil)
	t.updated.AppendRaw(stored(m.Timestamp))
	return nil
}

// appendTraits appends the traits, and the aggregates that are not numbers (name and value in turn) by their names.
func (t *profileRows) appendTraits(traits gjson.Result, others []gjson.Result) {
	t.flat.begin(len(traits.Raw))
	t.flat.object(traits)
	for i := 0; i+1 < len(others); i += 2 {
		t.flat.field(others[i].Str, others[i+1])
	}
	t.flat.appendTo(t.traits)
}

// appendIdentifiers appends {type: [value, …]}; a single value counts as a list of one.
func (t *profileRows) appendIdentifiers(o gjson.Result) {
	names := t.identifierNames[:0]
	if o.IsObject() {
		o.ForEach(func(key, v gjson.Result) bool {
			name := low(key.Str)
			for _, n := range names {
				if n == name {
					return true
				}
			}
			names = append(names, name)
			values := []string{}
			for _, x := range v.Array() {
				if x.Type != gjson.Null {
					values = append(values, x.String())
				}
			}
			t.identifiers.Keys.Append(name)
			t.identifiers.Values.Append(values)
			return true
		})
	}
	t.identifierNames = names
	t.identifiers.Offsets.Append(uint64(t.identifiers.Keys.Rows()))
}

func (t *profileRows) appendSegments(a gjson.Result) {
	t.segmentsInHand = t.segmentsInHand[:0]
	if a.IsArray() {
		for _, x := range a.Array() {
			t.segmentsInHand = append(t.segmentsInHand, low(x.String()))
		}
	}
	t.segments.Append(t.segmentsInHand)
}

// readNumbers reads {name: number}; true and false are 1 and 0, null is absent, the first of duplicates counts. Other values
// come back as others, name and value in turn.
func readNumbers(dst []pair, o gjson.Result) (numbers []pair, others []gjson.Result, finite bool) {
	finite = true
	if !o.IsObject() {
		return dst, nil, true
	}
	o.ForEach(func(key, v gjson.Result) bool {
		p := pair{name: low(key.Str)}
		switch v.Type {
		case gjson.Number:
			p.value = v.Num
			finite = finite && !math.IsInf(v.Num, 0) && !math.IsNaN(v.Num)
		case gjson.True:
			p.value = 1
		case gjson.False:
		case gjson.Null:
			return true
		default:
			others = append(others, key, v)
			return true
		}
		for _, have := range dst {
			if have.name == p.name {
				return true
			}
		}
		dst = append(dst, p)
		return true
	})
	return dst, others, finite
}

func appendNumbers(c numberMap, pairs []pair) {
	for _, p := range pairs {
		c.Keys.Append(p.name)
		c.Values.Append(p.value)
	}
	c.Offsets.Append(uint64(c.Keys.Rows()))
}

// segmentRows is the table segment_log.
type segmentRows struct {
	rows
	transition         *proto.ColUUID
	segment            lowText
	version            *proto.ColUInt32
	profile            *proto.ColUUID
	sequence           *proto.ColUInt64
	op                 lowText
	delta              *proto.ColInt8
	since              *proto.ColDateTime64
	cause              lowText
	effective, emitted *proto.ColDateTime64
	message            *proto.ColStr
}

func (t *segmentRows) init() {
	t.rows = rows{table: "segment_log", key: "toString(transition_id)", timeColumn: "effective_at"}
	t.transition = column(&t.rows, "transition_id", new(proto.ColUUID))
	t.segment = column(&t.rows, "segment", newLowText())
	t.version = column(&t.rows, "version", new(proto.ColUInt32))
	t.profile = column(&t.rows, "profile_id", new(proto.ColUUID))
	t.people = []*proto.ColUUID{t.profile}
	t.sequence = column(&t.rows, "sequence", new(proto.ColUInt64))
	t.op = column(&t.rows, "op", newLowText())
	t.delta = column(&t.rows, "delta", new(proto.ColInt8))
	t.since = column(&t.rows, "since", newTimes())
	t.cause = column(&t.rows, "cause", newLowText())
	t.effective = column(&t.rows, "effective_at", newTimes())
	t.emitted = column(&t.rows, "emitted_at", newTimes())
	t.message = column(&t.rows, "trigger_message_id", new(proto.ColStr))
}

// add appends a transition. What meta leaves out follows from the type: an entry is +1 since it took effect, an exit
// -1; carried and passed are the same.
func (t *segmentRows) add(m *pipeline.Message, data, meta gjson.Result) *pipeline.RejectError {
	id, err := uuid.Parse(data.Get("transition_id").String())
	segment := data.Get("segment").String()
	sequence, okSequence := t.rows.sequence(meta.Get("sequence"))
	version, okVersion := unsigned(data.Get("version"), math.MaxUint32)
	if err != nil || segment == "" || !okSequence || !okVersion {
		return pipeline.Reject("transition_incomplete", "the message lacks a usable transition_id, segment, version or meta.sequence")
	}
	effective, ok := readTime(data.Get("effective_at"))
	if !ok {
		return pipeline.Reject("transition_time", "effective_at of the transition is not a time")
	}
	emitted, ok := readTime(data.Get("emitted_at"))
	if !ok {
		emitted = m.Timestamp
	}
	since, ok := readTime(meta.Get("since"))
	if !ok {
		since = effective
	}
	op, delta := "enter", int64(1)
	switch m.Type {
	case pipeline.SegmentExited:
		op, delta = "exit", -1
	case pipeline.SegmentCarried:
		op = "carried"
	case pipeline.SegmentPassed:
		op, delta = "passed", -1
	}
	if v := meta.Get("op"); v.Type == gjson.String {
		op = v.Str
	}
	if v := meta.Get("delta"); v.Type == gjson.Number {
		delta = v.Int()
	}
	switch op {
	case "enter", "exit", "carried", "passed":
	default:
		return pipeline.Reject("transition_op", "meta.op of the transition is not enter, exit, carried or passed")
	}
	if delta < -1 || delta > 1 {
		return pipeline.Reject("transition_delta", "meta.delta of the transition is not -1, 0 or 1")
	}
	if t.skip(stored(effective), id.String) {
		return nil
	}

	t.transition.Append(id)
	t.segment.Append(low(segment))
	t.version.Append(uint32(version))
	t.profile.Append(m.ProfileID)
	t.sequence.Append(sequence)
	t.op.Append(op)
	t.delta.Append(int8(delta))
	t.since.AppendRaw(stored(since))
	t.cause.Append(low(data.Get("cause").String()))
	t.effective.AppendRaw(stored(effective))
	t.emitted.AppendRaw(stored(emitted))
	t.message.Append(valid(data.Get("message_id").String()))
	return nil
}

// unsigned reads a whole number from 0 to most, written as a number or a text.
func unsigned(v gjson.Result, most uint64) (uint64, bool) {
	text := v.Raw
	if v.Type == gjson.String {
		text = v.Str
	}
	var n uint64
	for _, c := range []byte(text) {
		if c < '0' || c > '9' || n > (math.MaxUint64-uint64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, text != "" && n <= most
}

// readTime reads a time: RFC 3339, or Unix seconds as a number.
func readTime(v gjson.Result) (time.Time, bool) {
	switch v.Type {
	case gjson.String:
		t, err := time.Parse(time.RFC3339Nano, v.Str)
		return t, err == nil
	case gjson.Number:
		if math.Abs(v.Num) > 1e12 {
			return time.Time{}, false
		}
		return time.UnixMilli(int64(math.Round(v.Num * 1000))), true
	}
	return time.Time{}, false
}
