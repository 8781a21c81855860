package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

func profileCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "profile",
		GroupID: "people",
		Short:   "Show a person: what is known, and from where",
		Long: `Reads the tables of the pipeline's clickhouse sink, beside the running pipeline or without it. The person
is named by an identifier, type:value, or by a profile id; merges are followed.

  millstream profile get pipeline.yaml user_id:42
  millstream profile history pipeline.yaml email:ann@example.com --limit 20`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(profileGetCommand(), profileHistoryCommand())
	return c
}

func profileGetCommand() *cobra.Command {
	var o lookupOptions
	c := &cobra.Command{
		Use:   "get PIPELINE ID",
		Short: "Show the person now, each trait with the event that set it",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return o.open(c.Context(), args[0], true, func(l *lookup) error {
				p, err := l.profile(c.Context(), args[1])
				if err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, p)
				}
				p.print(os.Stdout, l.plan)
				return nil
			})
		},
	}
	o.flags(c)
	return c
}

// profileNow is a person as the tables have it.
type profileNow struct {
	person
	FirstSeen   time.Time            `json:"first_seen"`
	LastSeen    time.Time            `json:"last_seen"`
	UpdatedAt   time.Time            `json:"updated_at"` // as of when the columns below are
	Identifiers map[string][]string  `json:"identifiers"`
	Traits      map[string]attribute `json:"traits"`
	Aggregates  map[string]attribute `json:"aggregates"`
	Segments    []stay               `json:"segments"`
	Scores      []score              `json:"scores"`
	Merges      []*links.Outcome     `json:"merges"` // and splits and refusals, in the order of the link log
}

// attribute is a trait or aggregate with where it comes from.
type attribute struct {
	Value any    `json:"value"`            // text or number
	Rule  string `json:"rule,omitempty"`   // of a declared one, as in the YAML
	SetBy *setBy `json:"set_by,omitempty"` // the event that a trait is from; nil: many, or one beyond what is looked at
}

type setBy struct {
	At        time.Time `json:"at"`
	Source    string    `json:"source"`
	MessageID string    `json:"message_id"`
}

type stay struct {
	Segment string    `json:"segment" ch:"segment"`
	Since   time.Time `json:"since" ch:"since"`
	Version uint32    `json:"version" ch:"version"`
}

type score struct {
	Score   string             `json:"score" ch:"score"`
	Value   float64            `json:"value" ch:"value"`
	Version uint32             `json:"version" ch:"version"`
	Reasons map[string]float64 `json:"reasons" ch:"reasons"`
	At      time.Time          `json:"at" ch:"at"`
}

// profileRow is a row of the view people.
type profileRow struct {
	FirstSeen   time.Time           `ch:"first_seen"`
	LastSeen    time.Time           `ch:"last_seen"`
	UpdatedAt   time.Time           `ch:"updated_at"`
	Identifiers map[string][]string `ch:"identifiers"`
	Traits      map[string]string   `ch:"traits"`
	Aggregates  map[string]float64  `ch:"aggregates"`
	Scores      map[string]float64  `ch:"scores"`
}

// row is the latest row of a profile; an empty one if it has none, since it was never told of.
func (l *lookup) row(ctx context.Context, id pipeline.ID) (*profileRow, error) {
	var rows []profileRow
	const query = `SELECT first_seen, last_seen, updated_at, identifiers, traits, aggregates, scores FROM people WHERE person_id = toUUID(?)`
	if err := l.tables.Select(ctx, "read the profile", &rows, query, id.String()); err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return &profileRow{}, nil
	}
	return &rows[0], nil
}

// profile reads all about the person of an identifier.
func (l *lookup) profile(ctx context.Context, text string) (*profileNow, error) {
	who, err := l.find(ctx, text)
	if err != nil {
		return nil, err
	}
	row, err := l.row(ctx, who.ProfileID)
	if err != nil {
		return nil, err
	}
	p := &profileNow{person: *who, FirstSeen: row.FirstSeen, LastSeen: row.LastSeen, UpdatedAt: row.UpdatedAt, Identifiers: row.Identifiers,
		Traits: map[string]attribute{}, Aggregates: map[string]attribute{}, Segments: []stay{}, Scores: []score{}, Merges: []*links.Outcome{}}
	if p.Identifiers == nil {
		p.Identifiers = map[string][]string{}
	}
	rules := rulesOf(l.plan)
	for name, value := range row.Aggregates {
		p.Aggregates[name] = attribute{Value: l.number(name, value), Rule: rules[name].text}
	}
	set, err := l.provenance(ctx, who.ProfileID, row.Traits, rules)
	if err != nil {
		return nil, err
	}
	for name, value := range row.Traits {
		p.Traits[name] = attribute{Value: value, Rule: rules[name].text, SetBy: set[name]}
	}
	id := who.ProfileID.String()
	if err := l.tables.Select(ctx, "read the segments of the profile", &p.Segments,
		`SELECT segment, since, version FROM segment_members WHERE profile_id = toUUID(?) ORDER BY segment`, id); err != nil {
		return nil, err
	}
	if err := l.tables.Select(ctx, "read the scores of the profile", &p.Scores,
		`SELECT score, value, version, reasons, at FROM person_scores WHERE person_id = toUUID(?) ORDER BY score`, id); err != nil {
		return nil, err
	}
	if l.log != nil {
		if _, _, history, err := l.log.Person(who.Asked); err != nil {
			return nil, err
		} else if history != nil {
			p.Merges = history
		}
	}
	return p, nil
}

// number is the value of an aggregate; of one that is a time, that time.
func (l *lookup) number(name string, value float64) any {
	for _, a := range l.plan.Attributes {
		if a.Name == name && a.Type == pipeline.Time {
			return pipeline.Millis(int64(value * 1000)).Format(pipeline.TimeFormat)
		}
	}
	return value
}

func (p *profileNow) print(w io.Writer, plan *pipeline.Plan) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = t.Flush() }() // to standard output
	fmt.Fprintf(t, "profile\t%s\n", p.ProfileID)
	switch {
	case p.Ambiguous:
		fmt.Fprintf(t, "asked\t%s\tidentifies nobody: this is what came under it alone\n", p.Asked)
	case p.Asked != p.ProfileID:
		fmt.Fprintf(t, "asked\t%s\tis part of it now\n", p.Asked)
	}
	fmt.Fprintf(t, "first seen\t%s\nlast seen\t%s\nas of\t%s\n", clock(p.FirstSeen), clock(p.LastSeen), clock(p.UpdatedAt))
	if len(p.Identifiers) > 0 {
		fmt.Fprint(t, "\nIDENTIFIER\tVALUE\n")
	}
	for _, name := range sorted(p.Identifiers) {
		for _, value := range p.Identifiers[name] {
			fmt.Fprintf(t, "%s\t%s\n", printable(name), printable(value))
		}
	}
	if len(p.Traits) > 0 {
		fmt.Fprint(t, "\nTRAIT\tVALUE\tAT\tSOURCE\tMESSAGE ID\tRULE\n")
	}
	for _, name := range sorted(p.Traits) {
		a := p.Traits[name]
		by := a.SetBy
		at := ""
		if by == nil {
			by = &setBy{}
		} else {
			at = clock(by.At)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(name), printable(fmt.Sprint(a.Value)), at, printable(by.Source), printable(by.MessageID), printable(a.Rule))
	}
	if len(p.Aggregates) > 0 {
		fmt.Fprint(t, "\nAGGREGATE\tVALUE\tRULE\n")
	}
	for _, name := range sorted(p.Aggregates) {
		a := p.Aggregates[name]
		fmt.Fprintf(t, "%s\t%s\t%s\n", printable(name), printable(fmt.Sprint(a.Value)), printable(a.Rule))
	}
	if len(p.Segments) > 0 {
		fmt.Fprint(t, "\nSEGMENT\tSINCE\n")
	}
	for _, s := range p.Segments {
		fmt.Fprintf(t, "%s\t%s\n", printable(s.Segment), clock(s.Since))
	}
	if len(p.Scores) > 0 {
		fmt.Fprint(t, "\nSCORE\tVALUE\tAT\n")
	}
	for _, s := range p.Scores {
		fmt.Fprintf(t, "%s\t%g\t%s\n", printable(s.Score), s.Value, clock(s.At))
	}
	if len(p.Merges) > 0 {
		printOutcomes(t, plan, p.Merges)
	}
}

// clock is a time as people read it; of what is not known, nothing.
func clock(t time.Time) string {
	if t.Unix() <= 0 {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05.000")
}

// printable is a text that somebody sent, fit for a terminal: control characters could move the cursor, or more.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\ufffd'
		}
		return r
	}, s)
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
