package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// Table maps the lines of one table. It is not safe for concurrent use.
type Table struct {
	m       *Mapping
	columns []string
	index   map[string]int
	roots
	cells []string // of the line in hand
	vars  func(name string) any
}

// Table binds the mapping to a table's columns. A name that the mapping needs and the table lacks is an error. A column
// without a name is called column_N, N from 1; the second of two with the same name x is x_2.
func (m *Mapping) Table(header []string) (*Table, error) {
	t := &Table{m: m, index: map[string]int{}}
	if !validUTF8(header) {
		return nil, errors.New("its header is not UTF-8: convert the file")
	}
	for i, name := range header {
		name = unique(strings.TrimSpace(name), i, t.index)
		t.index[name] = i
		t.columns = append(t.columns, name)
	}
	t.vars = t.cell
	named := map[string]bool{}
	for _, l := range m.leaves {
		var needs []string
		if l.program != nil {
			needs = l.program.Names()
		} else if l.constant == nil {
			needs = []string{l.source}
			named[l.source] = true
		}
		for _, n := range needs {
			if n = columnOf(n); !slices.Contains(t.columns, n) {
				return nil, fmt.Errorf("there is no column %q; the columns are %s", n, strings.Join(t.columns, ", "))
			}
		}
	}
	t.roots = m.roots(func(root, extras *node) {
		t.bind(root)
		for i, name := range t.columns {
			if c := extras.child(name); !named[name] && c.leaf == nil && c.children == nil {
				c.leaf, c.column = &leaf{source: name}, i
			}
		}
	})
	t.bind(t.kind)
	t.bind(t.id)
	return t, nil
}

func unique(name string, i int, taken map[string]int) string {
	if name == "" {
		name = "column_" + strconv.Itoa(i+1)
	}
	for n, base := 2, name; ; n++ {
		if _, ok := taken[name]; !ok {
			return name
		}
		name = base + "_" + strconv.Itoa(n)
	}
}

// bind finds the columns of the leaves.
func (t *Table) bind(n *node) {
	if n == nil {
		return
	}
	if n.leaf != nil && n.leaf.source != "" {
		n.column = t.index[n.leaf.source]
	}
	for _, c := range n.children {
		t.bind(c)
	}
}

// Append appends the event of a line, and returns the value of message_id, "" if it is not mapped or empty. A line with
// another number of cells than the table has columns is refused: nobody can tell which cell is missing.
func (t *Table) Append(dst []byte, cells []string) (event []byte, messageID string, err error) {
	if len(cells) != len(t.columns) {
		return dst, "", pipeline.Reject(codeCells, "the row has another number of cells (%d) than the table has columns (%d)", len(cells), len(t.columns))
	}
	if !validUTF8(cells) {
		return dst, "", pipeline.Reject(codeUTF8, "the row is not valid UTF-8")
	}
	t.cells = cells
	root, messageID, err := t.choose(t)
	if err != nil {
		return dst, "", err
	}
	event, err = render(dst, root, t)
	return event, messageID, err
}

func (t *Table) cell(name string) any {
	if i, ok := t.index[columnOf(name)]; ok && t.cells[i] != "" {
		return t.cells[i]
	}
	return nil
}

func (t *Table) value(dst []byte, n *node) ([]byte, error) {
	switch {
	case n.leaf.constant != nil:
		return append(dst, n.leaf.constant...), nil
	case n.leaf.program != nil:
		v, err := n.leaf.program.Value(t.vars)
		if err != nil {
			return dst, pipeline.Reject(codeValue, "the expression of %s cannot be evaluated", n.leaf.name())
		}
		return t.m.appendTime(dst, v, n.leaf)
	case t.cells[n.column] == "":
		return dst, nil
	case n.leaf.isTime:
		return t.m.appendTime(dst, t.cells[n.column], n.leaf)
	}
	return appendString(dst, t.cells[n.column]), nil
}

func (t *Table) extras() []extra { return nil }
