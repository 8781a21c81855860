package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// normaliser numbers the meaning of pipeline.Usable and of the forms of e-mail addresses and phone numbers.
const normaliser = 1

// settle writes operation 0 of the link log at the first start, and refuses to run against another one. Later settings
// records, of processes that started at the same moment, are ignored.
func (e *engine) settle(ctx context.Context) error {
	wanted := e.wantedSettings()
	got, err := e.firstOperation(ctx)
	if err != nil {
		return err
	}
	if got == nil {
		o := links.Operation{V: 1, Op: links.OpSettings, Settings: wanted}
		r, err := o.Record()
		if err != nil {
			return err
		}
		r.Topic = e.topic(r.Topic)
		if err := e.producer.Produce(ctx, []pipeline.Record{r}); err != nil {
			return fmt.Errorf("write the settings to %s: %w", e.topic("links"), err)
		}
		if got, err = e.firstOperation(ctx); err != nil {
			return err
		}
	}
	if err := e.compare(got, wanted); err != nil {
		return err
	}
	e.settings = got.Settings
	return nil
}

func (e *engine) wantedSettings() *links.Settings {
	s := links.NewSettings(e.plan.Partitions, normaliser, algorithm, e.plan.Identities.Fingerprint(), e.plan.Identities.Rules())
	s.PhoneRegion = e.plan.Identities.PhoneRegion()
	return s
}

func (e *engine) compare(got *links.Operation, wanted *links.Settings) error {
	topic := e.topic("links")
	switch {
	case got == nil || got.Op != links.OpSettings:
		return fmt.Errorf("the first record of %s is not the settings of a pipeline", topic)
	case got.Algorithm > algorithm || got.Normaliser > normaliser:
		return fmt.Errorf("%s was written by a newer version of Millstream (algorithm %d, normaliser %d): upgrade this one", topic, got.Algorithm, got.Normaliser)
	case got.Partitions != wanted.Partitions:
		return fmt.Errorf("kafka.partitions is %d, but pipeline %s was started with %d, and its state is laid out for that: set partitions to %d", wanted.Partitions, e.plan.Name, got.Partitions, got.Partitions)
	}
	if d := got.Differences(wanted); d != "" {
		return fmt.Errorf("%s; people would change their profiles, so pipeline %s does not start: set it back", d, e.plan.Name)
	}
	return nil
}

// firstOperation reads operation 0; nil if the log is empty.
func (e *engine) firstOperation(ctx context.Context) (*links.Operation, error) {
	var o *links.Operation
	_, err := e.Cluster.ReadToEnd(ctx, e.topic("links"), 0, 0, func(r *pipeline.Record) (err error) {
		if o, err = links.Parse(r.Value); err != nil {
			return fmt.Errorf("offset %d: %w", r.Offset, err)
		}
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read the settings in %s: %w", e.topic("links"), err)
	}
	return o, nil
}
