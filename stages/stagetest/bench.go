package stagetest

import (
	"context"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/state"
)

// Bench measures Process of one stage on the real store, in transactions of a thousand events; prepare makes event i ready
// for the stage, and is not measured. The commits are, because the stage causes them.
func Bench(b *testing.B, kind pipeline.StageKind, newStage func() pipeline.Stage, prepare func(i int, ev *pipeline.Event)) {
	const size = 1000
	retention := state.Compacted
	if kind.Task == pipeline.TaskResolve {
		retention = state.DeletedByTime
	}
	store, err := state.Open(b.TempDir(), state.Options{Retention: retention})
	if err != nil {
		b.Fatal(err)
	}
	partition, err := store.Partition("input", 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := partition.Close(); err != nil {
			b.Error(err)
		}
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	}()
	stage, events, sink := newStage(), make([]pipeline.Event, size), &counter{}
	ctx := context.Background()
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += size {
		b.StopTimer()
		n := min(size, b.N-done)
		for i := range n {
			prepare(done+i, &events[i])
		}
		b.StartTimer()
		tx := partition.Begin()
		own := tx.Stage(kind.Code)
		for i := range n {
			tx.Savepoint()
			if err := stage.Process(ctx, own, &events[i], sink); err != nil {
				b.Fatal(err)
			}
		}
		pos := state.Position{Offsets: int64(done + n), Number: uint64(done/size + 1)}
		if err := tx.Changelog(pos, func(_, _ []byte) {}); err != nil {
			b.Fatal(err)
		}
		if err := tx.Commit(pos); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if sink.ended != b.N {
		b.Fatalf("%d of %d events ended", sink.ended, b.N)
	}
}

// counter takes what a stage emits.
type counter struct{ ended, messages int }

func (c *counter) Event(*pipeline.Event) error { c.ended++; return nil }
func (c *counter) Message(pipeline.Message)    { c.messages++ }
func (c *counter) Drop(string)                 { c.ended++ }
func (c *counter) Wake(time.Time)              {}
