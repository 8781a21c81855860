package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of a file. Tokens and depth protect the parser, whose time grows with their square; nodes count what aliases
// repeat.
const (
	maxBytes  = 1 << 20
	maxTokens = 32_768
	maxDepth  = 64
	maxNodes  = 65_536
)

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the file cannot be read: %w", reason(err))
	}
	defer f.Close()
	source, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("the file cannot be read: %w", reason(err))
	}
	return source, nil
}

// reason is an error without the operation and the path, which stand beside it.
func reason(err error) error {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// parseDocument reads the tree of a file; nil if it has none, and why is in the report. The root is a mapping.
func parseDocument(r *report, source []byte) *node {
	source = bytes.TrimPrefix(source, []byte("\ufeff"))
	source = bytes.ReplaceAll(source, []byte("\r\n"), []byte("\n"))
	source = bytes.ReplaceAll(source, []byte("\r"), []byte("\n")) // a line break in YAML, too
	if len(source) > maxBytes {
		r.add(0, 0, "the file has more than %d bytes", maxBytes)
		return nil
	}
	r.lines = strings.Split(string(source), "\n")
	for i, l := range r.lines {
		if at := invalidAt(l); at >= 0 {
			r.add(i+1, at+1, "the file is not text in UTF-8: save it as UTF-8")
			return nil
		}
	}
	tokens := lexer.Tokenize(string(source))
	if !withinLimits(r, tokens) {
		return nil
	}
	file, err := parse(tokens)
	if err != nil {
		syntaxError(r, err)
		return nil
	}
	var bodies []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil && d.Body.Type() != ast.CommentType {
			bodies = append(bodies, d.Body)
		}
	}
	if len(bodies) == 0 {
		r.add(0, 0, "the file is empty: a pipeline begins with `pipeline: name`")
		return nil
	}
	if len(bodies) > 1 {
		p := position(bodies[1])
		r.add(p.Line, p.Column, "the file has more than one document: one file is one pipeline")
		return nil
	}
	b := treeBuilder{report: r, anchors: map[string]ast.Node{}}
	root := b.node(bodies[0], 0)
	if root.kind != mapping {
		r.add(root.line, root.column, "a pipeline is a mapping: it begins with `pipeline: name`")
		return nil
	}
	return root
}

func invalidAt(line string) int {
	if utf8.ValidString(line) && !strings.ContainsRune(line, 0) {
		return -1
	}
	for i, c := range []rune(line) {
		if c == utf8.RuneError || c == 0 {
			return i
		}
	}
	return -1
}

// withinLimits looks at the tokens alone: nesting is flow brackets, and entries, keys, tags and anchors that share a line.
func withinLimits(r *report, tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		r.add(0, 0, "the file has more than %d words and signs", maxTokens)
		return false
	}
	flow, line, onLine, properties := 0, 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			onLine++
		case token.TagType, token.AnchorType:
			properties++
		}
		if flow > maxDepth || onLine > maxDepth || properties > 1000 {
			r.add(t.Position.Line, t.Position.Column, "the file is nested more than %d deep", maxDepth)
			return false
		}
	}
	return true
}

// parse calls the parser, which panics on some malformed files.
func parse(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			file, err = nil, errors.New("the file is not YAML")
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

func syntaxError(r *report, err error) {
	var e yaml.Error
	if !errors.As(err, &e) || e.GetToken() == nil {
		r.add(0, 0, "%s", err)
		return
	}
	p, message := e.GetToken().Position, e.GetMessage()
	line := r.line(p.Line)
	switch {
	case strings.Contains(message, "character '\t'"):
		message = "a tab cannot indent: use spaces"
	case strings.Contains(line, "${") && strings.ContainsAny(line, "{["):
		message += `: inside { } and [ ] a variable stands in quotes, "${NAME}"`
	case strings.Contains(line, "{") && strings.Contains(line, "("):
		message += ": inside { } an expression stands in quotes"
	case strings.Contains(message, "mapping value is not allowed"):
		message += ": put a text with a colon in quotes"
	}
	r.add(p.Line, p.Column, "%s", message)
}

func position(n ast.Node) token.Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return position(m.Values[0].Key) // its own token is the first colon
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		return position(m.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return *t.Position
	}
	return token.Position{Line: 1, Column: 1}
}

// treeBuilder makes nodes of the parser's tree.
type treeBuilder struct {
	*report
	anchors map[string]ast.Node
	nodes   int
	full    bool
}

// node converts n. Mistakes are reported, and become null.
func (b *treeBuilder) node(n ast.Node, depth int) *node {
	p := position(n)
	out := &node{line: p.Line, column: max(p.Column, 1)}
	b.nodes++
	switch {
	case b.full:
		return out
	case b.nodes > maxNodes || depth > maxDepth:
		b.full = true
		b.add(out.line, out.column, "the file is too large once its aliases are followed, or nested more than %d deep", maxDepth)
		return out
	}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		b.scalar(out, n.Value, n.Token)
	case *ast.LiteralNode:
		out.kind, out.style, out.text = scalar, block, n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		b.scalar(out, strings.TrimSpace(n.GetToken().Value), n.GetToken())
	case *ast.MappingNode:
		out.kind = mapping
		for _, v := range n.Values {
			b.pair(out, v, n.IsFlowStyle, depth)
		}
	case *ast.MappingValueNode:
		out.kind = mapping
		b.pair(out, n, false, depth)
	case *ast.SequenceNode:
		out.kind = sequence
		for _, v := range n.Values {
			out.items = append(out.items, b.node(v, depth+1))
		}
	case *ast.AnchorNode:
		if n.Name != nil && n.Value != nil {
			b.anchors[n.Name.GetToken().Value] = n.Value
			return b.node(n.Value, depth+1)
		}
	case *ast.AliasNode:
		return b.alias(n, out, depth)
	case *ast.TagNode:
		b.fail(out, "tags (%s) are not used here: leave it out", n.Start.Value)
	default:
		b.fail(out, "this form of YAML is not used here")
	}
	return out
}

func (b *treeBuilder) fail(at *node, format string, args ...any) {
	at.wrong = true
	b.add(at.line, at.column, format, args...)
}

func (b *treeBuilder) scalar(out *node, text string, t *token.Token) {
	out.kind, out.text = scalar, text
	switch t.Type {
	case token.SingleQuoteType:
		out.style = singleQuoted
	case token.DoubleQuoteType:
		out.style = doubleQuoted
	}
}

func (b *treeBuilder) alias(n *ast.AliasNode, out *node, depth int) *node {
	name := ""
	if n.Value != nil {
		name = n.Value.GetToken().Value
	}
	target, ok := b.anchors[name]
	if !ok {
		b.fail(out, "there is no anchor &%s above", name)
		return out
	}
	return b.node(target, depth+1)
}

func (b *treeBuilder) pair(out *node, v *ast.MappingValueNode, flow bool, depth int) {
	p := position(v.Key)
	at := &node{kind: scalar, line: p.Line, column: max(p.Column, 1)}
	var key string
	switch k := v.Key.(type) {
	case *ast.StringNode:
		key = k.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		key = strings.TrimSpace(k.GetToken().Value)
	case *ast.MergeKeyNode:
		b.fail(at, "merge keys (<<) are not used here: write the keys out, or use an alias for the whole value")
		return
	default:
		b.fail(at, "a key must be a plain or quoted word")
		return
	}
	value := b.node(v.Value, depth+1)
	// In a flow mapping YAML cuts an unquoted expression at its comma: {when: a("x") or b("y", 1)} has a key `1)`.
	if flow && value.kind == null && strings.Contains(key, ")") && len(out.pairs) > 0 {
		last := out.pairs[len(out.pairs)-1].value
		b.fail(at, "the comma before %q ends the value before it: put the expression in quotes", key)
		if last.kind == scalar {
			last.text += ", " + key // the rest is checked as it was meant
		}
		return
	}
	if strings.Contains(key, "${") {
		b.fail(at, "variables are not replaced in keys")
		return
	}
	if first := out.get(key); first != nil {
		b.fail(at, "the key %q stands twice, first on line %d", key, first.at.line)
		return
	}
	at.text = key
	out.pairs = append(out.pairs, pair{key: key, at: at, value: value})
}
