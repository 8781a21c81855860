package pipeline_test

import (
	"testing"
	"testing/quick"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

func TestAppendTimeIsTheFormat(t *testing.T) {
	same := func(ms int64) bool {
		at := pipeline.Millis(ms % (1 << 42)) // about 1830 to 2109
		return string(pipeline.AppendTime([]byte("x"), at)) == "x"+at.Format(pipeline.TimeFormat)
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
	berlin := time.FixedZone("CET", 3600)
	if got := string(pipeline.AppendTime(nil, time.Date(2026, 1, 1, 0, 30, 0, 7e6, berlin))); got != "2025-12-31T23:30:00.007Z" {
		t.Errorf("a time in another zone: %s", got)
	}
}

func TestAppendIDIsItsText(t *testing.T) {
	same := func(id [16]byte) bool {
		return string(pipeline.AppendID([]byte("x"), id)) == "x"+pipeline.ID(id).String()
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
}

// Ids are stored and sent: they may never change.
func TestHashIDIsFixed(t *testing.T) {
	for _, c := range []struct {
		parts []string
		want  string
	}{
		{nil, "e3b0c442-98fc-8c14-9afb-f4c8996fb924"},
		{[]string{"a", "bc"}, "b534ce16-ac9c-8b36-823f-39a395ce8e0e"},
		{[]string{"ab", "c"}, "f2939f90-3016-85bb-a9b1-e4a61cdbd376"},
	} {
		var parts [][]byte
		for _, p := range c.parts {
			parts = append(parts, []byte(p))
		}
		if got := pipeline.HashID(parts...).String(); got != c.want {
			t.Errorf("HashID(%q) = %s, want %s", c.parts, got, c.want)
		}
	}
	long := make([]byte, 1000)
	if pipeline.HashID(long) == pipeline.HashID(long[1:]) {
		t.Error("parts longer than the buffer collide")
	}
}
