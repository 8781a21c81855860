package expression

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
)

// Limits of one expression.
const (
	maxSource = 16 << 10 // bytes
	maxNodes  = 2000     // nodes of the tree; a chained comparison (a < b < c) counts b twice
	maxText   = 64 << 10 // bytes of a concatenation; a longer one is missing
)

// parse reads the source into expr's tree. All of expr's own functions are switched off: calls reach our compiler as calls.
func parse(source string) (tree ast.Node, err *Error) {
	switch {
	case len(source) > maxSource:
		return nil, &Error{0, fmt.Sprintf("the expression has %d bytes, the limit is %d", len(source), maxSource)}
	case !utf8.ValidString(source):
		return nil, &Error{0, "the expression is not valid UTF-8"}
	case strings.TrimSpace(source) == "":
		return nil, &Error{0, "the expression is empty"}
	}
	// The parser keeps going after an error with nil nodes in hand; a panic there is a mistake in the source, not of ours.
	defer func() {
		if recover() != nil {
			tree, err = nil, &Error{0, "the expression cannot be read: simplify it"}
		}
	}()
	config := conf.CreateNew()
	config.MaxNodes = maxNodes
	config.DisableIfOperator = true
	for _, f := range builtin.Builtins {
		config.Disabled[f.Name] = true
	}
	parsed, perr := parser.ParseWithConfig(source, config)
	if perr == nil {
		return parsed.Node, nil
	}
	var e *file.Error
	if !errors.As(perr, &e) {
		return nil, &Error{0, perr.Error()}
	}
	return nil, &Error{min(max(e.From, 0), utf8.RuneCountInString(source)), explain(e.Message)}
}

// explain turns the parser's message into one that says what to do, for the mistakes that people make.
func explain(message string) string {
	switch {
	case strings.Contains(message, "bad number syntax"):
		return message + ": there are no units here, write seconds or days as a plain number"
	case strings.Contains(message, `Operator("=")`):
		return "unexpected =: equality is written =="
	case strings.Contains(message, "EOF"):
		return "the expression ends too early: something is missing after an operator, or a bracket is not closed"
	case strings.Contains(message, "maximum allowed nodes"):
		return fmt.Sprintf("the expression has more than %d parts: split it", maxNodes)
	}
	return message
}
