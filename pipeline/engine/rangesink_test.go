package engine

import (
	"testing"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// What a range sink's group offset says of its topic and of the range that was being written.
func TestNote(t *testing.T) {
	mine, other := uuid.MustParse("aaaaaaaa-0000-4000-8000-000000000001"), uuid.MustParse("bbbbbbbb-0000-4000-8000-000000000002")
	for _, n := range []note{{mine, -1}, {mine, 0}, {other, 1 << 40}, {pipeline.ID{}, 7}} {
		if got, err := parseNote(n.String(), mine); got != n || err != nil {
			t.Errorf("%q: got %v %v, want %v", n, got, err, n)
		}
	}
	for metadata, want := range map[string]note{
		"":     {mine, -1}, // set by Kafka's own tools
		"1 41": {mine, 41}, // of before topic ids
	} {
		if got, err := parseNote(metadata, mine); got != want || err != nil {
			t.Errorf("%q: got %v %v, want %v", metadata, got, err, want)
		}
	}
	for _, metadata := range []string{"3 x", "2", "2 x", "2 " + mine.String() + " x", "2 " + mine.String() + " 1 2", "1", "1 x", "reset"} {
		if got, err := parseNote(metadata, mine); err == nil {
			t.Errorf("%q: no error but %v", metadata, got)
		}
	}
}
