package score_test

import (
	"testing"

	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

func TestScripts(t *testing.T) { stagetest.Script(t, "testdata", stages.Kinds) }
