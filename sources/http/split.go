package http

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// Limits of what one body may hold besides bytes.
const (
	maxEvents       = 10_000 // events of one body
	maxContextDepth = 64     // nesting of the batch's context
	maxSentAt       = 128    // bytes of the batch's sentAt; a longer one is no time and is ignored
)

// posted is a body taken apart. All of it is sub-slices of the body.
type posted struct {
	events   [][]byte
	batch    bool   // an array of events, not a single one
	sentAt   string // of the batch
	context  []byte // of the batch, nil if none
	writeKey string
}

// split finds the events of a body: {"batch": [event, …], …}, [event, …] or one event. It follows brackets and strings
// only, so that one broken event (bad UTF-8, a misspelt literal, deep nesting) does not cost its neighbours: it travels on
// as the bytes that it is. An error means that the borders between events cannot be told.
func split(body []byte) (*posted, error) {
	s := splitter{b: bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))}
	s.space()
	start := s.i
	p := &posted{}
	switch s.peek() {
	case '[':
		p.batch = true
		if err := s.array(p); err != nil {
			return nil, err
		}
	case '{':
		if err := s.object(p); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("the body is neither a JSON object nor an array: send {\"batch\": [event, …]}")
	}
	end := s.i
	if s.space(); s.i < len(s.b) {
		return nil, fmt.Errorf("the body goes on after the end of its JSON, at byte %d", s.i)
	}
	if !p.batch {
		p.events = [][]byte{s.b[start:end:end]}
	}
	return p, nil
}

// splitter walks over JSON-like bytes.
type splitter struct {
	b []byte
	i int
}

// object takes the top-level object.
func (s *splitter) object(p *posted) error {
	var sentAt, context []byte
	s.i++
	if s.space(); s.peek() == '}' {
		s.i++
		return nil
	}
	for {
		s.space()
		key, err := s.key()
		if err != nil {
			return err
		}
		start := s.i
		if key == "batch" && s.peek() == '[' {
			if p.batch {
				return fmt.Errorf("the body has two keys \"batch\": send one")
			}
			p.batch = true
			err = s.array(p)
		} else {
			err = s.value()
		}
		if err != nil {
			return err
		}
		v := s.b[start:s.i:s.i]
		switch {
		case key == "batch" && v[0] != '[':
			return fmt.Errorf("\"batch\" is not an array: send {\"batch\": [event, …]}")
		case key == "sentAt" && sentAt == nil:
			sentAt = v
		case key == "context" && context == nil:
			context = v
		case key == "writeKey" && p.writeKey == "":
			p.writeKey = text(v)
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			if !p.batch { // sentAt and context are the event's own
				return nil
			}
			return p.envelope(sentAt, context)
		default:
			return s.unexpected("a comma or the end of the object")
		}
	}
}

// envelope takes what stands beside the batch and counts for each of its events.
func (p *posted) envelope(sentAt, context []byte) error {
	if t := text(sentAt); len(t) <= maxSentAt {
		p.sentAt = t
	}
	if context == nil || string(context) == "null" {
		return nil
	}
	if nesting(context) > maxContextDepth {
		return fmt.Errorf("the batch's context is nested more than %d deep", maxContextDepth)
	}
	if context[0] != '{' || !gjson.ValidBytes(context) {
		return fmt.Errorf("the batch's context is not a JSON object")
	}
	p.context = context
	return nil
}

// array takes an array's elements as events.
func (s *splitter) array(p *posted) error {
	s.i++
	if s.space(); s.peek() == ']' {
		s.i++
		return nil
	}
	for {
		s.space()
		start := s.i
		if err := s.value(); err != nil {
			return err
		}
		if len(p.events) == maxEvents {
			return errTooMany
		}
		p.events = append(p.events, s.b[start:s.i:s.i])
		s.space()
		switch s.peek() {
		case ',':
			s.i++
		case ']':
			s.i++
			return nil
		default:
			return s.unexpected("a comma or the end of the array")
		}
	}
}

var errTooMany = fmt.Errorf("the batch has more than %d events: send smaller ones", maxEvents)

// key takes a key and its colon.
func (s *splitter) key() (string, error) {
	if s.peek() != '"' {
		return "", s.unexpected("a key in quotes")
	}
	start := s.i
	if !s.quoted() {
		return "", s.unexpected("the end of a key")
	}
	k := string(s.b[start+1 : s.i-1])
	if s.space(); s.peek() != ':' {
		return "", s.unexpected("a colon")
	}
	s.i++
	s.space()
	return k, nil
}

// value takes one value: brackets are counted outside strings, whatever stands between them.
func (s *splitter) value() error {
	start := s.i
	switch s.peek() {
	case '"':
		if !s.quoted() {
			return s.unexpected("the end of a string")
		}
		return nil
	case '{', '[':
		for depth := 0; s.i < len(s.b); {
			switch s.b[s.i] {
			case '{', '[':
				depth++
				s.i++
			case '}', ']':
				s.i++
				if depth--; depth == 0 {
					return nil
				}
			case '"':
				if !s.quoted() {
					return s.unexpected("the end of a string")
				}
			default:
				s.i++
			}
		}
		return s.unexpected("a closing bracket")
	}
	for s.i < len(s.b) && strings.IndexByte(" \t\r\n,]}", s.b[s.i]) < 0 {
		s.i++
	}
	if s.i == start {
		return s.unexpected("a value")
	}
	return nil
}

// quoted takes a string; false if it has no end.
func (s *splitter) quoted() bool {
	for s.i++; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case '\\':
			s.i++
		case '"':
			s.i++
			return true
		}
	}
	s.i = len(s.b)
	return false
}

func (s *splitter) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
}

// peek is the next byte, 0 at the end.
func (s *splitter) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *splitter) unexpected(want string) error {
	return fmt.Errorf("the body is not JSON: at byte %d %s is missing", s.i, want)
}

// text is the value of a string or number, "" of anything else.
func text(v []byte) string {
	if len(v) == 0 || v[0] == '{' || v[0] == '[' || v[0] == 'n' || v[0] == 't' || v[0] == 'f' {
		return ""
	}
	return gjson.ParseBytes(v).String()
}

// nesting is how deep the brackets of a value nest, strings apart.
func nesting(v []byte) int {
	depth, deepest := 0, 0
	for s := (splitter{b: v}); s.i < len(s.b); {
		switch s.b[s.i] {
		case '{', '[':
			if depth++; depth > deepest {
				deepest = depth
			}
		case '}', ']':
			depth--
		case '"':
			s.quoted()
			continue
		}
		s.i++
	}
	return deepest
}
