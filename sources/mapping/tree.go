package mapping

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// node is one key of the event: an object if it has children, else a value.
type node struct {
	name     string
	key      []byte  // name as JSON, with quotes and colon
	children []*node // sorted by name
	leaf     *leaf
	column   int  // of a value from a table
	extras   bool // takes what no leaf names
}

// child finds or makes the node at the path.
func (n *node) child(path ...string) *node {
	for _, name := range path {
		i, ok := slices.BinarySearchFunc(n.children, name, func(c *node, name string) int { return cmp.Compare(c.name, name) })
		if !ok {
			n.children = slices.Insert(n.children, i, &node{name: name, key: append(appendString(nil, name), ':')})
		}
		n = n.children[i]
	}
	return n
}

// prune takes away nodes that never have a value.
func (n *node) prune() {
	n.children = slices.DeleteFunc(n.children, func(c *node) bool {
		c.prune()
		return c.leaf == nil && len(c.children) == 0 && !c.extras
	})
}

// roots are the shapes that an event of the mapping can have: with the columns that nothing names in properties or traits.
type roots struct {
	properties, traits *node
	kind               *node  // of the field type
	fixed              string // the type, if it is a constant
	id                 *node  // of message_id, nil if it is not mapped
}

// roots arranges the leaves by their targets. bind, if not nil, may add leaves to extras.
func (m *Mapping) roots(bind func(root, extras *node)) roots {
	build := func(part string) *node {
		root := &node{}
		for i := range m.leaves {
			if l := &m.leaves[i]; l.target != nil {
				root.child(l.target...).leaf = l
			}
		}
		extras := root.child(part)
		extras.extras = true
		if bind != nil {
			bind(root, extras)
		}
		root.prune()
		return root
	}
	r := roots{properties: build("properties"), traits: build("traits")}
	for i := range m.leaves {
		switch l := &m.leaves[i]; strings.Join(l.target, "\x00") {
		case "type":
			r.kind = &node{leaf: l}
			r.fixed = gjson.ParseBytes(l.constant).String()
		case "":
			r.id = &node{leaf: l}
		}
	}
	return r
}

// choose picks the shape for a row, and reads its message id.
func (rs *roots) choose(r row) (root *node, messageID string, err error) {
	root = rs.properties
	typ := rs.fixed
	if typ == "" {
		if typ, err = text(r, rs.kind); err != nil {
			return nil, "", err
		}
	}
	if typ == pipeline.TypeIdentify || typ == pipeline.TypeGroup {
		root = rs.traits
	}
	messageID, err = text(r, rs.id)
	return root, messageID, err
}

// text is the value of a node as text, "" if it has none.
func text(r row, n *node) (string, error) {
	if n == nil {
		return "", nil
	}
	var buf [64]byte
	b, err := r.value(buf[:0], n)
	if err != nil || len(b) == 0 {
		return "", err
	}
	return gjson.ParseBytes(b).String(), nil
}

// appendTime appends a value; for the field timestamp in the form that events have.
func (m *Mapping) appendTime(dst []byte, v any, l *leaf) ([]byte, error) {
	if l.isTime {
		switch x := v.(type) {
		case float64:
			v = strconv.FormatFloat(x, 'f', -1, 64)
		case string:
			if strings.TrimSpace(x) == "" {
				return dst, nil
			}
		}
		if s, ok := v.(string); ok {
			t, ok := m.time.rewrite(s)
			if !ok {
				return dst, pipeline.Reject(codeValue, "%s is not a time in the expected form, see time_format", l.name())
			}
			return appendString(dst, t), nil
		}
	}
	return appendValue(dst, v, l)
}
