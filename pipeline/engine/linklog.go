package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/links"
)

// LinkLog is a pipeline's link log for somebody who looks at it or adds to it from outside, beside the running pipeline or
// without it.
type LinkLog struct {
	e       *engine
	replica *links.Replica
	dir     string
}

// OpenLinkLog reads the link log of a pipeline to its end. Close it. A pipeline that has never run has none, which is an error; so is
// one whose YAML has other rules than at its first start.
func OpenLinkLog(ctx context.Context, plan *pipeline.Plan, cluster *broker.Cluster, logger *slog.Logger) (l *LinkLog, err error) {
	e := &engine{plan: plan, Options: Options{Cluster: cluster, Logger: logger}}
	if !plan.Stitching {
		return nil, fmt.Errorf("pipeline %s has no stage identity", plan.Name)
	}
	exists, err := cluster.HasTopic(ctx, e.topic("links"))
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, fmt.Errorf("pipeline %s has not run yet: there is no topic %s", plan.Name, e.topic("links"))
	}
	got, err := e.firstOperation(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.compare(got, e.wantedSettings()); err != nil {
		return nil, err
	}
	l = &LinkLog{e: e}
	if l.dir, err = os.MkdirTemp("", "millstream-links-"); err != nil {
		return nil, fmt.Errorf("make a folder for the links: %w", err)
	}
	e.settings = got.Settings
	if l.replica, err = links.Open(l.dir, links.Options{Rules: e.settings, Ambiguous: plan.Identities.Ambiguous, Logger: logger}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(l.dir))
	}
	if err := l.refresh(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close ends it.
func (l *LinkLog) Close() error { return errors.Join(l.replica.Close(), os.RemoveAll(l.dir)) }

// refresh reads to the end of the log.
func (l *LinkLog) refresh(ctx context.Context) error {
	next, _ := l.replica.Next()
	var records []pipeline.Record
	apply := func(next int64) error {
		err := l.replica.Apply(records, next)
		records = records[:0]
		return err
	}
	end, err := l.e.Cluster.ReadToEnd(ctx, l.e.topic("links"), 0, next, func(r *pipeline.Record) error {
		kept := *r
		kept.Value = append([]byte(nil), r.Value...)
		if records = append(records, kept); len(records) < linksAtOnce {
			return nil
		}
		return apply(r.Offset + 1)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", l.e.topic("links"), err)
	}
	return apply(end)
}

// Operate appends an operation and returns what it did. Nothing is appended if dryRun is set: then the outcome is what it
// would do now.
func (l *LinkLog) Operate(ctx context.Context, op, reason string, at time.Time, dryRun bool, ids ...pipeline.ID) (*links.Outcome, error) {
	var err error
	ids = slices.Clone(ids)
	for i := range ids {
		if ids[i], _, err = l.replica.Current(ids[i]); err != nil {
			return nil, err
		}
	}
	o, err := links.Operator(op, l.e.settings, at, reason, ids...)
	if err != nil {
		return nil, err
	}
	r, err := o.Record()
	if err != nil {
		return nil, err
	}
	next, _ := l.replica.Next()
	if dryRun {
		r.Offset = next
		if err := l.replica.Apply([]pipeline.Record{r}, next+1); err != nil {
			return nil, err
		}
	} else {
		if err := l.produce(ctx, r); err != nil {
			return nil, err
		}
		if err := l.refresh(ctx); err != nil {
			return nil, err
		}
	}
	end, _ := l.replica.Next()
	out := &links.Outcome{Op: op} // nothing, unless the replica has one
	err = l.replica.Outcomes(next, end, func(x *links.Outcome) error {
		if x.Op == op && x.By == "" && x.At.Equal(at) {
			out = x
		}
		return nil
	})
	return out, err
}

func (l *LinkLog) produce(ctx context.Context, r pipeline.Record) error {
	p, err := l.e.Cluster.OpenProducer()
	if err != nil {
		return err
	}
	r.Topic = l.e.topic(r.Topic)
	if err := errors.Join(p.Produce(ctx, []pipeline.Record{r}), p.Close()); err != nil {
		return fmt.Errorf("write the operation to %s: %w", r.Topic, err)
	}
	return nil
}

// Known tells whether anything is known of an identifier: the log has said something of it, or the state of the profiles has
// data under it. Events that have not reached their profile do not count.
func (l *LinkLog) Known(ctx context.Context, id pipeline.ID) (bool, error) {
	id, erased, err := l.replica.Current(id)
	if err != nil || erased {
		return erased, err
	}
	if known, err := l.replica.Known(id); known || err != nil {
		return known, err
	}
	for _, profile := range []pipeline.ID{id, l.e.plan.Identities.Ambiguous(id)} {
		if has, err := l.hasState(ctx, profile); has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// hasState reads the changelog of the profile's partition for a key of it that is not deleted. Without the stage profile
// nothing is kept there, so the answer is yes: nobody knows better.
func (l *LinkLog) hasState(ctx context.Context, profile pipeline.ID) (bool, error) {
	plan := l.e.plan
	at := slices.IndexFunc(plan.Profile, func(s pipeline.StagePlan) bool { return s.Kind == "profile" })
	topic := l.e.topic("state." + pipeline.TaskProfile)
	exists, err := l.e.Cluster.HasTopic(ctx, topic)
	if at < 0 || err != nil || !exists {
		return at < 0, err
	}
	partition, err := broker.PartitionOf(pipeline.AppendID(nil, profile), l.e.settings.Partitions)
	if err != nil {
		return false, fmt.Errorf("find the partition of a profile: %w", err)
	}
	prefix := append([]byte{plan.Profile[at].Code}, profile[:]...) // state's keys begin with the stage's code
	live := map[string]bool{}
	_, err = l.e.Cluster.ReadToEnd(ctx, topic, partition, 0, func(r *pipeline.Record) error {
		if !bytes.HasPrefix(r.Key, prefix) {
			return nil
		}
		if delete(live, string(r.Key)); r.Value != nil {
			live[string(r.Key)] = true
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read partition %d of %s: %w", partition, topic, err)
	}
	return len(live) > 0, nil
}

// Person is the profile of an identifier with its members, and every outcome that concerns one of them, in log order.
func (l *LinkLog) Person(id pipeline.ID) (profile pipeline.ID, members []pipeline.ID, history []*links.Outcome, err error) {
	if id, _, err = l.replica.Current(id); err != nil {
		return profile, nil, nil, err
	}
	if profile, members, err = l.replica.Members(id); err != nil {
		return profile, nil, nil, err
	}
	mine := map[pipeline.ID]bool{id: true}
	for _, m := range members {
		mine[m] = true
	}
	end, _ := l.replica.Next()
	err = l.replica.Outcomes(0, end, func(o *links.Outcome) error {
		if mine[o.Strong] || mine[o.Weak] {
			history = append(history, o)
		}
		return nil
	})
	return profile, members, history, err
}
