package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millstream-io/millstream/pipeline"
)

// record renders a changelog record of a compacted topic.
func record(r pipeline.Record) string {
	key := r.Key
	if string(key) == keyPosition {
		return "position"
	}
	last := key[len(key)-1]
	if r.Value == nil {
		return fmt.Sprintf("%q/%d tombstone", key[1:len(key)-1], last)
	}
	if last == slotPlain {
		return fmt.Sprintf("%q = %q", key[1:len(key)-1], r.Value[1:])
	}
	e, _, err := cutEntry(r.Value)
	if err != nil {
		return err.Error()
	}
	kind := "full"
	if e.tag == entryDeltas {
		kind = "deltas"
	}
	return fmt.Sprintf("%q/%d %s %d", key[1:len(key)-1], last, kind, e.number)
}

func recordsOf(log []pipeline.Record) string {
	var out []string
	for _, r := range log {
		out = append(out, record(r))
	}
	return strings.Join(out, ", ")
}

// The changelog of one folded key through its life.
func TestSlots(t *testing.T) {
	p := openMem(t, Options{})
	change := func(deltas ...string) string {
		tx := p.Begin()
		for _, d := range deltas {
			merge(t, tx.Stage(1), "f", d)
		}
		return recordsOf(commit(t, tx, Position{}))
	}
	want(t, "new", change("a"), `"f"/0 full 0, position`)
	want(t, "deltas of a transaction are one update", change("b", "c"), `"f"/1 deltas 1, position`)
	want(t, "no change", change(), `position`)
	for i := 2; i < slots; i++ {
		want(t, "delta", change("x"), fmt.Sprintf(`"f"/%d deltas %d, position`, i, i))
	}
	want(t, "round", change("y"), `"f"/0 full 32, position`)
	want(t, "next round", change("z"), `"f"/1 deltas 33, position`)
	stored, closer, err := p.store.db.Get(p.stored(spaceFolded, 1, []byte("f")))
	if err != nil {
		t.Fatal(err)
	}
	e, rest, _ := cutEntry(stored)
	next, rest, _ := cutEntry(rest)
	if e.number != 32 || next.number != 33 || len(rest) != 0 {
		t.Errorf("Pebble holds updates %d and %d and %d bytes more, want 32 and 33", e.number, next.number, len(rest))
	}
	closer.Close()

	tx := p.Begin()
	tx.Stage(1).Delete([]byte("f"))
	merge(t, tx.Stage(1), "f", "again")
	log := commit(t, tx, Position{})
	want(t, "made again", record(log[0])+" … "+recordsOf(log[30:]), `"f"/1 tombstone … "f"/31 tombstone, "f"/0 full 0, position`)
	want(t, "made again", change("b"), `"f"/1 deltas 1, position`)
	tx = p.Begin()
	tx.Stage(1).Delete([]byte("f"))
	want(t, "delete", recordsOf(commit(t, tx, Position{})), `"f"/0 tombstone, "f"/1 tombstone, position`)
	tx = p.Begin()
	merge(t, tx.Stage(1), "g", "a")
	tx.Stage(1).Delete([]byte("g"))
	tx.Stage(1).Delete([]byte("h"))
	tx.Stage(2).Delete([]byte("i"))
	set(tx.Stage(2), "j", "1")
	want(t, "of plain keys", recordsOf(commit(t, tx, Position{})), `"h"/255 tombstone, "i"/255 tombstone, "j" = "1", position`)
}

// A key can be plain and folded; Delete removes both.
func TestDeleteOfBothKinds(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	set(tx.Stage(1), "k", "plain")
	merge(t, tx.Stage(1), "k", "folded")
	commit(t, tx, Position{})
	tx = p.Begin()
	tx.Stage(1).Delete([]byte("k"))
	want(t, "both", get(t, tx.Stage(1), "k")+load(t, tx.Stage(1), "k"), "absent")
	commit(t, tx, Position{})
	tx = p.Begin()
	want(t, "both, committed", get(t, tx.Stage(1), "k")+load(t, tx.Stage(1), "k"), "absent")
}

// Writes of a long transaction are cut into records below what Kafka takes.
func TestLongTransactionIsCut(t *testing.T) {
	p := openMem(t, Options{Retention: DeletedByTime})
	for range 2 { // the second one uses the buffers of the first
		tx := p.Begin()
		for i := range 20 {
			set(tx.Stage(1), fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), 50_000))
		}
		log := commit(t, tx, Position{Number: 5})
		if len(log) != 4 {
			t.Errorf("%d records, want 3 of writes and the position", len(log))
		}
		restored := openMem(t, Options{Retention: DeletedByTime})
		for i := range log {
			if len(log[i].Value) > recordBytes+100 {
				t.Errorf("record %d has %d bytes", i, len(log[i].Value))
			}
			if err := restored.Apply(&log[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := restored.Flush(4); err != nil {
			t.Fatal(err)
		}
		want(t, "restored", scan(t, restored.Begin().Stage(1), ""), scan(t, p.Begin().Stage(1), ""))
	}
}

// Two input topics log to the same partition and do not see each other.
func TestManyInputs(t *testing.T) {
	p := openMem(t, Options{ManyInputs: true})
	q := openPartition(t, p.store, "shop", 0)
	tx := p.Begin()
	set(tx.Stage(1), "k", "of p")
	log := commit(t, tx, Position{Number: 1})
	tx = q.Begin()
	set(tx.Stage(1), "k", "of q")
	log = append(log, commit(t, tx, Position{Number: 2})...)

	r := openMem(t, Options{ManyInputs: true})
	for i := range log {
		if err := r.Apply(&log[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Flush(7); err != nil {
		t.Fatal(err)
	}
	want(t, "restored", scan(t, r.Begin().Stage(1), ""), "k=of p")
	if pos, known := r.Position(); !known || pos.Number != 1 || pos.Changelog != 7 {
		t.Errorf("position %+v, %v", pos, known)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// How far the changelog was applied is remembered even if no position was in it.
func TestProgressWithoutPosition(t *testing.T) {
	s := openStore(t, "state", Options{fs: vfs.NewMem()})
	p := openPartition(t, s, topic, 0)
	if err := p.Flush(12); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = openPartition(t, s, topic, 0)
	if pos, known := p.Position(); known || pos != (Position{Changelog: 12}) {
		t.Errorf("position %+v, %v", pos, known)
	}
	if err := errors.Join(p.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestRestoreAndTransactionExclude(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	if p.Apply(&pipeline.Record{Key: []byte("\x01k\xff")}) == nil || p.Flush(0) == nil {
		t.Error("restored while a transaction was open")
	}
	tx.Discard()
	if err := p.Apply(&pipeline.Record{Key: []byte("\x01k\xff"), Value: []byte("\x01v")}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Begin().Stage(1).Get([]byte("k")); err == nil {
		t.Error("read while restored records were not written")
	}
	if err := p.Flush(-1); err == nil {
		t.Error("negative changelog offset")
	}
	if err := p.Flush(1); err != nil {
		t.Fatal(err)
	}
	want(t, "restored", get(t, p.Begin().Stage(1), "k"), "v")
	if err := p.Begin().Commit(Position{Changelog: -1}); err == nil {
		t.Error("negative changelog offset")
	}
}

func TestApplyRefuses(t *testing.T) {
	position := AppendPosition(nil, Position{Offsets: 1})
	full := append(appendEntryHeader(nil, entryFull, 32, 1), 'x')
	deltas := append(appendEntryHeader(nil, entryDeltas, 33, 2), 1, 'x')
	newer := func(b []byte) []byte { return append([]byte{99}, b[1:]...) }
	cases := []struct {
		what       string
		retention  Retention
		key, value string
		target     error // nil: a newer format
	}{
		{"no key", Compacted, "", "\x01", ErrMalformed},
		{"short key", Compacted, "\x01", "\x01", ErrMalformed},
		{"long key", Compacted, strings.Repeat("k", maxKey+2) + "\xff", "\x01", ErrMalformed},
		{"unknown kind of key", Compacted, "\x01k\x20", "\x01", ErrMalformed},
		{"plain value without format", Compacted, "\x01k\xff", "", ErrMalformed},
		{"plain value of format 0", Compacted, "\x01k\xff", "\x00", ErrMalformed},
		{"newer plain value", Compacted, "\x01k\xff", "\x02v", nil},
		{"update in a wrong slot", Compacted, "\x01k\x02", string(deltas), ErrMalformed},
		{"full state out of turn", Compacted, "\x01k\x01", "\x01\x21\x00", ErrMalformed},
		{"deltas in slot 0", Compacted, "\x01k\x00", "\x02\x20\x00", ErrMalformed},
		{"truncated entry", Compacted, "\x01k\x01", string(deltas[:len(deltas)-1]), ErrMalformed},
		{"entry with a tail", Compacted, "\x01k\x00", string(full) + "x", ErrMalformed},
		{"no entry", Compacted, "\x01k\x00", "", ErrMalformed},
		{"number without end", Compacted, "\x01k\x00", "\x01\xff\xff", ErrMalformed},
		{"delta without end", Compacted, "\x01k\x01", "\x02\x21\x01\x05", ErrMalformed},
		{"newer entry", Compacted, "\x01k\x01", string(newer(deltas)), nil},
		{"newer position", Compacted, keyPosition, string(newer(position)), nil},
		{"truncated position", Compacted, keyPosition, string(position[:len(position)-1]), ErrMalformed},
		{"position with a tail", Compacted, keyPosition, string(position) + "x", ErrMalformed},
		{"empty position", DeletedByTime, keyPosition, "", ErrMalformed},
		{"key of a compacted log", DeletedByTime, "\x01k\xff", "\x01v", ErrMalformed},
		{"no writes", DeletedByTime, keyWrites, "", ErrMalformed},
		{"newer writes", DeletedByTime, keyWrites, "\x02", nil},
		{"write without stage", DeletedByTime, keyWrites, "\x01\x01", ErrMalformed},
		{"write without value", DeletedByTime, keyWrites, "\x01\x01\x01\x01k", ErrMalformed},
		{"write of an unknown kind", DeletedByTime, keyWrites, "\x01\x04\x01\x01k\x00", ErrMalformed},
		{"range the wrong way round", DeletedByTime, keyWrites, "\x01\x03\x01\x01b\x01a", ErrMalformed},
	}
	for _, c := range cases {
		p := openMem(t, Options{Retention: c.retention})
		err := p.Apply(&pipeline.Record{Offset: 41, Key: []byte(c.key), Value: []byte(c.value)})
		var newer *NewerFormatError
		if c.target == nil && !errors.As(err, &newer) || c.target != nil && !errors.Is(err, c.target) || !strings.Contains(err.Error(), "41") {
			t.Errorf("%s: got %v", c.what, err)
		}
		if p.Flush(42) == nil {
			t.Errorf("%s: the record was skipped", c.what)
		}
		if _, err := p.Begin().Stage(1).Get([]byte("k")); err == nil {
			t.Errorf("%s: the partition is used on", c.what)
		}
	}
}

func TestStoredBytesAreRefused(t *testing.T) {
	p := openMem(t, Options{})
	put := func(space byte, key, value string) {
		if err := p.store.db.Set(p.stored(space, 1, []byte(key)), []byte(value), nil); err != nil {
			t.Fatal(err)
		}
	}
	put(spacePlain, "newer", "\x07v")
	put(spacePlain, "none", "")
	put(spaceFolded, "newer", "\x07\x00\x00")
	put(spaceFolded, "decode", "\x01\x00\x01x")
	s := p.Begin().Stage(1)
	var newer *NewerFormatError
	if _, err := s.Get([]byte("newer")); !errors.As(err, &newer) || newer.Format != 7 {
		t.Errorf("plain: got %v", err)
	}
	_, err := s.Get([]byte("none"))
	wantError(t, "no format byte", err, ErrMalformed)
	if err := s.Scan(nil, func(_, _ []byte) error { return nil }); !errors.As(err, &newer) {
		t.Errorf("scan: got %v", err)
	}
	if _, err := s.Load([]byte("newer"), emptyWords); !errors.As(err, &newer) {
		t.Errorf("folded: got %v", err)
	}
	for range 2 { // the second time the entry is in the overlay
		_, err = s.Load([]byte("decode"), emptyWords)
		wantError(t, "Decode's error", err, ErrMalformed)
	}
}

// The rules for entries that a restore leaves one after the other.
func TestEachUpdate(t *testing.T) {
	value := func(entries ...uint64) []byte {
		var b []byte
		for _, n := range entries {
			tag := byte(entryDeltas)
			if n%slots == 0 {
				tag = entryFull
			}
			b = appendEntryHeader(b, tag, n, 0)
		}
		return b
	}
	for _, c := range []struct {
		entries []uint64
		counted string
	}{
		{nil, "[]"},
		{[]uint64{0, 1, 2}, "[0 1 2]"},
		{[]uint64{1, 2, 3}, "[]"},                           // no full state: the log was compacted, it comes later
		{[]uint64{9, 10, 32, 33}, "[32 33]"},                // older slots of a compacted log
		{[]uint64{0, 2, 3, 32, 33}, "[0 32 33]"},            // 1 went for 33
		{[]uint64{32, 33, 34, 33, 34, 35}, "[32 33 34 35]"}, // a tail applied twice
		{[]uint64{32, 33, 0, 1}, "[32 33 0 1]"},             // made again
	} {
		counted := []uint64{}
		number, exists, err := eachUpdate(value(c.entries...), func(e entry) error {
			counted = append(counted, e.number)
			return nil
		})
		want(t, fmt.Sprint(c.entries), fmt.Sprint(counted), c.counted)
		if err != nil || exists != (len(counted) > 0) || exists && number != counted[len(counted)-1] {
			t.Errorf("%v: number %d, exists %v, error %v", c.entries, number, exists, err)
		}
	}
}

func TestPositionRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		shift := rng.IntN(64)
		p := Position{
			Offsets: int64(rng.Uint64() >> shift), StreamTime: int64(rng.Uint64() >> shift), Config: rng.Uint64(),
			Number: rng.Uint64() >> shift, Algorithm: rng.Uint32(), Changelog: rng.Int64() >> (shift % 63),
		}
		got, known, err := decodeLocal(appendLocal(nil, p, true))
		if err != nil || !known || got != p {
			t.Fatalf("got %+v, %v, %v; want %+v", got, known, err, p)
		}
		encoded := AppendPosition(nil, p)
		for cut := range encoded {
			if _, err := DecodePosition(encoded[:cut]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%d of %d bytes: %v", cut, len(encoded), err)
			}
		}
		p.Changelog = 0
		if got, err := DecodePosition(encoded); err != nil || got != p {
			t.Fatalf("got %+v, %v; want %+v", got, err, p)
		}
	}
	var newer *NewerFormatError
	if _, _, err := decodeLocal([]byte{2, 0}); !errors.As(err, &newer) {
		t.Errorf("newer stored position: %v", err)
	}
	if _, _, err := decodeLocal([]byte{1, 0, 3}); !errors.As(err, &newer) {
		t.Errorf("newer position inside: %v", err)
	}
	for _, bad := range []string{"", "\x00", "\x01", "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x01\x00\x01"} {
		if _, _, err := decodeLocal([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("stored position %q: %v", bad, err)
		}
	}
}

// What a restore changes is not hidden by an object that was decoded before.
func TestRestoreForgetsDecodedObjects(t *testing.T) {
	p := openMem(t, Options{})
	tx := p.Begin()
	merge(t, tx.Stage(1), "f", "old")
	log := commit(t, tx, Position{})
	copy(log[0].Value[len(log[0].Value)-3:], "new")
	if err := errors.Join(p.Apply(&log[0]), p.Flush(1)); err != nil {
		t.Fatal(err)
	}
	tx = p.Begin()
	want(t, "applied", load(t, tx.Stage(1), "f"), "new")
	commit(t, tx, Position{})
	if err := p.Reset(); err != nil {
		t.Fatal(err)
	}
	want(t, "reset", load(t, p.Begin().Stage(1), "f"), "")
}

// A long restore is not begun again from its start.
func TestRestoreIsWrittenOnTheWay(t *testing.T) {
	p := openMem(t, Options{})
	value := "\x01" + strings.Repeat("v", 400<<10)
	for offset := range int64(4) {
		key := fmt.Sprintf("\x01%d\xff", offset)
		if err := p.Apply(&pipeline.Record{Offset: offset, Key: []byte(key), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = openPartition(t, p.store, topic, 0)
	defer p.Close()
	if pos, _ := p.Position(); pos.Changelog != 3 {
		t.Errorf("applied up to %d, want 3", pos.Changelog)
	}
}

// FuzzApply: whatever the changelog holds, nothing panics, and what was taken can be read or is refused.
func FuzzApply(f *testing.F) {
	f.Add(true, []byte("\x01k\x00"), append(appendEntryHeader(nil, entryFull, 32, 1), 1))
	f.Add(true, []byte("\x01k\x01"), append(appendEntryHeader(nil, entryDeltas, 33, 2), 1, 'x'))
	f.Add(true, []byte("\x01k\xff"), []byte("\x01v"))
	f.Add(true, []byte(keyPosition), AppendPosition(nil, Position{Offsets: 300}))
	f.Add(false, []byte(keyWrites), []byte("\x01\x01\x01\x01k\x01v\x02\x01\x01k\x03\x01\x01a\x01b"))
	f.Fuzz(func(t *testing.T, compacted bool, key, value []byte) {
		o := Options{MemtableBytes: 64 << 10, CacheBytes: 10_000}
		if !compacted {
			o.Retention = DeletedByTime
		}
		p := openMem(t, o)
		if p.Apply(&pipeline.Record{Key: key, Value: value}) != nil {
			return
		}
		if err := p.Flush(1); err != nil {
			t.Fatal(err)
		}
		if len(key) < 2 {
			return
		}
		s := p.Begin().Stage(key[0])
		name := key[1 : len(key)-1]
		if err := s.Scan(nil, func(_, _ []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		_, _ = s.Load(name, emptyWords) // Decode may refuse what it finds
		s.Delete(name)
	})
}
