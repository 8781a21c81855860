package stagetest

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/millstream-io/millstream/pipeline"
)

// Key is the identity key of pipelines under test.
const Key = "stagetest"

// Plan is the stages of a pipeline, built.
type Plan struct {
	Env     *pipeline.Env
	Resolve []pipeline.StagePlan
	Profile []pipeline.StagePlan
}

// Build builds the value of `stages` in a YAML: a list of mappings with one key. An unknown key is an error; the problems
// that the kinds report come as "stage.path: message".
func Build(kinds []pipeline.StageKind, source string) (*Plan, []string, error) {
	var entries []map[string]ast.Node
	if err := yaml.Unmarshal([]byte(source), &entries); err != nil {
		return nil, nil, fmt.Errorf("read the list of stages: %w", err)
	}
	p := &Plan{Env: &pipeline.Env{Pipeline: "test", Identities: pipeline.NewIdentities([]byte(Key))}}
	var problems []string
	for _, entry := range entries {
		for name, node := range entry {
			kind, ok := find(kinds, name)
			if !ok {
				return nil, nil, fmt.Errorf("there is no stage %q", name)
			}
			config := kind.Config()
			if err := yaml.NodeToValue(node, config, yaml.Strict()); err != nil {
				return nil, nil, fmt.Errorf("read the settings of %s: %w", name, err)
			}
			newStage, wrong := kind.Build(config, p.Env)
			for _, w := range wrong {
				problems = append(problems, problem(name, w))
			}
			plan := pipeline.StagePlan{Kind: name, Code: kind.Code, New: newStage}
			if kind.Task == pipeline.TaskResolve {
				p.Resolve = append(p.Resolve, plan)
			} else {
				p.Profile = append(p.Profile, plan)
			}
		}
	}
	return p, problems, nil
}

func find(kinds []pipeline.StageKind, name string) (pipeline.StageKind, bool) {
	for _, k := range kinds {
		if k.Name == name {
			return k, true
		}
	}
	return pipeline.StageKind{}, false
}

func problem(stage string, p pipeline.Problem) string {
	where := strings.Join(append([]string{stage}, p.Path...), ".")
	if p.Column > 0 {
		where = fmt.Sprintf("%s (character %d)", where, p.Column+1)
	}
	return where + ": " + p.Message
}
