package dedup_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

const hourly = "- clean: {}\n- dedup: {window: 1h}\n"

func page(id string, received time.Time, path int) pipeline.Record {
	return stagetest.Record("web", id, received, fmt.Sprintf(`{"type":"page","messageId":%q,"userId":"u1","properties":{"path":%d}}`, id, path))
}

// TestOracle compares a day of ids, of which many come again sooner or later, with a map: an id is known for the window, and
// at most a bucket longer.
func TestOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	r := stagetest.New(t, stages.Kinds, hourly)
	type first struct {
		at   time.Time
		path int
	}
	known := map[string]first{}
	now := stagetest.Start
	var dropped, conflicts, forgotten int
	for i := range 6000 {
		now = now.Add(time.Duration(random.IntN(15000)) * time.Millisecond)
		id, path := fmt.Sprintf("m%d", random.IntN(2000)), random.IntN(20)
		r.Feed(page(id, now, path))
		if i%37 == 0 {
			r.Commit()
		}
		if i%1999 == 0 {
			r.Commit()
			r.Rebuild()
		}
		r.Commit()
		lines := r.Lines()
		last := lines[len(lines)-1]
		f, seen := known[id]
		// The bucket of an id ends at most 150 s after it; Unix seconds are whole.
		bucketEnd := f.at.Unix() - f.at.Unix()%150 + 150
		switch {
		case seen && bucketEnd > now.Unix()-3600 && f.path == path:
			dropped++
			if !strings.HasSuffix(last, "dropped dedup/duplicate") {
				t.Fatalf("event %d: want a duplicate: %s", i, last)
			}
		case seen && bucketEnd > now.Unix()-3600:
			conflicts++
			if !strings.Contains(last, "dead dedup/id_conflict") {
				t.Fatalf("event %d: want a conflict: %s", i, last)
			}
		default:
			if seen {
				forgotten++
			}
			if !strings.Contains(last, ": resolved ") {
				t.Fatalf("event %d: want it let through: %s", i, last)
			}
			known[id] = first{now, path}
		}
	}
	if dropped < 50 || conflicts < 500 || forgotten < 500 {
		t.Errorf("%d dropped, %d conflicts, %d forgotten: the test says too little", dropped, conflicts, forgotten)
	}
}

// TestBusyBucket: filters grow, also when a transaction is undone in between, and every repeat is still found.
func TestBusyBucket(t *testing.T) {
	const n = 5000
	r := stagetest.New(t, stages.Kinds, hourly)
	feed := func(from, to int) {
		for i := from; i < to; i++ {
			r.Feed(page(fmt.Sprintf("m%d", i), stagetest.Start, i))
		}
	}
	feed(0, n/2)
	r.Commit()
	feed(n/2, n)
	r.Undo()
	feed(n/2, n)
	feed(0, n)
	r.Commit()
	passed, dropped := 0, 0
	for _, l := range r.Lines() {
		switch {
		case strings.Contains(l, ": resolved "):
			passed++
		case strings.HasSuffix(l, "dropped dedup/duplicate"):
			dropped++
		}
	}
	if passed != n || dropped != n {
		t.Errorf("%d passed and %d dropped, want %d each", passed, dropped, n)
	}
}

// TestStateShrinks: what is beyond the window leaves the store.
func TestStateShrinks(t *testing.T) {
	r := stagetest.New(t, stages.Kinds, hourly)
	for i := range 2000 {
		r.Feed(page(fmt.Sprintf("old%d", i), stagetest.Start, i))
	}
	r.Commit()
	for i := range 1000 {
		r.Feed(page(fmt.Sprintf("new%d", i), stagetest.Start.Add(2*time.Hour), i))
	}
	r.Commit()
	if keys := strings.Count(r.State(), "dedup plain"); keys < 1000 || keys > 1010 {
		t.Errorf("%d keys are left, want those of the last 1000 events", keys)
	}
}
