package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millstream-io/millstream/pipeline"
)

// The laws of the package, for random histories:
//
//  1. A transaction reads its own writes, an undone event and a discarded transaction leave nothing.
//  2. After a crash at any point, power loss included, the store and the changelog together give the last committed state.
//  3. The changelog alone gives it too, also compacted at any point, also applied from any earlier offset, also applied twice.
//
// The oracle is two Go maps.
func TestSimulation(t *testing.T) {
	histories := 150
	if testing.Short() {
		histories = 30
	}
	for _, retention := range []Retention{Compacted, DeletedByTime} {
		for seed := range histories {
			t.Run(fmt.Sprintf("retention=%d/seed=%d", retention, seed), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, retention, uint64(seed))
				for range 60 {
					w.step()
				}
				w.end()
			})
		}
	}
}

// world is one partition of one store, the changelog that Kafka has, and what both must hold.
type world struct {
	t         *testing.T
	rng       *rand.Rand
	fs        *vfs.MemFS
	options   Options
	store     *Store
	partition *Partition

	log      []pipeline.Record // offsets grow, with gaps where compaction was
	next     int64             // offset
	truth    contents          // committed
	position Position
	narrow   bool // few keys, so that they reach update 32 and more
	old      []oldStore
	gone     int64 // offset of the latest tombstone that compaction has removed
}

// oldStore is a copy of the store's files that stayed behind, as on a machine that was away.
type oldStore struct {
	fs   *vfs.MemFS
	next int64 // offset of the log when it was copied
}

var simStages = []byte{3, '~', 0xff}

func stageKey(stage byte, key string) string { return string([]byte{stage}) + key }

func newWorld(t *testing.T, retention Retention, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), fs: vfs.NewCrashableMem(),
		truth: contents{plain: map[string]string{}, folded: map[string]string{}}, gone: -1,
	}
	w.options = Options{Retention: retention, MemtableBytes: 256 << 10, CacheBytes: 1 << 20}
	if w.rng.IntN(3) == 0 {
		w.options.CacheBytes = 3000 // room for a few objects: hits, misses and refusals
	}
	w.narrow = w.rng.IntN(2) == 0
	w.options.ManyInputs = w.rng.IntN(3) == 0
	w.options.fs = w.fs
	w.open()
	return w
}

func (w *world) open() {
	w.store = openStore(w.t, "state", w.options)
	w.partition = openPartition(w.t, w.store, topic, 4)
}

func (w *world) shut() {
	if err := errors.Join(w.partition.Close(), w.store.Close()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) end() {
	w.check("at the end", w.partition)
	w.shut()
}

func (w *world) step() {
	switch n := w.rng.IntN(20); {
	case n < 12:
		w.transaction()
	case n < 14:
		w.compact()
	case n < 15:
		w.old = append(w.old, oldStore{fs: w.clone(100), next: w.next})
	case n < 16: // another owner
		if err := w.partition.Close(); err != nil {
			w.t.Fatal(err)
		}
		w.partition = openPartition(w.t, w.store, topic, 4)
	case n < 17:
		w.crash()
	default:
		w.rebuildElsewhere()
	}
}

// transaction runs some events and ends in one of the ways that a transaction can end.
func (w *world) transaction() {
	tx := w.partition.Begin()
	truth := w.truth.clone()
	for range 1 + w.rng.IntN(6) {
		tx.Savepoint()
		before := truth.clone()
		w.event(tx, truth)
		if w.rng.IntN(4) == 0 {
			tx.RollbackToSavepoint()
			truth = before
		}
		if w.rng.IntN(4) == 0 {
			w.compare("in a transaction", tx, truth)
		}
	}
	if w.rng.IntN(8) == 0 {
		tx.Discard()
		return
	}
	pos := Position{Offsets: w.position.Offsets + 1, StreamTime: -5, Config: 9, Number: w.position.Number + 1, Algorithm: 3}
	var records []pipeline.Record
	if err := tx.Changelog(pos, logTo(&records)); err != nil {
		w.t.Fatal(err)
	}
	if w.rng.IntN(8) == 0 { // Kafka aborts
		tx.Discard()
		return
	}
	for _, r := range records {
		r.Offset = w.next
		w.next++
		w.log = append(w.log, r)
	}
	w.next++ // Kafka's own marker takes an offset
	w.truth, w.position = truth, pos
	if w.rng.IntN(8) == 0 { // dies between the two commits
		w.crash()
		return
	}
	if w.rng.IntN(8) == 0 { // Kafka's answer was lost, the owner reads what has become of it
		tx.Discard()
		from := w.partition.position.Changelog
		if w.rng.IntN(2) == 0 {
			if err := w.partition.Reset(); err != nil {
				w.t.Fatal(err)
			}
			from = 0
		}
		w.restore(w.partition, from)
		w.check("after a reload", w.partition)
		return
	}
	pos.Changelog = w.next
	if err := tx.Commit(pos); err != nil {
		w.t.Fatal(err)
	}
}

// event makes some random writes, also to the truth.
func (w *world) event(t *Transaction, truth contents) {
	for range 1 + w.rng.IntN(4) {
		stage := simStages[w.rng.IntN(len(simStages))]
		key := fmt.Sprintf("%c%c", 'a'+w.rng.IntN(2), 'a'+w.rng.IntN(3))
		if w.rng.IntN(10) == 0 {
			key += "\xff"
		}
		n := w.rng.IntN(12)
		if w.narrow {
			stage, key = simStages[1], []string{"aa", "ab"}[w.rng.IntN(2)]
			if n == 3 && w.rng.IntN(10) > 0 {
				n = 5
			}
		}
		tx := t.Stage(stage)
		id := stageKey(stage, key)
		value := fmt.Sprint(w.rng.IntN(1000))
		if w.options.Retention == DeletedByTime && n >= 4 {
			n = 4 + n%3
		}
		switch {
		case n < 3:
			set(tx, key, value)
			truth.plain[id] = value
		case n == 3:
			tx.Delete([]byte(key))
			delete(truth.plain, id)
			delete(truth.folded, id)
		case w.options.Retention == Compacted && n == 4 && w.rng.IntN(3) > 0: // keys of 32 updates must come about
			load(w.t, tx, key)
		case w.options.Retention == Compacted:
			merge(w.t, tx, key, value)
			truth.folded[id] = strings.TrimSpace(truth.folded[id] + " " + value)
		case n == 4:
			w.deleteRange(tx, stage, truth)
		default:
			set(tx, key, value)
			truth.plain[id] = value
		}
	}
	if err := t.Err(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deleteRange(tx pipeline.Tx, stage byte, truth contents) {
	from := fmt.Sprintf("%c%c", 'a'+w.rng.IntN(2), 'a'+w.rng.IntN(3))
	to := fmt.Sprintf("%c%c", 'a'+w.rng.IntN(2), 'a'+w.rng.IntN(3))
	if err := tx.DeleteRange([]byte(from), []byte(to)); err != nil {
		w.t.Fatal(err)
	}
	for id := range truth.plain {
		if id[0] == stage && id[1:] >= from && id[1:] < to {
			delete(truth.plain, id)
		}
	}
}

// clone copies the file system; synced is the share of what was not synced that survives, in percent.
func (w *world) clone(synced int) *vfs.MemFS {
	return w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: synced, RNG: w.rng})
}

// crash loses the process, and sometimes power, and comes back.
func (w *world) crash() {
	percent := []int{0, 50, 100}[w.rng.IntN(3)]
	fs := w.clone(percent)
	w.shut()
	w.fs, w.options.fs = fs, fs
	w.openDamaged()
	if w.partition.position.Changelog <= w.gone { // older than the changelog remembers deletes: the engine rebuilds
		if err := w.partition.Reset(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.restore(w.partition, w.partition.position.Changelog)
	w.check(fmt.Sprintf("after a crash that kept %d %%", percent), w.partition)
}

// openDamaged opens what a crash has left. A store that says it is damaged is thrown away, as the engine does.
func (w *world) openDamaged() {
	s, err := Open("state", w.options)
	if errors.Is(err, ErrDamaged) {
		w.fs = vfs.NewCrashableMem()
		w.options.fs = w.fs
		s, err = Open("state", w.options)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = s
	w.partition = openPartition(w.t, s, topic, 4)
}

// rebuildElsewhere restores a second store from the log alone, or from a copy that stayed behind, and compares.
func (w *world) rebuildElsewhere() {
	o := w.options
	from := int64(0)
	if len(w.old) > 0 && w.rng.IntN(2) == 0 {
		o.fs = w.old[w.rng.IntN(len(w.old))].fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: w.rng})
		from = -1
	} else {
		o.fs = vfs.NewMem()
	}
	s := openStore(w.t, "state", o)
	p := openPartition(w.t, s, topic, 4)
	if from < 0 {
		from = p.position.Changelog
		if w.rng.IntN(2) == 0 {
			from = w.rng.Int64N(from + 1) // a part is applied twice
		}
	}
	if w.rng.IntN(4) == 0 || p.position.Changelog > 0 && p.position.Changelog <= w.gone {
		if err := p.Reset(); err != nil {
			w.t.Fatal(err)
		}
		from = 0
	}
	p = w.restoreInterrupted(s, p, from)
	w.check(fmt.Sprintf("rebuilt from offset %d", from), p)
	w.restore(p, w.rng.Int64N(w.next+1))
	w.check("after a part was applied again", p)
	if err := errors.Join(p.Close(), s.Close()); err != nil {
		w.t.Fatal(err)
	}
}

// restoreInterrupted applies the log from an offset and gives the partition up on the way, sometimes.
func (w *world) restoreInterrupted(s *Store, p *Partition, from int64) *Partition {
	for _, r := range w.log {
		if r.Offset < from {
			continue
		}
		if err := p.Apply(&r); err != nil {
			w.t.Fatal(err)
		}
		if w.rng.IntN(20) == 0 {
			if err := p.Flush(r.Offset + 1); err != nil {
				w.t.Fatal(err)
			}
		}
		if w.rng.IntN(50) == 0 {
			if err := p.Close(); err != nil {
				w.t.Fatal(err)
			}
			p = openPartition(w.t, s, topic, 4)
			return w.restoreInterrupted(s, p, min(p.position.Changelog, r.Offset+1))
		}
	}
	if err := p.Flush(w.next); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) restore(p *Partition, from int64) {
	for _, r := range w.log {
		if r.Offset >= from {
			if err := p.Apply(&r); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if err := p.Flush(w.next); err != nil {
		w.t.Fatal(err)
	}
}

// compact does to the log what Kafka may do. Compacted: of the records before a random point, any that has a later one of
// its key before that point goes; a tombstone goes too, once nothing of its key stands before it, and copies of the store
// that have not seen it are given up then. Deleted by time: no record is old enough here.
func (w *world) compact() {
	if w.options.Retention == DeletedByTime || len(w.log) == 0 {
		return
	}
	end := w.rng.IntN(len(w.log) + 1)
	dropAll := w.rng.IntN(2) == 0
	last := map[string]int{}
	for i, r := range w.log[:end] {
		last[string(r.Key)] = i
	}
	var kept []pipeline.Record
	standing := map[string]bool{}
	for i, r := range w.log {
		key := string(r.Key)
		if i < last[key] && (dropAll || w.rng.IntN(2) == 0) {
			continue
		}
		if i < end && r.Value == nil && !standing[key] && w.rng.IntN(3) == 0 {
			w.gone = max(w.gone, r.Offset)
			continue
		}
		standing[key] = true
		kept = append(kept, r)
	}
	w.log = kept
	w.old = slices.DeleteFunc(w.old, func(o oldStore) bool { return o.next <= w.gone })
}

// check compares a partition with the truth.
func (w *world) check(when string, p *Partition) {
	w.t.Helper()
	pos, known := p.Position()
	pos.Changelog = 0
	if w.position.Number > 0 && (!known || pos != w.position) {
		w.t.Fatalf("%s: position %+v, want %+v", when, pos, w.position)
	}
	tx := p.Begin()
	w.compare(when, tx, w.truth)
	tx.Discard()
	if w.options.Retention != Compacted {
		return
	}
	live := map[string]bool{}
	for id := range w.truth.folded {
		live[id] = true
	}
	for _, stage := range simStages { // nothing is left of deleted folded keys
		tx := p.Begin()
		s := tx.Stage(stage).(*stageTx)
		for a := range 2 {
			for b := range 3 {
				key := fmt.Sprintf("%c%c", 'a'+a, 'a'+b)
				stored, err := s.read(s.folded, []byte(key))
				if err != nil {
					w.t.Fatal(err)
				}
				if id := stageKey(stage, key); (stored != nil) != live[id] {
					w.t.Fatalf("%s: key %q stored %v, want %v", when, id, stored != nil, live[id])
				}
			}
		}
		tx.Discard()
	}
}

// compare reads everything through a transaction.
func (w *world) compare(when string, t *Transaction, truth contents) {
	w.t.Helper()
	for _, stage := range simStages {
		tx := t.Stage(stage)
		prefix := []string{"", "a", "b", "ab"}[w.rng.IntN(4)]
		var expect []string
		for id, value := range truth.plain {
			if id[0] == stage && strings.HasPrefix(id[1:], prefix) {
				expect = append(expect, id[1:]+"="+value)
			}
			if id[0] == stage {
				want(w.t, when+": get "+id, get(w.t, tx, id[1:]), value)
			}
		}
		sort.Strings(expect)
		want(w.t, when+": scan of "+prefix, scan(w.t, tx, prefix), strings.Join(expect, " "))
		if w.options.Retention != Compacted {
			continue
		}
		for a := range 2 {
			for b := range 3 {
				key := fmt.Sprintf("%c%c", 'a'+a, 'a'+b)
				want(w.t, when+": load "+key, load(w.t, tx, key), truth.folded[stageKey(stage, key)])
			}
		}
	}
	if w.t.Failed() {
		w.t.FailNow()
	}
}
