package expression

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/millstream-io/millstream/internal/suggest"
	"github.com/millstream-io/millstream/pipeline"
)

// variable is a name that Vars resolves.
func (c *compiler) variable(name string, t pipeline.AttributeType) node {
	c.names[name] = true
	return node{typ: t, name: name, eval: func(f *frame) any { return f.vars(name) }}
}

func (c *compiler) identifier(n *ast.IdentifierNode) node {
	if t, ok := c.scope.Names[n.Value]; ok {
		return c.variable(n.Value, t)
	}
	if slices.Contains(c.scope.Roots, n.Value) {
		return c.fail(n, "%s needs the name of a key: %s.name", n.Value, n.Value)
	}
	if _, ok := c.function(n.Value); ok {
		return c.fail(n, "%s is a function: write %s(…)", n.Value, n.Value)
	}
	switch strings.ToLower(n.Value) { // what other languages call it
	case "null", "none", "undefined":
		return c.fail(n, "there is no %s here: has(x) tells whether x is there", n.Value)
	}
	known := slices.Sorted(maps.Keys(c.scope.Names))
	return c.fail(n, "unknown name %q%s", n.Value, suggest.DidYouMean(n.Value, append(known, c.scope.Roots...)))
}

// member is root.key.key…, or root["any key"].
func (c *compiler) member(n *ast.MemberNode) node {
	var keys []string
	var at ast.Node = n
	for {
		switch x := at.(type) {
		case *ast.ChainNode:
			at = x.Node
			continue
		case *ast.MemberNode:
			key, problem := memberKey(x.Property)
			if problem != "" {
				return c.fail(x.Property, "%s", problem)
			}
			keys = append(keys, key)
			at = x.Node
			continue
		case *ast.IdentifierNode:
			slices.Reverse(keys)
			name := x.Value + "." + strings.Join(keys, ".")
			if t, ok := c.scope.Names[name]; ok {
				return c.variable(name, t)
			}
			if slices.Contains(c.scope.Roots, x.Value) {
				return c.variable(name, pipeline.Any)
			}
			if _, ok := c.scope.Names[x.Value]; ok {
				return c.fail(n, "%s has no parts", x.Value)
			}
			return c.fail(x, "unknown name %q%s", x.Value, suggest.DidYouMean(x.Value, c.scope.Roots))
		}
		return c.fail(n, "only %s have parts", strings.Join(c.scope.Roots, ", "))
	}
}

func memberKey(n ast.Node) (key, problem string) {
	switch p := n.(type) {
	case *ast.StringNode:
		switch {
		case p.Value == "":
			return "", "a key must not be empty"
		case strings.Contains(p.Value, `"`):
			return "", "a key must not contain a quote"
		case strings.Contains(p.Value, "."):
			return `"` + p.Value + `"`, ""
		}
		return p.Value, ""
	case *ast.IntegerNode:
		if p.Value >= 0 {
			return strconv.Itoa(p.Value), ""
		}
	}
	return "", "a key must be a constant text, or a number from 0"
}
