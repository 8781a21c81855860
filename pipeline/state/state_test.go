package state

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millstream-io/millstream/pipeline"
)

// words is a folded value in which every lost, doubled or misplaced delta shows: the deltas in order.
type words struct{ list []string }

var errBadWord = errors.New("bad word")

func emptyWords() pipeline.Folded { return &words{} }

func (w *words) Fold(delta []byte) error {
	switch string(delta) {
	case "bad":
		w.list = append(w.list, "half folded")
		return errBadWord
	case "panic":
		w.list = append(w.list, "half folded")
		panic("in Fold")
	}
	w.list = append(w.list, string(delta))
	return nil
}

func (w *words) Encode(dst []byte) []byte {
	dst = append(dst, 1)
	for _, word := range w.list {
		dst = appendBytes(dst, []byte(word))
	}
	return dst
}

func (w *words) Decode(full []byte) error {
	w.list = nil
	if len(full) == 0 || full[0] != 1 {
		return ErrMalformed
	}
	return eachDelta(full[1:], w.Fold)
}

func (w *words) Size() int {
	size := 24
	for _, word := range w.list {
		size += 16 + len(word)
	}
	return size
}

func (w *words) String() string { return strings.Join(w.list, " ") }

const topic = "shop.resolved"

func openStore(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// openMem opens a store in memory that the end of the test closes, with the owned partition 0 of it.
func openMem(t testing.TB, o Options) *Partition {
	t.Helper()
	o.fs = vfs.NewMem()
	s := openStore(t, "state", o)
	p := openPartition(t, s, topic, 0)
	t.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return p
}

func openPartition(t testing.TB, s *Store, topic string, partition int32) *Partition {
	t.Helper()
	p, err := s.Partition(topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// commit ends a transaction as the engine does and returns its changelog.
func commit(t testing.TB, tx *Transaction, pos Position) []pipeline.Record {
	t.Helper()
	var log []pipeline.Record
	if err := tx.Changelog(pos, logTo(&log)); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(pos); err != nil {
		t.Fatal(err)
	}
	return log
}

// logTo copies what Changelog emits, because the bytes are used again after Commit.
func logTo(log *[]pipeline.Record) func(key, value []byte) {
	return func(key, value []byte) {
		*log = append(*log, pipeline.Record{
			Offset: int64(len(*log)), Key: slices.Clone(key), Value: slices.Clone(value),
		})
	}
}

func get(t testing.TB, tx pipeline.Tx, key string) string {
	t.Helper()
	value, err := tx.Get([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	if value == nil {
		return "absent"
	}
	return string(value)
}

func load(t testing.TB, tx pipeline.Tx, key string) string {
	t.Helper()
	f, err := tx.Load([]byte(key), emptyWords)
	if err != nil {
		t.Fatal(err)
	}
	return f.(*words).String()
}

func merge(t testing.TB, tx pipeline.Tx, key, delta string) {
	t.Helper()
	if _, err := tx.Merge([]byte(key), emptyWords, []byte(delta)); err != nil {
		t.Fatal(err)
	}
}

func set(tx pipeline.Tx, key, value string) { tx.Set([]byte(key), []byte(value)) }

// scan returns "k=v k=v" of a prefix.
func scan(t testing.TB, tx pipeline.Tx, prefix string) string {
	t.Helper()
	var found []string
	err := tx.Scan([]byte(prefix), func(key, value []byte) error {
		found = append(found, fmt.Sprintf("%s=%s", key, value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func wantError(t testing.TB, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got error %v, want %v", what, err, target)
	}
}

// contents is everything that a partition holds, by stage and key.
type contents struct {
	plain, folded map[string]string
}

func (c contents) clone() contents {
	return contents{plain: maps.Clone(c.plain), folded: maps.Clone(c.folded)}
}
