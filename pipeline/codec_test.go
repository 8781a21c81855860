package pipeline_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// event is a scanned event as the task resolve hands it on.
func resolvedEvent() pipeline.Event {
	ev := pipeline.Event{Source: "web", MessageID: "m1", ReceivedAt: pipeline.Millis(1_700_000_000_123), SentAt: "2026-01-01T00:00:00Z",
		Context: []byte(`{"ip":"::1"}`), Replay: "r1", Partition: 3, Offset: 7,
		Raw: []byte(`{"type":"track","event":"Order","userId":"u1","messageId":"m1","properties":{"a":1},"context":{"library":{"name":"x"}}}`)}
	return ev
}

func TestEventRecordComesBack(t *testing.T) {
	ev := resolvedEvent()
	ev.Replay = "" // stamped by a replay, not by a source
	ev.Refuse(pipeline.Reject("row_cells", "the row has %d cells", 5))
	r := pipeline.EventRecord(&ev)
	r.Partition, r.Offset = 3, 7
	var got pipeline.Event
	if rej := pipeline.ParseEventRecord(&r, &got); rej != nil {
		t.Fatal(rej)
	}
	if !reflect.DeepEqual(got, ev) {
		t.Errorf("got %+v\nwant %+v", got, ev)
	}
	if rej := got.Refusal(); rej == nil || *rej != (pipeline.RejectError{Code: "row_cells", Reason: "the row has 5 cells"}) {
		t.Errorf("refused: %v", rej)
	}
	if got = resolvedEvent(); got.Refusal() != nil {
		t.Errorf("an event is refused: %v", got.Refusal())
	}
}

func TestResolvedComesBack(t *testing.T) {
	ev := resolvedEvent()
	if rej := ev.Scan(); rej != nil {
		t.Fatal(rej)
	}
	pipeline.NewIdentities([]byte("k")).Identify(&ev)
	ev.Time, ev.OriginalTime, ev.Late, ev.IDV = pipeline.Millis(1_700_000_000_000), pipeline.Millis(1_600_000_000_000), true, 9
	value := pipeline.AppendResolved(nil, &ev, 42)
	for i := range ev.Identifiers {
		ev.Identifiers[i].ID = pipeline.ID{} // not carried
	}
	r := pipeline.Record{Value: value, Partition: 3, Offset: 7}
	var got pipeline.Event
	config, rej := pipeline.ParseResolved(&r, &got)
	if rej != nil || config != 42 {
		t.Fatal(config, rej)
	}
	if !reflect.DeepEqual(got, ev) {
		t.Errorf("got %+v\nwant %+v", got, ev)
	}
}

// Whatever stands in the topic, reading it ends with an answer.
func FuzzParseResolved(f *testing.F) {
	ev := resolvedEvent()
	_ = ev.Scan()
	whole := pipeline.AppendResolved(nil, &ev, 42)
	for n := range whole {
		f.Add(whole[:n])
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, value []byte) {
		var got pipeline.Event
		_, _ = pipeline.ParseResolved(&pipeline.Record{Value: value}, &got)
	})
}

func TestHeadersOfAForeignRecord(t *testing.T) {
	good := []pipeline.Header{{Key: "ms-v", Value: []byte("1")}, {Key: "ms-source", Value: []byte("web")}, {Key: "ms-id", Value: []byte("m")}, {Key: "ms-received", Value: []byte("1700000000000")}}
	change := func(i int, value string) []pipeline.Header {
		h := append([]pipeline.Header(nil), good...)
		h[i].Value = []byte(value)
		return h
	}
	for name, c := range map[string]struct {
		headers []pipeline.Header
		code    string
	}{
		"good":           {good, ""},
		"none":           {nil, "header_version"},
		"newer":          {change(0, "2"), "header_version"},
		"no source":      {change(1, ""), "header_missing"},
		"no id":          {change(2, ""), "header_missing"},
		"no number":      {change(3, "yesterday"), "header_received"},
		"negative":       {change(3, "-1"), "header_received"},
		"beyond 2262":    {change(3, "99999999999999999"), "header_received"},
		"no time at all": {good[:3], "header_missing"},
	} {
		var ev pipeline.Event
		rej := pipeline.ParseEventRecord(&pipeline.Record{Headers: c.headers, Value: []byte("{}"), Time: time.Now()}, &ev)
		if code := codeOf(rej); code != c.code {
			t.Errorf("%s: %q, want %q", name, code, c.code)
		}
	}
}

func TestCheck(t *testing.T) {
	deep := make([]byte, 0, 200)
	for range pipeline.MaxEventDepth + 1 {
		deep = append(deep, '[')
	}
	for raw, want := range map[string]string{
		`{}`: "", " \t\r\n{\"a\":[]}\n": "", "": "not_json", " ": "not_json", "{": "not_json", "{\"a\":\"\xff\"}": "not_utf8", `[]`: "not_an_object", `"x"`: "not_an_object",
		"1": "not_an_object", string(deep): "too_deep", string(make([]byte, pipeline.MaxEventBytes+1)): "oversize",
	} {
		ev := pipeline.Event{Raw: []byte(raw)}
		if code := codeOf(ev.Check()); code != want {
			t.Errorf("%.30q: %q, want %q", raw, code, want)
		}
	}
}

func codeOf(rej *pipeline.RejectError) string {
	if rej == nil {
		return ""
	}
	return rej.Code
}
