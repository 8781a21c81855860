// Package kafka is the source `kafka`: JSON records of a topic that other programs write, on the pipeline's own cluster or on
// another one.
//
// The position (the next offset of each partition) is committed with the events, so each record becomes an event exactly
// once, also across kill -9. One process reads all partitions, the one that owns partition 0 of `events`.
//
// A record is never lost and never stops the topic: one that makes no event travels on as the bytes that it is, and becomes a
// dead letter. An event without a message id of its own gets one from the source, the topic, and the record's partition and
// offset, so two identical records are two events.
//
//	config.go     what users write
//	kafka.go      the source: from partitions to batches
//	topic.go      which partitions there are, and where to begin
//	partition.go  one partition, record by record
//	event.go      one record to one event
//	position.go   what is stored
package kafka

import (
	"context"
	"fmt"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/mapping"
)

// Config is what users write under `kafka`.
type Config struct {
	// Topic is what is read. It need not exist yet.
	Topic string `yaml:"topic"`
	// Brokers, TLS and SASL are those of another cluster; without them it is the pipeline's own.
	Brokers pipeline.KafkaBrokers `yaml:"brokers"`
	TLS     pipeline.KafkaTLS     `yaml:"tls"`
	SASL    *pipeline.KafkaSASL   `yaml:"sasl"`
	// From is where the first start begins: oldest or newest.
	From string `yaml:"from"`
	// Key is the field of the event that takes the record's key, such as user_id or message_id.
	Key string `yaml:"key"`
	// Set, Map and Expr say how a record becomes an event: see package mapping. Without them, records are events already.
	Set  map[string]any    `yaml:"set"`
	Map  map[string]string `yaml:"map"`
	Expr map[string]string `yaml:"expr"`
	// TimeFormat is how what is mapped to timestamp is written: see mapping.ParseTimeFormat. Times without an offset are UTC.
	TimeFormat string `yaml:"time_format"`
}

// Kind describes the source to package config.
var Kind = pipeline.SourceKind{
	Name:    "kafka",
	Summary: "JSON records of a topic that other programs write, on this cluster or another one, each exactly once",
	Resumes: true,
	Config:  func() any { return &Config{From: oldest} },
	Build: func(name string, config any, env *pipeline.Env) (func(context.Context, pipeline.Deps) (pipeline.Source, error), []pipeline.Problem) {
		f, problems := compile(*config.(*Config), env)
		if problems != nil {
			return nil, problems
		}
		return func(ctx context.Context, d pipeline.Deps) (pipeline.Source, error) {
			client, err := d.Kafka(ctx, f.address)
			if err != nil {
				return nil, fmt.Errorf("source %s: %w", name, err)
			}
			return newSource(name, f, client, d), nil
		}, nil
	},
}

// form is a checked configuration.
type form struct {
	topic   string
	address *pipeline.KafkaAddress // nil: the pipeline's cluster
	newest  bool
	mapping *mapping.Mapping // nil: records are events
}

const (
	oldest = "oldest"
	newest = "newest"
)

// compile returns the form, or everything that is wrong.
func compile(c Config, env *pipeline.Env) (*form, []pipeline.Problem) {
	f := &form{topic: c.Topic, newest: c.From == newest}
	access := pipeline.KafkaAccess{Brokers: c.Brokers, TLS: c.TLS, SASL: c.SASL}
	address, ps := access.CheckOther()
	f.address = address
	if err := pipeline.CheckKafkaTopic(c.Topic, env.Pipeline, len(c.Brokers) == 0); err != nil {
		ps = append(ps, pipeline.Problemf([]string{"topic"}, "%s", err))
	}
	if c.From != oldest && c.From != newest {
		ps = append(ps, pipeline.Problemf([]string{"from"}, "from is %q: write %s, or %s to leave out what is in the topic at the first start", c.From, oldest, newest))
	}
	if len(c.Set)+len(c.Map)+len(c.Expr) == 0 {
		for _, key := range []struct{ name, value string }{{"key", c.Key}, {"time_format", c.TimeFormat}} {
			if key.value != "" {
				ps = append(ps, pipeline.Problemf([]string{key.name}, "the records are events already, nothing is mapped: delete %s, or say with set and map how a record becomes an event", key.name))
			}
		}
		return f, ps
	}
	m, more := mapping.Compile(mapping.Spec{Set: c.Set, Map: c.Map, Expr: c.Expr, Key: c.Key, TimeFormat: c.TimeFormat, JSON: true, Timed: true})
	f.mapping = m
	return f, append(ps, more...)
}
