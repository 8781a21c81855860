package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// ranges is a RangeSink that does with each range what the test says.
type ranges struct {
	write  func(ctx context.Context, r pipeline.Range, records []pipeline.Record) ([]pipeline.Outcome, error)
	resume int64
}

var _ pipeline.RangeSink = (*ranges)(nil)

func (s *ranges) WriteRange(ctx context.Context, r pipeline.Range, records []pipeline.Record) ([]pipeline.Outcome, error) {
	return s.write(ctx, r, records)
}

func (s *ranges) Resume(context.Context, string, pipeline.ID, int32) (int64, error) {
	return s.resume, nil
}

func (s *ranges) Close() error { return nil }

// contents are a range's bounds and the ids of its records.
func contents(r pipeline.Range, records []pipeline.Record) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d-%d:", r.First, r.Last)
	for i := range records {
		fmt.Fprintf(&b, " %s", records[i].Header(pipeline.HeaderID))
	}
	return b.String()
}

// TestRangeIsRepeatedAsItWas has a sink fail, and a process end, in the middle of a range, while more events arrive: the same
// range comes again, marked as repeated, before anything else.
func TestRangeIsRepeatedAsItWas(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	begun, more := make(chan string), make(chan error)
	m.sink(&ranges{resume: -1, write: func(ctx context.Context, r pipeline.Range, records []pipeline.Record) ([]pipeline.Outcome, error) {
		select {
		case begun <- contents(r, records) + fmt.Sprintf(" repeated %v", r.Repeated):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case err := <-more:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	var got []string
	next := func() { got = append(got, await(t, "the next range", begun)) }
	m.send("a", "b")
	r := m.start()
	next()
	m.send("c")
	more <- errors.New("the server is away")
	next()
	r.drain() // in the middle of it
	m.send("d")
	m.start()
	next()
	more <- nil
	next()
	want := []string{"0-1: a b repeated false", "0-1: a b repeated true", "0-1: a b repeated true", "2-3: c d repeated false"}
	if !slices.Equal(got, want) {
		t.Errorf("ranges %q, want %q", got, want)
	}
}

// TestRangeSinkKnowsWhereToGoOn starts without an offset of the group: the sink says where to go on.
func TestRangeSinkKnowsWhereToGoOn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	written := make(chan string, 1)
	m.sink(&ranges{resume: 2, write: func(_ context.Context, r pipeline.Range, records []pipeline.Record) ([]pipeline.Outcome, error) {
		select {
		case written <- contents(r, records):
		default:
		}
		return nil, nil
	}})
	m.send("a", "b", "c")
	m.start()
	if got := await(t, "the first range", written); got != "2-2: c" {
		t.Errorf("the first range is %q, want 2-2: c", got)
	}
}

// TestRangeIsNotDoneBeforeItsDeadLetters looks whether what a sink has refused is a dead letter when its range counts as stored.
func TestRangeIsNotDoneBeforeItsDeadLetters(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	m.sink(&ranges{resume: -1, write: func(_ context.Context, _ pipeline.Range, records []pipeline.Record) ([]pipeline.Outcome, error) {
		outcomes := make([]pipeline.Outcome, len(records))
		outcomes[0] = pipeline.Outcome{Kind: pipeline.Rejected, Code: "unfit", Reason: "the test says so"}
		return outcomes, nil
	}})
	stored := make(chan int, 1)
	m.step = func(name string) {
		if name == "range stored" {
			select {
			case stored <- len(m.records("dead_letters")):
			default:
			}
		}
	}
	m.send("a", "b")
	m.start()
	if n := await(t, "the range", stored); n != 1 {
		t.Errorf("%d dead letters when the range counts as stored, want 1", n)
	}
}
