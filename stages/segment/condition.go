package segment

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// Condition is when a profile is in a segment: an expression, or one of two forms over the track events that it did.
//
//	{did: Product Added, then_not: Order Completed, within: 1h}   since the latest of the first, `within` has passed without one
//	                                                              of the second: in until one of either comes
//	{did: [A, B, C], within: 2h}                                  they happened in this order, with at most `within` from the
//	                                                              first to the last: in for good
type Condition struct {
	Expression string `yaml:"-"`

	Did     Events            `yaml:"did"`
	ThenNot string            `yaml:"then_not,omitempty"`
	Within  pipeline.Duration `yaml:"within"`
}

// UnmarshalYAML reads either form.
func (c *Condition) UnmarshalYAML(decode func(any) error) error {
	if err := decode(&c.Expression); err == nil {
		return nil
	}
	*c = Condition{}
	type form Condition // without this method
	return decode((*form)(c))
}

// Events is the name of a track event, or a list of names.
type Events []string

// UnmarshalYAML reads either form.
func (e *Events) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*e = Events{one}
		return nil
	}
	return decode((*[]string)(e))
}

// maxSteps bounds a sequence.
const maxSteps = 10

func (c Condition) compile(name string, scope expression.Scope, env *pipeline.Env) (d definition, problems []pipeline.Problem) {
	d = definition{name: name}
	source := c.Expression
	d.version = versionOf(source)
	if c.Did != nil || c.ThenNot != "" || c.Within != 0 {
		if problems = c.check(name); problems != nil {
			return d, problems
		}
		d.version = versionOf(c.String())
		var err error
		if source, scope, err = c.expression(env); err != nil {
			return d, []pipeline.Problem{pipeline.Problemf([]string{name}, "%s", err)}
		}
	}
	program, err := expression.CompileBool(source, scope)
	if err != nil {
		problem := pipeline.Problemf([]string{name}, "%s", err)
		if e := (*expression.Error)(nil); errors.As(err, &e) {
			problem.Column, problem.Message = e.Column, e.Message
		}
		return d, []pipeline.Problem{problem}
	}
	d.program = program
	return d, nil
}

func (c Condition) check(name string) (problems []pipeline.Problem) {
	problem := func(key, format string, args ...any) {
		problems = append(problems, pipeline.Problemf([]string{name, key}, format, args...))
	}
	for _, event := range c.Did {
		if event == "" {
			problem("did", "the name of an event is empty")
		}
	}
	switch {
	case len(c.Did) == 0:
		problems = append(problems, pipeline.Problemf([]string{name}, "needs did: the name of a track event, or a list of them"))
	case c.ThenNot != "" && len(c.Did) > 1:
		problem("then_not", "goes with one event under did, there are %d", len(c.Did))
	case c.ThenNot == "" && len(c.Did) == 1:
		problem("did", "one event is no sequence: add then_not, or declare {count: events, event: …} under profile")
	case len(c.Did) == 1 && c.ThenNot == c.Did[0]:
		problem("then_not", "is the event under did: compare days_since of its latest time instead")
	case len(c.Did) > maxSteps:
		problem("did", "%d events, the limit is %d", len(c.Did), maxSteps)
	}
	if c.Within == 0 {
		problems = append(problems, pipeline.Problemf([]string{name}, "needs within: a duration such as 1h"))
	}
	return problems
}

// String is what was done in one line; versions depend on it.
func (c Condition) String() string {
	words := make([]string, len(c.Did))
	for i, event := range c.Did {
		words[i] = fmt.Sprintf("%q", event)
	}
	text := "did " + strings.Join(words, " ")
	if c.ThenNot != "" {
		text += fmt.Sprintf(" then_not %q", c.ThenNot)
	}
	return text + " within " + c.Within.String()
}

// expression is what the second form means, over hidden attributes of the stage profile.
func (c Condition) expression(env *pipeline.Env) (string, expression.Scope, error) {
	scope := expression.Scope{Names: map[string]pipeline.AttributeType{}, Clock: true, Functions: map[string]expression.Function{}}
	// hidden makes function() the value of a hidden attribute.
	hidden := func(function string, within time.Duration, events ...string) error {
		a, err := env.Require(events, within)
		scope.Functions[function] = expression.Function{Returns: a.Type, Lookup: func([]expression.Argument) (string, error) { return a.Name, nil }}
		return err
	}
	within := time.Duration(c.Within)
	if c.ThenNot == "" {
		return "happened()", scope, hidden("happened", within, c.Did...)
	}
	// A missing time makes a comparison false: nobody who did not do the first, and everybody who never did the second.
	source := "days_since(did()) >= " + expression.Days(within) + " and not (then() >= did())"
	return source, scope, errors.Join(hidden("did", 0, c.Did[0]), hidden("then", 0, c.ThenNot))
}
