package webhook

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

const (
	backoffMin    = 5 * time.Second
	backoffMax    = 6 * time.Hour
	retryAfterMax = time.Hour
	gonePause     = time.Hour

	codeExpired = "webhook_expired"
)

// judge makes the outcome of a request that was sent, and tells the gate.
//
// Every status but 2xx is tried again until max_age, as Standard Webhooks asks: a 400 is often a deploy of the receiver
// that goes away. 410 means that the endpoint wants no more; it is asked again once an hour, and loudly, since only the
// operator can take it out of the YAML.
func (w *write) judge(a *pipeline.Attempt, m *pipeline.Message, probe bool, ans answer) pipeline.Outcome {
	now := w.now()
	d := &pipeline.Delivery{
		WebhookID: m.ID, Sink: w.name, Type: m.Type, ProfileID: m.ProfileID, Attempt: a.Number, QueuedAt: a.QueuedAt,
		SentAt: ans.sent, LatencyMS: ans.latency.Milliseconds(), Status: ans.status,
	}
	if w.caller.Err() != nil { // we are stopping: it says nothing about the endpoint
		w.gate.forget(probe)
		return pipeline.Outcome{Kind: pipeline.RetryAt, At: now, Reason: "the pipeline stopped", Delivery: d}
	}
	if ans.status >= 200 && ans.status < 300 {
		w.answered(probe, ans)
		d.Outcome = "delivered"
		return pipeline.Outcome{Kind: pipeline.Delivered, Delivery: d}
	}

	reason := ans.reason()
	d.Outcome, d.Error = "retried", w.redactor.clean(ans.detail(reason))
	at := now.Add(backoff(a.Number))
	pause := pauseOf(ans, now)
	switch {
	case pause > 0:
		d.Outcome, at = "parked", now.Add(pause)
		if w.gate.pause(probe, ans.status == http.StatusGone, now, at) {
			w.logBad(reason, ans.status)
		}
	case aboutMessage(ans.status):
		w.answered(probe, ans)
	default:
		w.failed.Store(true)
		if w.gate.failed(probe, now) {
			w.logBad(reason, ans.status)
		}
	}

	expires := w.expires(a, now)
	if !now.Before(expires) {
		d.Outcome = "rejected"
		return pipeline.Outcome{Kind: pipeline.Rejected, Code: codeOf(ans.status), Reason: "not taken within max_age, at last: " + reason, Delivery: d}
	}
	if at.After(expires) {
		at = expires // one last try
	}
	return pipeline.Outcome{Kind: pipeline.RetryAt, At: at, Reason: reason, Delivery: d}
}

func (w *write) answered(probe bool, ans answer) {
	for {
		old := w.slowest.Load()
		if int64(ans.latency) <= old || w.slowest.CompareAndSwap(old, int64(ans.latency)) {
			break
		}
	}
	if bad := w.gate.answered(probe); !bad.IsZero() {
		w.log.Info("the endpoint takes messages again", "bad_for", w.now().Sub(bad).Round(time.Second).String())
	}
}

func (w *write) logBad(reason string, status int) {
	level := slog.LevelWarn
	if status == http.StatusGone {
		level = slog.LevelError
	}
	w.log.Log(w.caller, level, "the endpoint takes no messages; they wait and are tried again", "reason", reason)
}

// expires is when the message has been tried long enough.
func (w *write) expires(a *pipeline.Attempt, now time.Time) time.Time {
	if a.QueuedAt.IsZero() {
		return now.Add(w.maxAge)
	}
	return a.QueuedAt.Add(w.maxAge)
}

// backoff is how long to wait after try number n: 5 s at least, and at random up to 10 s, 20 s, … 6 h, so that what failed
// together does not come back together ("full jitter", AWS Architecture Blog, 2015-03-04).
func backoff(n int) time.Duration {
	upper := backoffMax
	if n < 13 { // 5 s · 2^13 is more than 6 h
		upper = min(backoffMin<<max(n, 1), backoffMax)
	}
	return backoffMin + rand.N(upper-backoffMin+1)
}

// pauseOf is how long the endpoint wants to be left alone, 0 if it did not say so.
func pauseOf(ans answer, now time.Time) time.Duration {
	switch ans.status {
	case http.StatusGone:
		return gonePause
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		text := strings.TrimSpace(ans.retryAfter)
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			return time.Duration(min(n, uint64(retryAfterMax/time.Second))) * time.Second
		}
		if t, err := http.ParseTime(text); err == nil {
			return min(max(t.Sub(now), 0), retryAfterMax)
		}
	}
	return 0
}

// aboutMessage tells that a status speaks about this message and not about the endpoint.
func aboutMessage(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}

// codeOf is the dead letter's code.
func codeOf(status int) string {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return codeExpired
	}
	if status >= 400 && status < 500 {
		return fmt.Sprintf("webhook_%d", status)
	}
	return codeExpired
}

// reason is one sentence for operators, without anything that the endpoint wrote.
func (a *answer) reason() string {
	switch {
	case a.status == 0:
		return a.sentence()
	case a.status == http.StatusGone:
		return "the endpoint answered 410: it is gone for good; take the sink out of the pipeline or correct its url"
	case a.status >= 300 && a.status < 400:
		return fmt.Sprintf("the endpoint answered %d: redirects are not followed, write the final address into url", a.status)
	}
	return fmt.Sprintf("the endpoint answered %d", a.status)
}

// detail is the reason with what the endpoint wrote, or the error's own text; to be redacted.
func (a *answer) detail(reason string) string {
	switch {
	case a.status == 0 && a.err != nil:
		return reason + ": " + a.err.Error()
	case a.text != "":
		return reason + ": " + a.text
	}
	return reason
}

// rejected is the outcome of a message that cannot be sent at all.
func rejected(err error) pipeline.Outcome {
	var r *pipeline.RejectError
	if !errors.As(err, &r) {
		r = pipeline.Reject("message_undecodable", "the message cannot be read")
	}
	return pipeline.Outcome{Kind: pipeline.Rejected, Code: r.Code, Reason: r.Reason}
}
