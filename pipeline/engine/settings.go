package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millstream-io/millstream/pipeline"
)

// settings is operation 0 of the link log: what the first start fixed. Later settings records, of processes that started at
// the same moment, are ignored.
type settings struct {
	V          int              `json:"v"`
	Op         string           `json:"op"` // "settings"
	Partitions int32            `json:"partitions"`
	Types      []identifierType `json:"types"` // strongest first
	Normaliser int              `json:"normaliser"`
	Algorithm  int              `json:"algorithm"`
}

type identifierType struct {
	Name string `json:"name"`
	Code byte   `json:"code"`
}

const (
	settingsVersion = 1
	normaliser      = 1 // of pipeline.Usable
)

// settle writes operation 0 at the first start, and refuses to run against another one.
func (e *engine) settle(ctx context.Context) error {
	got, err := e.firstOperation(ctx)
	if err != nil {
		return err
	}
	if got == nil {
		value, err := json.Marshal(settings{V: settingsVersion, Op: "settings", Partitions: e.plan.Partitions, Normaliser: normaliser, Algorithm: algorithm,
			Types: []identifierType{{"user_id", pipeline.CodeUserID}, {"email", pipeline.CodeEmail}, {"phone", pipeline.CodePhone}, {"anonymous_id", pipeline.CodeAnonymousID}}})
		if err != nil {
			return fmt.Errorf("encode the settings: %w", err)
		}
		if err := e.producer.Produce(ctx, []pipeline.Record{{Topic: e.topic("links"), Partition: 0, Value: value}}); err != nil {
			return fmt.Errorf("write the settings to %s: %w", e.topic("links"), err)
		}
		if got, err = e.firstOperation(ctx); err != nil {
			return err
		}
	}
	return e.compare(got)
}

func (e *engine) compare(got *settings) error {
	topic := e.topic("links")
	switch {
	case got == nil || got.Op != "settings":
		return fmt.Errorf("the first record of %s is not the settings of a pipeline", topic)
	case got.V > settingsVersion || got.Algorithm > algorithm || got.Normaliser > normaliser:
		return fmt.Errorf("%s was written by a newer version of Millstream (settings %d, algorithm %d, normaliser %d): upgrade this one", topic, got.V, got.Algorithm, got.Normaliser)
	case got.Partitions != e.plan.Partitions:
		return fmt.Errorf("kafka.partitions is %d, but pipeline %s was started with %d, and its state is laid out for that: set partitions to %d", e.plan.Partitions, e.plan.Name, got.Partitions, got.Partitions)
	}
	return nil
}

// firstOperation reads operation 0; nil if the log is empty.
func (e *engine) firstOperation(ctx context.Context) (*settings, error) {
	var s *settings
	_, err := e.Cluster.ReadToEnd(ctx, e.topic("links"), 0, 0, func(r *pipeline.Record) error {
		s = &settings{}
		if err := json.NewDecoder(bytes.NewReader(r.Value)).Decode(s); err != nil {
			return fmt.Errorf("decode offset %d: %w", r.Offset, err)
		}
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read the settings in %s: %w", e.topic("links"), err)
	}
	return s, nil
}
