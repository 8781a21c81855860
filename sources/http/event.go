package http

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

const (
	// maxRecord is the largest record with all its parts: what a broker with Kafka's default limit of 1 MiB takes, and room
	// for what a dead letter adds.
	maxRecord = 900 << 10
	// recordOverhead is what an event takes of the budget beyond its bytes: the record and its headers.
	recordOverhead = 512
)

// records makes the records of a request's events. typ is the type that the path names, "" if none.
func (s *Source) records(p *posted, typ string, at time.Time) ([]pipeline.Record, *refusal) {
	if len(p.context)*len(p.events) > int(s.config.MaxDecoded) {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the batch's context is too large for %d events: send smaller batches", len(p.events))
	}
	records := make([]pipeline.Record, 0, len(p.events))
	var same map[pipeline.ID]int
	var ev pipeline.Event
	for i, raw := range p.events {
		ev = pipeline.Event{Source: s.name, ReceivedAt: at, SentAt: p.sentAt, Context: p.context, Raw: raw}
		ok := ev.Check() == nil
		if ok {
			_ = ev.Scan() // a field of a wrong type is clean's to reject
			if typ != "" && ev.Type == "" && !gjson.GetBytes(raw, "type").Exists() {
				ev.Raw = withType(raw, typ)
			}
		}
		switch {
		case ev.MessageID != "":
		case ok && ev.Timestamp == "" && ev.Original == "":
			ev.MessageID = s.name + "/" + uuid.Must(uuid.NewV7()).String()
			s.fresh.Add(1)
		default:
			if same == nil {
				same = make(map[pipeline.ID]int)
			}
			id := contentID(ev.Raw, ok)
			ev.MessageID = s.name + "/" + id.String()
			if same[id]++; same[id] > 1 {
				ev.MessageID += "-" + strconv.Itoa(same[id])
			}
		}
		if len(ev.Raw)+len(ev.Context)+2*len(ev.MessageID) > maxRecord {
			return nil, refuse(http.StatusRequestEntityTooLarge, "event %d of the batch is larger than %d bytes: make it smaller", i, maxRecord)
		}
		records = append(records, pipeline.EventRecord(&ev))
	}
	s.events.Add(uint64(len(records)))
	return records, nil
}

// withType is the object with its type put in front.
func withType(raw []byte, typ string) []byte {
	rest := bytes.TrimLeft(raw[1:], " \t\r\n")
	out := make([]byte, 0, len(raw)+len(typ)+len(`"type":"",`))
	out = fmt.Appendf(out, `{"type":%q`, typ)
	if rest[0] != '}' {
		out = append(out, ',')
	}
	return append(out, rest...)
}

// contentID is the id of an event that has none: a hash of its fields as they are written, without those that a client
// changes when it sends again. A body that is not an event has a hash of all its bytes.
func contentID(raw []byte, isEvent bool) pipeline.ID {
	if !isEvent {
		return pipeline.HashID(raw)
	}
	var buf [32][]byte
	parts := buf[:0]
	gjson.ParseBytes(raw).ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "sentAt", "receivedAt", "_metadata":
		default:
			parts = append(parts, []byte(key.Raw), []byte(v.Raw))
		}
		return true
	})
	return pipeline.HashID(parts...)
}
