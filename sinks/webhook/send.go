package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/millstream-io/millstream/pipeline"
)

// answerTime is how long the text of an answer may take once its status is known.
const answerTime = time.Second

// answer is how one request ended.
type answer struct {
	sent       time.Time
	latency    time.Duration // until the status
	status     int           // 0: none
	retryAfter string
	text       string // beginning of the text, not yet redacted
	err        error  // why there is no status
}

// body is what the endpoint gets: for one message always the same bytes.
func (s *sink) body(m *pipeline.Message) ([]byte, error) {
	if s.mapping != nil {
		return s.mapping.Body(m)
	}
	b := make([]byte, 0, len(m.Data)+128)
	b = append(b, `{"type":`...)
	b = strconv.AppendQuote(b, m.Type)
	b = append(b, `,"timestamp":"`...)
	b = pipeline.AppendTime(b, m.Timestamp)
	b = append(b, `","v":`...)
	b = strconv.AppendInt(b, pipeline.MessageVersion, 10)
	b = append(b, `,"data":`...)
	b = append(b, m.Data...)
	return append(b, '}'), nil
}

// send makes one request. It returns by the deadline of ctx whatever the endpoint does.
func (s *sink) send(ctx context.Context, m *pipeline.Message, body []byte, now time.Time) answer {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ans := answer{sent: now}
	req, err := s.request(ctx, m, body, now)
	if err != nil {
		ans.err = err
		return ans
	}
	resp, err := s.client.Do(req)
	ans.latency = s.now().Sub(now)
	if err != nil {
		var u *url.Error // its text holds the URL
		if errors.As(err, &u) {
			err = u.Err
		}
		ans.err = err
		return ans
	}
	ans.status, ans.retryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
	slow := time.AfterFunc(answerTime, cancel)
	defer slow.Stop()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, s.redactor.readLimit())) // the status counts, however the text ends
	ans.text = string(text)
	_ = resp.Body.Close() // closes the connection too if there is more to come
	return ans
}

func (s *sink) request(ctx context.Context, m *pipeline.Message, body []byte, now time.Time) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the request cannot be built")
	}
	id := m.ID.String()
	signature, err := s.signer.Sign(id, now, body)
	if err != nil {
		return nil, errors.New("the request cannot be signed")
	}
	req.Header = s.headers.Clone()
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return req, nil
}

// sentence says in words that fit any log why there was no status.
func (a *answer) sentence() string {
	var dns *net.DNSError
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.Is(a.err, context.DeadlineExceeded), errors.As(a.err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.As(a.err, &dns):
		return "the name of the endpoint was not found"
	case errors.Is(a.err, errNotAllowed):
		return "the guard refused the connection: " + errNotAllowed.Error()
	case errors.Is(a.err, errReserved):
		return "the guard refused the connection: " + errReserved.Error()
	case errors.As(a.err, &certificate):
		return "the certificate of the endpoint is not valid for it, or nobody known vouches for it"
	case errors.As(a.err, &op) && op.Op == "dial":
		return "no connection to the endpoint"
	}
	return "the connection ended without an answer"
}
