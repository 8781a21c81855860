package chdb

import (
	"bytes"
	"strings"
)

// shape is what the door must know about a statement before the engine parses it: where the data of an INSERT begins, and
// which format the answer has.
type shape struct {
	insertData bool   // an INSERT with data, as opposed to INSERT … SELECT and to everything else
	head       int    // length of the statement without its FORMAT or VALUES clause
	data       int    // where the data of an INSERT begins; may be the length of the text
	format     string // of the data of an INSERT, or of the answer; "" if the statement names none
	semicolon  bool   // FORMAT x; before data, which ClickHouse refuses
	toFile     bool   // SELECT … INTO OUTFILE, INSERT … FROM INFILE: files on the engine's machine
	empty      bool   // blanks and comments only
	totals     bool   // WITH TOTALS, which the engine loses when it streams
}

// shapeOf reads the tokens of a statement. It stops at the data of an INSERT, so data of any kind and size may follow.
func shapeOf(text []byte) shape {
	lex := lexer{text: text}
	first := lex.next()
	if first.is("INSERT") {
		return insertShape(&lex)
	}
	s := shape{head: len(text), empty: first.kind == tokenEnd}
	var last token
	for t := lex.next(); t.kind != tokenEnd; t = lex.next() {
		switch {
		case t.is("TOTALS"):
			s.totals = true
		case t.depth == 0 && last.is("INTO") && t.is("OUTFILE"):
			s.toFile = true
		case t.depth == 0 && t.kind == tokenWord && last.is("FORMAT"):
			s.format, s.head = t.text, last.start
		}
		last = t
	}
	return s
}

// insertShape reads on after INSERT. A table may have any name, also "values" or "format", so it is stepped over first.
func insertShape(lex *lexer) shape {
	t := lex.next()
	for t.is("INTO") || t.is("TABLE") {
		t = lex.next()
	}
	if t.is("FUNCTION") {
		lex.next()
	}
	for t = lex.next(); t.kind == tokenSymbol && t.text == "."; t = lex.next() {
		lex.next()
	}
	for ; t.kind != tokenEnd; t = lex.next() {
		switch {
		case t.depth > 0:
		case t.is("SELECT"), t.is("WITH"):
			return shape{head: len(lex.text)}
		case t.is("INFILE"):
			return shape{head: len(lex.text), toFile: true}
		case t.is("VALUES"):
			return shape{insertData: true, head: t.start, data: lex.at, format: "Values"}
		case t.is("FORMAT"):
			if f := lex.next(); f.kind == tokenWord {
				// Like the engine, look only right behind the name: what stands after a blank may be data already, and the
				// head of a Native block of 12 columns and 59 rows reads "\f;".
				return shape{insertData: true, head: t.start, format: f.text, data: dataAfter(lex.text, lex.at), semicolon: has(lex.text[lex.at:], ";")}
			}
		}
	}
	return shape{head: len(lex.text)}
}

// dataAfter follows ClickHouse's rule (ParserInsertQuery): data begins after the first line feed, if only blanks stand
// before it, else after the blanks.
func dataAfter(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\f') {
		i++
	}
	if i < len(text) && text[i] == '\r' {
		i++
	}
	if i < len(text) && text[i] == '\n' {
		i++
	}
	return i
}

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenQuoted
	tokenSymbol
)

type token struct {
	kind  tokenKind
	text  string // of words and symbols
	start int
	depth int // of brackets; an opening one counts itself
}

// is reports whether the token is this keyword, in any case. A quoted name is never a keyword.
func (t token) is(keyword string) bool {
	return t.kind == tokenWord && strings.EqualFold(t.text, keyword)
}

// lexer splits ClickHouse SQL into tokens. It takes any bytes and always ends.
type lexer struct {
	text  []byte
	at    int
	depth int
}

func (l *lexer) next() token {
	l.skipBlanks()
	start := l.at
	if start >= len(l.text) {
		return token{start: start}
	}
	switch c := l.text[start]; {
	case c == '\'' || c == '"' || c == '`':
		l.skipQuoted(c)
		return token{kind: tokenQuoted, start: start, depth: l.depth}
	case c == '$' && l.skipHeredoc():
		return token{kind: tokenQuoted, start: start, depth: l.depth}
	case wordByte(c):
		for l.at < len(l.text) && wordByte(l.text[l.at]) {
			l.at++
		}
		return token{kind: tokenWord, text: string(l.text[start:l.at]), start: start, depth: l.depth}
	case c == '(' || c == '[' || c == '{':
		l.depth++
	case c == ')' || c == ']' || c == '}':
		l.depth = max(0, l.depth-1)
	}
	l.at++
	return token{kind: tokenSymbol, text: string(l.text[start:l.at]), start: start, depth: l.depth}
}

func wordByte(c byte) bool {
	return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c >= 0x80
}

func (l *lexer) skipBlanks() {
	for l.at < len(l.text) {
		rest := l.text[l.at:]
		switch {
		case rest[0] == ' ' || rest[0] >= '\t' && rest[0] <= '\r':
			l.at++
		case has(rest, "--"), has(rest, "# "), has(rest, "#!"):
			l.skipPast("\n", 2)
		case has(rest, "/*"):
			l.skipPast("*/", 2)
		default:
			return
		}
	}
}

func has(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// skipPast moves behind the next end that stands at least from bytes ahead, or to the end of the text.
func (l *lexer) skipPast(end string, from int) {
	from = min(l.at+from, len(l.text))
	if i := bytes.Index(l.text[from:], []byte(end)); i >= 0 {
		l.at = from + i + len(end)
	} else {
		l.at = len(l.text)
	}
}

func (l *lexer) skipQuoted(quote byte) {
	for l.at++; l.at < len(l.text); l.at++ {
		switch l.text[l.at] {
		case '\\':
			l.at++
		case quote:
			l.at++
			if l.at >= len(l.text) || l.text[l.at] != quote { // a doubled quote stands for one
				return
			}
		}
	}
	l.at = len(l.text)
}

// skipHeredoc steps over $tag$ … $tag$.
func (l *lexer) skipHeredoc() bool {
	end := l.at + 1
	for end < len(l.text) && wordByte(l.text[end]) {
		end++
	}
	if end >= len(l.text) || l.text[end] != '$' {
		return false
	}
	tag := string(l.text[l.at : end+1])
	l.skipPast(tag, len(tag))
	return true
}
