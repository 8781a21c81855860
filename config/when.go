package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/internal/suggest"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// when compiles the condition of a sink: which messages of the topic `changes` it gets.
//
//	entered("s"), exited("s")   the message says so of segment s
//	created()                   the profile is new
//	merged()                    the profile is now part of another one, data.into
//	erased()                    the person of the profile is forgotten, and so should the receiver
//	changed("name")             the profile is new or updated, and this attribute, trait or identifier is among what changed; of a
//	                            score: it was told to be another one
//	changed("score", 5)         a score is another one by 5 or more than when this was last so
//	orders, traits.plan, …      the profile in the message, by the names of the stage `profile`
//
// A message about a segment knows nothing of what changed, and one about a change nothing of segments entered: there the
// functions are false. Messages that a profile was merged, split or erased carry no profile: its names are absent there.
func (b *builder) when(sink, n *node) func(*pipeline.Message) (bool, error) {
	d := decoder{report: b.report}
	if n.wrong || !d.is(n, sink, "when", scalar) {
		return nil
	}
	n.canon = n.text
	program, err := expression.CompileBool(n.text, b.whenScope())
	if err != nil {
		var e *expression.Error
		if errors.As(err, &e) {
			d.failAt(n, e.Column, "%s", e.Message)
		}
		return nil
	}
	sources := map[string]func(*reading) any{}
	for _, name := range program.Names() {
		sources[name] = b.reader(name)
	}
	return func(m *pipeline.Message) (bool, error) {
		r := reading{message: m}
		return program.Bool(func(name string) any { return sources[name](&r) })
	}
}

func (b *builder) whenScope() expression.Scope {
	scope := expression.Scope{Names: map[string]pipeline.AttributeType{}, Roots: []string{"traits"}}
	for _, a := range b.env.Attributes {
		scope.Names[a.Name] = a.Type
	}
	text := []pipeline.AttributeType{pipeline.Text}
	segment := func(function string) expression.Function {
		return expression.Function{Params: text, Returns: pipeline.Bool, Lookup: func(args []expression.Argument) (string, error) {
			name, ok := args[0].Text()
			if !ok {
				return "", fmt.Errorf("%s needs the name of a segment in quotes", function)
			}
			if !slices.Contains(b.env.Segments, name) {
				return "", fmt.Errorf("there is no segment %q%s", name, suggest.DidYouMean(name, b.env.Segments))
			}
			return function + "(" + name, nil
		}}
	}
	scope.Functions = map[string]expression.Function{
		"entered": segment("entered"),
		"exited":  segment("exited"),
		"created": {Returns: pipeline.Bool, Lookup: func([]expression.Argument) (string, error) { return "created(", nil }},
		"merged":  {Returns: pipeline.Bool, Lookup: func([]expression.Argument) (string, error) { return "merged(", nil }},
		"erased":  {Returns: pipeline.Bool, Lookup: func([]expression.Argument) (string, error) { return "erased(", nil }},
		"changed": {Params: []pipeline.AttributeType{pipeline.Text, pipeline.Number}, Optional: 1, Returns: pipeline.Bool, Lookup: b.changed},
	}
	return scope
}

// changed checks changed("name"): an attribute, an identifier type that every pipeline knows, or traits.x.
func (b *builder) changed(args []expression.Argument) (string, error) {
	name, ok := args[0].Text()
	switch {
	case !ok:
		return "", errors.New("changed needs a name in quotes")
	case slices.Contains(b.env.Scores, name):
		return b.scoreChanged(name, args[1:])
	}
	trait, isTrait := strings.CutPrefix(name, "traits.")
	known := []string{"user_id", "email", "phone", "anonymous_id"}
	for _, a := range b.env.Attributes {
		known = append(known, a.Name)
	}
	switch {
	case !slices.Contains(known, name) && (!isTrait || trait == ""):
		return "", fmt.Errorf("the profile has no %q (a trait is traits.%s)%s", name, name, suggest.DidYouMean(name, known))
	case len(args) > 1:
		return "", fmt.Errorf("changed(%q, delta) compares with the value before, which messages carry of scores alone: write changed(%q)", name, name)
	case isTrait:
		return "changed(" + trait, nil
	}
	return "changed(" + name, nil
}

// scoreChanged checks changed("score") and changed("score", delta). The stage score is asked to say when the delta is reached.
func (b *builder) scoreChanged(name string, rest []expression.Argument) (string, error) {
	if len(rest) == 0 {
		return "score(" + name, nil
	}
	delta, ok := rest[0].Value.(float64)
	switch {
	case !ok || !rest[0].Constant || !(delta > 0):
		return "", fmt.Errorf("changed(%q, delta) needs a constant number above 0", name)
	case len(b.env.Deltas[name]) >= maxDeltas && !slices.Contains(b.env.Deltas[name], delta):
		return "", fmt.Errorf("changed(%q, …) stands with more than %d different numbers in this pipeline", name, maxDeltas)
	}
	b.env.Delta(name, delta)
	return "score(" + name + "(" + strconv.FormatFloat(delta, 'g', -1, 64), nil
}

// maxDeltas bounds the deltas of one score: each is a number in the state of every profile.
const maxDeltas = 8

// reading is one message while its condition is evaluated.
type reading struct {
	message *pipeline.Message
	profile gjson.Result // once it was needed
}

// person is the profile in the message: data.profile, or the data itself for messages about the profile as such.
func (r *reading) person() gjson.Result {
	if !r.profile.Exists() {
		r.profile = gjson.GetBytes(r.message.Data, "profile")
		if !r.profile.IsObject() {
			r.profile = gjson.ParseBytes(r.message.Data)
		}
	}
	return r.profile
}

// reader returns how to find a name of the scope in a message.
func (b *builder) reader(name string) func(*reading) any {
	if function, argument, ok := strings.Cut(name, "("); ok {
		return functionReader(function, argument)
	}
	if path, ok := strings.CutPrefix(name, "traits."); ok {
		return func(r *reading) any { return member(r.person().Get("traits"), path) }
	}
	a, _ := b.env.Attribute(name)
	score := slices.Contains(b.env.Scores, name)
	return func(r *reading) any {
		part := "aggregates"
		if score {
			part = "scores"
		}
		v := pipeline.Scalar(child(r.person().Get(part), name))
		if v == nil { // texts stand among the traits
			v = pipeline.Scalar(child(r.person().Get("traits"), name))
		}
		if a.Type == expression.List {
			return listOf(child(r.person().Get("traits"), name))
		}
		if seconds, ok := v.(float64); ok && a.Type == pipeline.Time {
			return pipeline.Millis(int64(math.Round(seconds * 1000)))
		}
		return v
	}
}

func functionReader(function, argument string) func(*reading) any {
	switch function {
	case "created":
		return func(r *reading) any { return r.message.Type == pipeline.ProfileCreated }
	case "merged":
		return func(r *reading) any { return r.message.Type == pipeline.ProfileMerged }
	case "erased":
		return func(r *reading) any { return r.message.Type == pipeline.ProfileErased }
	case "changed":
		return func(r *reading) any {
			if t := r.message.Type; t != pipeline.ProfileCreated && t != pipeline.ProfileUpdated {
				return false
			}
			found := false
			gjson.GetBytes(r.message.Data, "changed").ForEach(func(_, v gjson.Result) bool {
				found = v.Str == argument
				return !found
			})
			return found
		}
	}
	if function == "score" {
		return scoreReader(argument)
	}
	want := map[string]string{"entered": pipeline.SegmentEntered, "exited": pipeline.SegmentExited}[function]
	return func(r *reading) any {
		return r.message.Type == want && gjson.GetBytes(r.message.Data, "segment").Str == argument
	}
}

// scoreReader tells whether a message says that a score changed; with a delta, that this delta was reached.
func scoreReader(argument string) func(*reading) any {
	name, text, delta := strings.Cut(argument, "(")
	by, _ := strconv.ParseFloat(text, 64)
	return func(r *reading) any {
		if r.message.Type != pipeline.ScoreChanged || gjson.GetBytes(r.message.Data, "score").Str != name {
			return false
		}
		reached := !delta
		gjson.GetBytes(r.message.Meta, "deltas").ForEach(func(_, v gjson.Result) bool {
			reached = reached || v.Num == by
			return !reached
		})
		return reached
	}
}

// member follows a dotted path, as in pipeline.Path: a key that contains a dot is in quotes.
func member(v gjson.Result, path string) any {
	if whole := child(v, path); whole.Exists() { // the usual case, and keys with dots
		return pipeline.Scalar(whole)
	}
	for rest := path; rest != ""; {
		var key string
		if strings.HasPrefix(rest, `"`) {
			key, rest, _ = strings.Cut(rest[1:], `"`)
			rest = strings.TrimPrefix(rest, ".")
		} else {
			key, rest, _ = strings.Cut(rest, ".")
		}
		v = child(v, key)
	}
	return pipeline.Scalar(v)
}

// child is the value under a key, taken as it is, or under the number of an entry.
func child(v gjson.Result, key string) (found gjson.Result) {
	i := 0
	v.ForEach(func(k, x gjson.Result) bool {
		if v.IsObject() && k.Str == key || v.IsArray() && fmt.Sprint(i) == key {
			found = x
			return false
		}
		i++
		return true
	})
	return found
}

// scalarOf is a JSON value for an expression; objects and lists are their JSON text.
// listOf is a list of texts, nil if there is none.
func listOf(v gjson.Result) any {
	if !v.IsArray() {
		return nil
	}
	texts := []string{}
	for _, item := range v.Array() {
		texts = append(texts, item.String())
	}
	return texts
}
