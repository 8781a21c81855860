package pipeline_test

import (
	"errors"
	"reflect"
	"strings"
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

func TestMessageComesBack(t *testing.T) {
	id := pipeline.HashID([]byte("x"))
	m := pipeline.Message{ID: id, Type: pipeline.SegmentEntered, Timestamp: pipeline.Millis(1_700_000_000_123), ProfileID: pipeline.HashID([]byte("p")),
		Data: []byte(`{"a": [1, {"type":"inner"}]}`), Meta: []byte(`{"sequence":7}`)}
	value := m.AppendJSON(nil)
	got, err := pipeline.ParseMessage([]byte(m.ProfileID.String()), value)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, m) {
		t.Errorf("got %+v\nwant %+v", *got, m)
	}
	m.Meta = nil
	if got, err := pipeline.ParseMessage([]byte(m.ProfileID.String()), m.AppendJSON(nil)); err != nil || got.Meta != nil {
		t.Errorf("without meta: %+v, %v", got, err)
	}
}

func TestMessagesOfOthersAreRefused(t *testing.T) {
	key := pipeline.HashID([]byte("p")).String()
	whole := `{"type":"segment.entered","timestamp":"2026-01-01T00:00:00.000Z","v":1,"id":"` + key + `","data":{}}`
	for name, c := range map[string]struct{ key, value, code string }{
		"whole":            {key, whole, ""},
		"not JSON":         {key, whole[:20], "message_undecodable"},
		"an array":         {key, "[" + whole + "]", "message_undecodable"},
		"nothing":          {key, "", "message_undecodable"},
		"a type of number": {key, strings.Replace(whole, `"segment.entered"`, "3", 1), "message_undecodable"},
		"no time":          {key, strings.Replace(whole, `"2026-01-01T00:00:00.000Z"`, `"soon"`, 1), "message_undecodable"},
		"no id":            {key, strings.Replace(whole, `"id":"`, `"id":"x`, 1), "message_undecodable"},
		"newer":            {key, strings.Replace(whole, `"v":1`, `"v":2`, 1), "message_version"},
		"without version":  {key, strings.Replace(whole, `"v":1,`, ``, 1), "message_version"},
		"of no profile":    {"u1", whole, "message_key"},
	} {
		_, err := pipeline.ParseMessage([]byte(c.key), []byte(c.value))
		var rej *pipeline.RejectError
		if errors.As(err, &rej); codeOf(rej) != c.code || (err == nil) != (c.code == "") {
			t.Errorf("%s: %v, want code %q", name, err, c.code)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	key := pipeline.HashID([]byte("p"))
	m := pipeline.Message{ID: key, Type: pipeline.ProfileCreated, Timestamp: pipeline.Millis(1), ProfileID: key, Data: []byte("{}"), Meta: []byte("{}")}
	f.Add(m.AppendJSON(nil))
	f.Fuzz(func(t *testing.T, value []byte) {
		_, _ = pipeline.ParseMessage([]byte(key.String()), value) // ends with an answer
	})
}

func BenchmarkParseMessage(b *testing.B) {
	key := []byte(pipeline.HashID([]byte("p")).String())
	m := pipeline.Message{ID: pipeline.HashID(key), Type: pipeline.ProfileUpdated, Timestamp: pipeline.Millis(1), ProfileID: pipeline.HashID([]byte("p")),
		Data: []byte(`{"profile":{"traits":{"a":"` + strings.Repeat("x", 1000) + `"}}}`), Meta: []byte(`{"version":1}`)}
	value := m.AppendJSON(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pipeline.ParseMessage(key, value); err != nil {
			b.Fatal(err)
		}
	}
}

// Receivers get what happens to people and their segments, the tables alone what happens to identifiers and what goes with a
// merge.
func TestMessagesForTheTablesAlone(t *testing.T) {
	for _, internal := range []string{pipeline.IdentityMerge, pipeline.IdentityOverride, pipeline.IdentityIdentifier, pipeline.SegmentCarried, pipeline.SegmentPassed} {
		if m := (pipeline.Message{Type: internal}); !m.Internal() {
			t.Errorf("%s reaches receivers", internal)
		}
	}
	for _, public := range []string{pipeline.ProfileCreated, pipeline.ProfileUpdated, pipeline.ProfileMerged, pipeline.ProfileSplit, pipeline.SegmentEntered, pipeline.SegmentExited, "score.changed", "action.chosen", "profile.erased"} {
		if m := (pipeline.Message{Type: public}); m.Internal() {
			t.Errorf("%s does not reach receivers", public)
		}
	}
}
