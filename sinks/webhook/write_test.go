package webhook

import (
	"context"
	"encoding/json"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/sinktest"
)

func TestContract(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Subject {
		rec := newReceiver(t, nil)
		return sinktest.Subject{
			Open: func(t *testing.T) pipeline.Sink { s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{}); return s },
			Received: func(t *testing.T) (ids []pipeline.ID) {
				for _, r := range rec.seen() {
					var id pipeline.ID
					if err := id.UnmarshalText([]byte(r.id())); err != nil {
						t.Error(err)
					}
					ids = append(ids, id)
				}
				return ids
			},
			Hang: func(*testing.T) { rec.setAnswer(hang) },
		}
	})
}

func TestRequest(t *testing.T) {
	rec := newReceiver(t, nil)
	c := testConfig(rec.URL + "/hook?tenant=7")
	c.Headers = map[string]pipeline.Secret{"authorization": pipeline.NewSecret("Bearer abcdef123456")}
	s, _ := openTest(t, c, &pipeline.Env{})
	before := time.Now().Unix()
	if o := writeOne(t, s); o.Kind != pipeline.Delivered {
		t.Fatalf("outcome is %+v", o)
	}
	r := rec.seen()[0]
	m := sinktest.Message(0, 0)
	if want := `{"type":"segment.entered","timestamp":"2026-01-02T03:04:05.678Z","v":1,"data":` + string(m.Data) + `}`; r.body != want {
		t.Errorf("body is\n%s\nwant\n%s", r.body, want)
	}
	for name, want := range map[string]string{"Webhook-Id": m.ID.String(), "Content-Type": "application/json", "User-Agent": "Millstream", "Authorization": "Bearer abcdef123456"} {
		if got := r.header.Get(name); got != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	verifier, err := standardwebhooks.NewWebhook(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify([]byte(r.body), r.header); err != nil { // looks at the timestamp too
		t.Error(err)
	}
	if sent, err := strconv.ParseInt(r.header.Get("webhook-timestamp"), 10, 64); err != nil || sent < before || sent > time.Now().Unix() {
		t.Errorf("webhook-timestamp is %q, want the time of the attempt", r.header.Get("webhook-timestamp"))
	}
}

func TestRetriesSendTheSameBytes(t *testing.T) {
	for _, fields := range []map[string]string{nil, {"id": "identifiers.user_id[0]", "email": "identifiers.email[0]", "orders": "aggregates.orders_90d", "of": "previous_ids"}} {
		rec := newReceiver(t, status(500))
		c := testConfig(rec.URL)
		c.Map = fields
		s, _ := openTest(t, c, &pipeline.Env{})
		for n := range 5 {
			list := attempts(1)
			list[0].Number = n + 1
			writeAll(t, s, list)
		}
		requests := rec.seen()
		for _, r := range requests[1:] {
			if r.body != requests[0].body || r.id() != requests[0].id() {
				t.Errorf("a retry sent %s as %s, the first try %s as %s", r.body, r.id(), requests[0].body, requests[0].id())
			}
		}
		if len(requests) != 5 {
			t.Errorf("the endpoint saw %d requests, want 5", len(requests))
		}
	}
}

// TestOrderPerKey: profile 2's second message fails; its later ones wait, the other profiles' arrive.
func TestOrderPerKey(t *testing.T) {
	list := attempts(20)
	refused := sinktest.Message(0, 7).ID.String()
	rec := newReceiver(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Header.Get("webhook-id") == refused {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	got := writeAll(t, s, list)
	for i, o := range got {
		switch {
		case i == 7:
			if o.Kind != pipeline.RetryAt || o.Delivery == nil || o.Delivery.Outcome != "retried" {
				t.Errorf("outcome %d is %+v, want a retry with its delivery", i, o)
			}
		case i%5 == 2 && i > 7:
			if o.Kind != pipeline.RetryAt || o.Delivery != nil || !o.At.Equal(got[7].At) {
				t.Errorf("outcome %d is %+v, want to wait until %s with nothing sent", i, o, got[7].At)
			}
		case o.Kind != pipeline.Delivered:
			t.Errorf("outcome %d is %+v, want delivered", i, o)
		}
	}
	last := map[string]time.Time{}
	for _, r := range rec.seen() {
		profile := r.id()[:8]
		if r.at.Before(last[profile]) {
			t.Errorf("messages of one profile overlapped")
		}
		last[profile] = r.at
	}
	if n := len(rec.seen()); n != 18 {
		t.Errorf("the endpoint saw %d requests, want 18", n)
	}
}

func TestMaxInFlightOverAllPartitions(t *testing.T) {
	var now, most atomic.Int32
	rec := newReceiver(t, func(http.ResponseWriter, *http.Request, int) {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(2 * time.Millisecond)
		now.Add(-1)
	})
	c := testConfig(rec.URL)
	c.MaxInFlight = 8
	s, _ := openTest(t, c, &pipeline.Env{})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() { writeAll(t, s, manyProfiles(100)) })
	}
	writers.Wait()
	if n := most.Load(); n != 8 {
		t.Errorf("up to %d requests were in flight, want 8", n)
	}
}

// TestSlowEndpoint: what has no turn within one write comes again at once, and nothing is cut off half-way.
func TestSlowEndpoint(t *testing.T) {
	rec := newReceiver(t, func(http.ResponseWriter, *http.Request, int) { time.Sleep(300 * time.Millisecond) })
	c := testConfig(rec.URL)
	c.MaxInFlight = 2
	s, _ := openTest(t, c, &pipeline.Env{})
	got := writeAll(t, s, manyProfiles(100))
	delivered := count(got, pipeline.Delivered)
	if delivered < 4 || delivered != len(rec.seen()) {
		t.Errorf("%d were delivered, the endpoint saw %d", delivered, len(rec.seen()))
	}
	for i, o := range got {
		if o.Kind == pipeline.RetryAt && (o.Delivery != nil || time.Until(o.At) > 0) {
			t.Errorf("outcome %d is %+v, want to come again at once with nothing sent", i, o)
		}
	}
}

func TestCancelEndsWrite(t *testing.T) {
	rec := newReceiver(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	rec.setAnswer(func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 2*faultsToClose {
			cancel()
		}
		hang(w, r, n)
	})
	s, log := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	start := time.Now()
	if _, err := s.Write(ctx, nil, manyProfiles(40)); err == nil {
		t.Error("a cancelled write gave no error")
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("a cancelled write took %s", took)
	}
	if lines := log.lines(); lines[0] != "" {
		t.Errorf("stopping was logged as the endpoint's fault: %s", lines)
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	rec := newReceiver(t, hang)
	c := testConfig(rec.URL)
	c.Timeout = pipeline.Duration(200 * time.Millisecond)
	s, _ := openTest(t, c, &pipeline.Env{})
	writeAll(t, s, manyProfiles(50))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rec.Close()
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func TestDeliveryRecord(t *testing.T) {
	rec := newReceiver(t, status(200))
	s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	list := attempts(1)
	list[0].Number = 3
	d := writeAll(t, s, list)[0].Delivery
	m := sinktest.Message(0, 0)
	if d == nil || d.WebhookID != m.ID || d.ProfileID != m.ProfileID || d.Sink != "crm" || d.Type != m.Type || d.Attempt != 3 ||
		!d.QueuedAt.Equal(list[0].QueuedAt) || d.SentAt.Before(d.QueuedAt) || d.LatencyMS < 0 || d.Status != 200 || d.Outcome != "delivered" || d.Error != "" {
		t.Errorf("delivery is %+v", d)
	}
	if b, err := json.Marshal(d); err != nil || !strings.Contains(string(b), `"outcome":"delivered"`) {
		t.Errorf("delivery is %s, %v", b, err)
	}
}

func TestMappingOfOtherDataIsRefused(t *testing.T) {
	c := testConfig("http://127.0.0.1:1")
	c.Map = map[string]string{"a": "type"}
	s, _ := openTest(t, c, &pipeline.Env{})
	m := sinktest.Message(0, 0)
	m.Data = []byte(`["a"]`)
	list := attempts(1)
	list[0].Record.Value = m.AppendJSON(nil)
	if o := writeAll(t, s, list)[0]; o.Kind != pipeline.Rejected || o.Code != "message_undecodable" || strings.Contains(o.Reason, `"a"`) {
		t.Errorf("outcome is %+v", o)
	}
}
