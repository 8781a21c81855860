package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
	segmentstage "github.com/millstream-io/millstream/stages/segment"
)

// membership is why somebody is in a segment or not.
type membership struct {
	person
	Segment     string       `json:"segment"`
	Condition   string       `json:"condition"`
	Inputs      []input      `json:"inputs"` // what the condition reads
	AsOf        time.Time    `json:"as_of"`  // of the inputs: the profile's last update
	In          bool         `json:"in"`
	Since       *time.Time   `json:"since"`       // null: never in
	Transitions []transition `json:"transitions"` // the latest first
}

// input is a name in a condition, with its value.
type input struct {
	Name  string `json:"name"`
	Value any    `json:"value"` // null: missing, which no comparison is true of
}

func (l *lookup) membership(ctx context.Context, name string, condition segmentstage.Condition, text string, limit int) (*membership, error) {
	who, err := l.find(ctx, text)
	if err != nil {
		return nil, err
	}
	m := &membership{person: *who, Segment: name, Condition: conditionText(condition), Transitions: []transition{}}
	row, err := l.row(ctx, who.ProfileID)
	if err != nil {
		return nil, err
	}
	m.AsOf = row.UpdatedAt
	if condition.Expression != "" {
		m.Inputs, err = l.inputs(condition.Expression, row)
	} else {
		m.Inputs, err = l.done(ctx, who.ProfileID, condition)
	}
	if err != nil {
		return nil, err
	}
	id := who.ProfileID.String()
	if err := l.tables.Select(ctx, "read the transitions of the profile", &m.Transitions, transitionColumns+
		` WHERE segment = ? AND profile_id IN `+membersOf+` ORDER BY emitted_at DESC, sequence DESC LIMIT ?`, name, id, id, limit); err != nil {
		return nil, err
	}
	return m, l.standing(ctx, m)
}

// standing reads in or out, and since when.
func (l *lookup) standing(ctx context.Context, m *membership) error {
	var stays []struct {
		In    bool      `ch:"is_in"`
		Since time.Time `ch:"since"`
	}
	const query = `SELECT delta = 1 AS is_in, if(delta = 1, l.since, effective_at) AS since FROM segment_log AS l
WHERE segment = ? AND profile_id = toUUID(?) AND delta <> 0 ORDER BY sequence DESC LIMIT 1`
	if err := l.tables.Select(ctx, "read the membership of the profile", &stays, query, m.Segment, m.ProfileID.String()); err != nil {
		return err
	}
	if len(stays) > 0 {
		m.In, m.Since = stays[0].In, &stays[0].Since
	}
	return nil
}

// inputs are the names that an expression reads, with their values in the profile's row.
func (l *lookup) inputs(source string, row *profileRow) ([]input, error) {
	scope := expression.Scope{Names: map[string]pipeline.AttributeType{}, Roots: []string{"traits"}, Clock: true}
	for _, a := range l.plan.Attributes {
		scope.Names[a.Name] = a.Type
	}
	program, err := expression.CompileBool(source, scope)
	if err != nil {
		return nil, fmt.Errorf("read the condition: %w", err) // it was compiled when the YAML was read
	}
	rules := rulesOf(l.plan)
	list := []input{}
	for _, name := range program.Names() {
		list = append(list, input{name, l.valueOf(name, row, rules[name])})
	}
	return list, nil
}

// valueOf is the value of a name in a condition, nil if it is missing.
func (l *lookup) valueOf(name string, row *profileRow, r rule) any {
	if v, ok := row.Scores[name]; ok {
		return v
	}
	if v, ok := row.Aggregates[name]; ok {
		return l.number(name, v)
	}
	key, _ := strings.CutPrefix(name, "traits.")
	if v, ok := row.Traits[strings.ReplaceAll(key, `"`, "")]; ok {
		return v
	}
	if r.Count+r.Sum+r.Unique != "" {
		return 0.0 // of no events
	}
	return nil
}

// done says of each event of a condition over what somebody did when it happened last.
func (l *lookup) done(ctx context.Context, id pipeline.ID, condition segmentstage.Condition) ([]input, error) {
	list := []input{}
	for _, event := range append(append([]string{}, condition.Did...), condition.ThenNot) {
		if event == "" {
			continue
		}
		var rows []struct {
			Count uint64    `ch:"n"`
			Last  time.Time `ch:"last"`
		}
		const query = `SELECT count() AS n, max(time) AS last FROM person_timeline(person = ?) WHERE type = 'track' AND event = ?`
		if err := l.tables.Select(ctx, "read the events of the profile", &rows, query, id.String(), event); err != nil {
			return nil, err
		}
		x := input{Name: fmt.Sprintf("latest %q", event)}
		if len(rows) > 0 && rows[0].Count > 0 {
			x.Value = rows[0].Last.UTC().Format(pipeline.TimeFormat)
		}
		list = append(list, x)
	}
	return list, nil
}

func (m *membership) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "segment\t%s\nprofile\t%s\ncondition\t%s\n", m.Segment, m.ProfileID, printable(m.Condition))
	switch {
	case m.In:
		fmt.Fprintf(t, "in\tsince %s\n", clock(*m.Since))
	case m.Since != nil:
		fmt.Fprintf(t, "out\tsince %s\n", clock(*m.Since))
	default:
		fmt.Fprint(t, "out\tit was never in\n")
	}
	fmt.Fprintf(t, "as of\t%s\n\n", clock(m.AsOf))
	for _, x := range m.Inputs {
		value := "missing"
		if x.Value != nil {
			value = printable(fmt.Sprint(x.Value))
		}
		fmt.Fprintf(t, "%s\t= %s\n", printable(x.Name), value)
	}
	printTransitions(t, m.Transitions)
	_ = t.Flush() // to standard output
}
