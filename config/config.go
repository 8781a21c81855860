// Package config turns the YAML of a pipeline into a pipeline.Plan. It is strict: whatever is not understood is refused, and
// all mistakes are shown at once, each at its line and column. It reads the file, the environment and the secret files that
// the YAML names, and touches nothing else.
//
//	document.go     bytes → tree of nodes with positions; limits
//	interpolate.go  ${VAR}, ${VAR:-default}, ${file:PATH} in scalars
//	decode.go       tree → Go values, by their yaml tags
//	plan.go         sections, kinds and their order → Plan
//	when.go         the condition of a sink
//	hash.go         Plan.Hash
package config

import (
	"os"

	"github.com/millstream-io/millstream/pipeline"
)

// Kinds are the parts that a YAML can name. The order of Stages is the order of the pipeline.
type Kinds struct {
	Sources []pipeline.SourceKind
	Stages  []pipeline.StageKind
	Sinks   []pipeline.SinkKind
}

// Options of Load.
type Options struct {
	// LookupEnv resolves ${VAR}; nil: the process's environment.
	LookupEnv func(name string) (value string, ok bool)
}

// Load reads, checks and compiles the pipeline in a file. Either the plan is complete and there are no diagnostics, or it is
// nil and there is at least one. The diagnostics are in the order of the file.
func Load(path string, kinds Kinds, options Options) (*pipeline.Plan, []Diagnostic) {
	source, err := readFile(path)
	if err != nil {
		return nil, []Diagnostic{{File: path, Message: err.Error()}}
	}
	return load(path, source, kinds, options)
}

func load(path string, source []byte, kinds Kinds, options Options) (*pipeline.Plan, []Diagnostic) {
	if options.LookupEnv == nil {
		options.LookupEnv = os.LookupEnv
	}
	r := &report{file: path}
	doc := parseDocument(r, source)
	if doc == nil {
		return nil, r.sorted()
	}
	interpolate(r, doc, options.LookupEnv)
	b := builder{report: r, kinds: kinds, root: doc}
	plan := b.build()
	if len(r.list) > 0 {
		return nil, r.sorted()
	}
	return plan, nil
}
