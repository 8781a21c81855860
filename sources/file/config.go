// Package file is the source `file`: tables (CSV and the like) and JSON lines, plain or gzip.
//
// Files are read in the order of their names, and go on to be watched: what is appended and what is new is read too, until
// `once` says otherwise. A line is never lost and never stops a file: one that makes no event travels on as the bytes that
// it is, and becomes a dead letter.
//
// The position (which file, up to which byte) is committed with the events, so nothing is read twice after a crash. An event
// without a message id of its own gets one from the source, the file's name and the line's number, so loading a file again
// changes nothing downstream either, and two identical lines are two events.
package file

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/mapping"
)

// Config is what users write under `file`.
type Config struct {
	// Path is a file name or a pattern such as crm/*.csv, or a list of them, relative to the working directory.
	Path Paths `yaml:"path"`
	// Format is csv or ndjson; by default it follows from the name: .csv, .tsv, .ndjson, .jsonl, each also with .gz.
	Format string `yaml:"format"`
	// Delimiter stands between the cells of a table: one character, or "spaces" for runs of spaces without quoting. Default
	// a comma, a tab for .tsv.
	Delimiter string `yaml:"delimiter"`
	// Header tells whether a table's first line holds the columns' names. Default true, false with Columns. With both, the
	// first line is skipped.
	Header *bool `yaml:"header"`
	// Columns are the names of a table's columns.
	Columns []string `yaml:"columns"`
	// Set, Map and Expr say how a row becomes an event: see package mapping. A table needs them; a JSON line without them is
	// an event already.
	Set  map[string]any    `yaml:"set"`
	Map  map[string]string `yaml:"map"`
	Expr map[string]string `yaml:"expr"`
	// TimeFormat is how the column mapped to timestamp is written: see mapping.ParseTimeFormat. Times without an offset are
	// UTC.
	TimeFormat string `yaml:"time_format"`
	// Once ends the source when the files have been read.
	Once bool `yaml:"once"`
}

// Paths is a path or a list of them.
type Paths []string

// UnmarshalYAML reads either form.
func (p *Paths) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*p = Paths{one}
		return nil
	}
	var many []string
	err := decode(&many)
	*p = many
	return err
}

// Kind describes the source to package config.
var Kind = pipeline.SourceKind{
	Name:    "file",
	Summary: "CSV files and JSON lines, plain or gzip, read once or followed",
	Resumes: true,
	Config:  func() any { return &Config{} },
	Build: func(name string, config any, _ *pipeline.Env) (func(context.Context, pipeline.Deps) (pipeline.Source, error), []pipeline.Problem) {
		f, problems := compile(*config.(*Config))
		if problems != nil {
			return nil, problems
		}
		return func(_ context.Context, d pipeline.Deps) (pipeline.Source, error) { return newSource(name, f, d), nil }, nil
	},
}

// form is a checked configuration.
type form struct {
	patterns  []string
	json      bool
	delimiter rune // 0: runs of spaces
	header    bool // the first line is no event
	columns   []string
	mapping   *mapping.Mapping // nil: JSON lines are events
	once      bool
}

const spaces = "spaces"

// compile returns the form, or everything that is wrong.
func compile(c Config) (*form, []pipeline.Problem) {
	var ps []pipeline.Problem
	bad := func(key, format string, args ...any) {
		ps = append(ps, pipeline.Problemf([]string{key}, format, args...))
	}
	f := &form{patterns: c.Path, columns: c.Columns, once: c.Once, delimiter: ',', header: c.Columns == nil}
	if len(c.Path) == 0 {
		bad("path", "there is no path: name a file or a pattern, such as crm/*.csv")
	}
	format := c.Format
	for _, p := range c.Path {
		if _, err := filepath.Match(p, ""); err != nil || p == "" {
			bad("path", "%q is not a pattern: close its brackets, or escape them with a backslash", p)
			continue
		}
		by, tab := formatOf(p)
		switch {
		case c.Format != "":
		case by == "":
			bad("format", "the format of %q cannot be told from its name: write format: csv or format: ndjson", p)
			format = by
		case format != "" && format != by:
			bad("path", "the patterns name files of different formats: make one source for each")
		default:
			format = by
		}
		if tab && by == format {
			f.delimiter = '\t'
		}
	}
	switch format {
	case "csv":
	case "ndjson":
		f.json = true
		if c.Delimiter != "" || c.Header != nil || c.Columns != nil {
			bad("format", "delimiter, header and columns belong to csv: delete them, or set format: csv")
		}
	case "":
	default:
		bad("format", "%q is no format: write csv or ndjson", format)
	}
	if c.Delimiter == spaces {
		f.delimiter = 0
	} else if c.Delimiter != "" {
		r, n := utf8.DecodeRuneInString(c.Delimiter)
		if n != len(c.Delimiter) || r == '"' || r == '\r' || r == '\n' || r == utf8.RuneError {
			bad("delimiter", "%q is no delimiter: write one character, \"\\t\" for a tab, or \"spaces\"", c.Delimiter)
		}
		f.delimiter = r
	}
	if c.Header != nil {
		f.header = *c.Header
	}
	if !f.header && c.Columns == nil && !f.json {
		bad("columns", "a table without a header needs columns: name them in their order")
	}
	for i, name := range c.Columns {
		if strings.TrimSpace(name) != name || name == "" || slices.Contains(c.Columns[:i], name) {
			bad("columns", "the column %q is empty, has space around it or is named twice", name)
		}
	}
	mapped := len(c.Set)+len(c.Map)+len(c.Expr) > 0
	if len(ps) > 0 {
		return nil, ps
	}
	if f.json && !mapped {
		if c.TimeFormat != "" {
			bad("time_format", "the lines are events already, nothing is mapped: delete time_format, or map timestamp")
		}
		return f, ps
	}
	f.mapping, ps = mapping.Compile(mapping.Spec{
		Set: c.Set, Map: c.Map, Expr: c.Expr, TimeFormat: c.TimeFormat, JSON: f.json, Columns: c.Columns,
	})
	return f, ps
}

// formatOf is the format that a file's name tells, "" if none, and whether it says that tabs stand between cells.
func formatOf(path string) (format string, tabs bool) {
	switch strings.ToLower(filepath.Ext(strings.TrimSuffix(strings.TrimRight(path, "*"), ".gz"))) {
	case ".csv":
		return "csv", false
	case ".tsv", ".tab":
		return "csv", true
	case ".ndjson", ".jsonl":
		return "ndjson", false
	}
	return "", false
}
