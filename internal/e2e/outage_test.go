package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const outagePipeline = onTheWeb + `stages:
  - clean
  - dedup
  - profile: {orders: {count: events, event: Order Completed}}
  - segment: {buyer: orders >= 1}
sinks:
  analytics: {clickhouse: {url: "http://127.0.0.1:1"}}
` + receivers

// hooks is a receiver that answers as told and keeps what it accepted.
type hooks struct {
	server *httptest.Server

	mu       sync.Mutex
	total    int               // requests
	tries    map[string]int    // by webhook-id
	last     map[string]signed // by webhook-id: the last request
	accepted map[string]string // profile id to webhook-id
	wrong    []string
}

// signed is a request as a receiver verifies it.
type signed struct {
	Body    string            `json:"body"`
	Headers map[string]string `json:"headers"`
}

// answer decides what to do with the n-th request: a status, or 0 to cut the connection.
func newHooks(t *testing.T, answer func(n int) int) *hooks {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	h := &hooks{tries: map[string]int{}, last: map[string]signed{}, accepted: map[string]string{}}
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id := r.Header.Get("webhook-id")
		var m struct {
			Data struct {
				TransitionID string `json:"transition_id"`
				Profile      struct {
					ID string `json:"profile_id"`
				}
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if err := wh.Verify(body, r.Header); err != nil {
			h.wrong = append(h.wrong, "signature: "+err.Error())
		}
		if err := json.Unmarshal(body, &m); err != nil || m.Data.TransitionID != id {
			h.wrong = append(h.wrong, fmt.Sprintf("webhook-id %q of %s", id, body))
		}
		if before, again := h.last[id]; again && before.Body != string(body) {
			h.wrong = append(h.wrong, "another body under webhook-id "+id)
		}
		h.last[id] = signed{string(body), map[string]string{"webhook-id": id, "webhook-timestamp": r.Header.Get("webhook-timestamp"), "webhook-signature": r.Header.Get("webhook-signature")}}
		h.tries[id]++
		h.total++
		switch status := answer(h.total); status {
		case 0:
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Close()
			}
		default:
			w.WriteHeader(status)
			if status == 200 {
				// A kill between the answer and the commit brings a message again: at least once, but under its one id.
				if before, again := h.accepted[m.Data.Profile.ID]; again && before != id {
					h.wrong = append(h.wrong, "a second message of "+m.Data.Profile.ID)
				}
				h.accepted[m.Data.Profile.ID] = id
			}
		}
	}))
	t.Cleanup(h.server.Close)
	return h
}

func (h *hooks) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.accepted)
}

// TestADeadReceiverAndAnAbsentClickHouseHoldUpNothingElse runs with a ClickHouse that is not there and a receiver that
// answers 500, then cuts the connection, then accepts: HTTP answers 200 all the time, the healthy receiver has everything
// without waiting for the other, and in the end, a kill between, both have each message, with one id over all tries.
func TestADeadReceiverAndAnAbsentClickHouseHoldUpNothingElse(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		if c, err := net.Dial("tcp", "127.0.0.1:1"); err == nil {
			c.Close()
			t.Skip("needs a closed port 1: something listens there")
		}
		dead := newHooks(t, func(n int) int { return []int{500, 0, 200}[min(n-1, 2)] })
		healthy := newHooks(t, func(int) int { return 200 })
		_, env := on(t, brokers, "CRM="+dead.server.URL, "HEALTHY="+healthy.server.URL)
		p := start(t, write(t, outagePipeline), t.TempDir(), env...)
		const people = 20
		for i := range people {
			order := fmt.Sprintf(`{"messageId":"m%d","type":"track","event":"Order Completed","userId":"u%d"}`, i, i)
			if i == 0 { // the pipeline may have to wait for Kafka yet
				p.batch(t, order)
			} else if s := post(p.http(), batch(order)); s != 200 {
				t.Fatalf("post %d was answered with %d although only ClickHouse is away", i, s)
			}
		}
		reached := func(h *hooks, what string) {
			t.Helper()
			eventually(t, func() error {
				if n := h.count(); n != people {
					return fmt.Errorf("%s receiver has accepted %d of %d", what, n, people)
				}
				return nil
			})
		}
		reached(healthy, "the healthy")
		p.kill() // what waits for its next try must survive this
		start(t, p.cmd.Args[2], p.cmd.Args[4], p.cmd.Env...)
		reached(dead, "the other")
		for _, h := range []*hooks{healthy, dead} {
			h.mu.Lock()
			if len(h.wrong) > 0 {
				t.Errorf("%d wrong messages, the first: %s", len(h.wrong), h.wrong[0])
			}
			if len(h.tries) != people {
				t.Errorf("%d webhook ids, want %d", len(h.tries), people)
			}
			h.mu.Unlock()
		}
	})
}
