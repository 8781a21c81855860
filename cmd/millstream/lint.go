package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/config"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks"
	"github.com/millstream-io/millstream/sources"
	"github.com/millstream-io/millstream/stages"
)

// defaultFile is the pipeline that commands read when none is named.
const defaultFile = "pipeline.yaml"

func lintCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "lint [pipeline.yaml]",
		GroupID: "pipeline",
		Short:   "Check a pipeline: every mistake, with its line and column",
		Long: `Checks the YAML, its names, types and expressions. Of other files it reads only the secrets that
the YAML names (${file:PATH}), and it needs no network; variables must be set as for "run".
Every mistake is shown with file:line:column; the exit status is 1 if there is one.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := fileArgument(args)
			plan, err := load(path, os.LookupEnv)
			if err != nil {
				return err
			}
			fmt.Printf("%s: pipeline %s is fine: %d sources, %d stages, %d sinks\n", path, plan.Name, len(plan.Sources), len(plan.Resolve)+len(plan.Profile), len(plan.Sinks))
			return nil
		},
	}
}

func fileArgument(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return defaultFile
}

// load reads a pipeline; its mistakes are printed, and the error then only carries the exit status.
func load(path string, lookup func(string) (string, bool)) (*pipeline.Plan, error) {
	plan, diagnostics := config.Load(path, config.Kinds{Sources: sources.Kinds, Stages: stages.Kinds, Sinks: sinks.Kinds}, config.Options{LookupEnv: lookup})
	if len(diagnostics) == 0 {
		return plan, nil
	}
	for _, d := range diagnostics {
		fmt.Fprintln(os.Stderr, d)
	}
	return nil, &exitError{status: exitCheckFailed}
}
