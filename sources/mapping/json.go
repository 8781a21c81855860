package mapping

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// Objects maps JSON objects. It is not safe for concurrent use.
type Objects struct {
	m *Mapping
	roots
	paths map[string][]string // split paths of leaves and expressions
	named map[string]bool     // top-level keys that `map` takes whole
	line  gjson.Result        // the object in hand
	key   string              // of the record that holds it
	at    time.Time           // of the record
	vars  func(name string) any
}

// Objects binds the mapping to JSON objects.
func (m *Mapping) Objects() *Objects {
	o := &Objects{m: m, paths: map[string][]string{}, named: map[string]bool{}}
	o.vars = o.variable
	for _, l := range m.leaves {
		switch {
		case l.envelope != none:
		case l.program != nil:
			for _, n := range l.program.Names() {
				if o.paths[n], _ = SplitPath(n); strings.HasPrefix(n, columnPrefix) {
					o.paths[n] = []string{columnOf(n)}
				}
			}
		case l.constant == nil:
			words, _ := SplitPath(l.source) // checked by Compile
			if o.paths[l.source] = words; len(words) == 1 {
				o.named[words[0]] = true
			}
		}
	}
	o.roots = m.roots(nil)
	return o
}

// Append appends the event of a line, which must be one valid JSON object in UTF-8, and returns the value of message_id, ""
// if there is none.
func (o *Objects) Append(dst, line []byte) (event []byte, messageID string, err error) {
	return o.AppendRecord(dst, line, "", time.Time{})
}

// AppendRecord is Append for a record that has a key and a time of its own; an empty key is no value.
func (o *Objects) AppendRecord(dst, line []byte, key string, at time.Time) (event []byte, messageID string, err error) {
	o.line, o.key, o.at = gjson.ParseBytes(line), key, at
	root, messageID, err := o.choose(o)
	if err != nil {
		return dst, "", err
	}
	event, err = render(dst, root, o)
	return event, messageID, err
}

// find is the value at a path; the first of duplicate keys counts.
func (o *Objects) find(path []string) (gjson.Result, bool) {
	v := o.line
	for _, word := range path {
		var found gjson.Result
		ok, i := false, -1
		array := v.IsArray()
		v.ForEach(func(key, value gjson.Result) bool {
			i++
			ok = !array && key.Str == word || array && strconv.Itoa(i) == word
			found = value
			return !ok
		})
		if !ok {
			return gjson.Result{}, false
		}
		v = found
	}
	return v, v.Type != gjson.Null
}

func (o *Objects) variable(name string) any {
	v, ok := o.find(o.paths[name])
	if !ok {
		return nil
	}
	switch v.Type {
	case gjson.String:
		return v.Str
	case gjson.Number:
		return v.Num
	case gjson.True, gjson.False:
		return v.Bool()
	}
	return v.Raw
}

func (o *Objects) value(dst []byte, n *node) ([]byte, error) {
	filled, err := o.own(dst, n)
	if err == nil && len(filled) == len(dst) && n.leaf.isTime && !o.at.IsZero() {
		return appendString(dst, o.at.UTC().Format(pipeline.TimeFormat)), nil
	}
	return filled, err
}

// own is the value that the object or the key has for a leaf.
func (o *Objects) own(dst []byte, n *node) ([]byte, error) {
	switch {
	case n.leaf.envelope == recordTime, n.leaf.envelope == recordKey && o.key == "":
		return dst, nil
	case n.leaf.envelope == recordKey:
		return o.m.appendTime(dst, o.key, n.leaf)
	}
	if n.leaf.constant != nil {
		return append(dst, n.leaf.constant...), nil
	}
	if n.leaf.program != nil {
		v, err := n.leaf.program.Value(o.vars)
		if err != nil {
			return dst, pipeline.Reject(codeValue, "the expression of %s cannot be evaluated", n.leaf.name())
		}
		return o.m.appendTime(dst, v, n.leaf)
	}
	v, ok := o.find(o.paths[n.leaf.source])
	switch {
	case !ok:
		return dst, nil
	case !n.leaf.isTime:
		return append(dst, v.Raw...), nil
	case v.Type == gjson.Number:
		return o.m.appendTime(dst, v.Raw, n.leaf)
	case v.Type == gjson.String:
		return o.m.appendTime(dst, v.Str, n.leaf)
	}
	return dst, pipeline.Reject(codeValue, "%s needs a text or a number", n.leaf.name())
}

func (o *Objects) extras() []extra {
	var es []extra
	o.line.ForEach(func(key, v gjson.Result) bool {
		if !o.named[key.Str] && v.Type != gjson.Null {
			es = append(es, extra{key.Str, []byte(v.Raw)})
		}
		return true
	})
	slices.SortStableFunc(es, func(a, b extra) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(es, func(a, b extra) bool { return a.name == b.name }) // the first of duplicates counts
}
