package engine

import (
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline/state"
)

func TestForgotten(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixMilli() }
	const month = 30 * 24 * time.Hour
	for name, c := range map[string]struct {
		local       state.Position
		committed   uint64
		start       int64
		byTime      bool // the changelog is not compacted
		isForgotten bool
	}{
		"behind, lately":                     {local: state.Position{Number: 7, Changelog: 10, StreamTime: ago(time.Hour)}, committed: 9},
		"behind for long":                    {local: state.Position{Number: 7, Changelog: 10, StreamTime: ago(month)}, committed: 9, isForgotten: true},
		"behind for long, nothing compacted": {local: state.Position{Number: 7, Changelog: 10, StreamTime: ago(month)}, committed: 9, byTime: true},
		"idle for long, nothing missed":      {local: state.Position{Number: 9, Changelog: 10, StreamTime: ago(month)}, committed: 9},
		"the group has expired":              {local: state.Position{Number: 9, Changelog: 10, StreamTime: ago(month)}, isForgotten: true},
		"never a record":                     {local: state.Position{Number: 2, Changelog: 10}, committed: 3},
		"records are deleted":                {local: state.Position{Number: 7, Changelog: 10, StreamTime: ago(time.Hour)}, committed: 9, start: 11, isForgotten: true},
		"deleted, nothing missed":            {local: state.Position{Number: 9, Changelog: 10, StreamTime: ago(month)}, committed: 9, start: 11, byTime: true},
	} {
		task := &task{compacted: !c.byTime}
		if got := task.forgotten(c.local, c.committed, c.start, now); got != c.isForgotten {
			t.Errorf("%s: %v", name, got)
		}
	}
}
