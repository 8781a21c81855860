package score

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/millstream-io/millstream/pipeline"
)

// message is what the world hears of a change. Its id is a function of score, version, profile, turn and number, so it is the same
// after every replay.
func (s *stage) message(ev *pipeline.Event, c *change) pipeline.Message {
	p := ev.Profile
	var place [20]byte
	binary.BigEndian.PutUint32(place[:], c.score.version)
	binary.BigEndian.PutUint64(place[4:], p.Turn)
	binary.BigEndian.PutUint64(place[12:], c.number)
	id := pipeline.HashID([]byte(c.score.name), p.ID[:], place[:])
	cause := ev.Cause
	if cause == "" {
		cause = pipeline.CauseLive
	}

	b := make([]byte, 0, 320+len(s.document))
	b = append(append(append(b, `{"score":"`...), c.score.name...), `","value":`...)
	b = appendValue(b, c.value, !c.gone)
	b = appendValue(append(b, `,"previous":`...), c.previous, c.known)
	b = append(b, `,"reasons":{`...)
	for i, name := range slices.Sorted(maps.Keys(c.reasons)) {
		b = appendFloat(appendKey(b, name, i), c.reasons[name])
	}
	b = strconv.AppendUint(append(b, `},"version":`...), uint64(c.score.version), 10)
	b = append(append(append(b, `,"cause":"`...), cause...), `","message_id":`...)
	b = pipeline.AppendJSONString(b, ev.MessageID)
	b = append(append(append(b, `,"profile":`...), s.document...), '}')

	meta := strconv.AppendUint([]byte(`{"sequence":`), pipeline.Sequence(p.Turn, c.number), 10)
	meta = append(meta, `,"deltas":[`...)
	for i, by := range c.fired {
		if i > 0 {
			meta = append(meta, ',')
		}
		meta = appendFloat(meta, by)
	}
	meta = append(meta, `],"features":{`...)
	for i, name := range slices.Sorted(maps.Keys(c.features)) {
		meta = pipeline.AppendJSONString(appendKey(meta, name, i), c.features[name])
	}
	meta = append(meta, `}}`...)
	return pipeline.Message{ID: id, Type: pipeline.ScoreChanged, Timestamp: ev.ReceivedAt, ProfileID: p.ID, Data: b, Meta: meta}
}

func appendKey(dst []byte, key string, i int) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	return append(pipeline.AppendJSONString(dst, key), ':')
}

// appendValue appends a number, null if there is none.
func appendValue(dst []byte, v float64, is bool) []byte {
	if !is {
		return append(dst, "null"...)
	}
	return appendFloat(dst, v)
}

// appendFloat writes a number as JSON does.
func appendFloat(dst []byte, v float64) []byte {
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		return strconv.AppendFloat(dst, v, 'e', -1, 64)
	}
	return strconv.AppendFloat(dst, v, 'f', -1, 64)
}
