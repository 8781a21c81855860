package http

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	nethttp "net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// TestRealClients replays what SDKs sent, byte by byte.
func TestRealClients(t *testing.T) {
	const root = "../../../shared/data/sdk-captures"
	if _, err := os.Stat(root); err != nil {
		t.Skip("needs ../shared/data: sdk-captures")
	}
	paths, err := filepath.Glob(root + "/*/*/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatal("no captures", err)
	}
	g := start(t, func(c *Config) {
		c.WriteKeys = map[string]pipeline.Secret{}
		for _, k := range []string{"wk_test", "wk_test_browser", "wk_test_segment_node", "wk_test_rudder_node"} {
			c.WriteKeys[k] = pipeline.NewSecret(k)
		}
	}, nil)
	all := 0
	for _, path := range paths {
		var c struct {
			Method, Path string
			Headers      map[string]string
			Body         []byte `json:"body_base64"`
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(path, err)
		}
		var headers []string
		for k, v := range c.Headers {
			if k != "host" && k != "content-length" && k != "connection" {
				headers = append(headers, k, v)
			}
		}
		n := len(g.taken())
		status, h, text := g.send(c.Method, c.Path, c.Body, headers...)
		if status != 200 && !(status == 204 && c.Method == nethttp.MethodOptions) {
			t.Errorf("%s: %s %s: %d %s", path, c.Method, c.Path, status, text)
			continue
		}
		if c.Headers["origin"] != h.Get("Access-Control-Allow-Origin") {
			t.Errorf("%s: allowed origin %q", path, h.Get("Access-Control-Allow-Origin"))
		}
		if c.Method != nethttp.MethodPost {
			continue
		}
		body := c.Body
		if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
			zr, _ := gzip.NewReader(bytes.NewReader(body))
			body, _ = io.ReadAll(zr)
		}
		want := []gjson.Result{gjson.ParseBytes(body)}
		sentAt := ""
		if batch := gjson.GetBytes(body, "batch"); batch.Exists() {
			want, sentAt = batch.Array(), gjson.GetBytes(body, "sentAt").Str
		}
		got := g.taken()[n:]
		if len(got) != len(want) {
			t.Errorf("%s: %d events, not %d", path, len(got), len(want))
			continue
		}
		all += len(got)
		for i := range got {
			id := want[i].Get("messageId").Str
			if string(got[i].Value) != want[i].Raw || string(got[i].Header(pipeline.HeaderID)) != id || id == "" || string(got[i].Header(pipeline.HeaderSent)) != sentAt {
				t.Errorf("%s: event %d is not what was sent", path, i)
			}
			if key := want[i].Get("anonymousId").Str; key != "" && want[i].Get("channel").Str != "server" && string(got[i].Key) != key {
				t.Errorf("%s: event %d has the key %q", path, i, got[i].Key)
			}
		}
	}
	t.Logf("%d events of %d requests", all, len(paths))
	if all == 0 {
		t.Error("no events")
	}
}
