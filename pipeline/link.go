package pipeline

import "time"

// Link says that two identifiers belong to one person: the strongest identifier of an event, the hub, and another one of it.
type Link struct {
	Strong, Weak ID
}

// Statement is a link with the event that states it first.
type Statement struct {
	Link
	MessageID string
	At        time.Time // when the event was received
}

// Resolution is what the link log says about an event's identifiers.
type Resolution struct {
	Primary   ID
	Canonical ID
	IDV       uint64
	Owners    []Owner
}

// Links is a process's replica of the link log: what the links that it has applied say. It is safe for concurrent use.
type Links interface {
	// Unknown appends the links that the identifiers of one event, strongest first, state and the replica has not applied.
	Unknown(dst []Link, ids []Identifier) []Link
	// Resolve finds the person of an event with these identifiers, strongest first; at least one.
	Resolve(ids []Identifier) (Resolution, error)
}

// Linker is a stage of the resolve task that needs the link log. Before it sees a batch, the engine writes the links that
// the events of the batch state to the log, and waits until the replica has them.
type Linker interface {
	Stage
	// Use hands over the replica, before the first event.
	Use(links Links)
	// Links appends the links that the event states and the replica does not know.
	Links(dst []Statement, ev *Event) []Statement
}
