package pipeline

import (
	"context"
	"time"
)

// Plan is a pipeline, checked and compiled: what package config makes of the YAML and the engine runs.
type Plan struct {
	Name string // topic prefix, database, group prefix
	Hash uint64 // of the configuration; stands in every position and in table events
	// Partitions is fixed at the first start.
	Partitions int32
	// Brokers of Apache Kafka; empty: the embedded broker.
	Brokers []string
	Kafka   Kafka
	Commit  time.Duration // commit interval of every task, 50 ms unless set

	Horizon time.Duration // Env.Horizon after all stages were built

	Identities *Identities
	Stitching  bool // Env.Stitching after all stages were built
	Attributes []Attribute
	Sources    []SourcePlan
	Resolve    []StagePlan // stages of the resolve task, in order
	Profile    []StagePlan // stages of the profile task, in order
	Sinks      []SinkPlan
}

// SourcePlan is one source.
type SourcePlan struct {
	Name string
	Kind string
	// Resumes says that Open returns a Resumer.
	Resumes bool
	Open    func(ctx context.Context, d Deps) (Source, error)
}

// StagePlan is one stage of a task.
type StagePlan struct {
	Kind string
	Code byte
	New  func() Stage
	// Config is what the YAML says, a pointer to the kind's own type, for those who explain what a stage did. Read only.
	Config any
}

// SinkPlan is one sink.
type SinkPlan struct {
	Name   string
	Kind   string
	Topics []string // what it reads, without the pipeline's prefix
	// When tells whether a record of `changes` is for this sink; nil: all are. It is safe for concurrent use.
	When func(m *Message) (bool, error)
	Open func(ctx context.Context, d Deps) (any, error) // a Sink or a RangeSink
	// Config is what the YAML says, a pointer to the kind's own type, for those who look at what a sink has written. Read only.
	Config any
}
