// Package sinktest holds the tests that every pipeline.Sink must pass, on the real state store.
package sinktest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/state"
)

// Subject is a sink with the outside that it writes to.
type Subject struct {
	// Open returns a new instance on the same outside; a second call stands for a restart of the process.
	Open func(t *testing.T) pipeline.Sink
	// Received returns the ids of the messages that the outside holds, repetitions included, those of one profile in the
	// order in which they arrived.
	Received func(t *testing.T) []pipeline.ID
	// Hang makes the outside stop answering until the test ends. Nil: it cannot hang.
	Hang func(t *testing.T)
	// ExactlyOnce says that a repeated write leaves no repetition outside. Without it the outside may hold repetitions,
	// under the same ids.
	ExactlyOnce bool
	// Commit writes the records of the outcomes (Outcome.Record) as the engine's transaction does. Nil: there are none.
	Commit func(t *testing.T, records []pipeline.Record)
}

// hanging is the test for an outside that can hang.
const hanging = "returns while the outside hangs"

// Run runs the suite; start makes a new outside for each test.
func Run(t *testing.T, start func(t *testing.T) Subject) {
	canHang := start(t).Hang != nil
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"one outcome per attempt in order", outcomes},
		{"nothing to write", nothing},
		{"repeats after a crash", repeats},
		{"goes on after a restart", goesOn},
		{"partitions at once", atOnce},
		{hanging, hangs},
		{"returns when it is cancelled", cancelled},
		{"closes twice", closes},
	} {
		if test.name == hanging && !canHang {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, start(t))
		})
	}
}

// writeMax is what the contract gives a Write.
const writeMax = 5 * time.Second

// internal are the messages for the tables alone, by the number of the record that they replace in outcomes.
func internal() map[int]string {
	return map[int]string{11: pipeline.SegmentCarried, 12: pipeline.SegmentPassed, 13: pipeline.IdentityMerge, 14: pipeline.IdentityOverride, 15: pipeline.IdentityIdentifier,
		16: pipeline.IdentityErased}
}

// outcomes mixes good messages, with and without a profile, with one that cannot be read and those for the tables alone.
func outcomes(t *testing.T, s Subject) {
	p := newPartition(t, s, 0)
	sink := s.Open(t)
	defer sink.Close()
	records := Records(0, 0, 20)
	records[7].Value = []byte(`{"type":`)
	for i, kind := range internal() {
		m := Message(0, i)
		m.Type = kind
		records[i].Value = m.AppendJSON(nil)
	}
	for i, kind := range []string{pipeline.ProfileMerged, pipeline.ProfileSplit, pipeline.ProfileErased} {
		m := Message(0, i)
		m.Type, m.Data = kind, []byte(`{"profile_id":"x","into":"y","from":"z","rule":"merge","reason":"","message_id":"m"}`)
		records[i].Value = m.AppendJSON(nil)
	}

	got := p.write(t, sink, attempts(records), true)
	var want []pipeline.ID
	for i, o := range got {
		switch {
		case i == 7:
			if o.Kind != pipeline.Rejected || o.Code == "" || o.Reason == "" {
				t.Errorf("outcome of the record that cannot be read is %+v, want rejected with code and reason", o)
			}
		case internal()[i] != "":
			if o.Kind != pipeline.Unchanged {
				t.Errorf("outcome of the record %s for the tables alone is %+v, want unchanged", internal()[i], o)
			}
		default:
			want = append(want, Message(0, i).ID)
			if o.Kind != pipeline.Delivered {
				t.Errorf("outcome %d is %+v, want delivered", i, o)
			}
		}
	}
	s.holds(t, want, true)
}

func nothing(t *testing.T, s Subject) {
	sink := s.Open(t)
	defer sink.Close()
	if got := newPartition(t, s, 0).write(t, sink, nil, true); len(got) != 0 {
		t.Errorf("no attempts gave %d outcomes", len(got))
	}
	s.holds(t, nil, true)
}

// repeats writes, loses the transaction and the process, and writes the same records and more of them.
func repeats(t *testing.T, s Subject) {
	p := newPartition(t, s, 0)
	records := Records(0, 0, 30)
	first := s.Open(t)
	before := p.write(t, first, attempts(records[:20]), false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := s.Open(t)
	defer second.Close()
	after := p.write(t, second, attempts(records), true)
	for i := range before {
		if before[i].Kind != after[i].Kind || before[i].Code != after[i].Code {
			t.Errorf("outcome %d was %+v and is %+v after the crash", i, before[i], after[i])
		}
	}
	s.holds(t, ids(0, 0, 30), s.ExactlyOnce)
}

func goesOn(t *testing.T, s Subject) {
	p := newPartition(t, s, 0)
	for part := range 3 {
		sink := s.Open(t)
		p.write(t, sink, attempts(Records(0, part*10, 10)), true)
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.holds(t, ids(0, 0, 30), true)
}

func atOnce(t *testing.T, s Subject) {
	sink := s.Open(t)
	defer sink.Close()
	var all []pipeline.ID
	var writers sync.WaitGroup
	for n := range int32(4) {
		p := newPartition(t, s, n)
		all = append(all, ids(n, 0, 40)...)
		writers.Go(func() {
			for part := range 4 {
				for i, o := range p.write(t, sink, attempts(Records(n, part*10, 10)), true) {
					if o.Kind != pipeline.Delivered {
						t.Errorf("partition %d, outcome %d is %+v", n, i, o)
					}
				}
			}
		})
	}
	writers.Wait()
	s.holds(t, all, true)
}

func hangs(t *testing.T, s Subject) {
	s.Hang(t)
	sink := s.Open(t)
	defer sink.Close()
	for i, o := range newPartition(t, s, 0).write(t, sink, attempts(Records(0, 0, 200)), true) {
		if o.Kind != pipeline.RetryAt || o.At.IsZero() {
			t.Fatalf("outcome %d is %+v, want a time to try again", i, o)
		}
	}
}

// cancelled: nothing may be known afterwards, but Write returns.
func cancelled(t *testing.T, s Subject) {
	if s.Hang != nil {
		s.Hang(t)
	}
	sink := s.Open(t)
	defer sink.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tx := newPartition(t, s, 0).part.Begin()
	defer tx.Discard()
	start := time.Now()
	got, err := sink.Write(ctx, tx.Stage(1), attempts(Records(0, 0, 20)))
	if took := time.Since(start); took > writeMax {
		t.Errorf("write took %s", took)
	}
	if err == nil && len(got) != 20 {
		t.Errorf("write returned %d outcomes for 20 attempts, and no error", len(got))
	}
}

func closes(t *testing.T, s Subject) {
	sink := s.Open(t)
	newPartition(t, s, 0).write(t, sink, attempts(Records(0, 0, 3)), true)
	for range 2 {
		if err := sink.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// holds checks what the outside holds: all of want, those of each profile in order of their first arrival, and nothing else.
func (s Subject) holds(t *testing.T, want []pipeline.ID, once bool) {
	t.Helper()
	byProfile := func(list []pipeline.ID) map[pipeline.ID][]pipeline.ID {
		m := map[pipeline.ID][]pipeline.ID{}
		for _, id := range list {
			profile := profileOf(id)
			if !once && slices.Contains(m[profile], id) {
				continue
			}
			m[profile] = append(m[profile], id)
		}
		return m
	}
	got, wanted := byProfile(s.Received(t)), byProfile(want)
	for profile, list := range wanted {
		if !slices.Equal(got[profile], list) {
			t.Errorf("of profile %s the outside holds\n%v, want\n%v", profile, got[profile], list)
		}
		delete(got, profile)
	}
	for profile, list := range got {
		t.Errorf("of profile %s the outside holds %v, want nothing", profile, list)
	}
}

// partition is the sink's own store for one partition.
type partition struct {
	subject Subject
	part    *state.Partition
	number  uint64
}

func newPartition(t *testing.T, subject Subject, number int32) *partition {
	t.Helper()
	store, err := state.Open(filepath.Join(t.TempDir(), "state"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	part, err := store.Partition("changes", number)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { part.Close() })
	return &partition{subject: subject, part: part}
}

// write calls Write as the engine does, within its time, and commits or loses the transaction.
func (p *partition) write(t *testing.T, sink pipeline.Sink, list []pipeline.Attempt, commit bool) []pipeline.Outcome {
	t.Helper()
	tx := p.part.Begin()
	defer tx.Discard()
	start := time.Now()
	got, err := sink.Write(t.Context(), tx.Stage(1), list)
	if took := time.Since(start); took > writeMax {
		t.Errorf("write took %s, the contract gives it %s", took, writeMax)
	}
	if err != nil {
		t.Errorf("write: %v", err)
		return make([]pipeline.Outcome, len(list))
	}
	if len(got) != len(list) {
		t.Errorf("write returned %d outcomes for %d attempts", len(got), len(list))
		return make([]pipeline.Outcome, len(list))
	}
	if commit {
		p.commit(t, got)
		p.number++
		if err := tx.Commit(state.Position{Number: p.number}); err != nil {
			t.Errorf("commit: %v", err)
		}
	}
	return got
}

// commit hands the records of the outcomes over.
func (p *partition) commit(t *testing.T, outcomes []pipeline.Outcome) {
	t.Helper()
	var records []pipeline.Record
	for i := range outcomes {
		if r := outcomes[i].Record; r != nil {
			if outcomes[i].Kind != pipeline.Delivered {
				t.Errorf("outcome %d has a record and is %+v", i, outcomes[i])
			}
			records = append(records, *r)
		}
	}
	switch {
	case len(records) == 0:
	case p.subject.Commit == nil:
		t.Error("the outcomes have records, which nobody writes")
	default:
		p.subject.Commit(t, records)
	}
}

// profilesPer is how many profiles the records of one partition belong to, in turn.
const profilesPer = 5

// Message returns message n of a partition: a profile enters a segment. The first 8 characters of its id tell the profile.
func Message(partition int32, n int) *pipeline.Message {
	profile := pipeline.HashID([]byte("profile"), strconv.AppendInt(nil, int64(partition), 10), strconv.AppendInt(nil, int64(n%profilesPer), 10))
	id := pipeline.HashID([]byte("message"), strconv.AppendInt(nil, int64(partition), 10), strconv.AppendInt(nil, int64(n), 10))
	copy(id[:4], profile[:4])
	return &pipeline.Message{
		ID: id, Type: pipeline.SegmentEntered, Timestamp: pipeline.Millis(1767323045678 + int64(n)), ProfileID: profile,
		Data: fmt.Appendf(nil, `{"transition_id":%q,"segment":"vip","cause":"live","profile":{"profile_id":%q,"previous_ids":[],"identifiers":{"user_id":["u%d"],"email":["u%d@example.com"]},`+
			`"traits":{"plan":"gold"},"aggregates":{"orders_90d":%d},"segments":["vip"],"scores":{},"first_seen":1767000000,"last_seen":1767323045}}`, id, profile, n, n, n),
		Meta: []byte(`{"delta":1}`),
	}
}

func profileOf(message pipeline.ID) (start pipeline.ID) {
	copy(start[:4], message[:4])
	return start
}

// Records returns n records of `changes` from offset first on.
func Records(partition int32, first, n int) []pipeline.Record {
	records := make([]pipeline.Record, n)
	for i := range records {
		m := Message(partition, first+i)
		records[i] = pipeline.Record{
			Topic: "changes", Partition: partition, Offset: int64(first + i), Time: m.Timestamp,
			Key: []byte(m.ProfileID.String()), Value: m.AppendJSON(nil),
		}
	}
	return records
}

func ids(partition int32, first, n int) []pipeline.ID {
	list := make([]pipeline.ID, n)
	for i := range list {
		list[i] = Message(partition, first+i).ID
	}
	return list
}

func attempts(records []pipeline.Record) []pipeline.Attempt {
	list := make([]pipeline.Attempt, len(records))
	for i := range records {
		list[i] = pipeline.Attempt{Record: &records[i], Number: 1, QueuedAt: time.Now()}
	}
	return list
}
