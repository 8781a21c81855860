package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/engine"
	"github.com/millstream-io/millstream/sinks/clickhouse"
)

// lookupOptions are the flags of the commands that explain what a pipeline did.
type lookupOptions struct {
	data  string
	wait  time.Duration
	json  bool
	limit int
}

func (o *lookupOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.data, "data", "", "folder of the embedded servers (default .millstream/<pipeline>)")
	c.Flags().DurationVar(&o.wait, "wait", 30*time.Second, "how long to wait for ClickHouse and Kafka")
	c.Flags().BoolVar(&o.json, "json", false, "one JSON object on standard output")
}

func (o *lookupOptions) limitFlag(c *cobra.Command, limit int, usage string) {
	c.Flags().IntVar(&o.limit, "limit", limit, usage)
}

// maxLimit bounds --limit: an answer is read by somebody.
const maxLimit = 10_000

// lookup is what such a command looks at. Cluster and log are there if it asked for Kafka; log only if the pipeline stitches.
type lookup struct {
	plan    *pipeline.Plan
	tables  *clickhouse.Reader
	cluster *broker.Cluster
	log     *engine.LinkLog
}

// open opens the tables of the pipeline's clickhouse sink, and Kafka if it is needed, beside the running pipeline or without it.
func (o *lookupOptions) open(ctx context.Context, file string, kafka bool, use func(*lookup) error) error {
	plan, err := load(file, os.LookupEnv)
	if err != nil {
		return err
	}
	if o.limit < 0 || o.limit > maxLimit {
		return &exitError{exitUsage, fmt.Errorf("--limit is %d, it must be 0 to %d", o.limit, maxLimit)}
	}
	if o.data == "" {
		o.data = filepath.Join(".millstream", plan.Name)
	}
	err = o.opened(ctx, plan, kafka, use)
	var exit *exitError
	switch {
	case err == nil || errors.As(err, &exit):
		return err
	case ctx.Err() != nil:
		return &exitError{status: exitInterrupted}
	case errors.Is(err, clickhouse.ErrUnreachable), errors.Is(err, chdb.ErrNoEngine):
		return serviceError(err)
	}
	return &exitError{exitCheckFailed, err}
}

func (o *lookupOptions) opened(ctx context.Context, plan *pipeline.Plan, kafka bool, use func(*lookup) error) (err error) {
	s := &services{data: o.data, pipeline: plan.Name, logger: newLogger(), say: func(string) {}}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stop()
		err = errors.Join(err, s.close())
	}()
	waiting, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	l := &lookup{plan: plan}
	if l.tables, err = o.openTables(waiting, background, plan, s); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.tables.Close()) }()
	if kafka {
		if l.cluster, err = s.dial(waiting, background, plan); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.cluster.Close()) }()
		if plan.Stitching {
			if l.log, err = engine.OpenLinkLog(ctx, plan, l.cluster, s.logger); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.log.Close()) }()
		}
	}
	return use(l)
}

// openTables finds the first clickhouse sink of the YAML. background is the life of an engine that is started for this.
func (o *lookupOptions) openTables(ctx, background context.Context, plan *pipeline.Plan, s *services) (*clickhouse.Reader, error) {
	for _, sink := range plan.Sinks {
		c, ok := sink.Config.(*clickhouse.Config)
		if !ok {
			continue
		}
		return clickhouse.OpenReader(ctx, *c, plan.Name, func(ctx context.Context) (string, error) {
			if _, err := os.Stat(filepath.Join(o.data, "clickhouse")); err != nil {
				return "", errNotRun(plan, o.data)
			}
			address, err := s.reachClickHouse(ctx, background)
			if err != nil && !errors.Is(err, chdb.ErrNoEngine) {
				err = serviceError(err)
			}
			return address, err
		})
	}
	return nil, &exitError{exitCheckFailed, fmt.Errorf("pipeline %s has no clickhouse sink, whose tables this command reads: add one under sinks", plan.Name)}
}

func errNotRun(plan *pipeline.Plan, data string) error {
	return &exitError{exitCheckFailed, fmt.Errorf("pipeline %s has not run in %s: give its folder with --data", plan.Name, data)}
}

// dial connects to the pipeline's Kafka until ctx ends; background is the life of an embedded broker that is started for this.
func (s *services) dial(ctx, background context.Context, plan *pipeline.Plan) (*broker.Cluster, error) {
	addresses := plan.Brokers
	if len(addresses) == 0 {
		if _, err := os.Stat(filepath.Join(s.data, "broker")); err != nil {
			return nil, errNotRun(plan, s.data)
		}
		var err error
		if addresses, err = s.startBroker(background); err != nil {
			return nil, serviceError(err)
		}
	}
	secured, err := broker.LoadTLS(plan.Kafka.TLS)
	if err != nil {
		return nil, err
	}
	cluster, err := broker.Dial(ctx, broker.Config{Brokers: addresses, Logger: s.logger, TLS: secured, SASL: plan.Kafka.SASL})
	return cluster, serviceError(err)
}

// person is whom an identifier or profile id on the command line means.
type person struct {
	Asked     pipeline.ID `json:"asked"`      // the id of what was asked for
	ProfileID pipeline.ID `json:"profile_id"` // the profile that it belongs to now
	// Ambiguous says that the identifier identifies nobody (it may mean several people, or is blocked): the profile is that of
	// events on which it is the strongest.
	Ambiguous bool `json:"ambiguous"`
}

// membersOf are the ids under which a profile has been known, for two arguments that are its id.
const membersOf = `(SELECT primary_id FROM overrides FINAL WHERE profile_id = toUUID(?) UNION ALL SELECT toUUID(?))`

// parseID reads type:value, or a profile id. Its errors do not repeat the value.
func parseID(plan *pipeline.Plan, text string) (pipeline.ID, error) {
	if id, err := uuid.Parse(text); err == nil && len(text) == 36 {
		return id, nil
	}
	id, err := plan.Identities.Parse(text)
	if err == nil {
		return id.ID, nil
	}
	var names []string
	for _, r := range plan.Identities.Rules() {
		if names = append(names, r.Name); strings.HasPrefix(text, r.Name+":") {
			return pipeline.ID{}, &exitError{exitUsage, fmt.Errorf("that %s identifies nobody: it is empty, blocked, or not in the form of its type", r.Name)}
		}
	}
	return pipeline.ID{}, &exitError{exitUsage, fmt.Errorf("ID is neither type:value nor a profile id: the types of pipeline %s are %s", plan.Name, strings.Join(names, ", "))}
}

// find is the person of an identifier, as the tables know it.
func (l *lookup) find(ctx context.Context, text string) (*person, error) {
	id, err := parseID(l.plan, text)
	if err != nil {
		return nil, err
	}
	if id, err = l.current(ctx, id); err != nil {
		return nil, err
	}
	p := &person{Asked: id}
	if p.ProfileID, err = l.owner(ctx, id); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		id        pipeline.ID
		ambiguous bool
	}{{p.ProfileID, false}, {l.plan.Identities.Ambiguous(id), true}} {
		var found []struct {
			Known uint64 `ch:"known"`
		}
		const query = `SELECT (SELECT count() FROM profiles WHERE profile_id = toUUID(?)) + (SELECT count() FROM events WHERE primary_id = toUUID(?)) AS known`
		if err := l.tables.Select(ctx, "look for the profile", &found, query, x.id.String(), x.id.String()); err != nil {
			return nil, err
		}
		if len(found) > 0 && found[0].Known > 0 {
			p.ProfileID, p.Ambiguous = x.id, x.ambiguous
			return p, nil
		}
	}
	return nil, &exitError{exitCheckFailed, errors.New("nobody is known under that identifier: no event with it is in ClickHouse")}
}

// current is the id that stands for an identifier now: another one than itself if it was erased.
func (l *lookup) current(ctx context.Context, id pipeline.ID) (pipeline.ID, error) {
	const query = `SELECT successor FROM erasures WHERE id = toUUID(?) AND successor <> toUUID('00000000-0000-0000-0000-000000000000')
		AND topic_id = (SELECT argMax(topic_id, first_seen) FROM topic_ids WHERE topic = 'changes')`
	for {
		var rows []struct {
			Successor pipeline.ID `ch:"successor"`
		}
		if err := l.tables.Select(ctx, "look whether an identifier was erased", &rows, query, id.String()); err != nil || len(rows) == 0 {
			return id, err
		}
		id = rows[0].Successor
	}
}

// owner is the profile that an identifier id belongs to now: itself, unless it was linked.
func (l *lookup) owner(ctx context.Context, id pipeline.ID) (pipeline.ID, error) {
	var rows []struct {
		Profile pipeline.ID `ch:"profile_id"`
	}
	err := l.tables.Select(ctx, "look for the owner of an identifier", &rows, `SELECT profile_id FROM overrides FINAL WHERE primary_id = toUUID(?)`, id.String())
	if err != nil || len(rows) == 0 {
		return id, err
	}
	return rows[0].Profile, nil
}
