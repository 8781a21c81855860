package state

import (
	"bytes"
	"slices"
	"sort"
	"unsafe"

	"github.com/millstream-io/millstream/pipeline"
)

// overlay holds the writes of the running transaction of a partition. Its memory is used again by the next one.
//
// A map per stage and an undo log cost a third of pebble's indexed batch, which keeps every version of a key in a skip list
// (see BenchmarkOverlay).
type overlay struct {
	bytes  arena
	spaces []*space
	undo   []undo // what to restore to get back to the savepoint, oldest first
}

// space is the overlay of one stage.
type space struct {
	stage byte

	plain   []plainEntry
	byKey   map[string]int32 // position in plain; the strings are bytes of the arena
	ordered []int32          // positions in plain by key, of the first len(ordered) entries
	ranges  []keyRange       // deleted with DeleteRange, oldest first

	folded      []foldedEntry
	foldedByKey map[string]int32 // position in folded
}

// plainState says what the transaction knows of a plain key.
type plainState uint8

const (
	unchanged plainState = iota // ask the ranges, then Pebble
	present
	deleted
)

// plainEntry is a plain key that the transaction has written. name is its key in Pebble with the byte FF behind, so that both
// the key in Pebble and the one in the changelog are parts of it.
type plainEntry struct {
	name  []byte
	value []byte // with format byte
	state plainState
}

func (e *plainEntry) key() []byte { return userKey(e.name) }

type keyRange struct{ from, to []byte }

// foldedEntry is a folded key that the transaction has read or written. It is absent, or it is at number `number`, in the
// committed state; deleted says that the transaction has removed that; deltas is what it has merged since.
type foldedEntry struct {
	name    []byte // as in plainEntry, with a byte for the slot behind
	empty   func() pipeline.Folded
	located bool // number and exists are known
	exists  bool // in the committed state
	deleted bool
	mutated bool // object or cached has folded deltas of this transaction
	number  uint64
	merged  []byte          // all deltas merged in this transaction, each with its length
	start   int32           // of those that count, which are after the last delete
	object  pipeline.Folded // live; nil: decode it again
	cached  *decoded        // where object came from, nil if from Pebble
}

func (e *foldedEntry) key() []byte { return userKey(e.name) }

// deltas returns what the transaction has merged since the committed state or since it deleted that.
func (e *foldedEntry) deltas() []byte { return e.merged[e.start:] }

// undo returns what brings the entry back to how it is now.
func (e *foldedEntry) undo(s *space, i int32) undo {
	return undo{space: s, kind: undoFolded, index: i, start: e.start, length: int32(len(e.merged)), was: e.deleted}
}

// forget gives the object up: it holds, or may hold, what was undone.
func (e *foldedEntry) forget() {
	if e.cached != nil {
		e.cached.stale = true
	}
	e.object, e.cached, e.mutated = nil, nil, false
}

func userKey(name []byte) []byte { return name[prefixLen : len(name)-1] }

// undo restores one entry.
type undo struct {
	space  *space
	kind   undoKind
	index  int32
	state  plainState
	value  []byte
	start  int32
	length int32 // of merged, or of ranges
	was    bool  // deleted
}

type undoKind uint8

const (
	undoPlain undoKind = iota
	undoFolded
	undoRange
)

// rollback restores what the undo log holds, newest first.
func (o *overlay) rollback() {
	for _, u := range slices.Backward(o.undo) {
		switch u.kind {
		case undoPlain:
			e := &u.space.plain[u.index]
			e.value, e.state = u.value, u.state
		case undoFolded:
			e := &u.space.folded[u.index]
			e.merged, e.start, e.deleted = e.merged[:u.length], u.start, u.was
			e.forget()
		case undoRange:
			u.space.ranges = u.space.ranges[:u.length]
		}
	}
	o.undo = o.undo[:0]
}

// reset empties the overlay. Bytes that were handed out stay as they are if keepBytes is set: a producer may still read
// them.
func (o *overlay) reset(keepBytes bool) {
	for _, s := range o.spaces {
		s.reset()
	}
	clear(o.undo)
	o.undo = o.undo[:0]
	if keepBytes {
		o.bytes = arena{}
	} else {
		o.bytes.reset()
	}
}

func (o *overlay) space(stage byte) *space {
	for _, s := range o.spaces {
		if s.stage == stage {
			return s
		}
	}
	s := &space{stage: stage, byKey: map[string]int32{}, foldedByKey: map[string]int32{}}
	o.spaces = append(o.spaces, s)
	return s
}

// maxReused is how many entries, or bytes of deltas, are worth keeping for the next transaction: a rare large one must not
// hold its memory for ever.
const (
	maxReused       = 1 << 16
	maxReusedDeltas = 4 << 10
)

func (s *space) reset() {
	if len(s.plain) > maxReused {
		*s = space{stage: s.stage, byKey: map[string]int32{}, foldedByKey: map[string]int32{}}
		return
	}
	clear(s.byKey)
	clear(s.foldedByKey)
	clear(s.plain)
	clear(s.ranges)
	s.plain, s.ordered, s.ranges = s.plain[:0], s.ordered[:0], s.ranges[:0]
	for i := range s.folded {
		e := &s.folded[i]
		if cap(e.merged) > maxReusedDeltas {
			e.merged = nil
		}
		*e = foldedEntry{merged: e.merged[:0]}
	}
	s.folded = s.folded[:0]
}

// plainAt returns the entry of a key and makes one if there is none.
func (o *overlay) plainAt(s *space, prefix, key []byte) int32 {
	if i, ok := s.byKey[string(key)]; ok {
		return i
	}
	i := int32(len(s.plain))
	name := o.name(prefix, key, slotPlain)
	s.plain = append(s.plain, plainEntry{name: name})
	s.byKey[stringOf(userKey(name))] = i
	return i
}

// addFolded makes an entry for a folded key that has none.
func (o *overlay) addFolded(s *space, prefix, key []byte) int32 {
	i := int32(len(s.folded))
	name := o.name(prefix, key, 0)
	if len(s.folded) < cap(s.folded) {
		s.folded = s.folded[:i+1] // with the memory of the deltas that were there
		s.folded[i].name = name
	} else {
		s.folded = append(s.folded, foldedEntry{name: name})
	}
	s.foldedByKey[stringOf(userKey(name))] = i
	return i
}

func (o *overlay) name(prefix, key []byte, last byte) []byte {
	name := o.bytes.take(len(prefix) + len(key) + 1)
	n := copy(name, prefix)
	n += copy(name[n:], key)
	name[n] = last
	return name
}

// inRange says whether a key was deleted with DeleteRange in this transaction.
func (s *space) inRange(key []byte) bool {
	for _, r := range s.ranges {
		if bytes.Compare(key, r.from) >= 0 && bytes.Compare(key, r.to) < 0 {
			return true
		}
	}
	return false
}

// order brings ordered up to date. Only stages that scan pay for it: a few new keys are put in their place, many are sorted.
func (s *space) order() {
	missing := len(s.plain) - len(s.ordered)
	if missing > 16 {
		for i := len(s.ordered); i < len(s.plain); i++ {
			s.ordered = append(s.ordered, int32(i))
		}
		slices.SortFunc(s.ordered, func(a, b int32) int { return bytes.Compare(s.plain[a].key(), s.plain[b].key()) })
		return
	}
	for i := len(s.ordered); i < len(s.plain); i++ {
		s.ordered = slices.Insert(s.ordered, s.from(s.plain[i].key()), int32(i))
	}
}

// from returns the place of the first key in ordered that is not below key.
func (s *space) from(key []byte) int {
	return sort.Search(len(s.ordered), func(i int) bool {
		return bytes.Compare(s.plain[s.ordered[i]].key(), key) >= 0
	})
}

// arena hands out bytes that live until reset.
type arena struct {
	chunks [][]byte
	used   int // chunks in use, the last one in part
	free   []byte
}

const (
	chunkBytes = 64 << 10
	maxChunks  = 16 // 1 MiB is kept for the next transaction: every partition of every task has its own
)

// take returns n bytes of any contents.
func (a *arena) take(n int) []byte {
	if n > len(a.free) {
		if n > chunkBytes/4 {
			return make([]byte, n)
		}
		if a.used == len(a.chunks) {
			a.chunks = append(a.chunks, make([]byte, chunkBytes))
		}
		a.free = a.chunks[a.used]
		a.used++
	}
	b := a.free[:n:n]
	a.free = a.free[n:]
	return b
}

func (a *arena) reset() {
	if len(a.chunks) > maxChunks {
		clear(a.chunks[maxChunks:])
		a.chunks = a.chunks[:maxChunks]
	}
	a.used, a.free = 0, nil
}

// stringOf views bytes of the arena as a map key. The map is cleared before the bytes are used again.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
