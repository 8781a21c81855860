package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/pipeline/engine"
)

// runOptions are the flags of run.
type runOptions struct {
	data string
	wait time.Duration
}

func runCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:     "run [pipeline.yaml]",
		GroupID: "pipeline",
		Short:   "Run a pipeline until Ctrl-C",
		Long: `Runs the pipeline until it is interrupted, then drains: sources finish what they have accepted,
and what is in work is committed; what takes longer than 10 s is left to the next start. A second
Ctrl-C ends it at once. A kill at any moment loses nothing and counts nothing twice; a webhook may
be sent again, under the same id.

What it opened is said on standard error, one line each. Broker and ClickHouse are embedded
unless the YAML names others; a service that is away is waited for.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			plan, err := load(fileArgument(args), os.LookupEnv)
			if err != nil {
				return err
			}
			return runPipeline(c.Context(), plan, o)
		},
	}
	c.Flags().StringVar(&o.data, "data", "", "folder for state and embedded servers (default .millstream/<pipeline>)")
	c.Flags().DurationVar(&o.wait, "wait", 0, "how long to wait for Kafka at start; 0: for ever")
	return c
}

func runPipeline(ctx context.Context, plan *pipeline.Plan, o runOptions) error {
	if o.data == "" {
		o.data = filepath.Join(".millstream", plan.Name)
	}
	logger := newLogger()
	s := &services{data: o.data, pipeline: plan.Name, logger: logger, say: func(line string) { fmt.Fprintln(os.Stderr, line) }}
	err := s.run(ctx, plan, o.wait, nil)
	switch {
	case err == nil && ctx.Err() != nil:
		return &exitError{status: exitInterrupted}
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return &exitError{status: exitInterrupted}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, chdb.ErrNoEngine):
		return &exitError{exitUnreachable, err}
	case err != nil:
		return &exitError{exitCheckFailed, err}
	}
	return nil
}

// services are the servers that a pipeline uses besides those that its YAML names: the embedded broker and ClickHouse, each
// started when it is first needed.
type services struct {
	data     string
	pipeline string
	logger   *slog.Logger
	say      func(line string)

	mu         sync.Mutex
	broker     *broker.Child
	clickhouse *chdb.Process
}

// run runs the plan and leaves nothing behind: embedded servers end after the pipeline.
func (s *services) run(ctx context.Context, plan *pipeline.Plan, wait time.Duration, counters *engine.Counters) (err error) {
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	instance, err := instanceID(s.data)
	if err != nil {
		return err
	}
	// Embedded servers must outlive the drain, so they do not end with ctx.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stop() // also what is only starting
		err = errors.Join(err, s.close())
	}()
	secured, err := broker.LoadTLS(plan.Kafka.TLS)
	if err != nil {
		return err
	}
	addresses := plan.Brokers
	if len(addresses) == 0 {
		if addresses, err = s.startBroker(background); err != nil {
			return err
		}
	}
	now, err := clockFrom(os.Getenv("MILLSTREAM_CLOCK"))
	if err != nil {
		return err
	}
	connect := func(ctx context.Context) (*broker.Cluster, error) {
		if wait > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, wait)
			defer cancel()
		}
		return broker.Dial(ctx, broker.Config{Brokers: addresses, InstanceID: instance, Logger: s.logger,
			TLS: secured, SASL: plan.Kafka.SASL, Replication: plan.Kafka.Replication})
	}
	options := engine.Options{Connect: connect, Data: s.data, Logger: s.logger, Say: s.say, Counters: counters, Grace: grace, Step: killAt(os.Getenv("MILLSTREAM_KILL_AT")), Now: now,
		ClickHouse: func(context.Context) (string, error) { return s.startClickHouse(background) }}
	return endWithin(ctx, grace+unwinding, s.logger, func() error { return engine.Run(ctx, plan, options) })
}

// How long the end may take.
const (
	grace     = 10 * time.Second // for what is accepted and in hand; then the engine gives up what waits for Kafka
	unwinding = 5 * time.Second  // for the engine to return after that, and for a webhook that is being sent
)

// endWithin is run, which is to return when ctx ends. If it has not done so after d it is left behind, as by a kill.
func endWithin(ctx context.Context, d time.Duration, logger *slog.Logger, run func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- run() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-ended:
		return err
	case <-t.C:
		logger.Error("the pipeline does not stop; the process ends without it. Nothing is lost: what is not committed is done again at the next start", "after", d)
		return nil
	}
}

func (s *services) startBroker(ctx context.Context) ([]string, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the own executable: %w", err)
	}
	dir := filepath.Join(s.data, "broker")
	child, err := broker.StartEmbedded(ctx, broker.ChildOptions{Binary: binary, Args: []string{"broker", "--attached", "--next-free", "--data", dir}, Dir: dir, Logger: s.logger})
	if err != nil {
		return nil, err
	}
	s.broker = child
	s.say(fmt.Sprintf("broker %s (embedded)", child.Addr()))
	return []string{child.Addr()}, nil
}

// startClickHouse returns the address of the embedded ClickHouse, starting it at the first call.
func (s *services) startClickHouse(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clickhouse == nil {
		p, err := chdb.Start(ctx, chdb.Options{Dir: filepath.Join(s.data, "clickhouse"), Log: s.logger})
		if err != nil {
			return "", err
		}
		s.clickhouse = p
	}
	return s.clickhouse.URL(), nil
}

// reachClickHouse returns the address of the embedded ClickHouse for a look at it: of the one that another process runs on the
// data folder, else it starts one, on any port, for the usual one belongs to the pipeline. ctx is for the wait while the other
// process starts its own, background the life of ours.
func (s *services) reachClickHouse(ctx, background context.Context) (string, error) {
	o := chdb.Options{Dir: filepath.Join(s.data, "clickhouse"), Listen: "127.0.0.1:0", Log: s.logger}
	for {
		address, err := chdb.Running(o.Dir)
		if address != "" || err != nil {
			return address, err
		}
		p, err := chdb.Start(background, o)
		switch {
		case err == nil:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.clickhouse = p
			return p.URL(), nil
		case !errors.Is(err, chdb.ErrInUse) || ctx.Err() != nil:
			return "", err
		}
	}
}

// clickhouseURL is the address of the pipeline's database: the one in the environment, else the embedded one.
func (s *services) clickhouseURL(ctx context.Context) (string, error) {
	address := os.Getenv("CLICKHOUSE_URL")
	if address == "" {
		var err error
		if address, err = s.startClickHouse(ctx); err != nil {
			return "", err
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("the address of ClickHouse is not a URL")
	}
	u.Path, u.RawQuery = "/"+s.pipeline, ""
	return u.String(), nil
}

func (s *services) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.clickhouse != nil {
		errs = append(errs, s.clickhouse.Close())
	}
	if s.broker != nil {
		errs = append(errs, s.broker.Close())
	}
	return errors.Join(errs...)
}

// instanceID is the static membership id of the process that owns the data folder: random, and kept there.
func instanceID(data string) (string, error) {
	path := filepath.Join(data, "instance")
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the instance id: %w", err)
	}
	id := strings.ToLower(rand.Text())
	if err := os.WriteFile(path+".new", []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the instance id: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("write the instance id: %w", err)
	}
	return id, nil
}

// clockFrom makes the clock of tests about time: it shows that time now, RFC 3339, and goes on. Without it there is none, which
// is the real one.
func clockFrom(text string) (func() time.Time, error) {
	if text == "" {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fmt.Errorf("read MILLSTREAM_CLOCK: %w", err)
	}
	begun := time.Now()
	return func() time.Time { return at.Add(time.Since(begun)) }, nil
}

// killAt makes the step hook of crash tests: "committed:3" kills the process when it reaches the step "committed" for the
// third time. It is nil unless the variable is set.
func killAt(spec string) func(string) {
	if spec == "" {
		return nil
	}
	name, count, _ := strings.Cut(spec, ":")
	left, err := strconv.Atoi(count)
	if err != nil || left < 1 {
		left = 1
	}
	var mu sync.Mutex
	return func(step string) {
		if step != name {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if left--; left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // not one step further
		}
	}
}
