package http

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

func ids(rs []pipeline.Record) []string {
	var out []string
	for i := range rs {
		out = append(out, string(rs[i].Header(pipeline.HeaderID)))
	}
	return out
}

func TestIDsOfEventsWithoutOne(t *testing.T) {
	g := start(t, nil, nil)
	post := func(body string) []string {
		n := len(g.taken())
		if status, _, text := g.send("POST", "/v1/b", []byte(body), "X-Write-Key", "wk"); status != 200 {
			t.Fatal(status, text)
		}
		return ids(g.taken()[n:])
	}
	timed := `{"timestamp":"2026-01-01T00:00:00Z","event":"A","sentAt":"%d","_metadata":{"retry":%d}}`
	first := post("[" + fmt.Sprintf(timed, 1, 1) + "," + fmt.Sprintf(timed, 1, 2) + "," + `{"a":1` + "]]")
	again := post("[" + fmt.Sprintf(timed, 7, 7) + "," + fmt.Sprintf(timed, 8, 8) + "," + `{"a":1` + "]]")
	if len(first) != 3 || strings.Join(first, " ") != strings.Join(again, " ") {
		t.Errorf("a repeated request has other ids: %q, then %q", first, again)
	}
	if first[0] == first[1] || !strings.HasPrefix(first[0], "web/") || first[1] != first[0]+"-2" {
		t.Errorf("equal events of one request: %q", first)
	}
	if other := post(`[{"timestamp":"2026-01-01T00:00:00Z","event":"B"}]`); other[0] == first[0] {
		t.Error("another event has the same id")
	}
	if g.source.Counters()["fresh_ids"] != 0 {
		t.Error("ids were called fresh that are not")
	}
	if x, y := post(`[{"event":"A"}]`), post(`[{"event":"A"}]`); x[0] == y[0] {
		t.Error("events without a time have the same id")
	}
	if n := g.source.Counters()["fresh_ids"]; n != 2 {
		t.Errorf("%d fresh ids were counted", n)
	}
	if own := post(`[{"event":"A","messageId":"mine"},{"event":"A","messageId":""}]`); own[0] != "mine" || own[1] == "" {
		t.Error(own)
	}
}

func TestTypeComesFromThePath(t *testing.T) {
	g := start(t, nil, nil)
	for _, c := range []struct{ path, body, value string }{
		{"/v1/track", `{"event":"A"}`, `{"type":"track","event":"A"}`},
		{"/v1/t/", "{\n \"event\":\"A\"}", `{"type":"track","event":"A"}`},
		{"/v1/identify", `{}`, `{"type":"identify"}`},
		{"/v1/i", `{ }`, `{"type":"identify"}`},
		{"/v1/p", `{"a":1}`, `{"type":"page","a":1}`},
		{"/v1/s", `{"a":1}`, `{"type":"screen","a":1}`},
		{"/v1/g", `{"a":1}`, `{"type":"group","a":1}`},
		{"/v1/a", `{"a":1}`, `{"type":"alias","a":1}`},
		{"/v1/track", `{"a":1, "type":"page"}`, `{"a":1, "type":"page"}`},
		{"/v1/track", `{"a":1, "type":7}`, `{"a":1, "type":7}`},
		{"/v1/track", `{"a":nul}`, `{"a":nul}`},
		{"/v1/track", `{"batch":[{"a":1}]}`, `{"type":"track","a":1}`},
		{"/v1/batch", `{"a":1}`, `{"a":1}`},
	} {
		n := len(g.taken())
		g.send("POST", c.path, []byte(c.body), "X-Write-Key", "wk")
		rs := g.taken()[n:]
		if len(rs) != 1 || string(rs[0].Value) != c.value {
			t.Errorf("%s %s gave %d records, not %s", c.path, c.body, len(rs), c.value)
		}
	}
}

func TestEventsTooLargeForTheBrokerAreRefused(t *testing.T) {
	g := start(t, func(c *Config) { c.MaxBody = 4 << 20 }, nil)
	for size, want := range map[int]int{600 << 10: 200, 1 << 20: 413} { // the first becomes a dead letter
		body := `{"batch":[{"a":"` + strings.Repeat("x", size) + `"}]}`
		if status, _, _ := g.send("POST", "/v1/b", []byte(body), "X-Write-Key", "wk"); status != want {
			t.Errorf("%d bytes: %d", size, status)
		}
	}
}

// FuzzSplit checks that every array of JSON values is cut as encoding/json cuts it, and that nothing else gets lost.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{`[]`, `[1]`, `[{"a":"}]\""},[[]],"\\"]`, `{"batch":[{"a":1},2],"sentAt":"x","context":{}}`, `{"a":{"batch":[1]}}`, `[nul,{"a":}]`, "[\"\xff\"]", `{"batch":7}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := split(body)
		var want []json.RawMessage
		if json.Unmarshal(body, &want) == nil && bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
			if err != nil || len(p.events) != len(want) {
				t.Fatalf("split: %v", err)
			}
			for i := range want {
				if !bytes.Equal(p.events[i], want[i]) {
					t.Fatalf("event %d is %q, not %q", i, p.events[i], want[i])
				}
			}
		}
		if err != nil {
			return
		}
		rest := body // what stands between the events is structure only
		for _, e := range p.events {
			i := bytes.Index(rest, e)
			if i < 0 || len(e) == 0 {
				t.Fatalf("event %q does not stand in the body", e)
			}
			if between := rest[:i]; p.batch && bytes.HasPrefix(bytes.TrimLeft(body, "\xef\xbb\xbf \t\r\n"), []byte("[")) && strings.Trim(string(between), "[, \t\r\n\xef\xbb\xbf") != "" {
				t.Fatalf("%q was left out", between)
			}
			rest = rest[i+len(e):]
		}
		s := New("web", *Kind.Config().(*Config), pipeline.Deps{})
		if rs, ref := s.records(p, "track", time.Now()); ref == nil && len(rs) != len(p.events) {
			t.Fatalf("%d records of %d events", len(rs), len(p.events))
		}
	})
}
