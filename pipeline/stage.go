package pipeline

import (
	"context"
	"fmt"
	"time"
)

// Stage is one step of a task. The engine calls Process for one event at a time per partition, in order; every partition
// has its own instance.
//
// Process is a pure function of (tx, ev): no clock (now is ev.ReceivedAt, which never goes back within a partition), no
// randomness, no network, no goroutines. What an instance keeps in memory besides tx is a cache: correct when empty, and
// allowed to hold more than tx after a rollback, never to hold other values.
//
// Each call ends in exactly one of: emit.Event, emit.Drop, or an error. A *RejectError says that the event is bad: every
// write of that event in the whole task is undone and the event becomes a dead letter; a panic is treated the same, with
// code "panic". Any other error is tried again three times and then stops the partition, loudly.
type Stage interface {
	Process(ctx context.Context, tx Tx, ev *Event, emit Emit) error
}

// Emit takes what a stage has to say about the event in hand. It is valid only during that call of Process.
type Emit interface {
	// Event hands the event to the next stage of the task; after the last one the engine takes it.
	Event(ev *Event) error
	// Message adds one message to the topic `changes`. It is dropped if the event is rejected later in the task.
	Message(m Message)
	// Wake asks for an event of type evaluate for the event's profile at that time, in the future of the event. Of all that the
	// stages ask for during one event the earliest counts; it replaces what earlier events of the profile asked for, so a
	// stage that still waits for something asks again each time. The evaluation has Cause timer and exactly that Time, which is
	// its Event.Now. It comes before every event of the profile that was received then or later: what time changes is looked
	// at then, and not at other events.
	Wake(at time.Time)
	// Drop ends the event on purpose, for a reason that is counted, such as "duplicate". Nothing else may drop an event.
	Drop(reason string)
}

// FragmentKeeper is a stage of the profile task whose state lies in fragments, one per profile and primary. When people merge
// or split, fragments move from profile to profile, and their contents stay as they are.
type FragmentKeeper interface {
	Stage
	// Take removes a fragment and returns its contents, nil if there is none.
	Take(tx Tx, profile, primary ID) ([]byte, error)
	// Put adds the contents that Take returned, to what is there already. There may be something: events overtake moves.
	Put(tx Tx, profile, primary ID, contents []byte) error
}

// IdentifierShower is a FragmentKeeper that tells which identifiers the events of a fragment have shown, by type name and value.
type IdentifierShower interface {
	FragmentKeeper
	Identifiers(tx Tx, profile, primary ID) ([]Identifier, error)
}

// DecisionKeeper is a stage of the profile task that keeps a decision per profile, such as its segments. It goes with the
// profile's own identifier: a profile that is merged into another brings what was decided of it; a part that splits off
// starts with nothing.
type DecisionKeeper interface {
	Stage
	// Depart ends the decisions about a profile whose own identifier has moved into another profile. It removes what the stage
	// keeps and returns what Inherit of the other needs, nil if nothing. ev is of type evaluate: its Canonical is the profile
	// that departs, its Turn the turn in which it does.
	Depart(tx Tx, ev *Event, emit Emit) ([]byte, error)
	// Inherit tells the stage what a profile that was merged into this one brought. The next evaluation decides about it.
	Inherit(tx Tx, profile ID, decisions []byte) error
}

// Tx is the private key space of one stage in one partition, inside the running transaction. It is used by one goroutine.
// Reads see own writes. Keys are at most 1 KiB, values at most 1 MiB.
type Tx interface {
	// Get returns the value of a plain key, nil if absent. The bytes are valid until the next call on tx.
	Get(key []byte) ([]byte, error)
	// Set writes a plain key; it copies both.
	Set(key, value []byte)
	// Delete removes a plain or folded key.
	Delete(key []byte)
	// Scan visits the plain keys with that prefix in byte order, own writes included. fn must not write.
	Scan(prefix []byte, fn func(key, value []byte) error) error
	// DeleteRange removes the plain keys in [from, to). Only tasks whose changelog is deleted by time have it (resolve).
	DeleteRange(from, to []byte) error

	// Load returns the decoded value of a folded key, empty() if absent. The object belongs to the store: read it during
	// this call of Process, never change it.
	Load(key []byte, empty func() Folded) (Folded, error)
	// Merge folds one delta into a folded key and returns the object. It is the only way to change a folded value, so that
	// the object in memory is always what a replay of the log gives.
	Merge(key []byte, empty func() Folded, delta []byte) (Folded, error)
}

// Folded is the decoded form of a value that is stored as a full state and deltas: an event costs a delta of some bytes
// instead of the whole profile.
type Folded interface {
	// Fold applies one delta and must not keep its bytes. After an error the value is unusable and is decoded again.
	Fold(delta []byte) error
	// Encode appends the full state, format byte first.
	Encode(dst []byte) []byte
	// Decode replaces the contents with a full state; a newer format is refused by name.
	Decode(full []byte) error
	// Size is the memory that the object takes, in bytes.
	Size() int
}

// RejectError says that an event is bad, not the system. The text reaches operators and the table dead_letters: it names
// the field and the rule, never the customer's value.
type RejectError struct {
	Stage  string // set by the engine
	Code   string // stable word for filters and metrics, snake_case, such as "type_missing"
	Reason string // one sentence
}

// Reject returns a *RejectError.
func Reject(code, format string, args ...any) *RejectError {
	return &RejectError{Code: code, Reason: fmt.Sprintf(format, args...)}
}

func (e *RejectError) Error() string {
	if e.Stage == "" {
		return e.Code + ": " + e.Reason
	}
	return e.Stage + ": " + e.Code + ": " + e.Reason
}
