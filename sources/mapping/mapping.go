// Package mapping makes events out of rows of a table and of foreign JSON: what `set`, `map` and `expr` of a source say.
//
//	set:  {type: track, event: Order Completed}                 constants
//	map:  {user_id: CustomerID, timestamp: InvoiceDate}         a column or JSON path, its value verbatim
//	expr: {properties.revenue: number(Quantity) * number(UnitPrice)}
//
// On the left stands a field of an event (see fields), or properties.x, traits.x, context.x. Columns that `map` does not
// name go to properties, those of an identify or group to traits, by their own name. An empty cell of a table, or null, is
// no value: the field is left out. The event's bytes depend on nothing but the row: keys are sorted.
package mapping

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// Spec is what users write, and what the source knows about its rows.
type Spec struct {
	Set        map[string]any    // scalars
	Map        map[string]string // columns or paths
	Expr       map[string]string // expressions
	TimeFormat string            // of `timestamp`, see ParseTimeFormat
	JSON       bool              // the rows are JSON objects, not lines of a table
	Columns    []string          // of a table, if they are known before the file is read
	Key        string            // the field that takes the key of a record (Objects.AppendRecord); "": none
	Timed      bool              // records have a time of their own, which stands in for a timestamp
}

// fields are the names on the left, and what they are called in Segment's JSON. message_id becomes the record's id and does
// not stand in the event: it is not the sender's own, so it counts within the source.
var fields = map[string]string{
	"type": "type", "event": "event", "name": "name", "user_id": "userId", "anonymous_id": "anonymousId", "group_id": "groupId",
	"previous_id": "previousId", "channel": "channel", "timestamp": "timestamp", "message_id": "",
}

// Mapping is a compiled Spec. It is immutable; Table and JSON bind it to rows.
type Mapping struct {
	json    bool
	leaves  []leaf
	columns []string // known before the file is read
	time    TimeFormat
}

// leaf is one field and where its value comes from: exactly one of constant, source, program and envelope.
type leaf struct {
	target   []string // path in the event
	constant []byte   // JSON
	source   string   // column or path, as written
	program  *expression.Program
	envelope envelope
	isTime   bool
}

// envelope is what a record has beside its value.
type envelope uint8

const (
	none envelope = iota
	recordKey
	recordTime
)

// Codes of the *pipeline.RejectError that says why a row has no event; it tells nothing of the row's content.
const (
	codeCells = "row_cells" // the row has more or fewer cells than the table has columns
	codeValue = "row_value" // a value does not fit its field
	codeUTF8  = "not_utf8"
)

// name is the field as the configuration calls it.
func (l *leaf) name() string {
	for name, field := range fields {
		if len(l.target) == 1 && l.target[0] == field || len(l.target) == 0 && field == "" {
			return name
		}
	}
	return strings.Join(l.target, ".")
}

// Compile checks a Spec. It returns every problem, with paths that begin with set, map, expr or time_format.
func Compile(spec Spec) (*Mapping, []pipeline.Problem) {
	m := &Mapping{json: spec.JSON, columns: spec.Columns}
	c := compiler{m: m, spec: spec, taken: map[string]string{}}
	var err error
	if m.time, err = ParseTimeFormat(spec.TimeFormat); err != nil {
		c.bad([]string{"time_format"}, 0, "%s", err)
	}
	for _, k := range slices.Sorted(maps.Keys(spec.Set)) {
		c.set(k, spec.Set[k])
	}
	for _, k := range slices.Sorted(maps.Keys(spec.Map)) {
		c.mapped(k, spec.Map[k])
	}
	for _, k := range slices.Sorted(maps.Keys(spec.Expr)) {
		c.expr(k, spec.Expr[k])
	}
	if spec.Key != "" {
		if l, ok := c.target("key", spec.Key); ok {
			l.envelope = recordKey
			m.leaves = append(m.leaves, l)
		}
	}
	if spec.Timed && c.taken["timestamp"] == "" {
		m.leaves = append(m.leaves, leaf{target: []string{"timestamp"}, envelope: recordTime, isTime: true})
	}
	c.conflicts()
	if c.taken["type"] == "" && len(c.problems) == 0 {
		c.bad([]string{"set"}, 0, "the rows have no type: add set: {type: track} or another of %s", strings.Join(types, ", "))
	}
	return m, c.problems
}

var types = []string{pipeline.TypeTrack, pipeline.TypeIdentify, pipeline.TypePage, pipeline.TypeScreen, pipeline.TypeGroup, pipeline.TypeAlias}

type compiler struct {
	m        *Mapping
	spec     Spec
	taken    map[string]string // target -> section that wrote it
	problems []pipeline.Problem
}

func (c *compiler) bad(path []string, column int, format string, args ...any) {
	p := pipeline.Problemf(path, format, args...)
	p.Column = column
	c.problems = append(c.problems, p)
}

// target reads the name on the left.
func (c *compiler) target(section, name string) (leaf, bool) {
	at := []string{section, name}
	if section == "key" {
		at = at[:1]
	}
	words, err := SplitPath(name)
	if err != nil {
		c.bad(at, 0, "%s", err)
		return leaf{}, false
	}
	var l leaf
	field, known := fields[words[0]]
	switch {
	case known && len(words) == 1:
		if field != "" {
			l.target = []string{field}
		}
		l.isTime = name == "timestamp"
	case !known && len(words) > 1 && (words[0] == "properties" || words[0] == "traits" || words[0] == "context"):
		l.target = words
	default:
		c.bad(at, 0, "%q is no field of an event: write %s, or properties.x, traits.x, context.x", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		return leaf{}, false
	}
	key := strings.Join(l.target, "\x00")
	if other := c.taken[key]; other != "" {
		c.bad(at, 0, "%s is also under %s: keep one of them", name, other)
		return leaf{}, false
	}
	c.taken[key] = section
	return l, true
}

func (c *compiler) set(name string, v any) {
	l, ok := c.target("set", name)
	if !ok {
		return
	}
	at := []string{"set", name}
	switch v.(type) {
	case string, bool, int, int64, uint64, float64:
	default:
		c.bad(at, 0, "a constant is a text, a number, true or false")
		return
	}
	if name == "message_id" {
		c.bad(at, 0, "a constant message_id would make all rows duplicates of the first: map a column to it")
		return
	}
	if name == "type" && !slices.Contains(types, fmt.Sprint(v)) {
		c.bad(at, 0, "%q is no type of events: write one of %s", fmt.Sprint(v), strings.Join(types, ", "))
		return
	}
	if s, ok := v.(string); ok {
		l.constant = appendString(nil, s)
	} else if b, err := json.Marshal(v); err == nil {
		l.constant = b
	} else { // .inf, .nan
		c.bad(at, 0, "a constant is a text, a number, true or false")
		return
	}
	c.m.leaves = append(c.m.leaves, l)
}

func (c *compiler) mapped(name, source string) {
	l, ok := c.target("map", name)
	if !ok {
		return
	}
	l.source = source
	at := []string{"map", name}
	switch {
	case c.spec.JSON:
		if _, err := SplitPath(source); err != nil {
			c.bad(at, 0, "%s", err)
			return
		}
	case source == "":
		c.bad(at, 0, "write the name of a column")
		return
	case c.spec.Columns != nil && !slices.Contains(c.spec.Columns, source):
		c.bad(at, 0, "there is no column %q: the columns are %s", source, strings.Join(c.spec.Columns, ", "))
		return
	}
	c.m.leaves = append(c.m.leaves, l)
}

// words of an expression that may be names.
var words = regexp.MustCompile(`[A-Za-z_][A-Za-z_0-9]*`)

func (c *compiler) expr(name, source string) {
	l, ok := c.target("expr", name)
	if !ok {
		return
	}
	at := []string{"expr", name}
	// The columns are known when a file is opened, so any word may be one.
	scope := expression.Scope{Names: map[string]pipeline.AttributeType{}, Functions: map[string]expression.Function{"column": columnFunction}}
	typ := pipeline.Text // cells are text, so `Quantity * 2` is refused here: number(Quantity) * 2
	if c.spec.JSON {
		typ = pipeline.Any
	}
	for _, w := range words.FindAllString(source, -1) {
		scope.Names[w] = typ
		if c.spec.JSON {
			scope.Roots = append(scope.Roots, w)
		}
	}
	if c.spec.Columns != nil {
		clear(scope.Names)
		for _, n := range c.spec.Columns {
			scope.Names[n] = typ
		}
	}
	p, err := expression.Compile(source, scope)
	var e *expression.Error
	if errors.As(err, &e) {
		c.bad(at, e.Column, "%s", e.Message)
		return
	}
	if err != nil {
		c.bad(at, 0, "%s", err)
		return
	}
	if c.spec.Columns != nil {
		for _, n := range p.Names() {
			if column := columnOf(n); !slices.Contains(c.spec.Columns, column) {
				c.bad(at, 0, "there is no column %q: the columns are %s", column, strings.Join(c.spec.Columns, ", "))
				return
			}
		}
	}
	l.program = p
	c.m.leaves = append(c.m.leaves, l)
}

// conflicts finds fields that are both a value and an object: properties.a and properties.a.b.
func (c *compiler) conflicts() {
	for _, key := range slices.Sorted(maps.Keys(c.taken)) {
		for i := range key {
			if key[i] == 0 && c.taken[key[:i]] != "" {
				dots := strings.NewReplacer("\x00", ".")
				at := []string{c.taken[key], dots.Replace(key)}
				if at[0] == "key" {
					at = at[:1]
				}
				c.bad(at, 0, "%s is a value already, so it can have no parts", dots.Replace(key[:i]))
			}
		}
	}
}

// columnFunction is column("Unit Price"): a column whose name is no word of the language.
var columnFunction = expression.Function{
	Params: []pipeline.AttributeType{pipeline.Text}, Returns: pipeline.Any,
	Lookup: func(args []expression.Argument) (string, error) {
		name, ok := args[0].Text()
		if !ok {
			return "", errors.New(`column needs a constant name: column("Unit Price")`)
		}
		return columnPrefix + name, nil
	},
}

// columnPrefix marks a name that came from column(), so that dots in it are not taken for a path.
const columnPrefix = "\x00"

func columnOf(name string) string { return strings.TrimPrefix(name, columnPrefix) }

// SplitPath splits a path at dots outside quotes: properties."line.item" has two parts.
func SplitPath(path string) ([]string, error) {
	var parts []string
	for rest := path; ; {
		var part string
		if strings.HasPrefix(rest, `"`) {
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				return nil, fmt.Errorf("the quote in %q is not closed", path)
			}
			part, rest = rest[1:1+end], rest[2+end:]
		} else if i := strings.IndexByte(rest, '.'); i >= 0 {
			part, rest = rest[:i], rest[i:]
		} else {
			part, rest = rest, ""
		}
		if part == "" || rest != "" && rest[0] != '.' {
			return nil, fmt.Errorf("%q is not a path: write words with dots between them, such as properties.revenue", path)
		}
		parts = append(parts, part)
		if rest == "" {
			return parts, nil
		}
		rest = rest[1:]
	}
}
