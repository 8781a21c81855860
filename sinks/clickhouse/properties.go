package clickhouse

import (
	"bytes"

	"github.com/tidwall/gjson"
)

// Limits of one flattened object. What is beyond them is only in the column raw.
const (
	maxProperties    = 256
	maxPropertyDepth = 5
	// A path repeats the names above it, so an object of many short keys under long names would grow many times over.
	maxFlatBytes  = 4 << 10
	maxFlatGrowth = 4
)

// flattener turns JSON objects into the rows of a Map(LowCardinality(String), String) column:
//
//	{"a": {"b": 1.10}, "c": [1, {"d": null}], "e": null, "f": true, "c": 2}   a.b = 1.10, c = [1, {"d": null}], f = true
//
// Objects are flattened with dots, arrays are kept as JSON text, numbers as they were written; null is absent; of duplicate
// keys the first counts.
type flattener struct {
	fields []flatField       // of the object in hand
	cut    bool              // something of it was beyond a limit
	left   int               // bytes that it may still take
	prefix []byte            // of the object inside it in hand
	paths  map[string]string // path -> the same, so that a path is allocated once
}

type flatField struct {
	path, text string
	kind       gjson.Type
}

// maxPaths bounds the cache of paths; objects whose keys are ids would fill it without end.
const maxPaths = 4096

// begin starts a row that may take as many bytes as an object of that length is entitled to.
func (f *flattener) begin(length int) {
	f.fields, f.prefix, f.cut = f.fields[:0], f.prefix[:0], false
	f.left = max(maxFlatBytes, maxFlatGrowth*length)
	if f.paths == nil || len(f.paths) > maxPaths {
		f.paths = make(map[string]string)
	}
}

// object takes the fields of an object; o is valid JSON or nothing.
func (f *flattener) object(o gjson.Result) {
	if !o.IsObject() {
		return
	}
	o.ForEach(func(key, v gjson.Result) bool {
		if len(f.fields) == maxProperties {
			f.cut = true
			return false
		}
		f.field(key.Str, v)
		return true
	})
}

// field takes one key at the depth of prefix.
func (f *flattener) field(key string, v gjson.Result) {
	if v.IsObject() {
		if bytes.Count(f.prefix, []byte{'.'}) >= maxPropertyDepth-1 {
			f.cut = true
			return
		}
		n := len(f.prefix)
		f.prefix = append(append(f.prefix, key...), '.')
		f.object(v)
		f.prefix = f.prefix[:n]
		return
	}
	path := f.path(key)
	if len(path) > maxLowText {
		f.cut = true
		return
	}
	if _, duplicate := f.find(path); duplicate {
		return
	}
	text := v.Raw
	if v.Type == gjson.String {
		text = v.Str
	}
	if f.left -= len(path) + len(text); f.left < 0 {
		f.cut = true
		return
	}
	f.fields = append(f.fields, flatField{path, text, v.Type})
}

func (f *flattener) path(key string) string {
	if len(f.prefix) == 0 {
		return key
	}
	n := len(f.prefix)
	f.prefix = append(f.prefix, key...)
	path, ok := f.paths[string(f.prefix)]
	if !ok {
		path = string(f.prefix)
		if len(path) <= maxLowText {
			f.paths[path] = path
		}
	}
	f.prefix = f.prefix[:n]
	return path
}

// find looks through the fields one by one: they are few, and paths of other lengths cost nothing.
func (f *flattener) find(path string) (flatField, bool) {
	for i := range f.fields {
		if f.fields[i].path == path {
			return f.fields[i], true
		}
	}
	return flatField{}, false
}

// appendTo appends the row.
func (f *flattener) appendTo(c textMap) {
	for i := range f.fields {
		if f.fields[i].kind != gjson.Null {
			c.Keys.Append(f.fields[i].path)
			c.Values.Append(f.fields[i].text)
		}
	}
	c.Offsets.Append(uint64(c.Keys.Rows()))
}
