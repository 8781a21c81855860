package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/pipeline"
)

func profileHistoryCommand() *cobra.Command {
	var o lookupOptions
	c := &cobra.Command{
		Use:   "history PIPELINE ID",
		Short: "Tell a person's story: events, merges, segments, scores, deliveries",
		Long: `Tells in the order of time what happened to a person, one line each, also while parts of it were other
profiles: events, merges and refusals, transitions of segments, changes of scores, tries to deliver.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return o.open(c.Context(), args[0], false, func(l *lookup) error {
				who, err := l.find(c.Context(), args[1])
				if err != nil {
					return err
				}
				s := &history{person: *who}
				if s.Story, err = l.story(c.Context(), who.ProfileID, o.limit); err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, s)
				}
				printStory(os.Stdout, s.Story)
				return nil
			})
		},
	}
	o.flags(c)
	o.limitFlag(c, 100, "how many of the latest")
	return c
}

type history struct {
	person
	Story []happening `json:"story"`
}

// happening is one line of a story.
type happening struct {
	At        time.Time   `json:"at" ch:"at"`
	Kind      string      `json:"kind" ch:"kind"` // event, merge, segment, score, delivery
	What      string      `json:"what" ch:"what"`
	Source    string      `json:"source" ch:"source"`         // of an event; what caused a change; the sink of a delivery
	MessageID string      `json:"message_id" ch:"message_id"` // of the event; of a delivery the webhook's id
	ProfileID pipeline.ID `json:"profile_id" ch:"profile_id"` // the profile that it happened to, which may be a part of the person by now
}

// chapters are the parts of a story: queries with the profile's id as every argument but the last, which is the limit.
var chapters = [...]struct {
	what, query string
	ids         int
}{
	{"read the events of the profile", `SELECT time AS at, 'event' AS kind, trim(concat(toString(type), ' ', toString(event))) AS what, toString(source) AS source, message_id,
  profile_id FROM person_timeline(person = ?) ORDER BY time DESC, kafka_offset DESC LIMIT ?`, 1},
	{"read the merges of the profile", `SELECT m.at AS at, 'merge' AS kind,
  concat(toString(kind_), ' of ', toString(from_profile), ' and ', toString(into_profile), if(reason_ = '', '', concat(': ', reason_))) AS what,
  rule_ AS source, trigger_message_id AS message_id, into_profile AS profile_id
FROM (SELECT at, log_offset, kind AS kind_, from_profile, into_profile, toString(reason) AS reason_, toString(rule) AS rule_, trigger_message_id FROM merges
  WHERE from_profile IN ` + membersOf + ` OR into_profile IN ` + membersOf + `) AS m ORDER BY m.at DESC, log_offset DESC LIMIT ?`, 4},
	{"read the segments of the profile", `SELECT effective_at AS at, 'segment' AS kind, concat(toString(op), ' ', toString(segment)) AS what, toString(cause) AS source,
  trigger_message_id AS message_id, profile_id FROM segment_log WHERE profile_id IN ` + membersOf + ` ORDER BY effective_at DESC, sequence DESC LIMIT ?`, 2},
	{"read the scores of the profile", `SELECT s.at AS at, 'score' AS kind, concat(toString(score), ' ', if(has_value, toString(value), 'none')) AS what, toString(cause) AS source,
  trigger_message_id AS message_id, profile_id FROM scores AS s WHERE profile_id IN ` + membersOf + ` ORDER BY s.at DESC, sequence DESC LIMIT ?`, 2},
	{"read the deliveries of the profile", `SELECT sent_at AS at, 'delivery' AS kind, concat(toString(type), ' ', toString(outcome), ', attempt ', toString(attempt), ', status ', toString(status)) AS what,
  toString(sink) AS source, toString(webhook_id) AS message_id, profile_id FROM deliveries WHERE profile_id IN ` + membersOf + ` ORDER BY sent_at DESC, attempt DESC LIMIT ?`, 2},
}

// story is the latest part of what happened to a profile, in the order of time; of one moment events come first, then what they led to.
func (l *lookup) story(ctx context.Context, id pipeline.ID, limit int) ([]happening, error) {
	all := []happening{}
	for _, c := range chapters {
		args := slices.Repeat([]any{id.String()}, c.ids)
		var part []happening
		if err := l.tables.Select(ctx, c.what, &part, c.query, append(args, limit)...); err != nil {
			return nil, err
		}
		slices.Reverse(part)
		all = append(all, part...)
	}
	slices.SortStableFunc(all, func(a, b happening) int { return a.At.Compare(b.At) })
	return all[max(0, len(all)-limit):], nil
}

func printStory(w io.Writer, list []happening) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "AT\tKIND\tWHAT\tBY\tMESSAGE ID")
	for _, h := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", clock(h.At), h.Kind, printable(h.What), printable(h.Source), printable(h.MessageID))
	}
	_ = t.Flush() // to standard output
}
