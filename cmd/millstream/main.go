// Command millstream runs customer-data pipelines: events become profiles, segments, rows in ClickHouse and webhooks.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses, see docs/reference/cli.md.
const (
	exitCheckFailed = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitInterrupted = 130
)

// exitError carries an exit status. Its message may be empty: then everything has been said.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	// The first signal drains; a second one, or one to a process that hangs, ends it at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes the command line and returns the exit status.
func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{exitUsage, err}
	}
	if text := exit.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "millstream:", text)
	}
	return exit.status
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "millstream",
		Short: "Turn customer events into profiles, segments, ClickHouse rows and signed webhooks",
		Long: `Millstream runs a pipeline that is described in a YAML file: events from SDKs and files are
cleaned, deduplicated and folded into profiles; segments follow live. Each event counts once
in profiles, segments and ClickHouse; webhooks arrive at least once, under one constant id.

A laptop needs nothing else: broker and ClickHouse are embedded by default.

  millstream demo                  see it work, with a made-up shop
  millstream lint pipeline.yaml    check a pipeline
  millstream run pipeline.yaml     run it until Ctrl-C`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddGroup(&cobra.Group{ID: "pipeline", Title: "Pipelines:"}, &cobra.Group{ID: "people", Title: "People:"}, &cobra.Group{ID: "parts", Title: "Parts:"})
	root.AddCommand(runCommand(), lintCommand(), demoCommand(), identityCommand(), eraseCommand(), profileCommand(), segmentCommand(), whyCommand(), scoreCommand(), brokerCommand(), fetchEngineCommand(), engineChildCommand())
	return root
}

// newLogger writes what operators need to standard error.
func newLogger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }
