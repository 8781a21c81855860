package links_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/oracle"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a replica, and the same log in the oracle.
type world struct {
	t       testing.TB
	rules   *links.Settings
	dir     string
	replica *links.Replica
	people  *oracle.People
	log     []pipeline.Record
	rows    map[int64]map[pipeline.ID]pipeline.ID
}

func ambiguous(id pipeline.ID) pipeline.ID { id[0] = pipeline.CodeAmbiguous; return id }

func newWorld(t testing.TB, types []links.Type) *world {
	w := &world{t: t, rules: &links.Settings{Types: types}, dir: t.TempDir(), rows: map[int64]map[pipeline.ID]pipeline.ID{}}
	var plain []oracle.Type
	for _, x := range types {
		plain = append(plain, oracle.Type{Code: x.Code, Limit: x.Limit, SharedBy: x.SharedBy})
	}
	w.people = oracle.NewPeople(plain)
	w.people.Next = func(id oracle.ID, offset uint64) oracle.ID { return links.Successor(id, offset) }
	w.replica = w.open(w.dir)
	t.Cleanup(func() { check(t, w.replica.Close()) })
	w.append(&links.Operation{V: 1, Op: links.OpSettings, Settings: w.rules})
	return w
}

func (w *world) open(dir string) *links.Replica {
	w.t.Helper()
	r, err := links.Open(dir, links.Options{Rules: w.rules, Ambiguous: ambiguous, Logger: slog.New(slog.DiscardHandler)})
	check(w.t, err)
	return r
}

// append puts an operation into the log, and into the oracle.
func (w *world) append(o *links.Operation) {
	w.t.Helper()
	rec, err := o.Record()
	check(w.t, err)
	rec.Offset = int64(len(w.log))
	w.log = append(w.log, rec)
	plain := oracle.Operation{Op: o.Op, Operator: o.MessageID == ""}
	switch {
	case o.Op == links.OpSettings:
		return
	case o.ID != nil:
		plain.A = *o.ID
	default:
		plain.A, plain.B = *o.Strong, *o.Weak
	}
	if moved := w.people.Apply(plain, uint64(rec.Offset)); len(moved) > 0 {
		w.rows[rec.Offset] = map[pipeline.ID]pipeline.ID{}
		for id, from := range moved {
			w.rows[rec.Offset][id] = from
		}
	}
}

func (w *world) apply(r *links.Replica, most int) {
	w.t.Helper()
	for {
		next, _ := r.Next()
		if next == int64(len(w.log)) {
			return
		}
		end := min(next+int64(1+rand.IntN(most)), int64(len(w.log)))
		check(w.t, r.Apply(w.log[next:end], end))
	}
}

func link(a, b pipeline.ID) *links.Operation {
	o := links.Linked(&pipeline.Statement{Link: pipeline.Link{Strong: a, Weak: b}, MessageID: "m", At: time.UnixMilli(0)})
	return &o
}

func id(code byte, n int) (x pipeline.ID) {
	x[0], x[1], x[9], x[15] = code, byte(n), byte(n), byte(n)
	return x
}

// compare checks that the replica says what the oracle says of every identifier and pair.
func (w *world) compare(r *links.Replica, ids []pipeline.ID) {
	w.t.Helper()
	for _, a := range ids {
		for _, b := range ids {
			event := []pipeline.Identifier{{ID: a}}
			plain := []oracle.ID{a}
			if a != b {
				if w.rules.Compare(a, b) > 0 {
					continue
				}
				event, plain = append(event, pipeline.Identifier{ID: b}), append(plain, b)
			}
			got, err := r.Resolve(event)
			check(w.t, err)
			primary, person := w.people.Resolve(plain, func(x oracle.ID) oracle.ID { return ambiguous(x) })
			want := pipeline.Resolution{Primary: primary, Canonical: person, IDV: w.people.Changed(person)}
			for i, x := range plain {
				now := w.people.Now(x)
				if owner := w.people.Person(now); x != primary && (owner != person || now != x) {
					want.Owners = append(want.Owners, pipeline.Owner{Index: i, ID: now, Profile: owner, IDV: w.people.Changed(owner)})
				}
			}
			if !reflect.DeepEqual(got, want) {
				w.t.Fatalf("%v: resolved to %v, the oracle says %v", plain, got, want)
			}
			if n, m := len(r.Unknown(nil, event)), len(w.people.Unknown(plain)); n != m {
				w.t.Fatalf("%v: %d unknown links, the oracle says %d", plain, n, m)
			}
		}
	}
}

// Random logs of every operation, applied in pieces, say what the oracle says; so does a replica that starts late, one that
// is closed and opened again, and one in which the cache was never empty.
func TestReplicaEqualsOracle(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			types := []links.Type{{Name: "user_id", Code: 1, Limit: r.IntN(3)}, {Name: "email", Code: 2, Limit: r.IntN(4), SharedBy: r.IntN(4)}, {Name: "anonymous_id", Code: 4, Limit: r.IntN(6)}}
			if r.IntN(4) == 0 {
				types[0], types[2] = types[2], types[0] // the order of the types is not that of their codes
			}
			w := newWorld(t, types)
			var ids []pipeline.ID
			for n := range 5 {
				ids = append(ids, id(1, n), id(2, n), id(4, n), id(4, n+5))
			}
			for range 120 {
				a, b := ids[r.IntN(len(ids))], ids[r.IntN(len(ids))]
				if r.IntN(6) > 0 { // else what is said of somebody who may have been erased
					a, b = w.people.Now(a), w.people.Now(b)
				}
				if w.rules.Compare(a, b) > 0 {
					a, b = b, a
				}
				switch k := r.IntN(21); {
				case k < 14 && a != b:
					w.append(link(a, b))
				case k == 14 && a != b:
					o, err := links.Operator(links.OpLink, w.rules, time.UnixMilli(1), "", b, a)
					check(t, err)
					w.append(&o)
				case k < 17 && a != b:
					o, err := links.Operator(links.OpUnlink, w.rules, time.UnixMilli(1), "", b, a)
					check(t, err)
					w.append(&o)
				case k == 20:
					w.append(&links.Operation{V: 1, Op: links.OpErase, ID: &a})
				case k < 19:
					w.append(&links.Operation{V: 1, Op: links.OpBlock, ID: &a})
				default:
					w.append(&links.Operation{V: 1, Op: links.OpUnblock, ID: &a})
				}
				if r.IntN(3) == 0 {
					w.apply(w.replica, 5)
					w.compare(w.replica, ids)
				}
				if r.IntN(40) == 0 {
					check(t, w.replica.Close())
					w.replica = w.open(w.dir)
				}
			}
			w.apply(w.replica, 5)
			late := w.open(t.TempDir())
			defer late.Close()
			w.apply(late, 50)
			w.compare(w.replica, ids)
			w.compare(late, ids)
			w.compareOutcomes(w.replica)
			w.compareOutcomes(late)
		})
	}
}

// compareOutcomes checks that the rows are exactly the identifiers that moved.
func (w *world) compareOutcomes(r *links.Replica) {
	w.t.Helper()
	seen, gone := map[int64]bool{}, map[pipeline.ID]pipeline.ID{}
	check(w.t, r.Outcomes(0, int64(len(w.log)), func(o *links.Outcome) error {
		seen[int64(o.Offset)] = len(o.Rows) > 0
		want := w.rows[int64(o.Offset)]
		for _, e := range o.Erased {
			origin := e.ID
			if before, ok := gone[e.ID]; ok {
				origin = before
			}
			gone[e.Successor] = origin
			if at, ok := w.people.Erased(e.ID); !ok || at != o.Offset || e.Origin != origin || o.Kind != links.Erased {
				w.t.Errorf("offset %d: erased %+v, the oracle says %v at %d", o.Offset, e, ok, at)
			}
		}
		if len(o.Rows) != len(want) {
			w.t.Errorf("offset %d: rows %v, want %v", o.Offset, o.Rows, want)
		}
		for _, row := range o.Rows {
			if want[row.ID] != row.From || row.From == row.To {
				w.t.Errorf("offset %d: row %v, want from %v", o.Offset, row, want[row.ID])
			}
		}
		return nil
	}))
	if n := len(w.people.AllErased()); len(gone) != n {
		w.t.Errorf("%d identifiers are erased, the oracle says %d", len(gone), n)
	}
	for offset := range w.rows {
		if !seen[offset] {
			w.t.Fatalf("offset %d has no outcome", offset)
		}
	}
}

// TestWhatLinksAreCalled: whoever reads the log finds the people who were joined and those who were taken apart under these
// names, also when a link ends an unlink.
func TestWhatLinksAreCalled(t *testing.T) {
	w := newWorld(t, []links.Type{{Name: "user_id", Code: 1, Limit: 1}, {Name: "anonymous_id", Code: 4}})
	user, anon := id(1, 2), id(4, 1)
	operator := func(op string) *links.Operation {
		o, err := links.Operator(op, w.rules, time.UnixMilli(1), "", user, anon)
		check(t, err)
		return &o
	}
	w.append(link(user, anon))
	w.append(operator(links.OpUnlink))
	w.append(operator(links.OpLink))
	w.append(link(id(1, 1), anon))
	w.append(operator(links.OpUnlink))
	w.append(operator(links.OpLink)) // anon is the other user's now
	w.apply(w.replica, 5)
	var kinds []string
	check(t, w.replica.Outcomes(0, int64(len(w.log)), func(o *links.Outcome) error {
		kinds = append(kinds, o.Kind)
		return nil
	}))
	if want := []string{links.Merge, links.Split, links.Merge, links.Refused, links.Split, links.Refused}; !slices.Equal(kinds, want) {
		t.Errorf("link, unlink, link again, of somebody else, unlink, link again are %v, want %v", kinds, want)
	}
}
