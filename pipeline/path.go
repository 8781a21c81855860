package pipeline

import (
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// Path is a compiled dotted path into an event, such as properties.revenue or context.campaign.source. The first word is
// the part of the event, the rest the keys inside it; a key that itself contains a dot is written in quotes:
// properties."line.item".
type Path struct {
	text string
	part part
	keys string // in gjson's syntax, "" = the whole part
}

type part uint8

const (
	partProperties part = iota
	partTraits
	partContext
	partField
)

// ParsePath compiles a path. Its first word is properties, traits, context or a field of the event: timestamp, event,
// type, user_id, anonymous_id, message_id, source, received_at.
func ParsePath(text string) (Path, error) {
	words, err := splitPath(text)
	if err != nil {
		return Path{}, err
	}
	p := Path{text: text}
	switch words[0] {
	case "properties":
		p.part = partProperties
	case "traits":
		p.part = partTraits
	case "context":
		p.part = partContext
	case "timestamp", "event", "type", "user_id", "anonymous_id", "message_id", "source", "received_at":
		if len(words) > 1 {
			return Path{}, fmt.Errorf("%s has no parts", words[0])
		}
		p.part = partField
		p.keys = words[0]
		return p, nil
	default:
		return Path{}, fmt.Errorf("a path begins with properties, traits, context, timestamp, event, type, user_id, anonymous_id, message_id, source or received_at, not with %q", words[0])
	}
	if len(words) == 1 {
		return Path{}, fmt.Errorf("%s needs the name of a key: %s.name", words[0], words[0])
	}
	for i, w := range words[1:] {
		if i > 0 {
			p.keys += "."
		}
		p.keys += escapeKey(w)
	}
	return p, nil
}

// String is the path as it was written.
func (p Path) String() string { return p.text }

// Of returns the value at the path: nil (absent or null), string, float64, bool, time.Time (for timestamp and received_at),
// or, for objects and arrays, their JSON text. The first of duplicate keys counts.
func (p Path) Of(ev *Event) any {
	switch p.part {
	case partField:
		return p.field(ev)
	case partProperties:
		return Scalar(gjson.Get(text(ev.Properties), p.keys))
	case partTraits:
		return Scalar(gjson.Get(text(ev.Traits), p.keys))
	}
	if r := gjson.Get(text(ev.OwnContext), p.keys); r.Exists() || ev.Context == nil {
		return Scalar(r)
	}
	return Scalar(gjson.Get(text(ev.Context), p.keys))
}

// Result is like Of, with the literal text of numbers kept: money is read from it without going through a float.
func (p Path) Result(ev *Event) gjson.Result {
	switch p.part {
	case partProperties:
		return gjson.Get(text(ev.Properties), p.keys)
	case partTraits:
		return gjson.Get(text(ev.Traits), p.keys)
	case partContext:
		if r := gjson.Get(text(ev.OwnContext), p.keys); r.Exists() || ev.Context == nil {
			return r
		}
		return gjson.Get(text(ev.Context), p.keys)
	}
	if text, ok := p.field(ev).(string); ok {
		return gjson.Result{Type: gjson.String, Str: text}
	}
	return gjson.Result{}
}

func (p Path) field(ev *Event) any {
	var s string
	switch p.keys {
	case "timestamp":
		return ev.Time
	case "received_at":
		return ev.ReceivedAt
	case "event":
		s = ev.Name
	case "type":
		s = ev.Type
	case "user_id":
		s = ev.UserID
	case "anonymous_id":
		s = ev.AnonymousID
	case "message_id":
		s = ev.MessageID
	case "source":
		s = ev.Source
	}
	if s == "" {
		return nil
	}
	return s
}

// Scalar is a JSON value as conditions see it: text, number, true or false; an array or object is its JSON text, and what is
// null or absent is nil.
func Scalar(r gjson.Result) any {
	switch r.Type {
	case gjson.String:
		return r.Str
	case gjson.Number:
		return r.Num
	case gjson.True:
		return true
	case gjson.False:
		return false
	case gjson.JSON:
		return r.Raw
	}
	return nil
}

// splitPath splits at dots outside quotes.
func splitPath(text string) ([]string, error) {
	var words []string
	for rest := text; ; {
		var w string
		if strings.HasPrefix(rest, `"`) {
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				return nil, fmt.Errorf("the quote in path %q is not closed", text)
			}
			w, rest = rest[1:1+end], rest[2+end:]
			if rest != "" && rest[0] != '.' {
				return nil, fmt.Errorf("path %q needs a dot after the quote", text)
			}
		} else if i := strings.IndexByte(rest, '.'); i >= 0 {
			w, rest = rest[:i], rest[i:]
		} else {
			w, rest = rest, ""
		}
		if w == "" {
			return nil, fmt.Errorf("path %q has an empty part", text)
		}
		words = append(words, w)
		if rest == "" {
			return words, nil
		}
		rest = rest[1:]
	}
}

// escapeKey escapes what gjson would read as syntax.
func escapeKey(k string) string {
	var b strings.Builder
	for i := 0; i < len(k); i++ {
		if strings.IndexByte(`.*?|#@!{}[]()=<>%"+-`+"\\", k[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(k[i])
	}
	return b.String()
}
