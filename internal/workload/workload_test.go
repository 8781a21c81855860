package workload

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

func TestSameOptionsGiveTheSameBytes(t *testing.T) {
	o := Options{Events: 5000, Seed: 7, Start: time.UnixMilli(1_700_000_000_000)}
	a, b := New(o), New(o)
	for i := range a.Events {
		if !bytes.Equal(a.Events[i].JSON, b.Events[i].JSON) {
			t.Fatalf("event %d differs: %s and %s", i, a.Events[i].JSON, b.Events[i].JSON)
		}
	}
	o.Seed = 8
	if bytes.Equal(New(o).Events[0].JSON, a.Events[0].JSON) {
		t.Error("another seed gives the same first event")
	}
}

func TestTruthIsWhatIsSent(t *testing.T) {
	w := New(Options{Events: 20_000, Seed: 1, Start: time.UnixMilli(1_700_000_000_000)})
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
		var v struct{ Event string }
		if err := json.Unmarshal(e.JSON, &v); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if v.Event == "Order Completed" {
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
