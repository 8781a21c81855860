package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// stubborn is a Sink that asks for another try until it is told to give in.
type stubborn struct {
	mu      sync.Mutex
	writes  []string // ids of the attempts of each write, with the number of the try
	givesIn bool
	broken  int // number of the write that breaks the contract, 0: none
}

func (s *stubborn) Write(_ context.Context, _ pipeline.Tx, attempts []pipeline.Attempt) ([]pipeline.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, a := range attempts {
		ids = append(ids, fmt.Sprintf("%s#%d", a.Record.Header(pipeline.HeaderID), a.Number))
	}
	s.writes = append(s.writes, strings.Join(ids, " "))
	if len(s.writes) == s.broken {
		return nil, nil
	}
	outcomes := make([]pipeline.Outcome, len(attempts)) // delivered
	for i := range outcomes {
		if !s.givesIn {
			outcomes[i] = pipeline.Outcome{Kind: pipeline.RetryAt, At: time.Now().Add(20 * time.Millisecond), Delivery: &pipeline.Delivery{}}
		}
	}
	return outcomes, nil
}

func (s *stubborn) Close() error { return nil }

// since waits until there are so many writes after the first n, and returns all of those.
func (s *stubborn) since(m *machine, n, many int) (writes []string) {
	m.t.Helper()
	m.eventually(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if writes = s.writes[n:]; len(writes) < many {
			return fmt.Errorf("writes %q, want %d after the first %d", s.writes, many, n)
		}
		return nil
	})
	return writes
}

func (s *stubborn) giveIn() (writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.givesIn = true
	return len(s.writes)
}

// TestWaitingRecordsOutliveTheProcess has a sink ask for another try and the process end, twice: on an empty data folder,
// and although no record comes, the waiting record is tried again, and later ones of its key wait behind it.
func TestWaitingRecordsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	s := &stubborn{}
	m.sink(s)
	m.send("a")
	r := m.start()
	s.since(m, 0, 2)
	r.drain()
	if s.writes[0] != "a#1" || s.writes[1] != "a#2" {
		t.Errorf("writes %q, want a for the first time and for the second", s.writes)
	}

	m.data = t.TempDir()
	before := len(s.writes)
	r = m.start()
	if again := s.since(m, before, 1); again[0] != fmt.Sprintf("a#%d", before+1) {
		t.Errorf("after a restart the first write is %q, want try %d of a", again[0], before+1)
	}
	m.send("b") // of the same key
	m.committed("sink.out", "events", 2)
	r.drain()

	m.data = t.TempDir()
	before = s.giveIn()
	m.start()
	if again := s.since(m, before, 1); !strings.HasPrefix(again[0], "a#") || !strings.Contains(again[0], " b#") {
		t.Errorf("after another restart the first write is %q, want a and b", again[0])
	}
	for _, w := range s.since(m, 0, 1) {
		if strings.HasPrefix(w, "b#") {
			t.Errorf("write %q overtakes a", w)
		}
	}
}

// TestWaitingRecordsOutliveAnError has a sink break its contract when the waiting record is due: the record is due again.
func TestWaitingRecordsOutliveAnError(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	s := &stubborn{broken: 2}
	m.sink(s)
	m.send("a")
	m.start()
	if writes := s.since(m, 0, 4); strings.Join(writes[:4], ", ") != "a#1, a#2, a#2, a#3" {
		t.Errorf("writes %q, want a#1, a#2 in vain, a#2, a#3", writes)
	}
}
