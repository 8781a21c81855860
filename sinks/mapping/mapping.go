// Package mapping makes bodies out of messages: what `map` of a sink says.
//
// A body is one flat JSON object, its fields in sorted order, so that a message always gives the same bytes. What is missing is
// left out, not null: a null would erase what the receiver knows by itself. Times are written in RFC 3339, what is not a text,
// number, boolean or list of texts as its JSON text.
//
// Expressions know
//
//	type, timestamp, id, profile_id         of the message
//	data.x                                  its data, such as data.segment or data.cause
//	traits.x, identifiers.email[0],
//	aggregates.x, scores.x                  of the profile
//	segments, previous_ids                  lists
//	first_seen, last_seen, declared names   as everywhere
//
// previous_ids is in every body, so that a receiver which knows the profile by an older id finds it.
package mapping

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// Mapping is a compiled `map`. It is immutable and safe for concurrent use.
type Mapping struct{ fields []field }

type field struct {
	name string
	*Value
}

// Value is a compiled expression over a message. It is immutable and safe for concurrent use.
type Value struct {
	program *expression.Program
	lookup  map[string]func(d *document) any // of the names in the program
}

const (
	fieldsMax   = 256
	previousIDs = "previous_ids"
)

// Compile checks the fields: name to expression. It returns every problem, with paths that begin with map.
func Compile(fields map[string]string, env *pipeline.Env) (*Mapping, []pipeline.Problem) {
	if len(fields) == 0 || len(fields) > fieldsMax {
		return nil, []pipeline.Problem{pipeline.Problemf([]string{"map"}, "map has %d fields, it must have 1 … %d; without map the whole message is sent", len(fields), fieldsMax)}
	}
	fields = maps.Clone(fields)
	if _, ok := fields[previousIDs]; !ok {
		fields[previousIDs] = previousIDs
	}
	m, problems := &Mapping{}, []pipeline.Problem(nil)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		path := []string{"map", name}
		if name == "" {
			problems = append(problems, pipeline.Problemf(path, "a field needs a name"))
			continue
		}
		v, problem := CompileValue(path, fields[name], env)
		if problem != nil {
			problems = append(problems, *problem)
			continue
		}
		m.fields = append(m.fields, field{name, v})
	}
	if problems != nil {
		return nil, problems
	}
	return m, nil
}

// CompileValue checks one expression, which stands at the path in the configuration.
func CompileValue(path []string, source string, env *pipeline.Env) (*Value, *pipeline.Problem) {
	program, err := expression.Compile(source, scopeOf(env))
	if err != nil {
		problem := pipeline.Problemf(path, "%v", err)
		var at *expression.Error
		if errors.As(err, &at) {
			problem.Message, problem.Column = at.Message, at.Column
		}
		return nil, &problem
	}
	v := &Value{program: program, lookup: map[string]func(*document) any{}}
	for _, n := range program.Names() {
		v.lookup[n] = lookup(n, env)
	}
	return v, nil
}

// roots are the open parts of a profile, and data.
var roots = []string{"traits", "identifiers", "aggregates", "scores", "data"}

// scopeOf lists the names; those of the message itself cannot be declared away.
func scopeOf(env *pipeline.Env) expression.Scope {
	names := map[string]pipeline.AttributeType{"first_seen": pipeline.Time, "last_seen": pipeline.Time}
	for _, a := range env.Attributes {
		names[a.Name] = a.Type
	}
	names["type"], names["timestamp"], names["id"], names["profile_id"] = pipeline.Text, pipeline.Time, pipeline.Text, pipeline.Text
	names["segments"], names[previousIDs] = expression.List, expression.List
	return expression.Scope{Names: names, Roots: roots}
}

// document is the message that is mapped.
type document struct {
	message *pipeline.Message
	data    map[string]any
	profile map[string]any // data.profile; of messages whose data has none, data itself
}

// lookup returns the way from a document to the value of a name.
func lookup(name string, env *pipeline.Env) func(d *document) any {
	switch name {
	case "type":
		return func(d *document) any { return d.message.Type }
	case "timestamp":
		return func(d *document) any { return d.message.Timestamp.UTC() }
	case "id":
		return func(d *document) any { return d.message.ID.String() }
	case "profile_id":
		return func(d *document) any { return d.message.ProfileID.String() }
	case "segments", previousIDs:
		return func(d *document) any {
			if list, ok := plain(d.profile[name]).([]string); ok {
				return list
			}
			return []string{}
		}
	}
	if a, ok := env.Attribute(name); ok {
		return func(d *document) any { return declared(a, d.profile) }
	}
	words := split(name)
	switch words[0] {
	case "data":
		return func(d *document) any { return plain(walk(d.data, words[1:])) }
	case "first_seen", "last_seen":
		return func(d *document) any { return moment(d.profile[name]) }
	}
	return func(d *document) any { return plain(walk(d.profile, words)) }
}

// declared finds a declared attribute: texts stand in traits, the others in aggregates, scores in scores.
func declared(a pipeline.Attribute, profile map[string]any) any {
	for _, part := range []string{"aggregates", "scores", "traits"} {
		v := walk(profile, []string{part, a.Name})
		switch {
		case v == nil:
		case a.Type == pipeline.Time:
			return moment(v)
		default:
			return plain(v)
		}
	}
	return nil
}

// split cuts a name at the dots outside quotes; expression has checked it.
func split(name string) []string {
	var words []string
	quoted, start := false, 0
	for i := range len(name) {
		switch {
		case name[i] == '"':
			quoted = !quoted
		case name[i] == '.' && !quoted:
			words, start = append(words, strings.Trim(name[start:i], `"`)), i+1
		}
	}
	return append(words, strings.Trim(name[start:], `"`))
}

// walk follows keys of objects and numbers of arrays.
func walk(v any, words []string) any {
	for _, w := range words {
		switch x := v.(type) {
		case map[string]any:
			v = x[w]
		case []any:
			i, err := strconv.Atoi(w)
			if err != nil || i < 0 || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// plain makes a decoded JSON value one that expressions know.
func plain(v any) any {
	switch x := v.(type) {
	case nil, string, float64, bool:
		return x
	case []any:
		list := make([]string, len(x))
		for i := range x {
			s, ok := x[i].(string)
			if !ok {
				return jsonText(v)
			}
			list[i] = s
		}
		return list
	}
	return jsonText(v)
}

func jsonText(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return string(b)
}

// moment reads a time: Unix seconds, or RFC 3339.
func moment(v any) any {
	switch x := v.(type) {
	case float64:
		if math.Abs(x) < 1e11 {
			return pipeline.Millis(int64(math.Round(x * 1000)))
		}
	case string:
		if t, err := time.Parse(time.RFC3339Nano, x); err == nil {
			return t.UTC()
		}
	}
	return nil
}

// read decodes the message.
func read(msg *pipeline.Message) (*document, error) {
	d := &document{message: msg}
	if err := json.Unmarshal(msg.Data, &d.data); err != nil {
		return nil, pipeline.Reject("message_undecodable", "the data of the message is not a JSON object")
	}
	d.profile = d.data
	if p, ok := d.data["profile"].(map[string]any); ok {
		d.profile = p
	}
	return d, nil
}

// of is the value for a document: text, number, boolean or list of texts, nil if it has none.
func (v *Value) of(d *document) (any, error) {
	x, err := v.program.Value(func(name string) any { return v.lookup[name](d) })
	if t, ok := x.(time.Time); ok {
		return t.UTC().Format(pipeline.TimeFormat), err
	}
	if n, ok := x.(float64); ok && (math.IsNaN(n) || math.IsInf(n, 0)) {
		return nil, err
	}
	return x, err
}

// Text is the value for a message as text: a number in its shortest form, a list as JSON, "" if the message has none. The error
// is a *pipeline.RejectError.
func (v *Value) Text(msg *pipeline.Message) (string, error) {
	d, err := read(msg)
	if err != nil {
		return "", err
	}
	x, err := v.of(d)
	if err != nil {
		return "", pipeline.Reject("map_failed", "the expression could not be evaluated")
	}
	if s, ok := x.(string); ok || x == nil {
		return s, nil
	}
	b, err := json.Marshal(x)
	if err != nil {
		return "", pipeline.Reject("map_failed", "the value of the expression could not be written")
	}
	return string(b), nil
}

// Body evaluates the fields. The error is a *pipeline.RejectError.
func (m *Mapping) Body(msg *pipeline.Message) ([]byte, error) {
	d, err := read(msg)
	if err != nil {
		return nil, err
	}
	out := []byte{'{'}
	for i := range m.fields {
		f := &m.fields[i]
		v, err := f.of(d)
		if err != nil {
			return nil, pipeline.Reject("map_failed", "the expression of field %s could not be evaluated", f.name)
		}
		if v == nil {
			continue
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			return nil, pipeline.Reject("map_failed", "the name of field %s could not be written", f.name)
		}
		value, err := json.Marshal(v)
		if err != nil {
			return nil, pipeline.Reject("map_failed", "the value of field %s could not be written", f.name)
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, name...), ':'), value...)
	}
	return append(out, '}'), nil
}
