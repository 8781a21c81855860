package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/links"
)

const (
	taskRegroup  = "regroup"
	forgetEvery  = time.Minute
	linksAtOnce  = 10_000 // operations applied in one step
	linkInterval = 5 * time.Millisecond
)

// openLinks opens the process's replica of the link log.
func (e *engine) openLinks(ctx context.Context) error {
	id, err := e.Cluster.TopicID(ctx, e.topic("links"), 0)
	if err != nil {
		return fmt.Errorf("ask for the id of %s: %w", e.topic("links"), err)
	}
	e.links, err = links.Open(filepath.Join(e.Data, "links"), links.Options{Rules: e.settings, Ambiguous: e.plan.Identities.Ambiguous, TopicID: id, Logger: e.Logger})
	return err
}

// followLinks applies the link log to the replica until ctx ends.
func (e *engine) followLinks(ctx context.Context) (err error) {
	topic := e.topic("links")
	ends, err := e.Cluster.Ends(ctx, topic, []int32{0}, true)
	if err != nil {
		return fmt.Errorf("ask for the end of %s: %w", topic, err)
	}
	next, _ := e.links.Next()
	if next > ends[0] {
		e.Logger.Error("the replica of the links is ahead of Kafka, which has lost data; it is made anew", "replica", next, "kafka", ends[0])
		if err := e.links.Reset(); err != nil {
			return err
		}
		next = 0
	}
	sub := e.Cluster.NewSubscriber(broker.SubscriberConfig{Offset: next, MaxRecords: linksAtOnce, Interval: linkInterval, Idle: time.Second})
	defer func() { err = errors.Join(err, sub.Close()) }()
	batches, err := sub.Subscribe(ctx, topic)
	if err != nil {
		return fmt.Errorf("read %s: %w", topic, err)
	}
	caughtUp := e.caughtUp
	for {
		if next, _ := e.links.Next(); caughtUp != nil && next >= ends[0] {
			close(caughtUp)
			caughtUp = nil
		}
		m, ok := <-batches
		if !ok {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("reading %s ended: %w", topic, readerError(sub))
		}
		b, _ := pipeline.BatchOf(m)
		if err := e.links.Apply(b.Records, b.Next); err != nil {
			m.Nack()
			return err
		}
		m.Ack()
	}
}

// forgetOutcomes drops, now and then, what the regroup task has told to the profiles.
func (e *engine) forgetOutcomes(ctx context.Context) error {
	for pipeline.Sleep(ctx, forgetEvery) == nil {
		p, err := e.Cluster.Committed(ctx, e.topic(taskRegroup), e.topic("links"), 0)
		if err == nil && p.Offset > 0 {
			err = e.links.Forget(p.Offset)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// state writes the links that events state for the first time, and returns when the replica has them. linker tells for each
// event what is new; it is asked again, because what is linked may change what an event states. before sees the first
// statements, and by which of the events, before any is written; its error ends the call.
func (e *engine) state(ctx context.Context, linker pipeline.Linker, events []*pipeline.Event, before func(statements []pipeline.Statement, by []int) error) error {
	select {
	case <-e.caughtUp: // before that, what is known looks new
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var statements []pipeline.Statement
	var by []int
	for first := true; ; first = false {
		statements, by = statements[:0], by[:0]
		open := events[:0:0]
		for i, ev := range events {
			known := len(statements)
			if statements = linker.Links(statements, ev); len(statements) > known {
				open = append(open, ev)
			}
			for range statements[known:] {
				by = append(by, i)
			}
		}
		if len(statements) == 0 {
			return nil
		}
		if first {
			if err := before(statements, by); err != nil {
				return err
			}
		}
		end, err := e.produceLinks(ctx, statements)
		if err != nil {
			return err
		}
		if err := e.awaitLinks(ctx, end); err != nil {
			return err
		}
		events = open
	}
}

// produceLinks appends the links to the log and returns an offset behind them.
func (e *engine) produceLinks(ctx context.Context, statements []pipeline.Statement) (int64, error) {
	seen := make(map[pipeline.Link]bool, len(statements))
	records := make([]pipeline.Record, 0, len(statements))
	for i := range statements {
		s := &statements[i]
		if seen[s.Link] {
			continue
		}
		seen[s.Link] = true
		o := links.Linked(s)
		r, err := o.Record()
		if err != nil {
			return 0, err
		}
		r.Topic = e.topic(r.Topic)
		records = append(records, r)
	}
	end, err := e.appendLinks(ctx, records)
	if err != nil {
		return 0, fmt.Errorf("write %d links: %w", len(records), err)
	}
	return end, nil
}

// appendToLog is appendLinks: what is acknowledged is in the log, below its end.
func (e *engine) appendToLog(ctx context.Context, records []pipeline.Record) (int64, error) {
	if err := e.producer.Produce(ctx, records); err != nil {
		return 0, err
	}
	ends, err := e.Cluster.Ends(ctx, e.topic("links"), []int32{0}, true)
	return ends[0], err
}

// awaitLinks waits until the replica has applied the log up to an offset.
func (e *engine) awaitLinks(ctx context.Context, end int64) error {
	for next, changed := e.links.Next(); next < end; next, changed = e.links.Next() {
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
