package clean_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/clean"
)

var received = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// process runs the stage, and tells whether the event came out.
func process(t testing.TB, ev *pipeline.Event) (passed bool, code string) {
	t.Helper()
	newStage, problems := clean.Kind.Build(clean.Kind.Config(), &pipeline.Env{Identities: pipeline.NewIdentities([]byte("key"))})
	if problems != nil {
		t.Fatal(problems)
	}
	out := &output{}
	err := newStage().Process(t.Context(), nil, ev, out)
	var rej *pipeline.RejectError
	switch {
	case errors.As(err, &rej):
		code = rej.Code
	case err != nil:
		t.Fatal(err)
	}
	if out.events+len(code) == 0 || out.events > 0 && code != "" {
		t.Fatalf("the event came out %d times, code %q", out.events, code)
	}
	return out.events == 1, code
}

type output struct{ events int }

func (o *output) Event(*pipeline.Event) error { o.events++; return nil }
func (o *output) Message(pipeline.Message)    {}
func (o *output) Drop(string)                 {}
func (o *output) Wake(time.Time)              {}

func TestLimits(t *testing.T) {
	id := strings.Repeat("x", pipeline.MaxIDBytes)
	for name, test := range map[string]struct{ raw, messageID, code string }{
		"longest ids":      {`{"type":"page","userId":"` + id + `","anonymousId":"` + id + `"}`, id, ""},
		"user id":          {`{"type":"page","userId":"` + id + `x"}`, "m", "id_too_long"},
		"anonymous id":     {`{"type":"page","anonymousId":"` + id + `x"}`, "m", "id_too_long"},
		"group id":         {`{"type":"group","groupId":"` + id + `x"}`, "m", "id_too_long"},
		"previous id":      {`{"type":"alias","previousId":"` + id + `x"}`, "m", "id_too_long"},
		"message id":       {`{"type":"page"}`, id + "x", "id_too_long"},
		"largest event":    {large(pipeline.MaxEventBytes), "m", ""},
		"too large event":  {large(pipeline.MaxEventBytes + 1), "m", "oversize"},
		"deepest event":    {`{"type":"page","properties":` + nested(pipeline.MaxEventDepth-1) + `}`, "m", ""},
		"too deep event":   {`{"type":"page","properties":` + nested(pipeline.MaxEventDepth) + `}`, "m", "too_deep"},
		"brackets in text": {`{"type":"page","name":"` + strings.Repeat("[", 100) + `"}`, "m", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ev := pipeline.Event{Source: "web", MessageID: test.messageID, ReceivedAt: received, Raw: []byte(test.raw)}
			if _, code := process(t, &ev); code != test.code {
				t.Errorf("code %q, want %q", code, test.code)
			}
		})
	}
}

// large is an event of n bytes.
func large(n int) string {
	const head, tail = `{"type":"page","name":"`, `"}`
	return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
}

// nested is an object that nests n deep.
func nested(n int) string {
	return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1)
}

// TestRefusedEventKeepsItsIdentifiers: erase finds a dead letter by them.
func TestRefusedEventKeepsItsIdentifiers(t *testing.T) {
	ev := pipeline.Event{Source: "web", MessageID: "m", ReceivedAt: received, Raw: []byte(`{"type":"buy","userId":"u1","properties":[]}`)}
	if passed, _ := process(t, &ev); passed {
		t.Fatal("the event passed")
	}
	if len(ev.Identifiers) != 1 || ev.Identifiers[0].Value != "u1" {
		t.Errorf("identifiers %v", ev.Identifiers)
	}
}

// TestBatchSentAt: a batch's sentAt comes with the request, so any distance is the clock's; the event's own counts first.
func TestBatchSentAt(t *testing.T) {
	for name, test := range map[string]struct{ raw, batch, want string }{
		"an hour fast":        {`{"type":"page","timestamp":"2026-03-01T10:59:00Z"}`, "2026-03-01T11:00:00Z", "2026-03-01T09:59:00.000Z"},
		"two years slow":      {`{"type":"page","timestamp":"2024-03-01T09:59:00Z"}`, "2024-03-01T10:00:00Z", "2026-03-01T09:59:00.000Z"},
		"own first":           {`{"type":"page","timestamp":"2026-03-01T08:59:00Z","sentAt":"2026-03-01T09:00:00Z"}`, "2026-03-01T11:00:00Z", "2026-03-01T09:59:00.000Z"},
		"own is an archive's": {`{"type":"page","timestamp":"2020-03-01T08:59:00Z","sentAt":"2020-03-01T09:00:00Z"}`, "2026-03-01T09:00:00Z", "2020-03-01T09:59:00.000Z"},
		"zero":                {`{"type":"page","timestamp":"2026-03-01T09:59:00Z"}`, "0001-01-01T00:00:00Z", "2026-03-01T09:59:00.000Z"},
		"words":               {`{"type":"page","timestamp":"2026-03-01T09:59:00Z"}`, "now", "2026-03-01T09:59:00.000Z"},
	} {
		t.Run(name, func(t *testing.T) {
			ev := pipeline.Event{Source: "web", MessageID: "m", ReceivedAt: received, SentAt: test.batch, Raw: []byte(test.raw)}
			if passed, code := process(t, &ev); !passed {
				t.Fatal(code)
			}
			if got := ev.Time.Format(pipeline.TimeFormat); got != test.want {
				t.Errorf("time %s, want %s", got, test.want)
			}
			claimed, err := time.Parse(time.RFC3339, ev.Timestamp)
			if err != nil || !ev.OriginalTime.Equal(claimed) {
				t.Errorf("original time %s, want %s", ev.OriginalTime, ev.Timestamp)
			}
		})
	}
}

// FuzzProcess: whatever the bytes, the event passes with a time within its limits or is refused with a code.
func FuzzProcess(f *testing.F) {
	for _, raw := range []string{``, `{}`, `[]`, `{"type":"track","event":"x","userId":1,"timestamp":"2026-03-01T10:00:00Z","sentAt":1}`,
		`{"type":"identify","traits":{"a":[1,{"b":null}]},"context":{"traits":{},"library":{"name":1}}}`, "{\"a\":\"\xff\"}", `{"type":"page","timestamp":-1e999}`,
		`{"type":"page","originalTimestamp":"9999-99-99T99:99:99Z"}`, `{"type":"page","timestamp":"2026-03-01"}`, `{"":"","type":"\u0070age"}`} {
		f.Add([]byte(raw), "2026-03-01T10:00:00Z")
	}
	f.Fuzz(func(t *testing.T, raw []byte, sent string) {
		ev := pipeline.Event{Source: "web", MessageID: "m", ReceivedAt: received, SentAt: sent, Raw: raw}
		passed, _ := process(t, &ev)
		if passed && (ev.Time.Before(time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)) || ev.Time.After(received.Add(5*time.Minute))) {
			t.Errorf("time %s", ev.Time)
		}
		if !passed {
			return
		}
		// What passed can be written and read again.
		var again pipeline.Event
		if _, rej := pipeline.ParseResolved(&pipeline.Record{Value: pipeline.AppendResolved(nil, &ev, 1)}, &again); rej != nil {
			t.Errorf("read again: %v", rej)
		}
		if again.Time != ev.Time || again.Type != ev.Type || again.UserID != ev.UserID || again.Primary != ev.Primary {
			t.Errorf("read again: %+v\nwas %+v", again, ev)
		}
	})
}

// What a source could not make an event of is refused for the source's reason, whatever its bytes are.
func TestRefusedBySource(t *testing.T) {
	for _, raw := range []string{"1009,2026-03-07 13:30,17,Tray,1", `{"type":"page"}`, ""} {
		ev := pipeline.Event{Source: "orders", MessageID: "m", ReceivedAt: received, Raw: []byte(raw)}
		ev.Refuse(pipeline.Reject("row_cells", "five of six"))
		if _, code := process(t, &ev); code != "row_cells" {
			t.Errorf("%q: code %q", raw, code)
		}
	}
}
