// Package quickstart holds the pipeline of "millstream demo", so that the command needs no file beside it.
package quickstart

import _ "embed" // for the pipeline

// Pipeline is pipeline.yaml.
//
//go:embed pipeline.yaml
var Pipeline []byte
