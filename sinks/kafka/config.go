// Package kafka is the sink that writes messages as JSON to a topic for other programs.
//
// On the pipeline's own cluster the records are part of the transaction that commits the sink's input: each message is there
// exactly once for readers of committed records. To another cluster it delivers at least once, with an idempotent producer: a
// message that comes again has the same header ms-id, by which a reader can tell.
package kafka

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/mapping"
)

// Config is what stands under `kafka` in the YAML.
type Config struct {
	// Topic is what is written to. On the pipeline's cluster it is made if there is none.
	Topic string `yaml:"topic"`
	// Brokers, TLS and SASL are those of another cluster; without them it is the pipeline's own.
	Brokers pipeline.KafkaBrokers `yaml:"brokers"`
	TLS     pipeline.KafkaTLS     `yaml:"tls"`
	SASL    *pipeline.KafkaSASL   `yaml:"sasl"`
	// Map makes the value: field name to expression over the message. Without it the whole message is written.
	Map map[string]string `yaml:"map"`
	// Key is an expression over the message; the profile id unless set, and where it has no value.
	Key string `yaml:"key"`
}

// Kind is the sink kind `kafka`.
var Kind = pipeline.SinkKind{
	Name:    "kafka",
	Summary: "writes messages as JSON to a topic for other programs: exactly once on this cluster, at least once on another one",
	Topics:  []string{"changes"},
	Config:  func() any { return &Config{} },
	Build:   build,
}

func build(name string, config any, env *pipeline.Env) (func(context.Context, pipeline.Deps) (any, error), []pipeline.Problem) {
	c := config.(*Config)
	var value *mapping.Mapping
	var key *mapping.Value
	access := pipeline.KafkaAccess{Brokers: c.Brokers, TLS: c.TLS, SASL: c.SASL}
	address, problems := access.CheckOther()
	if err := pipeline.CheckKafkaTopic(c.Topic, env.Pipeline, len(c.Brokers) == 0); err != nil {
		problems = append(problems, pipeline.Problemf([]string{"topic"}, "%s", err))
	}
	if c.Map != nil {
		m, more := mapping.Compile(c.Map, env)
		value, problems = m, append(problems, more...)
	}
	if c.Key != "" {
		k, problem := mapping.CompileValue([]string{"key"}, c.Key, env)
		if problem != nil {
			problems = append(problems, *problem)
		}
		key = k
	}
	if len(problems) > 0 {
		return nil, problems
	}
	partitions := env.Partitions
	return func(ctx context.Context, d pipeline.Deps) (any, error) {
		s := &sink{topic: c.Topic, mapping: value, key: key}
		if err := s.open(ctx, d, address, name, partitions); err != nil {
			return nil, fmt.Errorf("open sink %s: %w", name, err)
		}
		return s, nil
	}, nil
}

// lookEvery is the time between two looks for a topic that is not there.
const lookEvery = time.Second

// open connects, and makes the topic on the pipeline's cluster; on another one it waits until there is one.
func (s *sink) open(ctx context.Context, d pipeline.Deps, at *pipeline.KafkaAddress, name string, partitions int32) error {
	client, err := d.Kafka(ctx, at)
	if err != nil {
		return err
	}
	s.log = d.Logger.With("sink", name, "topic", s.topic)
	if at == nil {
		err := client.CreateTopic(ctx, s.topic, partitions)
		if closed := client.Close(); err == nil { // what is written goes through the engine
			err = closed
		}
		return err
	}
	s.client = client
	for said := false; ; said = true {
		n, err := client.Partitions(ctx, s.topic)
		if err == nil && n > 0 {
			return nil
		}
		if err == nil && !said {
			d.Say(fmt.Sprintf("kafka %s: waiting for topic %s, which does not exist at %s", name, s.topic, strings.Join(at.Brokers, ",")))
		}
		if err == nil {
			err = pipeline.Sleep(ctx, lookEvery)
		}
		if err != nil {
			_ = client.Close() // the error above says more
			return err
		}
	}
}
