package http

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
)

const event = `{"type":"track","event":"A","messageId":"m1"}`

func TestAnswers(t *testing.T) {
	g := start(t, func(c *Config) { c.MaxBody, c.MaxDecoded = 64<<10, 256<<10 }, nil)
	key := []string{"Authorization", basic("wk")}
	deep := strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status, events           int
		says                     string
	}{
		{"batch", "POST", "/v1/batch", `{"batch":[` + event + `]}`, key, 200, 1, "success"},
		{"trailing slash", "POST", "/v1/batch/", `{"batch":[` + event + `]}`, key, 200, 1, "success"},
		{"array", "POST", "/v1/import", `[` + event + `,` + event + `]`, key, 200, 2, "success"},
		{"one event", "POST", "/v1/b", event, key, 200, 1, "success"},
		{"byte order mark", "POST", "/v1/b", "\xef\xbb\xbf \n" + event + "\n", key, 200, 1, "success"},
		{"empty batch", "POST", "/v1/b", `{"batch":[ ]}`, key, 200, 0, "success"},
		{"empty object", "POST", "/v1/b", `{}`, key, 200, 1, "success"},
		{"deep event", "POST", "/v1/b", `{"batch":[` + deep + `,` + event + `]}`, key, 200, 2, "success"},
		{"gzip", "POST", "/v1/b", string(zipped([]byte(event))), append(key, "Content-Encoding", "gzip"), 200, 1, "success"},
		{"gzip that calls itself a form", "POST", "/v1/b", string(zipped([]byte(event))), append(key, "Content-Type", "application/x-www-form-urlencoded"), 200, 1, "success"},
		{"gzip header, plain body", "POST", "/v1/b", event, append(key, "Content-Encoding", "gzip"), 200, 1, "success"},

		{"empty", "POST", "/v1/b", ``, key, 400, 0, "neither"},
		{"scalar", "POST", "/v1/b", `12`, key, 400, 0, "neither"},
		{"cut off", "POST", "/v1/b", `{"batch":[{"a":1},{"b"`, key, 400, 0, "closing bracket"},
		{"string cut off", "POST", "/v1/b", `{"batch":["a\"]}`, key, 400, 0, "end of a string"},
		{"no comma", "POST", "/v1/b", `{"batch":[{"a":1} {"b":2}]}`, key, 400, 0, "comma"},
		{"no colon", "POST", "/v1/b", `{"batch" [1]}`, key, 400, 0, "colon"},
		{"goes on", "POST", "/v1/b", event + event, key, 400, 0, "goes on"},
		{"batch is no array", "POST", "/v1/b", `{"batch":{"a":1}}`, key, 400, 0, "not an array"},
		{"batch twice", "POST", "/v1/b", `{"batch":[` + event + `],"batch":[` + event + `]}`, key, 400, 0, "two keys"},
		{"context is no object", "POST", "/v1/b", `{"batch":[` + event + `],"context":7}`, key, 400, 0, "context"},
		{"deep context", "POST", "/v1/b", `{"batch":[` + event + `],"context":` + deep + `}`, key, 400, 0, "nested"},
		{"broken gzip", "POST", "/v1/b", "\x1f\x8b" + event, key, 400, 0, "gzip"},
		{"gzip cut off", "POST", "/v1/b", string(zipped([]byte(strings.Repeat(event, 9)))[:40]), key, 400, 0, "ended early"},
		{"other encoding", "POST", "/v1/b", event, append(key, "Content-Encoding", "br"), 415, 0, "gzip"},
		{"large", "POST", "/v1/b", strings.Repeat(" ", 65<<10), key, 413, 0, "smaller"},
		{"large after gzip", "POST", "/v1/b", string(zipped(bytes.Repeat([]byte(" "), 257<<10))), key, 413, 0, "smaller"},
		{"many events", "POST", "/v1/b", "[" + strings.Repeat("1,", maxEvents) + "1]", key, 413, 0, "10000 events"},
		{"context times events", "POST", "/v1/b", `{"context":{"a":"` + strings.Repeat("x", 30<<10) + `"},"batch":[` + strings.Repeat("1,", 10) + `1]}`, key, 413, 0, "context"},

		{"no key", "POST", "/v1/b", event, nil, 401, 0, "write key"},
		{"wrong key", "POST", "/v1/b", event, []string{"Authorization", basic("nope")}, 401, 0, "write key"},
		{"no key, unreadable", "POST", "/v1/b", "{", nil, 401, 0, "write key"},
		{"wrong key in the body", "POST", "/v1/b", `{"batch":[],"writeKey":"nope"}`, nil, 401, 0, "write key"},
		{"part of a key", "POST", "/v1/b", event, []string{"X-Write-Key", "w"}, 401, 0, "write key"},
		{"other key", "POST", "/v1/b", event, []string{"Authorization", basic("wk2")}, 200, 1, "success"},
		{"key in a header", "POST", "/v1/b", event, []string{"X-Write-Key", "wk"}, 200, 1, "success"},
		{"key in the query", "POST", "/beacon/v1/batch?writeKey=wk", event, []string{"Content-Type", "text/plain"}, 200, 1, "success"},
		{"key in the body", "POST", "/v1/b", `{"batch":[` + event + `],"writeKey":"wk"}`, nil, 200, 1, "success"},
		{"masked key in the body", "POST", "/v1/b", `{"batch":[` + event + `],"writeKey":"w***"}`, key, 200, 1, "success"},

		{"method", "GET", "/v1/b", ``, key, 405, 0, "POST"},
		{"path", "POST", "/v2/batch", event, key, 404, 0, "/v1/batch"},
		{"root", "GET", "/", ``, key, 404, 0, "/v1/batch"},
		{"settings", "GET", "/v1/projects/wk/settings", ``, nil, 200, 0, `"apiKey":"wk"`},
		{"settings of nobody", "GET", "/v1/projects/nope/settings", ``, nil, 401, 0, "write key"},
		{"source config", "GET", "/sourceConfig/?p=web&writeKey=wk", ``, nil, 200, 0, `"destinations":[]`},
		{"source config of nobody", "GET", "/sourceConfig", ``, nil, 401, 0, "write key"},
	} {
		before := len(g.taken())
		status, h, text := g.send(c.method, c.path, []byte(c.body), c.headers...)
		if status != c.status || !strings.Contains(text, c.says) || len(g.taken())-before != c.events {
			t.Errorf("%s: status %d, %d events, %s", c.name, status, len(g.taken())-before, text)
		}
		var answer struct{ Error string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || h.Get("Content-Type") != "application/json" || (answer.Error != "") != (status != 200) {
			t.Errorf("%s: the answer is %s", c.name, text)
		}
		if (h.Get("Allow") != "") != (status == 405) {
			t.Errorf("%s: Allow is %q", c.name, h.Get("Allow"))
		}
	}
	if n := g.source.Counters(); n["events"] != uint64(len(g.taken())) || n["refused"] == 0 {
		t.Error(n)
	}
}

func TestPagesOfAnyOriginMaySend(t *testing.T) {
	g := start(t, nil, nil)
	status, h, _ := g.send("OPTIONS", "/v1/t", nil, "Origin", "https://shop.example", "Access-Control-Request-Method", "POST",
		"Access-Control-Request-Headers", "authorization,x-retry-count")
	if status != 204 || h.Get("Access-Control-Allow-Origin") != "https://shop.example" || h.Get("Access-Control-Allow-Headers") != "authorization,x-retry-count" ||
		h.Get("Access-Control-Allow-Credentials") != "true" || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "POST") {
		t.Error(status, h)
	}
	for _, key := range []string{"wk", "nope"} { // a page must be able to read a refusal too
		if _, h, _ = g.send("POST", "/v1/t", []byte(event), "Origin", "https://shop.example", "X-Write-Key", key); h.Get("Access-Control-Allow-Origin") != "https://shop.example" {
			t.Error(h)
		}
	}
}

func TestBrokerIsAway(t *testing.T) {
	for name, answer := range map[string]func(*message.Message){"nack": func(m *message.Message) { m.Nack() }, "silence": func(*message.Message) {}} {
		g := start(t, nil, answer)
		g.source.ack = 50 * time.Millisecond
		status, h, text := g.send("POST", "/v1/b", []byte(event), "X-Write-Key", "wk")
		if status != 503 || h.Get("Retry-After") == "" || !strings.Contains(text, "send again") {
			t.Error(name, status, h, text)
		}
	}
}

func TestMemoryInFlightIsBounded(t *testing.T) {
	held := make(chan *message.Message, 100)
	g := start(t, func(c *Config) { c.MaxBody, c.MaxDecoded, c.MaxInFlight = 64<<10, 64<<10, 256<<10 }, func(m *message.Message) { held <- m })
	g.source.ack = 20 * time.Millisecond
	body := []byte(`{"batch":["` + strings.Repeat("x", 60<<10) + `"]}`)
	status, tries := 0, 0
	for ; status != 429 && tries < 20; tries++ { // the receiver keeps what it got, also after the 503
		var h map[string][]string
		status, h, _ = g.send("POST", "/v1/b", body, "X-Write-Key", "wk")
		if status == 429 && len(h["Retry-After"]) == 0 {
			t.Error("429 without Retry-After")
		}
	}
	if status != 429 || tries < 3 {
		t.Fatalf("status %d after %d requests", status, tries)
	}
	for len(held) > 0 {
		(<-held).Ack()
	}
	g.source.ack = time.Minute
	for deadline := time.Now().Add(10 * time.Second); g.source.budget.held.Load() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are still held", g.source.budget.held.Load())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestPortIsTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := New("web", Config{Listen: ln.Addr().String()}, pipeline.Deps{})
	if _, err = s.Subscribe(context.Background(), "events"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
	s.Close()
}

func TestBadConfigurations(t *testing.T) {
	k := pipeline.NewSecret
	for _, c := range []struct {
		change func(*Config)
		path   string
	}{
		{func(c *Config) {}, ""},
		{func(c *Config) { c.Listen = "[::1]:80" }, ""},
		{func(c *Config) { c.Listen = "localhost:0" }, ""},
		{func(c *Config) { c.Listen = ":8080"; c.WriteKeys = map[string]pipeline.Secret{"a": k("x")} }, ""},
		{func(c *Config) { c.Listen = ":8080" }, "listen"},
		{func(c *Config) { c.Listen = "0.0.0.0:8080" }, "listen"},
		{func(c *Config) { c.Listen = "shop.example:8080" }, "listen"},
		{func(c *Config) { c.Listen = "8080" }, "listen"},
		{func(c *Config) { c.Listen = "127.0.0.1:x" }, "listen"},
		{func(c *Config) { c.WriteKeys = map[string]pipeline.Secret{"a": k(" ")} }, "write_keys a"},
		{func(c *Config) { c.WriteKeys = map[string]pipeline.Secret{"a": k("x"), "b": k("x")} }, "write_keys b"},
		{func(c *Config) { c.MaxDecoded = 1 }, "max_decoded"},
		{func(c *Config) { c.MaxInFlight = 1 << 20 }, "max_in_flight"},
	} {
		config := Kind.Config().(*Config)
		c.change(config)
		_, problems := Kind.Build("web", config, &pipeline.Env{})
		got := ""
		if len(problems) > 0 {
			got = strings.Join(problems[0].Path, " ")
		}
		if got != c.path {
			t.Errorf("%+v: %v", config, problems)
		}
		if strings.Contains(fmt.Sprintf("%v%+v", problems, config), "x}") {
			t.Error("a write key is shown")
		}
	}
}
