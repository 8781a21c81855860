package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/internal/suggest"
	"github.com/millstream-io/millstream/pipeline"
	segmentstage "github.com/millstream-io/millstream/stages/segment"
)

func segmentCommand() *cobra.Command {
	var o lookupOptions
	c := &cobra.Command{
		Use:     "segment PIPELINE NAME [ID]",
		GroupID: "people",
		Short:   "Show a segment and who is in it, or why somebody is in or out",
		Long: `Without ID: the condition, how many are in, and the latest transitions. With ID, an identifier or a profile
id: what the condition reads of this person, in or out, since when, and the transitions with their causes.

  millstream segment pipeline.yaml vip
  millstream segment pipeline.yaml vip user_id:42`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(c *cobra.Command, args []string) error {
			return o.open(c.Context(), args[0], false, func(l *lookup) error {
				condition, err := l.condition(args[1])
				if err != nil {
					return err
				}
				var answer interface{ print(w io.Writer) }
				if len(args) == 2 {
					answer, err = l.segment(c.Context(), args[1], condition, o.limit)
				} else {
					answer, err = l.membership(c.Context(), args[1], condition, args[2], o.limit)
				}
				if err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, answer)
				}
				answer.print(os.Stdout)
				return nil
			})
		},
	}
	o.flags(c)
	o.limitFlag(c, 20, "how many members and transitions")
	return c
}

// condition finds the definition of a segment in the YAML.
func (l *lookup) condition(name string) (segmentstage.Condition, error) {
	var names []string
	for _, stage := range l.plan.Profile {
		if c, ok := stage.Config.(*segmentstage.Config); ok {
			if condition, ok := (*c)[name]; ok {
				return condition, nil
			}
			names = sorted(*c)
		}
	}
	if len(names) == 0 {
		return segmentstage.Condition{}, &exitError{exitUsage, fmt.Errorf("pipeline %s declares no segments", l.plan.Name)}
	}
	hint := suggest.DidYouMean(name, names)
	if hint == "" {
		hint = fmt.Sprintf(", pipeline %s has %s", l.plan.Name, strings.Join(names[:min(len(names), 20)], ", "))
	}
	return segmentstage.Condition{}, &exitError{exitUsage, fmt.Errorf("there is no segment %q%s", name, hint)}
}

// conditionText is the definition as the YAML has it.
func conditionText(c segmentstage.Condition) string {
	if c.Expression != "" {
		return c.Expression
	}
	return c.String()
}

// segmentNow is a segment as a whole.
type segmentNow struct {
	Segment     string       `json:"segment"`
	Condition   string       `json:"condition"`
	Size        uint64       `json:"size"`
	Day         moved        `json:"last_24h"` // by when it was told: what a backfill enters counts now
	Week        moved        `json:"last_7d"`
	Members     []member     `json:"members"`     // who came last, first
	Transitions []transition `json:"transitions"` // the latest first
}

type moved struct {
	Entered uint64 `json:"entered"`
	Exited  uint64 `json:"exited"`
}

type member struct {
	ProfileID pipeline.ID `json:"profile_id" ch:"profile_id"`
	Since     time.Time   `json:"since" ch:"since"`
}

// transition is a row of segment_log.
type transition struct {
	At        time.Time   `json:"effective_at" ch:"effective_at"` // when it became true
	Told      time.Time   `json:"emitted_at" ch:"emitted_at"`
	Segment   string      `json:"segment" ch:"segment"`
	Op        string      `json:"op" ch:"op"`
	Cause     string      `json:"cause" ch:"cause"`
	MessageID string      `json:"message_id" ch:"trigger_message_id"`
	ProfileID pipeline.ID `json:"profile_id" ch:"profile_id"`
	Version   uint32      `json:"version" ch:"version"`
	ID        pipeline.ID `json:"transition_id" ch:"transition_id"`
}

const transitionColumns = `SELECT effective_at, emitted_at, segment, op, cause, trigger_message_id, profile_id, version, transition_id FROM segment_log`

func (l *lookup) segment(ctx context.Context, name string, condition segmentstage.Condition, limit int) (*segmentNow, error) {
	s := &segmentNow{Segment: name, Condition: conditionText(condition), Members: []member{}, Transitions: []transition{}}
	var sizes []struct {
		Size        uint64 `ch:"size"`
		DayEntered  uint64 `ch:"day_entered"`
		DayExited   uint64 `ch:"day_exited"`
		WeekEntered uint64 `ch:"week_entered"`
		WeekExited  uint64 `ch:"week_exited"`
	}
	const query = `SELECT (SELECT count() FROM segment_members WHERE segment = ?) AS size,
  countIf(op = 'enter' AND emitted_at > now() - INTERVAL 1 DAY) AS day_entered, countIf(op = 'exit' AND emitted_at > now() - INTERVAL 1 DAY) AS day_exited,
  countIf(op = 'enter') AS week_entered, countIf(op = 'exit') AS week_exited
FROM segment_log WHERE segment = ? AND emitted_at > now() - INTERVAL 7 DAY`
	if err := l.tables.Select(ctx, "read the size of the segment", &sizes, query, name, name); err != nil {
		return nil, err
	}
	if len(sizes) > 0 {
		x := sizes[0]
		s.Size, s.Day, s.Week = x.Size, moved{x.DayEntered, x.DayExited}, moved{x.WeekEntered, x.WeekExited}
	}
	if err := l.tables.Select(ctx, "read the members of the segment", &s.Members,
		`SELECT profile_id, since FROM segment_members WHERE segment = ? ORDER BY since DESC, profile_id LIMIT ?`, name, limit); err != nil {
		return nil, err
	}
	err := l.tables.Select(ctx, "read the transitions of the segment", &s.Transitions,
		transitionColumns+` WHERE segment = ? ORDER BY emitted_at DESC, profile_id, sequence DESC LIMIT ?`, name, limit)
	return s, err
}

func (s *segmentNow) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "segment\t%s\ncondition\t%s\nsize\t%d\nlast 24 h\t%d entered, %d exited\nlast 7 d\t%d entered, %d exited\n",
		s.Segment, printable(s.Condition), s.Size, s.Day.Entered, s.Day.Exited, s.Week.Entered, s.Week.Exited)
	if len(s.Members) > 0 {
		fmt.Fprint(t, "\nMEMBER\tSINCE\n")
	}
	for _, m := range s.Members {
		fmt.Fprintf(t, "%s\t%s\n", m.ProfileID, clock(m.Since))
	}
	printTransitions(t, s.Transitions)
	_ = t.Flush() // to standard output
}

func printTransitions(t io.Writer, list []transition) {
	if len(list) > 0 {
		fmt.Fprint(t, "\nAT\tWHAT\tPROFILE\tCAUSE\tMESSAGE ID\n")
	}
	for _, x := range list {
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\t%s\n", clock(x.At), x.Op, x.Segment, x.ProfileID, x.Cause, printable(x.MessageID))
	}
}
