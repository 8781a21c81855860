package engine_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// nowhere is a sink that takes everything.
type nowhere struct{}

func (nowhere) Write(_ context.Context, _ pipeline.Tx, attempts []pipeline.Attempt) ([]pipeline.Outcome, error) {
	return make([]pipeline.Outcome, len(attempts)), nil
}

func (nowhere) Close() error { return nil }

// TestIdlePartitionIsNotOld restarts a pipeline whose sink has never had a record, only positions of its own: its folder is
// whole, and nothing is rebuilt.
func TestIdlePartitionIsNotOld(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	m.sink(nowhere{})
	for range 3 {
		var tasks atomic.Int32
		restored := make(chan struct{})
		m.step = func(name string) {
			if name == "restored" && tasks.Add(1) == 3 {
				close(restored)
			}
		}
		r := m.start()
		await(t, "the workers", restored)
		m.committed("sink.out", "events", 0)
		r.drain()
	}
	if strings.Contains(m.log.String(), "rebuilding") {
		t.Errorf("an idle partition was rebuilt:\n%s", m.log)
	}
}
