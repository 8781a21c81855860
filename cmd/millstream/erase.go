package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/engine"
	"github.com/millstream-io/millstream/pipeline/links"
)

func eraseCommand() *cobra.Command {
	var o identityOptions
	c := &cobra.Command{
		Use:     "erase PIPELINE IDENTIFIER",
		GroupID: "people",
		Short:   "Forget a person: delete profile, segments, scores, links and rows",
		Long: `Forgets the person of an identifier, written type:value, with all identifiers that the person has.
It cannot be undone. The running pipeline follows at once, one that is stopped when it runs again:

  state        profile, traits, segments, scores and timers are deleted, in every partition
  link log     the links count no more; the identifiers start anew
  receivers    get profile.erased as the last message about the profile
  ClickHouse   the rows are deleted from events, profiles, identifiers, overrides, segment_log,
               scores, deliveries, merges and dead_letters; that somebody was erased stays in
               merges and erasures, by keyed ids alone

Events that are on their way go with the person. Whoever comes with the same identifiers later is
somebody new, under another profile id, of whom nothing is known.

Not deleted, but gone when its time is over: events and messages in Kafka (7 days), dead letters in
Kafka (30 days), deleted keys in state topics (until Kafka compacts them), messages that wait for
a receiver (3 days). The link log keeps keyed ids for ever, and --reason: put no name there.
Not reached at all: backups, files of a file sink, topics of a Kafka sink, your own materialized
views, what receivers keep, and what other people's events say of the person.

  millstream erase pipeline.yaml user_id:42 --dry-run
  millstream erase pipeline.yaml email:a@example.com --reason "request 1234"`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withLog(c.Context(), args[0], args[1:], func(log *engine.LinkLog, _ *pipeline.Plan, ids []pipeline.Identifier) error {
				known, err := log.Known(c.Context(), ids[0].ID)
				if err != nil {
					return err
				}
				if !known {
					return &exitError{exitCheckFailed, errors.New("nobody is known under that identifier, so nothing was written; an event that came just now may not have reached its profile yet")}
				}
				out, err := log.Operate(c.Context(), links.OpErase, o.reason, time.Now().UTC().Truncate(time.Millisecond), o.dryRun, ids[0].ID)
				if err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, out)
				}
				fmt.Println(sentence(out, o.dryRun))
				return nil
			})
		},
	}
	identityFlags(c, &o)
	c.Flags().StringVar(&o.reason, "reason", "", "why, for those who look later; it is kept")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "say what would happen and change nothing")
	return c
}
