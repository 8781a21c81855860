package expression

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/millstream-io/millstream/pipeline"
)

// none is the type of the literal nil.
const none pipeline.AttributeType = 101

// node is a compiled part of an expression.
type node struct {
	typ      pipeline.AttributeType
	eval     func(f *frame) any
	constant bool
	value    any    // of a constant
	crossing int    // of a call of days_since: its number in compiler.crossings, from 1
	name     string // of a variable
}

// frame is one evaluation.
type frame struct {
	vars Vars
	err  error // first error of a function
}

// compiler turns expr's tree into closures: they are several times faster than expr's machine for short conditions, and
// carry our rules about missing values. The first error wins; nodes after it are not used.
type compiler struct {
	scope Scope
	names map[string]bool
	nodes int
	err   error // *Error

	crossings []crossing
	one       bool // the comparison in hand has one call of days_since

	// borders are the constant numbers that a variable is compared with.
	borders map[string][]float64
}

func (c *compiler) fail(at ast.Node, format string, args ...any) node {
	if c.err == nil {
		c.err = &Error{at.Location().From, fmt.Sprintf(format, args...)}
	}
	return constant(none, nil)
}

func constant(t pipeline.AttributeType, v any) node {
	return node{typ: t, value: v, constant: true, eval: func(*frame) any { return v }}
}

func (c *compiler) compile(n ast.Node) node {
	// A chained comparison shares a node, so the tree can be walked more often than it was long.
	if c.nodes++; c.nodes > maxNodes && c.err == nil {
		c.err = &Error{0, fmt.Sprintf("the expression has more than %d parts: split it", maxNodes)}
	}
	if c.err != nil {
		return constant(none, nil)
	}
	switch n := n.(type) {
	case *ast.NilNode:
		return constant(none, nil)
	case *ast.IntegerNode:
		return constant(pipeline.Number, float64(n.Value))
	case *ast.FloatNode:
		return constant(pipeline.Number, n.Value)
	case *ast.BoolNode:
		return constant(pipeline.Bool, n.Value)
	case *ast.StringNode:
		return constant(pipeline.Text, n.Value)
	case *ast.IdentifierNode:
		return c.identifier(n)
	case *ast.MemberNode:
		return c.member(n)
	case *ast.ChainNode:
		return c.compile(n.Node)
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.ConditionalNode:
		return c.conditional(n)
	case *ast.ArrayNode:
		return c.fail(n, "a list stands only on the right of in")
	case *ast.CallNode:
		return c.call(n)
	case *ast.BuiltinNode:
		return c.unknownFunction(n, n.Name)
	}
	return c.fail(n, "maps, slices, variables and sequences are not part of this language")
}

func (c *compiler) unary(n *ast.UnaryNode) node {
	x := c.compile(n.Node)
	switch n.Operator {
	case "not", "!":
		c.want(n, n.Operator, x, pipeline.Bool)
		t := truth(x.eval)
		return node{typ: pipeline.Bool, eval: func(f *frame) any { return !t(f).(bool) }}
	case "-":
		c.want(n, n.Operator, x, pipeline.Number)
		if v, ok := x.value.(float64); ok && x.constant {
			return constant(pipeline.Number, -v)
		}
		return node{typ: pipeline.Number, eval: func(f *frame) any {
			if v, ok := x.eval(f).(float64); ok {
				return -v
			}
			return nil
		}}
	}
	c.want(n, n.Operator, x, pipeline.Number)
	return x
}

// want checks the operand of an operator.
func (c *compiler) want(at ast.Node, operator string, x node, allowed ...pipeline.AttributeType) {
	if x.typ == pipeline.Any || slices.Contains(allowed, x.typ) {
		return
	}
	words := make([]string, len(allowed))
	for i, t := range allowed {
		words[i] = describe(t)
	}
	c.fail(at, "%s needs %s, not %s", operator, strings.Join(words, " or "), describe(x.typ))
}

func (c *compiler) binary(n *ast.BinaryNode) node {
	if n.Operator == ".." || n.Operator == "**" || n.Operator == "^" {
		return c.fail(n, "the operator %s is not part of this language", n.Operator)
	}
	crossings := len(c.crossings)
	l := c.compile(n.Left)
	var r node
	if items, ok := n.Right.(*ast.ArrayNode); ok && n.Operator == "in" {
		r = c.list(items)
	} else {
		r = c.compile(n.Right)
	}
	if c.err != nil {
		return l
	}
	switch n.Operator {
	case "and", "&&", "or", "||":
		c.want(n, n.Operator, l, pipeline.Bool)
		c.want(n, n.Operator, r, pipeline.Bool)
		return node{typ: pipeline.Bool, eval: logic(n.Operator == "or" || n.Operator == "||", truth(l.eval), truth(r.eval))}
	case "??":
		return coalesce(l, r)
	case "+", "-", "*", "/", "%":
		return c.arithmetic(n, l, r)
	}
	if l.typ == none || r.typ == none {
		return c.fail(n, "a comparison with nil is always false: has(x) tells whether x is there")
	}
	if n.Operator == "matches" {
		return c.matches(n, l, r)
	}
	c.one = len(c.crossings) == crossings+1
	return c.comparison(n, l, r)
}

func (c *compiler) arithmetic(n *ast.BinaryNode, l, r node) node {
	switch {
	case n.Operator == "+" && (l.typ == pipeline.Text || r.typ == pipeline.Text):
		c.want(n, "+ with a text", l, pipeline.Text)
		c.want(n, "+ with a text", r, pipeline.Text)
		return node{typ: pipeline.Text, eval: arithmetic('+', l.eval, r.eval)}
	case n.Operator == "-" && (l.typ == pipeline.Time || r.typ == pipeline.Time):
		c.want(n, "- with a time", l, pipeline.Time)
		c.want(n, "- with a time", r, pipeline.Time)
		return node{typ: pipeline.Number, eval: arithmetic('-', l.eval, r.eval)}
	}
	c.want(n, n.Operator, l, pipeline.Number)
	c.want(n, n.Operator, r, pipeline.Number)
	t := pipeline.Number
	if n.Operator == "+" && l.typ == pipeline.Any && r.typ == pipeline.Any {
		t = pipeline.Any // numbers or texts
	}
	return node{typ: t, eval: arithmetic(n.Operator[0], l.eval, r.eval)}
}

func (c *compiler) comparison(n *ast.BinaryNode, l, r node) node {
	switch n.Operator {
	case "in":
		c.want(n, "in (on its right)", r, List)
		if l.typ == List {
			return c.fail(n, "in needs one value on its left, not a list")
		}
		if items, ok := r.value.([]any); ok && r.constant {
			for _, item := range items {
				if t := typeOf(item); l.typ != pipeline.Any && t != l.typ {
					return c.fail(n, "%s is never in a list with %s", describe(l.typ), describe(t))
				}
			}
		}
		return node{typ: pipeline.Bool, eval: func(f *frame) any { return contains(r.eval(f), l.eval(f)) }}
	case "contains":
		c.want(n, n.Operator, l, pipeline.Text, List)
		if l.typ != List {
			c.want(n, n.Operator, r, pipeline.Text)
		}
		return node{typ: pipeline.Bool, eval: func(f *frame) any {
			x, y := l.eval(f), r.eval(f)
			if s, ok := x.(string); ok {
				sub, ok := y.(string)
				return ok && strings.Contains(s, sub)
			}
			return contains(x, y)
		}}
	case "startsWith", "endsWith":
		c.want(n, n.Operator, l, pipeline.Text)
		c.want(n, n.Operator, r, pipeline.Text)
		test := strings.HasPrefix
		if n.Operator == "endsWith" {
			test = strings.HasSuffix
		}
		return node{typ: pipeline.Bool, eval: func(f *frame) any {
			s, ok1 := l.eval(f).(string)
			part, ok2 := r.eval(f).(string)
			return ok1 && ok2 && test(s, part)
		}}
	}
	return c.order(n, l, r)
}

// order is ==, != and the inequalities.
func (c *compiler) order(n *ast.BinaryNode, l, r node) node {
	l, r = c.timeConstant(n.Left, l, r.typ), c.timeConstant(n.Right, r, l.typ)
	if c.err != nil {
		return l
	}
	allowed := []pipeline.AttributeType{pipeline.Number, pipeline.Text, pipeline.Time}
	if n.Operator == "==" || n.Operator == "!=" {
		allowed = append(allowed, pipeline.Bool)
	}
	c.want(n, n.Operator, l, allowed...)
	c.want(n, n.Operator, r, allowed...)
	if l.typ != r.typ && l.typ != pipeline.Any && r.typ != pipeline.Any {
		return c.fail(n, "%s %s %s compares different types%s", describe(l.typ), n.Operator, describe(r.typ), convert(l.typ, r.typ))
	}
	c.crosses(n.Operator, l, r)
	c.border(l, r)
	c.border(r, l)
	op := operators[n.Operator]
	if v, ok := r.value.(float64); ok && r.constant { // the usual case, kept short for the segments
		return node{typ: pipeline.Bool, eval: func(f *frame) any {
			x, ok := l.eval(f).(float64)
			return ok && x == x && op.holds(orderOf(x, v))
		}}
	}
	return node{typ: pipeline.Bool, eval: func(f *frame) any {
		order, ok := compare(l.eval(f), r.eval(f))
		return ok && op.holds(order)
	}}
}

// border notes that a variable is compared with a constant number.
func (c *compiler) border(variable, other node) {
	if v, ok := other.value.(float64); ok && other.constant && variable.name != "" && !slices.Contains(c.borders[variable.name], v) {
		c.borders[variable.name] = append(c.borders[variable.name], v)
	}
}

// timeConstant turns a constant text that is compared with a time into a time.
func (c *compiler) timeConstant(at ast.Node, x node, other pipeline.AttributeType) node {
	s, ok := x.value.(string)
	if !ok || !x.constant || other != pipeline.Time {
		return x
	}
	t, ok := parseTime(s)
	if !ok {
		return c.fail(at, "%q is not a time: write \"2026-03-01\" or \"2026-03-01T10:00:00Z\"", s)
	}
	return constant(pipeline.Time, t)
}

func convert(l, r pipeline.AttributeType) string {
	if l == pipeline.Text && r == pipeline.Number || l == pipeline.Number && r == pipeline.Text {
		return ": number(x) reads a number from a text"
	}
	return ""
}

func (c *compiler) matches(n *ast.BinaryNode, l, r node) node {
	c.want(n, n.Operator, l, pipeline.Text)
	pattern, ok := r.value.(string)
	if !ok || !r.constant {
		return c.fail(n.Right, "matches needs a constant pattern")
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return c.fail(n.Right, "%s", err)
	}
	return node{typ: pipeline.Bool, eval: func(f *frame) any {
		s, ok := l.eval(f).(string)
		return ok && re.MatchString(s)
	}}
}

func (c *compiler) conditional(n *ast.ConditionalNode) node {
	cond, yes, no := c.compile(n.Cond), c.compile(n.Exp1), c.compile(n.Exp2)
	c.want(n.Cond, "? (on its left)", cond, pipeline.Bool)
	test := truth(cond.eval)
	return node{typ: unify(yes.typ, no.typ), eval: func(f *frame) any {
		if test(f).(bool) {
			return yes.eval(f)
		}
		return no.eval(f)
	}}
}

// list is a list of constants.
func (c *compiler) list(n *ast.ArrayNode) node {
	items := make([]any, len(n.Nodes))
	for i, item := range n.Nodes {
		x := c.compile(item)
		switch x.value.(type) {
		case string, float64, bool:
			items[i] = x.value
		default:
			return c.fail(item, "a list holds constant texts, numbers and booleans")
		}
	}
	return constant(List, items)
}

// coalesce is the first value that is there.
func coalesce(l, r node) node {
	return node{typ: unify(l.typ, r.typ), eval: func(f *frame) any {
		if v := l.eval(f); v != nil {
			return v
		}
		return r.eval(f)
	}}
}

// unify is the type of a value that is one or the other.
func unify(a, b pipeline.AttributeType) pipeline.AttributeType {
	switch {
	case a == b || b == none:
		return a
	case a == none:
		return b
	}
	return pipeline.Any
}
