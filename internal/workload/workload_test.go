package workload

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func options(events int, seed uint64) Options {
	return Options{Events: events, Seed: seed, Start: time.UnixMilli(1_700_000_000_000)}
}

func TestSameOptionsGiveTheSameBytes(t *testing.T) {
	a, b := New(options(5000, 7)), New(options(5000, 7))
	for i := range a.Events {
		if !bytes.Equal(a.Events[i].JSON, b.Events[i].JSON) {
			t.Fatalf("event %d differs: %s and %s", i, a.Events[i].JSON, b.Events[i].JSON)
		}
	}
	if bytes.Equal(New(options(5000, 8)).Events[0].JSON, a.Events[0].JSON) {
		t.Error("another seed gives the same first event")
	}
}

func TestTruthIsWhatIsSent(t *testing.T) {
	w := New(options(20_000, 1))
	seen := map[string][]byte{}
	var repeats, broken, orders int
	for i, e := range w.Events {
		before, again := seen[e.MessageID]
		if again {
			repeats++
			if !bytes.Equal(before, e.JSON) {
				t.Errorf("event %d repeats %s with other content", i, e.MessageID)
			}
			continue
		}
		seen[e.MessageID] = e.JSON
		if e.Broken {
			broken++
			continue
		}
		if parse(t, e).Event == "Order Completed" {
			orders++
		}
	}
	counted := 0
	for _, p := range w.Truth.Profiles {
		counted += p.Orders
	}
	tr := w.Truth
	if len(w.Events) != 20_000 || tr.Sent != 20_000 || tr.Unique != len(seen) || tr.Repeats != repeats || tr.Broken != broken || counted != orders {
		t.Errorf("truth %d sent %d unique %d repeats %d broken, %d orders; sent are %d, %d, %d, %d, %d", tr.Sent, tr.Unique, tr.Repeats, tr.Broken, counted, len(w.Events), len(seen), repeats, broken, orders)
	}
	if repeats == 0 || broken == 0 || orders == 0 {
		t.Error("a workload without repeats, broken events or orders proves little")
	}
}

// event is what people depend on of an event.
type event struct {
	UserID, AnonymousID string
	Event               string
	Traits, Properties  struct{ Email string }
}

func parse(t *testing.T, e Event) event {
	t.Helper()
	var v event
	if err := json.Unmarshal(e.JSON, &v); err != nil {
		t.Fatalf("%s: %v", e.JSON, err)
	}
	return v
}

// identifiers of an event, strongest first.
func (v event) identifiers() (ids []string) {
	for _, id := range []string{"user_id:" + v.UserID, "email:" + v.Traits.Email + v.Properties.Email, "anonymous_id:" + v.AnonymousID} {
		if !strings.HasSuffix(id, ":") {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestTruthFollowsFromTheEvents finds people from the bytes that are sent, with one user per person and four per address, and
// compares with what the generator says it has played.
func TestTruthFollowsFromTheEvents(t *testing.T) {
	for _, seed := range []uint64{1, 7, 8, 11} {
		w := New(options(20_000, seed))
		users := map[string]map[string]bool{} // by address
		for _, e := range w.Events {
			if e.Broken {
				continue
			}
			if v := parse(t, e); v.UserID != "" && v.Traits.Email != "" {
				if users[v.Traits.Email] == nil {
					users[v.Traits.Email] = map[string]bool{}
				}
				users[v.Traits.Email][v.UserID] = true
			}
		}
		person, user := map[string]string{}, map[string]string{}
		root := func(id string) string {
			for person[id] != "" {
				id = person[id]
			}
			return id
		}
		events := map[string]int{}
		refused := map[string]bool{}
		seen := map[string]bool{}
		for _, e := range w.Events {
			if e.Broken || seen[e.MessageID] {
				continue
			}
			seen[e.MessageID] = true
			ids := parse(t, e).identifiers()
			for _, weak := range ids[1:] {
				a, b := root(ids[0]), root(weak)
				if a == b || len(users[strings.TrimPrefix(weak, "email:")]) > 4 {
					continue
				}
				if strings.HasPrefix(a, "user_id:") {
					user[a] = a
				}
				if user[a] != "" && user[b] != "" {
					refused[weak] = true
					continue
				}
				person[b] = a
				user[a] = max(user[a], user[b])
			}
			if refused[ids[0]] {
				events[Ambiguous+ids[0]]++
			} else {
				events[ids[0]]++
			}
		}
		byRoot := map[string]int{}
		for id, n := range events {
			byRoot[root(id)] += n
		}
		for key, p := range w.Truth.Profiles {
			found := root(key)
			if byRoot[found] != p.Events {
				t.Errorf("seed %d: %s has %d events, by the bytes %d", seed, key, p.Events, byRoot[found])
			}
			for _, id := range p.Identifiers {
				if !strings.HasPrefix(key, Ambiguous) && root(id) != found {
					t.Errorf("seed %d: %s does not follow to be %s", seed, id, key)
				}
			}
		}
		if len(byRoot) != len(w.Truth.Profiles) {
			t.Errorf("seed %d: %d profiles follow from the events, the truth has %d", seed, len(byRoot), len(w.Truth.Profiles))
		}
	}
}

// TestNobodyIsJoinedWithSomebodyElse: a profile has identifiers of one true person, and everything that may happen happens.
func TestNobodyIsJoinedWithSomebodyElse(t *testing.T) {
	tr := New(options(20_000, 1)).Truth
	why := map[string]int{}
	for key, p := range tr.Profiles {
		why[p.Missed]++
		for _, id := range p.Identifiers {
			if !slices.Contains(tr.Owners[id], p.Person) {
				t.Errorf("%s holds %s, which is not of person %d", key, id, p.Person)
			}
		}
	}
	for _, reason := range []string{"", NeverSaid, OnlyAddress, AnyOfThem} {
		if why[reason] == 0 {
			t.Errorf("nobody is a part because of %q: %v", reason, why)
		}
	}
	for _, l := range tr.Links {
		why[l.Refused]++
	}
	if why[""] != tr.People+len(tr.Links)-why[SharedDevice]-why[SharedAddress] || why[SharedDevice] == 0 || why[SharedAddress] < 5 || tr.Quarantined == 0 || tr.Merges < 1000 {
		t.Errorf("%d people, %d merges, %d addresses of offices, reasons %v", tr.People, tr.Merges, tr.Quarantined, why)
	}
}

// TestADeviceIsInOneLane: who logs in first on a shared device is known by construction only if its events arrive in order.
func TestADeviceIsInOneLane(t *testing.T) {
	w := New(options(3000, 1))
	want := map[string][]string{}
	for _, e := range w.Events {
		want[e.Device] = append(want[e.Device], string(e.JSON))
	}
	delete(want, "") // broken ones are of no device
	n := 0
	for i, bodies := range w.Lanes(4, 50) {
		got := map[string][]string{}
		for _, b := range bodies {
			var batch struct{ Batch []json.RawMessage }
			if err := json.Unmarshal(b.JSON, &batch); err != nil || len(batch.Batch) != b.Events || b.Events > 50 {
				t.Fatalf("a body of %d events: %v", b.Events, err)
			}
			for _, raw := range batch.Batch {
				n++
				var v struct{ AnonymousID string }
				_ = json.Unmarshal(raw, &v) // broken ones have none
				got[v.AnonymousID] = append(got[v.AnonymousID], string(raw))
			}
		}
		delete(got, "")
		for device := range got {
			if !slices.Equal(got[device], want[device]) {
				t.Errorf("lane %d has not all events of %s in order", i, device)
			}
		}
	}
	if n != len(w.Events) {
		t.Errorf("%d events in the lanes, want %d", n, len(w.Events))
	}
}
