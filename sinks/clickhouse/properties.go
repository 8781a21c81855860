package clickhouse

import (
	"strings"

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
	column textMap
	seen   []string          // paths of the object in hand, those with null too
	paths  map[string]string // path -> the same, so that a nested path is allocated once
	prefix []byte
	left   int // bytes that the object in hand may still take
}

// maxPaths bounds the cache of paths; objects whose keys are ids would fill it without end.
const maxPaths = 4096

// append appends one row. object is valid JSON or empty.
func (f *flattener) append(object string) {
	f.begin(len(object))
	f.object(gjson.Parse(object))
	f.end()
}

// begin starts a row that may take as many bytes as an object of that length is entitled to.
func (f *flattener) begin(length int) {
	f.seen, f.prefix = f.seen[:0], f.prefix[:0]
	f.left = max(maxFlatBytes, maxFlatGrowth*length)
	if f.paths == nil || len(f.paths) > maxPaths {
		f.paths = make(map[string]string)
	}
}

func (f *flattener) end() { f.column.Offsets.Append(uint64(f.column.Keys.Rows())) }

func (f *flattener) object(o gjson.Result) {
	if !o.IsObject() {
		return
	}
	o.ForEach(func(key, v gjson.Result) bool {
		f.field(key.Str, v)
		return len(f.seen) < maxProperties
	})
}

// field takes one key at the depth of prefix.
func (f *flattener) field(key string, v gjson.Result) {
	if v.IsObject() {
		if strings.Count(string(f.prefix), ".") >= maxPropertyDepth-1 {
			return
		}
		n := len(f.prefix)
		f.prefix = append(append(f.prefix, key...), '.')
		f.object(v)
		f.prefix = f.prefix[:n]
		return
	}
	path := f.path(key)
	if len(path) > maxLowText || f.duplicate(path) {
		return
	}
	f.seen = append(f.seen, path)
	text := v.Raw
	switch v.Type {
	case gjson.Null:
		return
	case gjson.String:
		text = v.Str
	}
	if f.left -= len(path) + len(text); f.left < 0 {
		return
	}
	f.column.Keys.Append(path)
	f.column.Values.Append(text)
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

// duplicate looks through the row's paths one by one: they are few, and strings of other lengths cost nothing.
func (f *flattener) duplicate(path string) bool {
	for _, s := range f.seen {
		if s == path {
			return true
		}
	}
	return false
}
