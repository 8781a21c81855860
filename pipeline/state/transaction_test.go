package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

func TestReadsSeeOwnWrites(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	s := tx.Stage(1)
	want(t, "nothing yet", get(t, s, "a"), "absent")
	set(s, "a", "1")
	set(s, "empty", "")
	want(t, "own write", get(t, s, "a"), "1")
	want(t, "an empty value is not absent", get(t, s, "empty"), "")
	want(t, "another stage", get(t, tx.Stage(2), "a"), "absent")
	commit(t, tx, Position{Number: 1})

	tx = p.Begin()
	s = tx.Stage(1)
	want(t, "committed", get(t, s, "a"), "1")
	want(t, "committed, empty", get(t, s, "empty"), "")
	s.Delete([]byte("a"))
	want(t, "own delete", get(t, s, "a"), "absent")
	tx.Discard()
	want(t, "after discard", get(t, p.Begin().Stage(1), "a"), "1")
}

func TestSetCopies(t *testing.T) {
	p := openMem(t, Options{})
	s := p.Begin().Stage(1)
	key, value, delta := []byte("k"), []byte("v"), []byte("d")
	s.Set(key, value)
	if _, err := s.Merge(key, emptyWords, delta); err != nil {
		t.Fatal(err)
	}
	key[0], value[0], delta[0] = 'x', 'x', 'x'
	want(t, "plain", get(t, s, "k"), "v")
	s.Delete([]byte("other")) // makes nothing of the folded key
	want(t, "folded", load(t, s, "k"), "d")
}

func TestScanMergesOverlayAndStore(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	for _, key := range []string{"b", "d", "f", "x1", "\xff\xff"} {
		set(tx.Stage(1), key, "old")
	}
	set(tx.Stage(0), "c", "stage before")
	set(tx.Stage(2), "c", "stage after")
	commit(t, tx, Position{})

	tx = p.Begin()
	s := tx.Stage(1)
	set(s, "a", "new")
	set(s, "d", "new")
	set(s, "e", "new")
	set(s, "g", "new")
	s.Delete([]byte("f"))
	s.Delete([]byte("g"))
	merge(t, s, "c", "folded keys are not visited")
	want(t, "all", scan(t, s, ""), "a=new b=old d=new e=new x1=old \xff\xff=old")
	want(t, "prefix", scan(t, s, "x"), "x1=old")
	want(t, "prefix of 0xff", scan(t, s, "\xff"), "\xff\xff=old")
	want(t, "no such prefix", scan(t, s, "y"), "")
	for i := range 100 { // many new keys take the other way into the order
		set(s, fmt.Sprintf("m%02d", 99-i), "")
	}
	want(t, "many", strings.ReplaceAll(scan(t, s, "m1"), "= ", " "), "m10 m11 m12 m13 m14 m15 m16 m17 m18 m19=")

	s.Delete([]byte("m15"))
	var from []string
	err := tx.ScanFrom(1, []byte("m1"), []byte("m14"), func(key, _ []byte) error { from = append(from, string(key)); return nil })
	want(t, "from own keys on", fmt.Sprint(from, err), "[m14 m16 m17 m18 m19] <nil>")
	from = nil
	err = tx.ScanFrom(1, nil, []byte("d"), func(key, _ []byte) error { from = append(from, string(key)); return nil })
	want(t, "from stored keys on", fmt.Sprint(from[:3], len(from), err), "[d e m00] 103 <nil>")

	stop := errors.New("stop")
	visited := 0
	err = s.Scan(nil, func(_, _ []byte) error { visited++; return stop })
	wantError(t, "fn's error", err, stop)
	if visited != 1 {
		t.Errorf("visited %d keys after an error, want 1", visited)
	}
}

func TestDeleteRange(t *testing.T) {
	p := openMem(t, Options{Retention: DeletedByTime})
	tx := p.Begin()
	for _, key := range []string{"a", "b", "c", "d"} {
		set(tx.Stage(1), key, "old")
		set(tx.Stage(2), key, "old")
	}
	commit(t, tx, Position{})

	tx = p.Begin()
	s := tx.Stage(1)
	set(s, "bb", "new")
	tx.Savepoint()
	if err := s.DeleteRange([]byte("b"), []byte("d")); err != nil {
		t.Fatal(err)
	}
	set(s, "c", "again")
	want(t, "get", get(t, s, "b")+get(t, s, "bb")+get(t, s, "c")+get(t, s, "d"), "absentabsentagainold")
	want(t, "scan", scan(t, s, ""), "a=old c=again d=old")
	want(t, "another stage", scan(t, tx.Stage(2), ""), "a=old b=old c=old d=old")
	tx.RollbackToSavepoint()
	want(t, "undone", scan(t, s, ""), "a=old b=old bb=new c=old d=old")
	if err := s.DeleteRange([]byte("d"), []byte("b")); err != nil {
		t.Fatal(err)
	}
	want(t, "range the wrong way round", scan(t, s, ""), "a=old b=old bb=new c=old d=old")
	if err := s.DeleteRange([]byte("a"), []byte("c")); err != nil {
		t.Fatal(err)
	}
	set(s, "b", "again")
	commit(t, tx, Position{})
	want(t, "committed", scan(t, p.Begin().Stage(1), ""), "b=again c=old d=old")
}

func TestSavepoint(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	set(tx.Stage(1), "a", "committed")
	merge(t, tx.Stage(2), "f", "committed")
	commit(t, tx, Position{})

	tx = p.Begin()
	s, f := tx.Stage(1), tx.Stage(2)
	set(s, "a", "kept")
	merge(t, f, "f", "kept")
	tx.Savepoint()
	set(s, "a", "undone")
	set(s, "a", "undone too")
	set(s, "b", "undone")
	s.Delete([]byte("a"))
	merge(t, f, "f", "undone")
	merge(t, f, "g", "undone")
	f.Delete([]byte("f"))
	want(t, "deleted", load(t, f, "f"), "")
	merge(t, f, "f", "undone too")
	tx.RollbackToSavepoint()
	want(t, "plain", get(t, s, "a")+" "+get(t, s, "b")+" "+scan(t, s, ""), "kept absent a=kept")
	want(t, "folded", load(t, f, "f")+"|"+load(t, f, "g"), "committed kept|")
	merge(t, f, "f", "next")
	tx.RollbackToSavepoint() // the savepoint stays until the next one
	want(t, "undone again", load(t, f, "f"), "committed kept")
	log := commit(t, tx, Position{})
	want(t, "changelog", fmt.Sprintf("%q", keysOf(log)), `["\x01a\xff" "\x02f\x01" "~position"]`)
	tx = p.Begin()
	want(t, "committed", get(t, tx.Stage(1), "a")+" "+load(t, tx.Stage(2), "f"), "kept committed kept")
}

// A full state is due, and the rollback has taken the object away: the commit decodes it again.
func TestFullStateAfterRollback(t *testing.T) {
	p := openMem(t, Options{})
	for range slots {
		tx := p.Begin()
		merge(t, tx.Stage(1), "f", "x")
		commit(t, tx, Position{})
	}
	tx := p.Begin()
	merge(t, tx.Stage(1), "f", "kept")
	tx.Savepoint()
	merge(t, tx.Stage(1), "f", "undone")
	tx.RollbackToSavepoint()
	log := commit(t, tx, Position{})
	e, _, err := cutEntry(log[0].Value)
	if err != nil || e.tag != entryFull || e.number != slots {
		t.Errorf("update %d of kind %d, error %v; want the full state 32", e.number, e.tag, err)
	}
	want(t, "state", load(t, p.Begin().Stage(1), "f"), strings.Repeat("x ", slots)+"kept")
}

func TestFoldErrorAndPanicLeaveNothing(t *testing.T) {
	for _, bad := range []string{"bad", "panic"} {
		p := openMem(t, Options{})
		tx := p.Begin()
		merge(t, tx.Stage(1), "f", "one")
		commit(t, tx, Position{})
		for _, discard := range []bool{false, true} {
			tx = p.Begin()
			s := tx.Stage(1)
			tx.Savepoint()
			err := mergeRecovering(s, "f", bad)
			if bad == "bad" {
				wantError(t, "fold", err, errBadWord)
				want(t, "before the rollback", load(t, s, "f"), "one")
			} else if err == nil {
				t.Error("no panic")
			}
			if discard {
				tx.Discard()
				tx = p.Begin()
				s = tx.Stage(1)
			} else {
				tx.RollbackToSavepoint()
			}
			want(t, bad, load(t, s, "f"), "one")
			tx.Discard()
		}
	}
}

func mergeRecovering(s pipeline.Tx, key, delta string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	_, err = s.Merge([]byte(key), emptyWords, []byte(delta))
	return err
}

func TestLimits(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	s := tx.Stage(1)
	longKey, longValue := make([]byte, maxKey+1), make([]byte, maxValue+1)
	reject := func(what string, err error, code string) {
		t.Helper()
		var r *pipeline.RejectError
		if !errors.As(err, &r) || r.Code != code {
			t.Errorf("%s: got %v, want a rejection %s", what, err, code)
		}
	}
	tx.Savepoint()
	s.Set(longKey, nil)
	reject("set", tx.Err(), "state_key_too_long")
	reject("changelog", tx.Changelog(Position{}, nil), "state_key_too_long")
	tx.RollbackToSavepoint()
	wantError(t, "after the rollback", tx.Err(), nil)
	s.Set([]byte("k"), longValue)
	reject("set", tx.Err(), "state_value_too_long")
	tx.RollbackToSavepoint()
	s.Delete(longKey)
	reject("delete", tx.Err(), "state_key_too_long")
	tx.RollbackToSavepoint()
	_, err := s.Load(longKey, emptyWords)
	reject("load", err, "state_key_too_long")
	_, err = s.Merge([]byte("k"), emptyWords, longValue)
	reject("merge", err, "state_value_too_long")
	s.Set(longKey[1:], longValue[1:])
	wantError(t, "at the limit", tx.Err(), nil)
	commit(t, tx, Position{})
	want(t, "at the limit", get(t, p.Begin().Stage(1), string(longKey[1:])), string(longValue[1:]))
}

func TestRetentionDecidesWhatIsPossible(t *testing.T) {
	s := openMem(t, Options{}).Begin().Stage(1)
	wantError(t, "range", s.DeleteRange([]byte("a"), []byte("b")), ErrRetention)
	s = openMem(t, Options{Retention: DeletedByTime}).Begin().Stage(1)
	_, err := s.Merge([]byte("a"), emptyWords, []byte("x"))
	wantError(t, "merge", err, ErrRetention)
	_, err = s.Load([]byte("a"), emptyWords)
	wantError(t, "load", err, ErrRetention)
}

func TestUseAfterTheEnd(t *testing.T) {
	p := openMem(t, Options{})
	ends := map[string]func(*Transaction){
		"commit":    func(tx *Transaction) { commit(t, tx, Position{}) },
		"discard":   func(tx *Transaction) { tx.Discard(); tx.Discard() },
		"changelog": func(tx *Transaction) { wantError(t, "changelog", tx.Changelog(Position{}, func(_, _ []byte) {}), nil) },
		"begin":     func(*Transaction) { p.Begin() },
		"close":     func(*Transaction) { wantError(t, "close", p.Close(), nil) },
		"was closed": func(*Transaction) {
			wantError(t, "close", p.Close(), ErrClosed)
			wantError(t, "reset", p.Reset(), ErrClosed)
			wantError(t, "apply", p.Apply(&pipeline.Record{}), ErrClosed)
			wantError(t, "flush", p.Flush(0), ErrClosed)
		},
	}
	for _, name := range []string{"commit", "discard", "changelog", "begin", "close", "was closed"} {
		tx := p.Begin()
		s := tx.Stage(1)
		ends[name](tx)
		_, err := s.Get([]byte("a"))
		wantError(t, name+": get", err, ErrClosed)
		_, err = s.Load([]byte("a"), emptyWords)
		wantError(t, name+": load", err, ErrClosed)
		_, err = s.Merge([]byte("a"), emptyWords, nil)
		wantError(t, name+": merge", err, ErrClosed)
		wantError(t, name+": scan", s.Scan(nil, nil), ErrClosed)
		wantError(t, name+": delete range", s.DeleteRange(nil, nil), ErrClosed)
		wantError(t, name+": changelog", tx.Changelog(Position{}, nil), ErrClosed)
		if name != "changelog" {
			wantError(t, name+": commit", tx.Commit(Position{}), ErrClosed)
		}
		tx.Savepoint()
		tx.RollbackToSavepoint()
		for what, write := range map[string]func(){
			"set": func() { set(s, "a", "") }, "delete": func() { s.Delete([]byte("a")) },
		} {
			if !panics(write) {
				t.Errorf("%s: %s after the end passes in silence", name, what)
			}
		}
	}
}

func panics(fn func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	fn()
	return false
}

// A delete has no way to return an error of the store; it must come out at the latest with the changelog.
func TestErrorOfDeleteComesOut(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	merge(t, tx.Stage(1), "f", "x")
	commit(t, tx, Position{})
	if err := p.store.db.Set(append(p.stored(spaceFolded, 1, nil), 'g'), []byte{99}, nil); err != nil {
		t.Fatal(err)
	}
	tx = p.Begin()
	tx.Stage(1).Delete([]byte("g"))
	var newer *NewerFormatError
	if err := tx.Changelog(Position{}, nil); !errors.As(err, &newer) {
		t.Errorf("got %v, want a newer format", err)
	}
}

// A producer may still read the changelog of a transaction that was aborted.
func TestDiscardLeavesEmittedBytes(t *testing.T) {
	for _, retention := range []Retention{Compacted, DeletedByTime} {
		p := openMem(t, Options{Retention: retention})
		run := func(value string, emit func(k, v []byte)) *Transaction {
			tx := p.Begin()
			for i := range 10 {
				set(tx.Stage(1), fmt.Sprint(value, i), value)
			}
			if err := tx.Changelog(Position{}, emit); err != nil {
				t.Fatal(err)
			}
			return tx
		}
		if err := run("first", func(_, _ []byte) {}).Commit(Position{}); err != nil {
			t.Fatal(err)
		}
		var emitted [][]byte
		var copies []string
		run("aborted", func(k, v []byte) {
			emitted = append(emitted, k, v)
			copies = append(copies, string(k), string(v))
		}).Discard()
		if err := run("another", func(_, _ []byte) {}).Commit(Position{}); err != nil {
			t.Fatal(err)
		}
		for i := range emitted {
			want(t, "emitted bytes", string(emitted[i]), copies[i])
		}
	}
}

// A folded key that cannot be decoded can still be deleted, slots and all.
func TestDeleteOfWhatCannotBeDecoded(t *testing.T) {
	p := openMem(t, Options{})
	if err := p.store.db.Set(p.stored(spaceFolded, 1, []byte("f")), []byte("\x01\x00\x01x"), nil); err != nil {
		t.Fatal(err)
	}
	tx := p.Begin()
	_, err := tx.Stage(1).Load([]byte("f"), emptyWords)
	wantError(t, "load", err, ErrMalformed)
	tx.Stage(1).Delete([]byte("f"))
	want(t, "changelog", recordsOf(commit(t, tx, Position{})), `"f"/0 tombstone, position`)
	want(t, "deleted", load(t, p.Begin().Stage(1), "f"), "")
}

func keysOf(log []pipeline.Record) []string {
	var keys []string
	for _, r := range log {
		keys = append(keys, string(r.Key))
	}
	return keys
}

// What Keep returned is still being sent when a transaction is given up after its changelog; after Commit nobody reads it.
func TestKeep(t *testing.T) {
	p := openMem(t, Options{Retention: DeletedByTime})
	tx := p.Begin()
	b := []byte("first")
	first := tx.Keep(b)
	b[0] = 'x'
	tx.Savepoint()
	set(tx.Stage(1), "k", "v")
	tx.RollbackToSavepoint()
	second := tx.Keep([]byte("second"))
	if err := tx.Changelog(Position{}, func(_, _ []byte) {}); err != nil {
		t.Fatal(err)
	}
	tx.Discard()
	tx = p.Begin()
	for range 100 {
		tx.Keep([]byte("other bytes"))
	}
	want(t, "kept", string(first), "first")
	want(t, "kept after a rollback", string(second), "second")
	tx.Discard()

	// The memory is used again.
	if n := testing.AllocsPerRun(20, func() {
		tx := p.Begin()
		for range 1000 {
			tx.Keep(b)
		}
		commit(t, tx, Position{})
	}); n > 100 {
		t.Errorf("%v allocations for a transaction that keeps 1,000 values", n)
	}
}
