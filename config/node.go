package config

import (
	"strconv"
	"unicode"
	"unicode/utf8"
)

// node is a value in the YAML: what the rest of the package needs of it, and where it stands.
type node struct {
	kind   nodeKind
	line   int // from 1
	column int // in characters, from 1

	style style  // of a scalar
	text  string // of a scalar, variables replaced
	raw   string // of a scalar that had variables: as written; "" otherwise
	canon string // of a decoded scalar: the value in one way of writing, secrets left out

	pairs []pair  // of a mapping
	items []*node // of a sequence

	wrong bool // a mistake was found here
}

type nodeKind uint8

const (
	null nodeKind = iota
	scalar
	mapping
	sequence
)

// style is how a scalar is written.
type style uint8

const (
	plain style = iota
	singleQuoted
	doubleQuoted
	block // | or >
)

// pair is a key and its value.
type pair struct {
	key   string
	at    *node // where the key stands
	value *node
}

// get returns the value of a key, nil if there is none.
func (n *node) get(key string) *pair {
	for i := range n.pairs {
		if n.pairs[i].key == key {
			return &n.pairs[i]
		}
	}
	return nil
}

// find follows a path of keys and numbers as far as it leads. at is where to point: a scalar itself, the key of anything
// else. complete tells whether the whole path was there.
func (n *node) find(key *node, path []string) (value, at *node, complete bool) {
	value, at = n, key
	for _, step := range path {
		switch value.kind {
		case mapping:
			p := value.get(step)
			if p == nil {
				return value, at, false
			}
			value, at = p.value, p.at
		case sequence:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(value.items) {
				return value, at, false
			}
			value, at = value.items[i], value.items[i]
		default:
			return value, at, false
		}
	}
	if value.kind == scalar {
		at = value
	}
	return value, at, true
}

// flawed tells whether a mistake was found in the node or below it.
func (n *node) flawed() bool {
	if n.wrong {
		return true
	}
	for i := range n.pairs {
		if n.pairs[i].at.wrong || n.pairs[i].value.flawed() {
			return true
		}
	}
	for _, item := range n.items {
		if item.flawed() {
			return true
		}
	}
	return false
}

// place is where a character of a scalar, counted from 0, stands in the file. It is the scalar itself for the first character,
// and where the two do not correspond: after a variable, and in quoted texts of several lines.
func (n *node) place(r *report, index int) (line, column int) {
	if n.kind != scalar || index <= 0 || n.raw != "" && index > commonPrefix(n.raw, n.text) {
		return n.line, n.column
	}
	if n.style == block {
		return n.placeInBlock(r, index)
	}
	text := []rune(r.line(n.line))
	at := n.column - 1
	if n.style != plain {
		at++
	}
	for ; index > 0; index-- {
		if at >= len(text) {
			return n.line, n.column
		}
		at += width(text[at:], n.style)
	}
	if at > len(text) || at == len(text) && n.style != plain { // just behind the end of a plain text is a place, too
		return n.line, n.column
	}
	return n.line, at + 1
}

// placeInBlock counts what is not space: that is the same in the lines of a block and in its text, folded or not.
func (n *node) placeInBlock(r *report, index int) (line, column int) {
	before := 0
	for i, c := range []rune(n.text) {
		if i < index && !unicode.IsSpace(c) {
			before++
		}
	}
	for l := n.line + 1; l <= len(r.lines); l++ {
		for i, c := range []rune(r.line(l)) {
			if unicode.IsSpace(c) {
				continue
			}
			if before == 0 {
				return l, i + 1
			}
			before--
		}
	}
	return n.line, n.column
}

// width is how many characters of the file make the next character of the scalar.
func width(rest []rune, s style) int {
	switch {
	case s == singleQuoted && rest[0] == '\'':
		return 2
	case s == doubleQuoted && rest[0] == '\\' && len(rest) > 1:
		switch rest[1] {
		case 'x':
			return 4
		case 'u':
			return 6
		case 'U':
			return 10
		}
		return 2
	}
	return 1
}

func commonPrefix(a, b string) int {
	n := 0
	for a != "" && b != "" {
		x, size := utf8.DecodeRuneInString(a)
		y, _ := utf8.DecodeRuneInString(b)
		if x != y {
			break
		}
		a, b, n = a[size:], b[size:], n+1
	}
	return n
}
