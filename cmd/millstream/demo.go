package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/millstream-io/millstream/examples/quickstart"
	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/internal/workload"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/engine"
)

// demoOptions are the flags of demo.
type demoOptions struct {
	events int
	seed   uint64
	data   string
	exit   bool
	json   bool
}

const (
	demoBatch   = 50 // events in one request, as SDKs send them
	demoPosters = 4  // requests at once; a device has one
	demoKey     = "demo-key"
	demoPatient = 60 * time.Second // without any progress, then the demo gives up and reports what it has
	demoWrong   = 5 * time.Second  // the same once events are doubled or people joined wrongly
	demoStill   = 2 * time.Second  // without progress, then people are compared although counts differ
)

func demoCommand() *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:     "demo [pipeline.yaml]",
		GroupID: "pipeline",
		Short:   "Play a made-up shop through a pipeline and compare the outcome with the truth",
		Long: `Starts an embedded broker, an embedded ClickHouse and a receiver for webhooks, plays the events of
a seeded population of customers (several devices, shared ones, repeats, late and broken events)
through examples/quickstart/pipeline.yaml, and compares what came out with what is right by
construction. Then it stays up for your own queries and corrections until Ctrl-C.

Another pipeline must keep the quickstart's identifiers and the names of its segments, aggregates
and variables. The exit status is 1 if an event was lost or doubled, or people were joined wrongly.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if o.events < 1 || o.events > 10_000_000 {
				return fmt.Errorf("--events is %d, it must be 1 … 10000000", o.events)
			}
			return runDemo(c.Context(), o, args)
		},
	}
	c.Flags().IntVar(&o.events, "events", 20_000, "how many events to send, repeats included")
	c.Flags().Uint64Var(&o.seed, "seed", 1, "another seed is another population")
	c.Flags().StringVar(&o.data, "data", "", "folder for state and embedded servers (default: a temporary one)")
	c.Flags().BoolVar(&o.exit, "exit", false, "end after the comparison instead of staying up")
	c.Flags().BoolVar(&o.json, "json", false, "print the comparison as one JSON object instead of text")
	return c
}

// demo is a running demo.
type demo struct {
	demoOptions
	out      io.Writer // what people read
	file     string    // the pipeline's
	plan     *pipeline.Plan
	work     *workload.Workload
	ids      map[string]pipeline.ID // of the identifiers of the truth
	told     *story                 // what was told of one person
	receiver *receiver
	services *services
	counters engine.Counters
	begun    time.Time

	source atomic.Pointer[string] // address of the HTTP source, once it listens
	sent   atomic.Int64
}

func runDemo(ctx context.Context, o demoOptions, args []string) (err error) {
	d := &demo{demoOptions: o, out: os.Stdout, begun: time.Now()}
	if o.json {
		d.out = io.Discard
	}
	if d.data == "" {
		if d.data, err = os.MkdirTemp("", "millstream-demo-"); err != nil {
			return fmt.Errorf("make a temporary folder: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(d.data)) }()
	}
	if err := d.haveEngine(ctx); err != nil {
		return serviceError(err)
	}
	if d.file, err = d.pipelineFile(args); err != nil {
		return err
	}
	if d.receiver, err = startReceiver(); err != nil {
		return serviceError(err)
	}
	defer func() { err = errors.Join(err, d.receiver.close()) }()
	if d.plan, err = load(d.file, d.variable); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "Making %d events of a shop's customers (seed %d) …\n", o.events, o.seed)
	d.work = workload.New(workload.Options{Events: o.events, Seed: o.seed, Start: d.begun.Add(-7 * 24 * time.Hour)})
	if d.ids, err = identifierIDs(d.plan, &d.work.Truth); err != nil {
		return &exitError{exitUsage, err}
	}

	running, stop := context.WithCancel(ctx)
	defer stop()
	d.services = &services{data: d.data, pipeline: d.plan.Name, logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), say: d.heard}
	ended := make(chan error, 1)
	go func() { ended <- d.services.run(running, d.plan, 0, &d.counters) }()

	status, err := d.play(ctx, running, ended)
	stop()
	if e := <-ended; err == nil && e != nil {
		err = e
	}
	switch {
	case err != nil && ctx.Err() == nil:
		return &exitError{exitCheckFailed, err}
	case status != 0:
		return &exitError{status: status}
	}
	return nil
}

// play sends the events, waits for the outcome and reports it; then it stays up unless it is to exit.
func (d *demo) play(ctx, running context.Context, ended chan error) (status int, err error) {
	failed := func(err error) error {
		select {
		case e := <-ended:
			ended <- nil
			return errors.Join(e, err)
		default:
			return err
		}
	}
	work, cancel := context.WithCancel(running)
	defer cancel()
	go func() { // a pipeline that ends by itself ends the demo
		select {
		case e := <-ended:
			ended <- e
			cancel()
		case <-work.Done():
		}
	}()
	if err := d.send(work); err != nil {
		return 0, failed(err)
	}
	r, err := d.settle(work)
	if err != nil {
		return 0, failed(err)
	}
	if d.json {
		b, err := json.Marshal(r)
		if err != nil {
			return 0, fmt.Errorf("encode the comparison: %w", err)
		}
		fmt.Fprintln(os.Stdout, string(b))
	} else if err := d.tell(work, r); err != nil {
		return 0, failed(err)
	}
	if !d.exit {
		d.stayUp(ctx)
	}
	if r.Lost != 0 || r.Doubled != 0 || r.WrongMerges != 0 {
		return exitCheckFailed, nil
	}
	return 0, nil
}

// haveEngine fetches the embedded ClickHouse engine if there is no ClickHouse at all.
func (d *demo) haveEngine(ctx context.Context) error {
	if os.Getenv("CLICKHOUSE_URL") != "" {
		return nil
	}
	_, err := chdb.Find("")
	if !errors.Is(err, chdb.ErrNoEngine) {
		return err
	}
	_, err = fetchEngine(ctx, chdb.FetchOptions{})
	return err
}

// fetchEngine fetches the engine and shows how far it is.
func fetchEngine(ctx context.Context, o chdb.FetchOptions) (string, error) {
	bar := newBar(os.Stderr, "Fetching the ClickHouse engine")
	o.Log = os.Stderr
	o.Progress = bar.set
	path, err := chdb.Fetch(ctx, o)
	bar.end()
	return path, err
}

// pipelineFile is the pipeline to run: the one named, else the quickstart, written to the data folder.
func (d *demo) pipelineFile(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	path := filepath.Join(d.data, "pipeline.yaml")
	if err := os.WriteFile(path, quickstart.Pipeline, 0o600); err != nil {
		return "", fmt.Errorf("write the demo's pipeline: %w", err)
	}
	return path, nil
}

// variable is a variable of the pipeline's YAML: the demo's own, else the environment's.
func (d *demo) variable(name string) (string, bool) {
	switch name {
	case "CRM_URL":
		return d.receiver.url, true
	case "CRM_SECRET":
		return d.receiver.secret, true
	case "WRITE_KEY":
		return demoKey, true
	case "LISTEN":
		return "127.0.0.1:0", true
	}
	return os.LookupEnv(name)
}

// heard takes what the pipeline says it opened.
func (d *demo) heard(line string) {
	if address, ok := strings.CutPrefix(line, "http "); ok {
		d.source.Store(&address)
	}
	fmt.Fprintln(d.out, "  "+line)
}

// send posts all events, several requests at once, and shows how far it is.
func (d *demo) send(ctx context.Context) error {
	address, err := d.address(ctx)
	if err != nil {
		return err
	}
	bar := newBar(os.Stderr, "Sending events")
	if d.json {
		bar = newBar(io.Discard, "")
	}
	defer bar.end()
	g, ctx := errgroup.WithContext(ctx)
	for _, bodies := range d.work.Lanes(demoPosters, demoBatch) {
		g.Go(func() error {
			for _, b := range bodies {
				if err := post(ctx, address, b.JSON); err != nil {
					return err
				}
				bar.set(d.sent.Add(int64(b.Events)), int64(len(d.work.Events)))
			}
			return nil
		})
	}
	return g.Wait()
}

// address waits until the HTTP source listens.
func (d *demo) address(ctx context.Context) (string, error) {
	for {
		if a := d.source.Load(); a != nil {
			return *a, nil
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// post sends one batch as an SDK does: 429 and 5xx are tried again.
func post(ctx context.Context, address string, body []byte) error {
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/v1/batch", bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("make a request: %w", err)
		}
		req.SetBasicAuth(demoKey, "")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
			_ = resp.Body.Close()
			switch {
			case resp.StatusCode == http.StatusOK:
				return nil
			case resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
				return fmt.Errorf("the HTTP source answered %s: %s", resp.Status, answer)
			}
			err = fmt.Errorf("the HTTP source answered %s: %s", resp.Status, answer)
		}
		if try == 60 || ctx.Err() != nil {
			return fmt.Errorf("post a batch %d times: %w", try, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(time.Duration(try)*100*time.Millisecond, time.Second)):
		}
	}
}

// stayUp waits for Ctrl-C.
func (d *demo) stayUp(ctx context.Context) {
	address, err := d.services.clickhouseURL(ctx)
	if err == nil && !d.json {
		u, _ := url.Parse(address) // it was one before
		u.Path, u.RawQuery = "/", "database="+d.services.pipeline
		fmt.Fprintf(d.out, "\nStill running: ask your own questions, Ctrl-C ends.\n\n  curl '%s' --data-binary 'SELECT * FROM people LIMIT 3 FORMAT Vertical'\n", u)
		d.sayCorrection()
	}
	<-ctx.Done()
}
