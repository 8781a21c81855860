package clickhouse

import (
	"math"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// scoreRows is the table scores.
type scoreRows struct {
	rows
	flat flattener

	change   *proto.ColUUID
	score    lowText
	version  *proto.ColUInt32
	profile  *proto.ColUUID
	sequence *proto.ColUInt64
	value    *proto.ColFloat64
	hasValue *proto.ColBool
	previous *proto.ColNullable[float64]
	reasons  numberMap
	features textMap
	cause    lowText
	at       *proto.ColDateTime64
	message  *proto.ColStr
	reason   []pair // of the row in hand
}

func (t *scoreRows) init() {
	t.rows = rows{table: "scores", key: "toString(change_id)", timeColumn: "at"}
	t.change = column(&t.rows, "change_id", new(proto.ColUUID))
	t.score = column(&t.rows, "score", newLowText())
	t.version = column(&t.rows, "version", new(proto.ColUInt32))
	t.profile = column(&t.rows, "profile_id", new(proto.ColUUID))
	t.people = []*proto.ColUUID{t.profile}
	t.sequence = column(&t.rows, "sequence", new(proto.ColUInt64))
	t.value = column(&t.rows, "value", new(proto.ColFloat64))
	t.hasValue = column(&t.rows, "has_value", new(proto.ColBool))
	t.previous = column(&t.rows, "previous", new(proto.ColFloat64).Nullable())
	t.reasons = column(&t.rows, "reasons", newNumberMap())
	t.features = column(&t.rows, "features", newTextMap())
	t.cause = column(&t.rows, "cause", newLowText())
	t.at = column(&t.rows, "at", newTimes())
	t.message = column(&t.rows, "trigger_message_id", new(proto.ColStr))
}

// add appends a change of a score. A value of null says that the profile has no such score any more.
func (t *scoreRows) add(m *pipeline.Message, data, meta gjson.Result) *pipeline.RejectError {
	score := data.Get("score").String()
	sequence, okSequence := t.rows.sequence(meta.Get("sequence"))
	version, okVersion := unsigned(data.Get("version"), math.MaxUint32)
	value, previous := data.Get("value"), data.Get("previous")
	if score == "" || !okSequence || !okVersion || m.ID == (pipeline.ID{}) || value.Type != gjson.Number && value.Type != gjson.Null || value.Raw == "" {
		return pipeline.Reject("score_incomplete", "the message lacks a usable id, score, version, value or meta.sequence")
	}
	reasons, _, finite := readNumbers(t.reason[:0], data.Get("reasons"))
	t.reason = reasons
	if !finite || math.IsInf(value.Num, 0) || math.IsInf(previous.Num, 0) {
		return pipeline.Reject("number_range", "a number of the score is beyond what a float holds")
	}
	if t.skip(stored(m.Timestamp), m.ID.String) {
		return nil
	}

	t.change.Append(m.ID)
	t.score.Append(low(score))
	t.version.Append(uint32(version))
	t.profile.Append(m.ProfileID)
	t.sequence.Append(sequence)
	t.value.Append(value.Num)
	t.hasValue.Append(value.Type == gjson.Number)
	if previous.Type == gjson.Number {
		t.previous.Append(proto.NewNullable(previous.Num))
	} else {
		t.previous.Append(proto.Null[float64]())
	}
	appendNumbers(t.reasons, reasons)
	features := meta.Get("features")
	t.flat.begin(len(features.Raw))
	t.flat.object(features)
	t.flat.appendTo(t.features)
	t.cause.Append(low(data.Get("cause").String()))
	t.at.AppendRaw(stored(m.Timestamp))
	t.message.Append(valid(data.Get("message_id").String()))
	return nil
}
