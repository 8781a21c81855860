package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"io"
	nethttp "net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/sourcetest"
)

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Case {
		var url string
		c := Kind.Config().(*Config)
		c.Listen = "127.0.0.1:0"
		s := New("web", *c, pipeline.Deps{Say: func(line string) { url = strings.TrimPrefix(line, "http ") }})
		if strings.Contains(t.Name(), "hangs") {
			s.ack = 300 * time.Millisecond
		}
		client := nethttp.Client{Transport: &nethttp.Transport{DisableKeepAlives: true}}
		return sourcetest.Case{Source: s, Feed: func() {
			for {
				body := `{"batch":[{"messageId":"m1","type":"track","event":"A"},{"type":"track","timestamp":"2026-01-01T00:00:00Z"}]}`
				res, err := client.Post(url+"/v1/batch", "", strings.NewReader(body))
				if err != nil {
					return // the source has ended
				}
				res.Body.Close()
				if res.StatusCode == nethttp.StatusOK {
					return
				}
			}
		}}
	})
}

// rig is a source that listens, and a receiver that keeps what it acknowledges.
type rig struct {
	t      *testing.T
	source *Source
	url    string
	stop   context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	records []pipeline.Record
	batches int
}

// start runs a source; answer decides about each message, nil acknowledges all.
func start(t *testing.T, change func(*Config), answer func(*message.Message)) *rig {
	t.Helper()
	c := Kind.Config().(*Config)
	c.Listen = "127.0.0.1:0"
	c.WriteKeys = map[string]pipeline.Secret{"site": pipeline.NewSecret("wk"), "shop": pipeline.NewSecret("wk2")}
	if change != nil {
		change(c)
	}
	g := &rig{t: t, ended: make(chan struct{})}
	open, problems := Kind.Build("web", c, &pipeline.Env{})
	if problems != nil {
		t.Fatal(problems)
	}
	s, err := open(context.Background(), pipeline.Deps{Say: func(line string) {
		g.url = strings.TrimPrefix(line, "http ")
	}})
	if err != nil {
		t.Fatal(err)
	}
	g.source = s.(*Source)
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	out, err := g.source.Subscribe(ctx, "events")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.ended)
		for m := range out {
			b, _ := pipeline.BatchOf(m)
			g.mu.Lock()
			g.records = append(g.records, b.Records...)
			g.batches++
			g.mu.Unlock()
			if answer != nil {
				answer(m)
			} else {
				m.Ack()
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		g.source.Close()
		<-g.ended
	})
	return g
}

func (g *rig) taken() []pipeline.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.records
}

// send posts and returns status, headers and body. headers are name, value, ….
func (g *rig) send(method, path string, body []byte, headers ...string) (int, nethttp.Header, string) {
	g.t.Helper()
	req, err := nethttp.NewRequest(method, g.url+path, bytes.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := nethttp.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, res.Header, string(b)
}

func basic(key string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(key+":"))
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func TestEventsArriveAsTheyWerePosted(t *testing.T) {
	g := start(t, nil, nil)
	a := `{"type":"track","event":"A  ","messageId":"m1","properties":{"x":1.10,"b":"}{]["},"anonymousId":"dev"}`
	b := "{\"messageId\" : \"m2\",\"bad\":\"\xff\"}"
	body := `{"sentAt":"2026-01-02T03:04:05Z", "context" : {"ip":"1.2.3.4"}, "batch": [` + a + " , " + b + `, 7, "x", nul, [[1]] ] }`
	if status, _, text := g.send("POST", "/v1/batch", []byte(body), "Authorization", basic("wk")); status != 200 || text != `{"success":true}` {
		t.Fatal(status, text)
	}
	rs := g.taken()
	want := []string{a, b, "7", `"x"`, "nul", "[[1]]"}
	if len(rs) != len(want) || g.batches != 1 {
		t.Fatalf("%d records in %d batches", len(rs), g.batches)
	}
	for i, r := range rs {
		if string(r.Value) != want[i] {
			t.Errorf("value %d is %q", i, r.Value)
		}
		var ev pipeline.Event
		if rej := pipeline.ParseEventRecord(&r, &ev); rej != nil {
			t.Fatal(rej)
		}
		if ev.Source != "web" || ev.SentAt != "2026-01-02T03:04:05Z" || string(ev.Context) != `{"ip":"1.2.3.4"}` || time.Since(ev.ReceivedAt) > time.Minute {
			t.Errorf("event %d is %+v", i, ev)
		}
	}
	if string(rs[0].Key) != "dev" || string(rs[0].Header(pipeline.HeaderID)) != "m1" {
		t.Errorf("key %s, id %s", rs[0].Key, rs[0].Header(pipeline.HeaderID))
	}
}
