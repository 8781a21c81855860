package config

import (
	"context"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/millstream-io/millstream/internal/suggest"
	"github.com/millstream-io/millstream/pipeline"
)

// file is the top level of the YAML. Sections whose keys are names are taken apart by the builder.
type file struct {
	Pipeline string         `yaml:"pipeline"`
	Kafka    kafka          `yaml:"kafka"`
	Sources  map[string]any `yaml:"sources"`
	Stages   []any          `yaml:"stages"`
	Sinks    map[string]any `yaml:"sinks"`
}

// Names: of a pipeline it begins topics, groups and folders and is a ClickHouse database.
var (
	validName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,47}$`)
	taken     = []string{"system", "default", "information_schema"} // databases of ClickHouse's own
)

const nameRule = "use small letters, digits, _ and -, a letter first, at most 48"

// builder makes a plan of a tree. It goes on after a mistake; the plan is then incomplete and not used.
type builder struct {
	*report
	kinds Kinds
	root  *node
	plan  pipeline.Plan
	env   pipeline.Env
}

func (b *builder) build() *pipeline.Plan {
	b.topLevel()
	b.env = pipeline.Env{Pipeline: b.plan.Name, Partitions: b.plan.Partitions, Identities: b.plan.Identities}
	sections := map[string]func(section *pair){"sources": b.sources, "stages": b.stages, "sinks": b.sinks}
	for _, name := range []string{"sources", "stages", "sinks"} { // whatever their order in the file
		if p := b.root.get(name); p != nil {
			sections[name](p)
		}
	}
	b.plan.Attributes = b.env.Attributes
	b.plan.Horizon = b.env.Horizon
	b.plan.Stitching = b.env.Stitching
	if len(b.list) > 0 {
		return nil
	}
	b.plan.Hash = hash(b.root)
	return &b.plan
}

// topLevel reads all but the three sections.
func (b *builder) topLevel() {
	f := file{Kafka: kafka{Partitions: defaultPartitions, CommitInterval: pipeline.Duration(defaultCommit)}}
	d := decoder{report: b.report}
	top := *b.root
	top.pairs = nil
	for _, p := range b.root.pairs {
		if p.key != "sources" && p.key != "stages" && p.key != "sinks" {
			top.pairs = append(top.pairs, p)
		}
	}
	d.decode(&top, b.root, "a pipeline", reflect.ValueOf(&f).Elem())

	b.name(f.Pipeline)
	b.plan.Name = f.Pipeline
	b.kafka(&f.Kafka)
	b.plan.Identities = pipeline.NewIdentities([]byte(f.Pipeline)) // the identity key, until it can be set
}

func (b *builder) name(name string) {
	p := b.root.get("pipeline")
	switch {
	case p == nil:
		b.add(b.root.line, b.root.column, "the pipeline has no name: begin with `pipeline: name`")
	case p.value.flawed() || p.at.wrong:
	case !validName.MatchString(name):
		b.at([]string{"pipeline"}, "%q is not a name for a pipeline: %s", name, nameRule)
	case slices.Contains(taken, name):
		b.at([]string{"pipeline"}, "%q is a database of ClickHouse's own: choose another name", name)
	}
}

// at reports a mistake at a path from the top.
func (b *builder) at(path []string, format string, args ...any) {
	value, at, _ := b.root.find(b.root, path)
	d := decoder{report: b.report}
	if !value.wrong {
		d.fail(at, format, args...)
	}
}

// entry is one named source or sink, taken apart.
type entry struct {
	name   string
	at     *node
	kind   *pair // the kind and its config; nil if there is none
	engine map[string]*node
}

// entries walks a section of named parts. kinds are the kinds it can have, engine the keys that may stand beside the kind.
func (b *builder) entries(section *pair, word string, kinds, engine []string, fn func(e entry)) {
	d := decoder{report: b.report}
	if !d.is(section.value, section.at, section.key, mapping) {
		return
	}
	for _, p := range section.value.pairs {
		if !validName.MatchString(p.key) {
			d.fail(p.at, "%q is not a name for a %s: %s", p.key, word, nameRule)
		}
		if p.value.wrong {
			continue
		}
		if p.value.kind != mapping {
			d.fail(p.at, "%s %s needs a kind: write %s: {%s: {…}}", word, p.key, p.key, strings.Join(kinds, ": {…}} or {"))
			continue
		}
		e := entry{name: p.key, at: p.at, engine: map[string]*node{}}
		unknown := false
		for i := range p.value.pairs {
			q := &p.value.pairs[i]
			switch {
			case slices.Contains(engine, q.key):
				e.engine[q.key] = q.value
			case !slices.Contains(kinds, q.key):
				unknown = true
				b.unknownKind(q.at, word, q.key, kinds, engine)
			case e.kind != nil:
				d.fail(q.at, "%s %s has two kinds, %s and %s: give each its own name", word, p.key, e.kind.key, q.key)
			default:
				e.kind = q
			}
		}
		if e.kind == nil && !unknown && !p.value.flawed() {
			d.fail(p.at, "%s %s has no kind: write one of %s", word, p.key, strings.Join(kinds, ", "))
		}
		fn(e)
	}
}

func (b *builder) unknownKind(at *node, word, key string, kinds, engine []string) {
	hint := suggest.DidYouMean(key, append(slices.Clone(kinds), engine...))
	if hint == "" {
		hint = ", this version has " + strings.Join(kinds, ", ")
	}
	d := decoder{report: b.report}
	d.fail(at, "there is no %s %q%s", word, key, hint)
}

func (b *builder) sources(section *pair) {
	names := make([]string, len(b.kinds.Sources))
	for i, k := range b.kinds.Sources {
		names[i] = k.Name
	}
	b.entries(section, "source", names, nil, func(e entry) {
		if e.kind == nil {
			return
		}
		k := b.kinds.Sources[slices.Index(names, e.kind.key)]
		var open func(context.Context, pipeline.Deps) (pipeline.Source, error)
		b.part(e.kind, k.Config(), func(config any) (problems []pipeline.Problem) {
			open, problems = k.Build(e.name, config, &b.env)
			return problems
		})
		b.plan.Sources = append(b.plan.Sources, pipeline.SourcePlan{Name: e.name, Kind: k.Name, Resumes: k.Resumes, Open: open})
	})
}

func (b *builder) sinks(section *pair) {
	names := make([]string, len(b.kinds.Sinks))
	for i, k := range b.kinds.Sinks {
		names[i] = k.Name
	}
	b.entries(section, "sink", names, []string{"when"}, func(e entry) {
		plan := pipeline.SinkPlan{Name: e.name}
		if e.kind != nil {
			k := b.kinds.Sinks[slices.Index(names, e.kind.key)]
			plan.Kind, plan.Topics = k.Name, k.Topics
			plan.Config = k.Config()
			b.part(e.kind, plan.Config, func(config any) (problems []pipeline.Problem) {
				plan.Open, problems = k.Build(e.name, config, &b.env)
				return problems
			})
			if when := e.engine["when"]; when != nil && !slices.Equal(k.Topics, []string{"changes"}) {
				d := decoder{report: b.report}
				d.fail(when, "when chooses messages of the topic changes, and %s takes more than that: leave it out", k.Name)
			}
		}
		if when := e.engine["when"]; when != nil {
			plan.When = b.when(e.at, when)
		}
		b.plan.Sinks = append(b.plan.Sinks, plan)
	})
}

// stages reads the list of stages: `- kind` or `- kind: {…}`, in the order of the kinds, but for those that may stand around each
// other.
func (b *builder) stages(section *pair) {
	d := decoder{report: b.report}
	if !d.is(section.value, section.at, section.key, sequence) {
		return
	}
	names := make([]string, len(b.kinds.Stages))
	for i, k := range b.kinds.Stages {
		names[i] = k.Name
	}
	var listed []*pair
	for _, item := range section.value.items {
		if p, ok := b.stage(item); ok {
			listed = append(listed, p)
		}
	}
	b.lacking(section, listed, names)
	var seen []string
	for _, p := range listed {
		i := slices.Index(names, p.key)
		switch {
		case i < 0:
			b.unknownKind(p.at, "stage", p.key, names, nil)
			continue
		case slices.Contains(seen, p.key):
			d.fail(p.at, "the stage %s stands twice", p.key)
			continue
		}
		k := b.kinds.Stages[i]
		for _, before := range slices.Backward(seen) {
			if slices.Index(names, before) > i && !slices.Contains(k.Around, before) {
				d.fail(p.at, "the stage %s comes before %s: the order is %s", p.key, before, strings.Join(names, ", "))
				break
			}
		}
		seen = append(seen, p.key)
		plan := pipeline.StagePlan{Kind: k.Name, Code: k.Code, Config: k.Config()}
		b.part(p, plan.Config, func(config any) (problems []pipeline.Problem) {
			plan.New, problems = k.Build(config, &b.env)
			return problems
		})
		b.declareFlawed(p.value)
		if k.Task == pipeline.TaskResolve {
			b.plan.Resolve = append(b.plan.Resolve, plan)
		} else {
			b.plan.Profile = append(b.plan.Profile, plan)
		}
	}
}

// lacking reports the stages that others need before them and that are not in the list; what stands too late is reported as
// out of order. It says nothing if an entry is not understood, which may be the one.
func (b *builder) lacking(section *pair, listed []*pair, names []string) {
	have := make([]string, len(listed))
	for i, p := range listed {
		have[i] = p.key
	}
	if len(listed) < len(section.value.items) || slices.ContainsFunc(have, func(key string) bool { return !slices.Contains(names, key) }) {
		return
	}
	for _, p := range listed {
		for _, need := range b.kinds.Stages[slices.Index(names, p.key)].After {
			if slices.Contains(have, need) {
				continue
			}
			have = append(have, need) // once
			b.report.at(p.at, 0, "the stage %s needs the stage %s before it: add `- %s` above", p.key, need, need)
		}
	}
}

// stage takes one entry of the list apart.
func (b *builder) stage(item *node) (*pair, bool) {
	d := decoder{report: b.report}
	switch {
	case item.wrong:
		return nil, false
	case item.kind == scalar: // from here on the same as `- kind: {}`, for the hash too
		at := *item
		item.kind, item.pairs = mapping, []pair{{key: item.text, at: &at, value: &node{line: at.line, column: at.column}}}
	case item.kind == mapping && len(item.pairs) == 1:
	case item.kind == mapping && len(item.pairs) > 1:
		extra := item.pairs[1]
		d.fail(extra.at, "%s begins a second stage in one entry: put a dash before it, or indent it if it belongs to %s", extra.key, item.pairs[0].key)
	default:
		d.fail(item, "a stage is `- kind` or `- kind: {…}`")
		return nil, false
	}
	return &item.pairs[0], true
}

// part decodes and builds one source, stage or sink.
func (b *builder) part(kind *pair, config any, build func(config any) []pipeline.Problem) {
	d := decoder{report: b.report}
	d.decode(kind.value, kind.at, kind.key, reflect.ValueOf(config).Elem())
	incomplete := kind.value.flawed() || kind.at.wrong
	for _, p := range build(config) {
		value, at, complete := kind.value.find(kind.at, p.Path)
		if incomplete && (!complete || len(p.Path) == 0 || value.flawed() || at.wrong) {
			continue // it follows from a mistake that is shown already
		}
		d.failAt(at, p.Column, "%s", p.Message)
	}
}

// declareFlawed declares the names in a stage's config if there is a mistake in it, so that the mistake does not come back as an
// unknown name wherever they are used: the stage may have declared some of them or none. The plan will not be used.
func (b *builder) declareFlawed(config *node) {
	if !config.flawed() {
		return
	}
	for _, p := range config.pairs {
		if _, ok := b.env.Attribute(p.key); !ok {
			_, _ = b.env.Declare(p.key, pipeline.Any)
		}
		if !slices.Contains(b.env.Segments, p.key) {
			b.env.Segments = append(b.env.Segments, p.key)
		}
	}
}
