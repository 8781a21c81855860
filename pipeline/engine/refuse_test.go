package engine_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// TestRefusedEventIsUndone sends good and bad events in one batch: what a bad one has written in any stage of its task is
// undone, and that alone; what it has said is not said; its bytes are a dead letter.
func TestRefusedEventIsUndone(t *testing.T) {
	m := newMachine(t, testenv.Embedded(t))
	m.send("a", "resolve-refused", "b", "resolve-panic", "c", "resolve-key", "profile-refused", "d", "profile-panic", "e", "profile-key", "f")
	m.start()
	// The resolve task passes what the profile task refuses, so its numbers go on.
	m.tells("a 1 1", "b 2 2", "c 3 3", "d 5 4", "e 7 5", "f 9 6")
	var letters []string
	for _, r := range m.records("dead_letters") {
		l := pipeline.ParseDeadLetter(&r)
		_, raw, _ := bytes.Cut(l.Record.Value, []byte(`"event":"`))
		name, _, _ := bytes.Cut(raw, []byte(`"`))
		letters = append(letters, fmt.Sprintf("%s: %s in %s by %s", name, l.Code, l.Record.Topic, l.Stage))
	}
	slices.Sort(letters)
	want := []string{
		"profile-key: state_key_too_long in resolved by judge", "profile-panic: panic in resolved by judge", "profile-refused: judged in resolved by judge",
		"resolve-key: state_key_too_long in events by judge", "resolve-panic: panic in events by judge", "resolve-refused: judged in events by judge",
	}
	if !slices.Equal(letters, want) {
		t.Errorf("dead letters %q, want %q", letters, want)
	}
	if n := len(m.records("resolved")); n != 9 {
		t.Errorf("%d records in resolved, want the 9 events that the resolve task has passed", n)
	}
}

// TestUpdateDoesNotTellOfARefusedEvent has the real stage profile count orders, of which a later stage refuses one: the
// profile that is told at the commit must not hold it, although all three were in one object in memory.
func TestUpdateDoesNotTellOfARefusedEvent(t *testing.T) {
	m := newMachine(t, testenv.Embedded(t))
	real, problems, err := stagetest.Build(stages.Kinds, `[clean: {}, profile: {all: {count: events}}]`)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	m.plan.Resolve = real.Resolve
	m.plan.Profile = append(slices.Clone(real.Profile), pipeline.StagePlan{Kind: "judge", Code: 200, New: func() pipeline.Stage { return judge{pipeline.TaskProfile} }})
	m.send("a", "profile-refused")
	m.start()
	m.eventually(func() error {
		if len(m.records("dead_letters")) == 0 {
			return fmt.Errorf("no dead letter yet")
		}
		return nil
	})
	changes := slices.DeleteFunc(m.records("changes"), func(r pipeline.Record) bool { return bytes.Contains(r.Value, []byte(pipeline.IdentityIdentifier)) })
	if len(changes) != 1 {
		t.Fatalf("%d changes, want one profile", len(changes))
	}
	if !bytes.Contains(changes[0].Value, []byte(`"all":1`)) {
		t.Errorf("want a profile with one event: %s", changes[0].Value)
	}
}
