package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// receiver plays the CRM: it verifies the signature of each webhook with the public library and keeps what it was told.
type receiver struct {
	url    string
	secret string
	server *http.Server
	done   chan struct{}

	mu       sync.Mutex
	requests int
	verified int
	seen     map[string]delivery // by webhook-id
}

// delivery is one message, told once or more.
type delivery struct {
	Type string
	Data struct {
		Segment string `json:"segment"`
	}
	times int
}

func startReceiver() (*receiver, error) {
	key := make([]byte, 24)
	_, _ = rand.Read(key) // never fails
	r := &receiver{secret: "whsec_" + base64.StdEncoding.EncodeToString(key), seen: map[string]delivery{}, done: make(chan struct{})}
	hook, err := standardwebhooks.NewWebhook(r.secret)
	if err != nil {
		return nil, fmt.Errorf("make the receiver's key: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for webhooks: %w", err)
	}
	r.url = "http://" + l.Addr().String() + "/crm"
	r.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, 1<<20))
		if err != nil {
			http.Error(w, "unreadable", http.StatusBadRequest)
			return
		}
		r.take(q.Header.Get("webhook-id"), body, hook.Verify(body, q.Header) == nil)
	})}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(l) // ends with close
	}()
	return r, nil
}

func (r *receiver) take(id string, body []byte, verified bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if !verified {
		return
	}
	d, again := r.seen[id]
	if !again {
		r.verified++
		if err := json.Unmarshal(body, &d); err != nil {
			d.Type = "not JSON"
		}
	}
	d.times++
	r.seen[id] = d
}

// counts returns how many different messages were delivered, how many of them had a good signature, and how many there
// were of each segment.
func (r *receiver) counts() (delivered, verified int, segments map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	segments = map[string]int{}
	repeated := 0
	for _, d := range r.seen {
		segments[d.Data.Segment]++
		repeated += d.times - 1
	}
	return r.requests - repeated, r.verified, segments
}

func (r *receiver) close() error {
	err := r.server.Close()
	<-r.done
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
