package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Diagnostic is one mistake in a file.
type Diagnostic struct {
	File    string
	Line    int // from 1; 0: the file as a whole
	Column  int // in characters, from 1
	Message string
	Excerpt string // the line, "" if there is none
}

// String is file:line:column: message, then the line and a caret under the column.
func (d Diagnostic) String() string {
	if d.Line == 0 {
		return d.File + ": " + d.Message
	}
	s := fmt.Sprintf("%s:%d:%d: %s", d.File, d.Line, d.Column, d.Message)
	if d.Excerpt == "" {
		return s
	}
	return s + "\n  " + d.Excerpt + "\n  " + caret(d.Excerpt, d.Column)
}

// caret points at a column: tabs stay tabs, so that it stands right in every terminal.
func caret(line string, column int) string {
	var b strings.Builder
	for _, r := range line {
		if column--; column < 1 {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String() + "^"
}

// report collects the diagnostics of one file.
type report struct {
	file  string
	lines []string
	list  []Diagnostic
}

// maxDiagnostics bounds what is shown of one file.
const maxDiagnostics = 200

// maxExcerpt is the length, in characters, from which a line is not shown.
const maxExcerpt = 400

func (r *report) add(line, column int, format string, args ...any) {
	if len(r.list) >= maxDiagnostics {
		return
	}
	if line > 0 { // the parser's lines can be beyond the end
		line, column = max(min(line, len(r.lines)), 1), max(column, 1)
	}
	d := Diagnostic{File: r.file, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
	if l := r.line(line); len([]rune(l)) <= maxExcerpt && strings.TrimSpace(l) != "" {
		d.Excerpt = strings.Map(func(c rune) rune { // nothing that moves the cursor
			if c == '\t' || unicode.IsPrint(c) {
				return c
			}
			return '?'
		}, l)
	}
	if !slices.Contains(r.list, d) {
		r.list = append(r.list, d)
	}
}

// at reports a mistake at a node, or at a character of it if it is a scalar.
func (r *report) at(n *node, index int, format string, args ...any) {
	line, column := n.place(r, index)
	r.add(line, column, format, args...)
}

// line is a line of the file, from 1, "" if there is none.
func (r *report) line(n int) string {
	if n < 1 || n > len(r.lines) {
		return ""
	}
	return r.lines[n-1]
}

func (r *report) sorted() []Diagnostic {
	slices.SortStableFunc(r.list, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return r.list
}
