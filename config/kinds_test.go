package config_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/millstream-io/millstream/config"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// kinds are small parts in the shape of the real ones, which live above this package.
func kinds() config.Kinds {
	return config.Kinds{
		Sources: []pipeline.SourceKind{
			{Name: "http", Config: func() any { return &httpConfig{Listen: "127.0.0.1:8080", MaxBody: 1 << 20} }, Build: buildHTTP},
			{Name: "file", Config: func() any { return &fileConfig{} }, Build: sourceBuild},
		},
		Stages: []pipeline.StageKind{
			{Name: "clean", Task: pipeline.TaskResolve, Code: 1, Config: func() any { return &struct{}{} }, Build: stageBuild},
			{Name: "dedup", Task: pipeline.TaskResolve, Code: 2, After: []string{"clean"}, Config: func() any { return &dedupConfig{Window: pipeline.Duration(24 * 3600e9)} }, Build: stageBuild},
			{Name: "profile", Task: pipeline.TaskProfile, Code: 3, After: []string{"clean"}, Config: func() any { return &profileConfig{} }, Build: buildProfile},
			{Name: "score", Task: pipeline.TaskProfile, Code: 2, After: []string{"clean", "profile"}, Around: []string{"segment"}, Config: func() any { return &scoreConfig{} }, Build: buildScore},
			{Name: "segment", Task: pipeline.TaskProfile, Code: 4, After: []string{"clean", "profile"}, Config: func() any { return &segmentConfig{} }, Build: buildSegment},
		},
		Sinks: []pipeline.SinkKind{
			{Name: "webhook", Topics: []string{"changes"}, Config: func() any { return &webhookConfig{} }, Build: buildWebhook},
			{Name: "clickhouse", Topics: []string{"events", "changes"}, Config: func() any {
				return &struct {
					URL pipeline.Secret `yaml:"url"`
				}{}
			}, Build: sinkBuild},
		},
	}
}

type httpConfig struct {
	Listen    string                     `yaml:"listen"`
	WriteKeys map[string]pipeline.Secret `yaml:"write_keys"`
	MaxBody   pipeline.Bytes             `yaml:"max_body"`
}

type fileConfig struct {
	Path   paths             `yaml:"path"`
	Set    map[string]any    `yaml:"set"`
	Map    map[string]string `yaml:"map"`
	Header *bool             `yaml:"header"`
}

// paths is one text or a list, by the interface of YAML libraries.
type paths []string

func (p *paths) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*p = paths{one}
		return nil
	}
	var many []string
	err := decode(&many)
	*p = many
	return err
}

type dedupConfig struct {
	Window pipeline.Duration `yaml:"window"`
}

type attribute struct {
	Count  string `yaml:"count,omitempty"`
	Sum    string `yaml:"sum,omitempty"`
	Latest string `yaml:"latest,omitempty"`
	Max    string `yaml:"max,omitempty"`
	Event  string `yaml:"event,omitempty"`
	Where  string `yaml:"where,omitempty"`
}

type profileConfig map[string]attribute

type segmentConfig map[string]string

type webhookConfig struct {
	URL      string          `yaml:"url"`
	Secret   pipeline.Secret `yaml:"secret"`
	InFlight int             `yaml:"max_in_flight"`
	Ratio    float64         `yaml:"ratio"`
	Verify   bool            `yaml:"verify"`
}

func buildHTTP(_ string, c any, _ *pipeline.Env) (func(context.Context, pipeline.Deps) (pipeline.Source, error), []pipeline.Problem) {
	if len(c.(*httpConfig).WriteKeys) == 0 {
		return nil, []pipeline.Problem{pipeline.Problemf([]string{"write_keys"}, "write_keys is missing")}
	}
	return sourceBuild("", c, nil)
}

func sourceBuild(string, any, *pipeline.Env) (func(context.Context, pipeline.Deps) (pipeline.Source, error), []pipeline.Problem) {
	return func(context.Context, pipeline.Deps) (pipeline.Source, error) { return nil, nil }, nil
}

func sinkBuild(string, any, *pipeline.Env) (func(context.Context, pipeline.Deps) (any, error), []pipeline.Problem) {
	return func(context.Context, pipeline.Deps) (any, error) { return nil, nil }, nil
}

func stageBuild(any, *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	return func() pipeline.Stage { return nil }, nil
}

func buildProfile(c any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	var problems []pipeline.Problem
	config := *c.(*profileConfig)
	for _, name := range slices.Sorted(maps.Keys(config)) {
		a, t := config[name], pipeline.Number
		switch {
		case a.Latest != "":
			t = pipeline.Text
		case a.Max == "timestamp":
			t = pipeline.Time
		case a.Count == "" && a.Sum == "" && a.Max == "":
			problems = append(problems, pipeline.Problemf([]string{name}, "attribute %s does nothing", name))
			continue
		}
		if a.Where != "" {
			_, err := expression.CompileBool(a.Where, expression.Scope{Roots: []string{"properties"}})
			if err != nil {
				problems = append(problems, expressionProblem([]string{name, "where"}, err))
			}
		}
		if _, err := env.Declare(name, t); err != nil {
			problems = append(problems, pipeline.Problemf([]string{name}, "%s", err))
		}
	}
	build, _ := stageBuild(c, env)
	return build, problems
}

func buildSegment(c any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	var problems []pipeline.Problem
	scope := expression.Scope{Names: map[string]pipeline.AttributeType{}, Roots: []string{"traits"}}
	for _, a := range env.Attributes {
		scope.Names[a.Name] = a.Type
	}
	config := *c.(*segmentConfig)
	for _, name := range slices.Sorted(maps.Keys(config)) {
		if _, err := expression.CompileBool(config[name], scope); err != nil {
			problems = append(problems, expressionProblem([]string{name}, err))
		}
	}
	if problems == nil {
		env.Segments = slices.Sorted(maps.Keys(config))
	}
	build, _ := stageBuild(c, env)
	return build, problems
}

type scoreConfig map[string]string

// buildScore declares scores, without a model.
func buildScore(c any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	for _, name := range slices.Sorted(maps.Keys(*c.(*scoreConfig))) {
		if _, err := env.Declare(name, pipeline.Number); err != nil {
			return nil, []pipeline.Problem{pipeline.Problemf([]string{name}, "%s", err)}
		}
		env.Scores = append(env.Scores, name)
	}
	return stageBuild(c, env)
}

func buildWebhook(name string, c any, env *pipeline.Env) (func(context.Context, pipeline.Deps) (any, error), []pipeline.Problem) {
	config := c.(*webhookConfig)
	open, _ := sinkBuild(name, c, env)
	var problems []pipeline.Problem
	if config.URL == "" {
		problems = append(problems, pipeline.Problemf([]string{"url"}, "url is missing"))
	} else if config.URL[0] != 'h' {
		problems = append(problems, pipeline.Problemf([]string{"url"}, "%q is not an address", config.URL))
	}
	return open, problems
}

func expressionProblem(path []string, err error) pipeline.Problem {
	p := pipeline.Problem{Path: path, Message: fmt.Sprint(err)}
	var e *expression.Error
	if errors.As(err, &e) {
		p.Column, p.Message = e.Column, e.Message
	}
	return p
}
