package expression

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/millstream-io/millstream/internal/suggest"
	"github.com/millstream-io/millstream/pipeline"
)

// function finds a function, the scope's own first.
func (c *compiler) function(name string) (Function, bool) {
	if f, ok := c.scope.Functions[name]; ok {
		return f, true
	}
	f, ok := functions()[name]
	return f, ok
}

// clock are functions that one may look for and that cannot be: an evaluation gives the same in every run.
var clock = regexp.MustCompile(`^(now|today|age|ago|since|(days|hours|minutes|seconds)_?(since|ago))$`)

func (c *compiler) unknownFunction(at ast.Node, name string) node {
	if clock.MatchString(strings.ToLower(name)) && c.scope.Clock {
		return c.fail(at, "there is no function %s: days_since(x) is how many days have passed since a time", name)
	}
	if clock.MatchString(strings.ToLower(name)) {
		return c.fail(at, "there is no function %s, since there is no clock here: compare with another time, a - b > 86400 (seconds), or a fixed one, a > \"2026-03-01\"", name)
	}
	known := slices.Sorted(maps.Keys(c.scope.Functions))
	if c.scope.Clock {
		known = append(known, "days_since")
	}
	known = append(known, slices.Sorted(maps.Keys(functions()))...)
	return c.fail(at, "there is no function %s%s", name, suggest.DidYouMean(name, append(known, "coalesce")))
}

func (c *compiler) call(n *ast.CallNode) node {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok {
		return c.fail(n, "values have no methods: write f(x)")
	}
	args := make([]node, len(n.Arguments))
	for i, a := range n.Arguments {
		args[i] = c.compile(a)
	}
	if c.err != nil {
		return constant(none, nil)
	}
	name := callee.Value
	fn, ok := c.function(name)
	if !ok && name == "days_since" && c.scope.Clock {
		return c.daysSince(n, args)
	}
	if !ok && name == "coalesce" { // its type depends on its arguments
		return c.coalesce(n, args)
	}
	if !ok {
		return c.unknownFunction(n, name)
	}
	if !c.arguments(n, name, fn, args) {
		return constant(none, nil)
	}
	known := make([]Argument, len(args))
	for i, a := range args {
		known[i] = Argument{Constant: a.constant, Value: a.value}
	}
	var at ast.Node = n
	if len(n.Arguments) > 0 {
		at = n.Arguments[0]
	}
	if fn.Check != nil {
		if err := fn.Check(known); err != nil {
			return c.fail(at, "%s", err)
		}
	}
	if fn.Lookup != nil {
		variable, err := fn.Lookup(known)
		if err != nil {
			return c.fail(at, "%s", err)
		}
		return c.variable(variable, fn.Returns)
	}
	return node{typ: fn.Returns, eval: invoke(fn.Call, args)}
}

func (c *compiler) coalesce(n *ast.CallNode, args []node) node {
	if len(args) < 2 {
		return c.fail(n, "coalesce needs at least 2 arguments, it has %d", len(args))
	}
	x := args[len(args)-1]
	for _, a := range slices.Backward(args[:len(args)-1]) {
		x = coalesce(a, x)
	}
	return x
}

// arguments checks number and types.
func (c *compiler) arguments(n *ast.CallNode, name string, fn Function, args []node) bool {
	least, most := len(fn.Params)-fn.Optional, len(fn.Params)
	switch {
	case len(args) < least && (fn.Variadic || fn.Optional > 0):
		c.fail(n, "%s needs at least %d arguments, it has %d", name, least, len(args))
		return false
	case len(args) > most && !fn.Variadic && fn.Optional > 0:
		c.fail(n, "%s takes at most %d arguments, it has %d", name, most, len(args))
		return false
	case len(args) < least || len(args) > most && !fn.Variadic:
		c.fail(n, "%s needs %d arguments, it has %d", name, most, len(args))
		return false
	}
	for i, a := range args {
		want := fn.Params[min(i, most-1)]
		if want != pipeline.Any && a.typ != pipeline.Any && a.typ != none && a.typ != want {
			c.fail(n.Arguments[i], "%s needs %s here, not %s", name, describe(want), describe(a.typ))
			return false
		}
	}
	return true
}

func invoke(call func(args ...any) (any, error), args []node) func(f *frame) any {
	return func(f *frame) any {
		values := make([]any, len(args))
		for i, a := range args {
			values[i] = a.eval(f)
		}
		if f.err != nil {
			return nil
		}
		v, err := call(values...)
		if err != nil {
			f.err = err
			return nil
		}
		return v
	}
}
