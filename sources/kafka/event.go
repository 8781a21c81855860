package kafka

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/mapping"
)

// maxRecord is the largest record with all its parts: what a broker with Kafka's default limit of 1 MiB takes, and room for
// what a dead letter adds.
const maxRecord = 900 << 10

// converter makes events of the records of one partition. It is not safe for concurrent use.
type converter struct {
	source  string
	topic   string
	id      pipeline.ID
	objects *mapping.Objects // nil: records are events already
}

func (s *Source) converter(id pipeline.ID) *converter {
	c := &converter{source: s.name, topic: s.form.topic, id: id}
	if s.form.mapping != nil {
		c.objects = s.form.mapping.Objects()
	}
	return c
}

// record makes the record for `events`, appending to buf what has to be built. A record that makes no event travels as it is,
// with its key and headers, and says why: the stage clean rejects it; ok is false then.
func (c *converter) record(r *pipeline.Record, at time.Time, buf []byte) (out pipeline.Record, grown []byte, ok bool) {
	ev := pipeline.Event{Source: c.source, ReceivedAt: at}
	built, id, rej := c.build(r, buf)
	if rej == nil {
		ev.Raw = built
		if c.objects != nil {
			ev.Raw = built[len(buf):len(built):len(built)]
			buf = built
		}
		if id != "" {
			ev.MessageID = c.source + "/" + id
		}
		_ = ev.Scan() // a field of a wrong type is clean's to reject
		if len(ev.MessageID) > pipeline.MaxIDBytes {
			rej = pipeline.Reject("id_too_long", "the message id has %d bytes, the limit is %d", len(ev.MessageID), pipeline.MaxIDBytes)
		}
	}
	if rej != nil {
		return c.refused(r, at, rej), buf, false
	}
	if ev.MessageID == "" {
		ev.MessageID = c.derivedID(r)
	}
	return pipeline.EventRecord(&ev), buf, true
}

// derivedID is the message id of a record that has none. It is that of a place, since identical records are different facts;
// a topic that is made again under its name is another place.
func (c *converter) derivedID(r *pipeline.Record) string {
	var numbers [40]byte
	partition := strconv.AppendInt(numbers[:0], int64(r.Partition), 10)
	offset := strconv.AppendInt(numbers[20:20], r.Offset, 10)
	return c.source + "/" + pipeline.HashID([]byte(c.source), []byte(c.topic), c.id[:], partition, offset).String()
}

// build appends the event of a record to buf; without a mapping it returns the event in the record.
func (c *converter) build(r *pipeline.Record, buf []byte) (built []byte, id string, rej *pipeline.RejectError) {
	if r.Value == nil {
		return nil, "", pipeline.Reject("tombstone", "the record has no value, only a key: it says that something was deleted, which is no event")
	}
	body := unframed(r.Value)
	check := pipeline.Event{Raw: body}
	if rej := check.Check(); rej != nil {
		return nil, "", rej
	}
	if c.objects == nil {
		return body, "", nil
	}
	key, rej := keyText(r.Key)
	if rej != nil {
		return nil, "", rej
	}
	built, id, err := c.objects.AppendRecord(buf, body, key, r.Time)
	switch {
	case errors.As(err, &rej):
		return nil, "", rej
	case err != nil:
		return nil, "", pipeline.Reject("row_value", "%s", err)
	case len(built)-len(buf) > pipeline.MaxEventBytes:
		return nil, "", pipeline.Reject("oversize", "the event of the record has %d bytes, the limit is %d", len(built)-len(buf), pipeline.MaxEventBytes)
	}
	return built, id, nil
}

// unframed is the JSON of a value. Confluent's serializer for JSON Schema writes a zero and four bytes before it: the number of
// the schema.
func unframed(value []byte) []byte {
	if len(value) > 5 && value[0] == 0 && value[5] == '{' {
		return value[5:]
	}
	return value
}

// keyText is a record's key as text; that of a JSON string without its quotes.
func keyText(key []byte) (string, *pipeline.RejectError) {
	if !utf8.Valid(key) {
		return "", pipeline.Reject("not_utf8", "the key of the record is not valid UTF-8")
	}
	if len(key) > 1 && key[0] == '"' {
		var text string
		if json.Unmarshal(key, &text) == nil {
			return text, nil
		}
	}
	return string(key), nil
}

// refused is the record as it was, for the stage clean to make a dead letter of. What is too large to be kept whole is cut: first
// its headers, then its key, then its value.
func (c *converter) refused(r *pipeline.Record, at time.Time, rej *pipeline.RejectError) pipeline.Record {
	place := " (" + c.topic + ", partition " + strconv.Itoa(int(r.Partition)) + ", offset " + strconv.FormatInt(r.Offset, 10) + ")"
	ev := pipeline.Event{Source: c.source, ReceivedAt: at, Raw: r.Value, MessageID: c.derivedID(r)}
	room := maxRecord - len(r.Value)
	if room < 0 {
		ev.Raw, room = r.Value[:maxRecord], 0
		rej = pipeline.Reject("oversize", "the record has %d bytes; these are its first %d", len(r.Value), maxRecord)
	}
	ev.Refuse(&pipeline.RejectError{Code: rej.Code, Reason: rej.Reason + place})
	out := pipeline.EventRecord(&ev)
	if r.Key != nil && len(r.Key) <= room {
		out.Headers = append(out.Headers, pipeline.Header{Key: pipeline.HeaderKey, Value: r.Key})
		room -= len(r.Key)
	}
	size := 0
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value) + 10
	}
	if size > room {
		return out
	}
	for _, h := range r.Headers {
		if !strings.HasPrefix(h.Key, "ms-") { // ours mean something else there
			out.Headers = append(out.Headers, h)
		}
	}
	return out
}
