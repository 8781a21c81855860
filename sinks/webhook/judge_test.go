package webhook

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

func TestOutcomes(t *testing.T) {
	for _, test := range []struct {
		status  int
		headers []string
		kind    pipeline.OutcomeKind
		logged  string
		min     time.Duration // until the next try
		max     time.Duration
		reason  string
	}{
		{status: 200, kind: pipeline.Delivered, logged: "delivered"},
		{status: 204, kind: pipeline.Delivered, logged: "delivered"},
		{status: 299, kind: pipeline.Delivered, logged: "delivered"},
		{status: 301, headers: []string{"Location", "/there"}, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second, reason: "redirects are not followed"},
		{status: 307, headers: []string{"Location", "/there"}, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second, reason: "redirects are not followed"},
		{status: 304, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 400, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second, reason: "answered 400"},
		{status: 401, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 404, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 408, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 410, kind: pipeline.RetryAt, logged: "parked", min: time.Hour, max: time.Hour, reason: "gone for good"},
		{status: 422, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 425, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 429, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 429, headers: []string{"Retry-After", "120"}, kind: pipeline.RetryAt, logged: "parked", min: 2 * time.Minute, max: 2 * time.Minute},
		{status: 503, headers: []string{"Retry-After", " 7 "}, kind: pipeline.RetryAt, logged: "parked", min: 7 * time.Second, max: 7 * time.Second},
		{status: 503, headers: []string{"Retry-After", "999999999999"}, kind: pipeline.RetryAt, logged: "parked", min: time.Hour, max: time.Hour},
		{status: 503, headers: []string{"Retry-After", time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat)}, kind: pipeline.RetryAt, logged: "parked", min: 9 * time.Minute, max: 10 * time.Minute},
		{status: 503, headers: []string{"Retry-After", time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat)}, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 503, headers: []string{"Retry-After", "-5"}, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 503, headers: []string{"Retry-After", "soon"}, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 500, headers: []string{"Retry-After", "120"}, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
		{status: 500, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second, reason: "answered 500"},
		{status: 999, kind: pipeline.RetryAt, logged: "retried", min: 5 * time.Second, max: 10 * time.Second},
	} {
		t.Run(fmt.Sprint(test.status, test.headers), func(t *testing.T) {
			there := 0
			rec := newReceiver(t, func(w http.ResponseWriter, r *http.Request, n int) {
				if r.URL.Path == "/there" {
					there++
				}
				status(test.status, test.headers...)(w, r, n)
			})
			s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
			before := time.Now()
			o := writeOne(t, s)
			if o.Kind != test.kind || o.Delivery.Outcome != test.logged || o.Delivery.Status != test.status {
				t.Errorf("outcome is %+v with delivery %+v", o, o.Delivery)
			}
			if o.Kind == pipeline.RetryAt {
				if wait := o.At.Sub(before); wait < test.min-time.Second/10 || wait > test.max+time.Second {
					t.Errorf("the next try is in %s, want %s … %s", wait, test.min, test.max)
				}
				if o.Reason == "" || !strings.Contains(o.Reason, test.reason) || !strings.Contains(o.Delivery.Error, test.reason) {
					t.Errorf("reason is %q, error %q, want %q in both", o.Reason, o.Delivery.Error, test.reason)
				}
			}
			if there > 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for n, upper := range map[int]time.Duration{1: 10 * time.Second, 2: 20 * time.Second, 5: 160 * time.Second, 12: 20480 * time.Second, 13: backoffMax, 64: backoffMax, 1 << 30: backoffMax} {
		least, most := backoffMax, time.Duration(0)
		for range 2000 {
			d := backoff(n)
			least, most = min(least, d), max(most, d)
		}
		if least < backoffMin || most > upper || most < upper*9/10 || least > backoffMin+upper/10 {
			t.Errorf("try %d waits %s … %s, want all of %s … %s", n, least, most, backoffMin, upper)
		}
	}
}

func TestMaxAge(t *testing.T) {
	for _, test := range []struct {
		status int
		age    time.Duration
		code   string // empty: tried again
	}{
		{500, 71 * time.Hour, ""},
		{500, 73 * time.Hour, "webhook_expired"},
		{429, 73 * time.Hour, "webhook_expired"},
		{302, 73 * time.Hour, "webhook_expired"},
		{422, 71 * time.Hour, ""},
		{422, 73 * time.Hour, "webhook_422"},
		{410, 73 * time.Hour, "webhook_410"},
		{200, 1000 * time.Hour, ""},
	} {
		rec := newReceiver(t, status(test.status))
		s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
		list := attempts(1)
		list[0].Number, list[0].QueuedAt = 40, time.Now().Add(-test.age)
		o := writeAll(t, s, list)[0]
		if (o.Kind == pipeline.Rejected) != (test.code != "") || o.Code != test.code || (o.Delivery.Outcome == "rejected") != (test.code != "") {
			t.Errorf("%d after %s: outcome is %+v", test.status, test.age, o)
		}
		if last := list[0].QueuedAt.Add(72 * time.Hour); o.Kind == pipeline.RetryAt && o.At.After(last) {
			t.Errorf("%d after %s: the last try is at %s, after max_age", test.status, test.age, o.At)
		}
	}
}

// TestRejectedDoesNotStopTheKey: the next message of the profile goes out after a dead letter.
func TestRejectedDoesNotStopTheKey(t *testing.T) {
	rec := newReceiver(t, nil)
	s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	list := attempts(6)
	list[0].Record.Value = []byte(`{"v":2}`)
	got := writeAll(t, s, list)
	if got[0].Kind != pipeline.Rejected || got[0].Code != "message_version" || got[5].Kind != pipeline.Delivered {
		t.Errorf("outcomes are %+v and %+v", got[0], got[5])
	}
}

// TestRetryAfterPausesTheSink: one answer stops all profiles until then.
func TestRetryAfterPausesTheSink(t *testing.T) {
	rec := newReceiver(t, status(429, "Retry-After", "30"))
	s, log := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	now := time.Now()
	s.now = func() time.Time { return now }
	first := writeOne(t, s)
	got := writeAll(t, s, manyProfiles(50))
	if n := len(rec.seen()); n != 1 {
		t.Errorf("the endpoint saw %d requests, want 1", n)
	}
	for i, o := range got {
		if o.Kind != pipeline.RetryAt || o.Delivery != nil || !o.At.Equal(first.At) {
			t.Errorf("outcome %d is %+v, want to wait until %s", i, o, first.At)
		}
	}
	rec.setAnswer(nil)
	now = first.At
	if n := count(writeAll(t, s, manyProfiles(50)), pipeline.Delivered); n != 50 {
		t.Errorf("%d of 50 were delivered after the pause", n)
	}
	if lines := log.lines(); lines[0] != "" {
		t.Errorf("a pause was logged as a fault: %s", lines)
	}
}

// TestDeadEndpoint: it costs ten faults, then one request per pause; it is logged once, and once when it is back.
func TestDeadEndpoint(t *testing.T) {
	rec := newReceiver(t, status(500))
	c := testConfig(rec.URL)
	c.MaxInFlight = 1
	s, log := openTest(t, c, &pipeline.Env{})
	now := time.Now()
	s.now = func() time.Time { return now }
	wait := waitMin
	for round := range 10 {
		got := writeAll(t, s, manyProfiles(200))
		if n := count(got, pipeline.RetryAt); n != 200 {
			t.Fatalf("round %d: %d of 200 wait", round, n)
		}
		if n := len(rec.seen()); n != faultsToClose+round {
			t.Fatalf("round %d: the endpoint saw %d requests, want %d", round, n, faultsToClose+round)
		}
		if !got[199].At.Equal(now.Add(wait)) {
			t.Errorf("round %d: the pause ends in %s, want %s", round, got[199].At.Sub(now), wait)
		}
		now, wait = now.Add(wait), min(2*wait, waitMax)
	}
	old := manyProfiles(2)
	old[1].QueuedAt = now.Add(-80 * time.Hour)
	if got := writeAll(t, s, old); got[1].Kind != pipeline.Rejected || got[1].Code != "webhook_expired" || got[1].Delivery != nil {
		t.Errorf("what expired during the pause has outcome %+v", got[1])
	}
	now = now.Add(waitMax)
	rec.setAnswer(nil)
	if n := count(writeAll(t, s, manyProfiles(200)), pipeline.Delivered); n != 200 {
		t.Errorf("%d of 200 were delivered after the endpoint came back", n)
	}
	lines := log.lines()
	if len(lines) != 2 || !strings.Contains(lines[0], "takes no messages") || !strings.Contains(lines[0], "answered 500") || !strings.Contains(lines[1], "takes messages again") {
		t.Errorf("the log is\n%s", strings.Join(lines, "\n"))
	}
}

// TestRefusedMessagesDoNotShutTheGate: an endpoint that answers 422 is alive.
func TestRefusedMessagesDoNotShutTheGate(t *testing.T) {
	rec := newReceiver(t, status(422))
	s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	writeAll(t, s, manyProfiles(100))
	if n := len(rec.seen()); n != 100 {
		t.Errorf("the endpoint saw %d requests, want 100", n)
	}
}

func TestGoneIsLoud(t *testing.T) {
	rec := newReceiver(t, status(410))
	s, log := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	writeAll(t, s, manyProfiles(1))
	writeAll(t, s, manyProfiles(100))
	if n := len(rec.seen()); n != 1 {
		t.Errorf("the endpoint saw %d requests, want 1", n)
	}
	if lines := log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "level=ERROR") || !strings.Contains(lines[0], "410") {
		t.Errorf("the log is\n%s", strings.Join(lines, "\n"))
	}
}

func TestGate(t *testing.T) {
	g, now := newGate(), time.Now()
	for range faultsToClose - 1 {
		g.failed(false, now)
	}
	g.answered(false) // one answer makes them forgotten
	for i := range faultsToClose {
		if _, again := g.admit(now); !again.IsZero() {
			t.Fatalf("the gate is shut after %d faults", i)
		}
		g.failed(false, now)
	}
	if _, again := g.admit(now); !again.Equal(now.Add(waitMin)) {
		t.Fatalf("the gate opens at %s", again)
	}
	g.answered(false) // a request from before the pause
	g.failed(false, now)
	if _, again := g.admit(now); !again.Equal(now.Add(waitMin)) {
		t.Fatal("a late answer moved the pause")
	}
	now = now.Add(waitMin)
	probe, _ := g.admit(now)
	if _, again := g.admit(now); !probe || again.IsZero() {
		t.Fatal("after the pause one request is to try the endpoint, and one alone")
	}
	g.forget(probe)
	if probe, _ = g.admit(now); !probe {
		t.Fatal("a request that was given up still holds the gate")
	}
	if bad := g.answered(probe); bad.IsZero() {
		t.Error("nobody was told that the endpoint is back")
	}
	if _, again := g.admit(now); !again.IsZero() {
		t.Error("the gate is shut after an answer")
	}
}
