package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// A kind is a source, stage or sink that the YAML can name. Kinds stand in plain lists (stages.Kinds, …); nothing registers
// itself. Config is what users write, Deps what the program supplies.
//
// Config returns a pointer to a struct with yaml tags, defaults filled in; package config decodes into it, strictly. Build
// checks what the types cannot say and compiles expressions; it returns every problem, not the first, and touches nothing
// outside (no file, no network): `millstream lint` runs it.

// StageKind describes a stage.
type StageKind struct {
	Name    string   // as in the YAML
	Task    string   // TaskResolve or TaskProfile
	Code    byte     // first byte of its keys in the task's store, from 1 (0 is the engine's); never changes
	Summary string   // one line, for help and the reference
	After   []string // names of the stages without which it would do nothing; they must stand before it
	Around  []string // names of the stages that may stand before or after it, whatever the order of the kinds
	Config  func() any
	Build   func(config any, env *Env) (func() Stage, []Problem)
}

// SourceKind describes a source.
type SourceKind struct {
	Name    string
	Summary string
	Resumes bool // its sources are Resumers
	Config  func() any
	Build   func(name string, config any, env *Env) (func(ctx context.Context, d Deps) (Source, error), []Problem)
}

// SinkKind describes a sink. Open returns a Sink or a RangeSink.
type SinkKind struct {
	Name    string
	Summary string
	Topics  []string // what it reads, without the pipeline's prefix
	Config  func() any
	Build   func(name string, config any, env *Env) (func(ctx context.Context, d Deps) (any, error), []Problem)
}

// Deps is what the program supplies when a source or sink is opened. Open may wait for a service until ctx ends; it says
// so in one log line.
type Deps struct {
	Logger *slog.Logger
	// Data is a folder of its own for this source or sink.
	Data string
	// ClickHouse returns the address of the embedded ClickHouse, starting it if needed: http://user:password@host:port.
	ClickHouse func(ctx context.Context) (string, error)
	// Kafka connects to a cluster, at nil to the pipeline's own. Who opens a client closes it.
	Kafka func(ctx context.Context, at *KafkaAddress) (KafkaClient, error)
	// Say tells the operator one line on standard error, such as "http http://127.0.0.1:8080".
	Say func(line string)
	// Clock is by which a source stamps what it receives; nil is time.Now. See Now.
	Clock func() time.Time
}

// Now is the time by the clock.
func (d *Deps) Now() time.Time {
	if d.Clock == nil {
		return time.Now()
	}
	return d.Clock()
}

// Tasks of a pipeline. A sink's task is "sink.<name>".
const (
	TaskResolve = "resolve"
	TaskProfile = "profile"
)

// Env is what is known about the pipeline while its parts are built, in YAML order: stages before sinks.
type Env struct {
	Pipeline   string
	Partitions int32 // of the pipeline's topics
	Identities *Identities
	Attributes []Attribute // what the stages so far have declared
	Hidden     []Hidden    // what stages after `profile` have required of it
	// Nobody is a profile without events, as the stages after `profile` will read it; set by `profile`, and complete when the
	// first instance of a stage is made.
	Nobody    ProfileState
	Segments  []string // what the stage `segment` has declared
	Stitching bool     // the stage `identity` is there: profiles can merge and split
	Scores    []string // what the stage `score` has declared; each is an attribute, too
	// Watched are the values at which somebody who reads a score wants it to be looked at, by the score's name: a segment may
	// begin or end there.
	Watched map[string][]float64
	// Deltas are the changes of a score that some sink waits for, by the score's name.
	Deltas map[string][]float64
	// Horizon is how far back the resolve task must remember, set by dedup; the changelog of its state is kept that long.
	Horizon time.Duration
}

// Declare adds an attribute and returns its index.
func (e *Env) Declare(name string, t AttributeType) (int, error) {
	for _, a := range e.Attributes {
		if a.Name == name {
			return 0, fmt.Errorf("%q is declared twice", name)
		}
	}
	if len(e.Attributes)+len(e.Hidden) >= MaxAttributes-1 {
		return 0, fmt.Errorf("more than %d attributes", MaxAttributes-1)
	}
	i := len(e.Attributes)
	e.Attributes = append(e.Attributes, Attribute{Name: name, Type: t, Index: i})
	return i, nil
}

// Watch asks for a look at a score when it passes a value.
func (e *Env) Watch(score string, value float64) {
	if e.Watched == nil {
		e.Watched = map[string][]float64{}
	}
	if !slices.Contains(e.Watched[score], value) {
		e.Watched[score] = append(e.Watched[score], value)
	}
}

// Delta asks for a message when a score has changed by so much since the last message for that reason.
func (e *Env) Delta(score string, by float64) {
	if e.Deltas == nil {
		e.Deltas = map[string][]float64{}
	}
	if !slices.Contains(e.Deltas[score], by) {
		e.Deltas[score] = append(e.Deltas[score], by)
	}
}

// Hidden is an aggregate over the track events of a person that a stage after `profile` needs and no user has declared. The
// stage `profile` keeps it like its own, and shows it in no document. ProfileState.Value has it by Attribute.Name.
type Hidden struct {
	Attribute
	// Events are names of track events. One: the value is the time of the latest of them. Several: whether they happened in
	// this order, with at most Within from the first to the last.
	Events []string
	Within time.Duration
	// Past, if set, asks for that instead.
	Past Past
}

// Require asks the stage `profile` for a hidden aggregate; the same one is kept once. It is known to the stage when the first
// instance is made, so stages after it in the YAML can require.
func (e *Env) Require(events []string, within time.Duration) (Attribute, error) {
	h := Hidden{Events: events, Within: within}
	if len(events) == 1 {
		h.Name, h.Type = fmt.Sprintf("latest %q", events[0]), Time
	} else {
		h.Name, h.Type = fmt.Sprintf("sequence %q within %s", events, Duration(within)), Bool
	}
	return e.require(h)
}

// RequirePast asks the stage `profile` for a part of the past; ProfileState.Value has a Decayed or Purchases under its name.
func (e *Env) RequirePast(p Past) (Attribute, error) {
	return e.require(Hidden{Attribute: Attribute{Name: p.name()}, Past: p})
}

func (e *Env) require(h Hidden) (Attribute, error) {
	for i := range e.Hidden {
		if e.Hidden[i].Name == h.Name {
			return e.Hidden[i].Attribute, nil
		}
	}
	if len(e.Attributes)+len(e.Hidden) >= MaxAttributes-1 {
		return Attribute{}, fmt.Errorf("more than %d attributes, with those that conditions and scores need", MaxAttributes-1)
	}
	h.Index = TraitsIndex - 1 - len(e.Hidden)
	e.Hidden = append(e.Hidden, h)
	return h.Attribute, nil
}

// Attribute finds a declared attribute by name.
func (e *Env) Attribute(name string) (Attribute, bool) {
	for _, a := range e.Attributes {
		if a.Name == name {
			return a, true
		}
	}
	return Attribute{}, false
}

// Problem is one thing that is wrong in a configuration.
type Problem struct {
	// Path leads from the kind's own config to the value, keys of mappings and numbers of sequences: {"vip"}, {"map",
	// "user_id"}, {"ids", "0"}. Empty: the config as a whole.
	Path []string
	// Column is the place inside a scalar (an expression), counted in characters from 0; 0 also if unknown.
	Column  int
	Message string // what is wrong and what to do, one sentence, no secret values
}

// Problemf makes a Problem.
func Problemf(path []string, format string, args ...any) Problem {
	return Problem{Path: path, Message: fmt.Sprintf(format, args...)}
}
