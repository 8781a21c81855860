// Package stages lists the stages that a pipeline can have.
package stages

import (
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/clean"
	"github.com/millstream-io/millstream/stages/dedup"
	"github.com/millstream-io/millstream/stages/identity"
	"github.com/millstream-io/millstream/stages/profile"
	"github.com/millstream-io/millstream/stages/score"
	"github.com/millstream-io/millstream/stages/segment"
)

// Kinds are the stages in pipeline order; a pipeline may leave out those that no other of its stages needs.
var Kinds = []pipeline.StageKind{clean.Kind, dedup.Kind, identity.Kind, profile.Kind, score.Kind, segment.Kind}
