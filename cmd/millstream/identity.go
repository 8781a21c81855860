package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/engine"
	"github.com/millstream-io/millstream/pipeline/links"
)

// identityOptions are the flags of the commands below identity.
type identityOptions struct {
	data   string
	wait   time.Duration
	reason string
	json   bool
	dryRun bool
}

func identityCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "identity",
		GroupID: "people",
		Short:   "Look at and correct who is who",
		Long: `Shows why identifiers are one person, and corrects it. A correction is an operation in the link
log: the running pipeline follows at once, and a replay of the events does not undo it.
Identifiers are written type:value.

  millstream identity show pipeline.yaml user_id:42
  millstream identity unlink pipeline.yaml user_id:42 email:info@example.com
  millstream identity block pipeline.yaml email:info@example.com`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		identityShow(),
		identityOperation(links.OpLink, "PIPELINE IDENTIFIER IDENTIFIER", "Say that two identifiers are one person", 2,
			"Joins the people of the two identifiers, unless a limit forbids it. Ends an earlier unlink of the two."),
		identityOperation(links.OpUnlink, "PIPELINE IDENTIFIER IDENTIFIER", "Take a link back", 2,
			"Whatever events have stated or will state, the two identifiers alone make nobody one person any more.\nProfiles, counts and segments are then as if the link had never been."),
		identityOperation(links.OpBlock, "PIPELINE IDENTIFIER", "Let an identifier say nothing about a person", 1,
			"Takes all links of the identifier back and ignores it from now on: a shared device, an address at info@."),
		identityOperation(links.OpUnblock, "PIPELINE IDENTIFIER", "Let a blocked or quarantined identifier count again", 1,
			"The links that events have stated of the identifier hold again, within the limits."),
	)
	return c
}

func identityFlags(c *cobra.Command, o *identityOptions) {
	c.Flags().StringVar(&o.data, "data", "", "folder of the embedded servers (default .millstream/<pipeline>)")
	c.Flags().DurationVar(&o.wait, "wait", 30*time.Second, "how long to wait for Kafka")
	c.Flags().BoolVar(&o.json, "json", false, "one JSON object on standard output")
}

func identityShow() *cobra.Command {
	var o identityOptions
	c := &cobra.Command{
		Use:   "show PIPELINE IDENTIFIER",
		Short: "Show the person of an identifier, and why",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withLog(c.Context(), args[0], args[1:], func(log *engine.LinkLog, plan *pipeline.Plan, ids []pipeline.Identifier) error {
				profile, members, history, err := log.Person(ids[0].ID)
				if err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, map[string]any{"profile_id": profile, "members": members, "history": history})
				}
				showPerson(os.Stdout, plan, ids[0], profile, members, history)
				return nil
			})
		},
	}
	identityFlags(c, &o)
	return c
}

func identityOperation(op, use, short string, identifiers int, long string) *cobra.Command {
	var o identityOptions
	c := &cobra.Command{
		Use:   op + " " + use,
		Short: short,
		Long:  long,
		Args:  cobra.ExactArgs(1 + identifiers),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withLog(c.Context(), args[0], args[1:], func(log *engine.LinkLog, plan *pipeline.Plan, ids []pipeline.Identifier) error {
				var list []pipeline.ID
				for _, id := range ids {
					list = append(list, id.ID)
				}
				out, err := log.Operate(c.Context(), op, o.reason, time.Now().UTC().Truncate(time.Millisecond), o.dryRun, list...)
				if err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, out)
				}
				fmt.Println(sentence(out, o.dryRun))
				if out.Kind == links.Refused {
					return &exitError{status: exitCheckFailed}
				}
				return nil
			})
		},
	}
	identityFlags(c, &o)
	c.Flags().StringVar(&o.reason, "reason", "", "why, for those who look later")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "say what would happen and change nothing")
	return c
}

// withLog opens the pipeline's link log and parses the identifiers.
func (o *identityOptions) withLog(ctx context.Context, file string, texts []string, use func(*engine.LinkLog, *pipeline.Plan, []pipeline.Identifier) error) error {
	plan, err := load(file, os.LookupEnv)
	if err != nil {
		return err
	}
	var ids []pipeline.Identifier
	for _, text := range texts {
		id, err := plan.Identities.Parse(text)
		if err != nil {
			return &exitError{exitUsage, err}
		}
		ids = append(ids, id)
	}
	if o.data == "" {
		o.data = filepath.Join(".millstream", plan.Name)
	}
	return withLinkLog(ctx, plan, o.data, o.wait, func(log *engine.LinkLog) error { return use(log, plan, ids) })
}

// withLinkLog opens the link log of a pipeline whose embedded servers, if any, are in the folder data, running or not.
func withLinkLog(ctx context.Context, plan *pipeline.Plan, data string, wait time.Duration, use func(*engine.LinkLog) error) (err error) {
	s := &services{data: data, pipeline: plan.Name, logger: newLogger(), say: func(string) {}}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stop()
		err = errors.Join(err, s.close())
	}()
	dialing, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	cluster, err := s.dial(dialing, background, plan)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	log, err := engine.OpenLinkLog(ctx, plan, cluster, s.logger)
	if err != nil {
		return &exitError{exitCheckFailed, err}
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	return use(log)
}

// sentence says what an operation did.
func sentence(o *links.Outcome, dryRun bool) string {
	would := ""
	if dryRun {
		would = "Would be: "
	}
	switch o.Kind {
	case links.Nothing:
		return would + "nothing changes: it was so already."
	case links.Refused:
		return would + "refused: " + o.Reason + "."
	case links.Erased:
		return fmt.Sprintf("%serased: the person of profile %s, with %d identifiers.", would, o.From, len(o.Erased))
	}
	return fmt.Sprintf("%s%s: %d identifiers change their profile.", would, o.Kind, len(o.Rows))
}

func showPerson(w io.Writer, plan *pipeline.Plan, asked pipeline.Identifier, profile pipeline.ID, members []pipeline.ID, history []*links.Outcome) {
	names := typeNames(plan)
	fmt.Fprintf(w, "profile  %s\n", profile)
	fmt.Fprintf(w, "asked    %s  %s\n", asked.ID, asked.Type.Name)
	for _, m := range members {
		fmt.Fprintf(w, "member   %s  %s\n", m, names[m[0]])
	}
	if len(history) == 0 {
		fmt.Fprintln(w, "It was never linked.")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	printOutcomes(t, plan, history)
	_ = t.Flush() // to standard output
}

// typeNames are the types of identifiers by the first byte of their ids.
func typeNames(plan *pipeline.Plan) map[byte]string {
	names := map[byte]string{pipeline.CodeAmbiguous: "ambiguous"}
	for _, r := range plan.Identities.Rules() {
		names[r.Code] = r.Name
	}
	return names
}

// printOutcomes writes what the link log did, one line each, with its evidence.
func printOutcomes(t io.Writer, plan *pipeline.Plan, history []*links.Outcome) {
	names := typeNames(plan)
	fmt.Fprintln(t, "\nAT\tWHAT\tSTRONG\tWEAK\tBY\tREASON")
	for _, o := range history {
		by := o.By
		if by == "" {
			by = "operator"
		}
		fmt.Fprintf(t, "%s\t%s\t%s %s\t%s %s\t%s\t%s\n", o.At.Format(time.DateTime), strings.TrimSpace(o.Op+" "+o.Kind),
			names[o.Strong[0]], short(o.Strong), names[o.Weak[0]], short(o.Weak), printable(by), printable(o.Reason))
	}
}

func short(id pipeline.ID) string {
	if id == (pipeline.ID{}) {
		return ""
	}
	return id.String()[:8]
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
