package state

import (
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// newMerger returns the Merge operator of the store: it puts the entries of a folded value one after the other, oldest
// first, and knows nothing of what they mean. A full state is written with Set, so Pebble itself drops what stands before
// it. The name is stored in the database and never changes.
func newMerger() *pebble.Merger {
	return &pebble.Merger{
		Name: "millstream.entries",
		Merge: func(_, value []byte) (pebble.ValueMerger, error) {
			c := &concatenation{newer: append([]byte(nil), value...)}
			return c, nil
		},
	}
}

// concatenation gathers operands. Reads hand them over newest first: those are kept in that order and turned round once at
// the end, because putting each before the others would copy the value up to 31 times.
type concatenation struct {
	newer []byte // oldest first, follows everything in older
	older []byte // newest first
	ends  []int  // end of each operand in older
}

func (c *concatenation) MergeNewer(value []byte) error {
	c.newer = append(c.newer, value...)
	return nil
}

func (c *concatenation) MergeOlder(value []byte) error {
	c.older = append(c.older, value...)
	c.ends = append(c.ends, len(c.older))
	return nil
}

func (c *concatenation) Finish(bool) ([]byte, io.Closer, error) {
	if len(c.ends) == 0 {
		return c.newer, nil, nil
	}
	out := make([]byte, 0, len(c.older)+len(c.newer))
	for i := len(c.ends) - 1; i >= 0; i-- {
		start := 0
		if i > 0 {
			start = c.ends[i-1]
		}
		out = append(out, c.older[start:c.ends[i]]...)
	}
	return append(out, c.newer...), nil, nil
}
