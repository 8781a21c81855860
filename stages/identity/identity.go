// Package identity is the stage that finds the person of an event: one person out of many devices and accounts.
//
// An event that carries several identifiers states that they belong to one person. The stage asks the engine to write what is
// new of that to the link log, and reads from the process's replica of the log, see package pipeline/links, who the person
// is. What an event states is never guessed further: a link that would break a limit is refused and kept as evidence.
package identity

import (
	"context"
	"fmt"

	"github.com/millstream-io/millstream/pipeline"
)

// Kind describes the stage.
var Kind = pipeline.StageKind{
	Name:    "identity",
	Task:    pipeline.TaskResolve,
	Code:    3,
	Summary: "finds the person of each event by the identifiers that events state together",
	After:   []string{"clean"},
	Config:  func() any { return &Config{} },
	Build:   build,
}

// stage serves one partition.
type stage struct {
	links   pipeline.Links
	unknown []pipeline.Link // scratch
}

var _ pipeline.Linker = (*stage)(nil)

// Use is of pipeline.Linker.
func (s *stage) Use(links pipeline.Links) { s.links = links }

// Links appends what the event states for the first time: that its strongest identifier and each other one are one person.
func (s *stage) Links(dst []pipeline.Statement, ev *pipeline.Event) []pipeline.Statement {
	if len(ev.Identifiers) < 2 {
		return dst
	}
	s.unknown = s.links.Unknown(s.unknown[:0], ev.Identifiers)
	for _, l := range s.unknown {
		dst = append(dst, pipeline.Statement{Link: l, MessageID: ev.MessageID, At: ev.ReceivedAt})
	}
	return dst
}

// Process sets the event's primary, its person and the offset of the last change of that. It keeps no state of its own and
// refuses nothing; an event without identifiers passes without a person.
func (s *stage) Process(_ context.Context, _ pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	if len(ev.Identifiers) == 0 {
		return emit.Event(ev)
	}
	r, err := s.links.Resolve(ev.Identifiers)
	if err != nil {
		return fmt.Errorf("find the person of partition %d, offset %d: %w", ev.Partition, ev.Offset, err)
	}
	ev.Primary, ev.Canonical, ev.IDV, ev.Owners = r.Primary, r.Canonical, r.IDV, r.Owners
	return emit.Event(ev)
}
