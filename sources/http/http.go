package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"golang.org/x/net/netutil"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/outlet"
)

// Limits of connections and waits.
const (
	maxConnections = 4096
	maxHeaderBytes = 32 << 10
	headerTimeout  = 10 * time.Second // slow headers
	readTimeout    = 30 * time.Second // slow bodies
	writeTimeout   = 60 * time.Second // from the end of the headers: body, acknowledgement and answer
	idleTimeout    = 2 * time.Minute
	ackTimeout     = 10 * time.Second // from the complete body to the broker's acknowledgement
	drainTimeout   = 9 * time.Second  // of the whole end: the engine gives up after 10 s, and answers a message within 8
	retryAway      = 2                // seconds that a client is told to wait when the broker is away
)

// Source serves the tracking API. One message carries one request; the messages of concurrent requests are in flight
// together, bounded by MaxInFlight, and may be acknowledged in any order.
//
// A request whose message is nacked, or not acknowledged within 10 s, is answered 503: the client sends it again. Its events
// may be stored all the same; dedup recognises them by their message ids.
type Source struct {
	name   string
	config Config
	keys   keyring
	deps   pipeline.Deps
	budget budget
	unzip  sync.Pool // of *gzip.Reader
	gate   gate
	ack    time.Duration // ackTimeout

	outlet *outlet.Outlet
	base   context.Context // of every message, set before the first request; ends when the drain is over

	requests, refused, events, fresh atomic.Uint64
}

// New returns a source that has touched nothing yet. The configuration must have passed its check.
func New(name string, c Config, d pipeline.Deps) *Source {
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return &Source{
		name: name, config: c, keys: newKeyring(&c), deps: d, budget: budget{max: int64(c.MaxInFlight)}, ack: ackTimeout, outlet: outlet.New(),
	}
}

// Counters returns what the source has counted since it was made: requests, refused (all answers but 200 and 204), events,
// and fresh_ids (events that got a random id, since they had neither a message id nor a time: they cannot be deduplicated).
func (s *Source) Counters() map[string]uint64 {
	return map[string]uint64{
		"requests": s.requests.Load(), "refused": s.refused.Load(), "events": s.events.Load(), "fresh_ids": s.fresh.Load(),
	}
}

// Subscribe listens. When ctx ends the source accepts no more connections, finishes the requests it has and closes the
// channel; the receiver must go on receiving until then. It can be called once.
func (s *Source) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	var stop context.CancelFunc
	var ln net.Listener
	listen := func() (err error) {
		ln, err = net.Listen("tcp", s.config.Listen)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("source %s: the address %s is in use: stop the program that listens there, or set listen", s.name, s.config.Listen)
		}
		if err != nil {
			return fmt.Errorf("source %s: listen on %s: %w", s.name, s.config.Listen, err)
		}
		s.base, stop = context.WithCancel(context.WithoutCancel(ctx))
		if s.deps.Say != nil {
			s.deps.Say("http http://" + ln.Addr().String())
		}
		return nil
	}
	return s.outlet.Start(ctx, listen, func(ctx context.Context) { s.serve(ctx, ln, stop) })
}

// serve answers requests until ctx ends, and those that have come until then.
func (s *Source) serve(ctx context.Context, ln net.Listener, stop context.CancelFunc) {
	server := &http.Server{
		Handler: s, MaxHeaderBytes: maxHeaderBytes, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, ErrorLog: slog.NewLogLogger(s.deps.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(netutil.LimitListener(ln, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
			s.deps.Logger.Error("the HTTP source no longer accepts connections", "source", s.name, "error", err)
		}
	}()
	<-ctx.Done()
	limit, cancel := context.WithTimeout(s.base, drainTimeout)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		s.deps.Logger.Warn("requests were cut off: the receiver of their events did not answer", "source", s.name)
		_ = server.Close()
	}
	stop()
	s.gate.shut()
	<-served
}

// Close ends the source like the end of Subscribe's context and waits until nothing of it is running. It may be called
// again, and before Subscribe.
func (s *Source) Close() error {
	s.outlet.Close()
	return nil
}

// collect takes the events of one request.
func (s *Source) collect(w http.ResponseWriter, r *http.Request, typ string) *refusal {
	key := headerKey(r)
	if key != "" && !s.keys.admit(key) {
		return unknownKey
	}
	h := &hold{b: &s.budget}
	owned := true
	defer func() {
		if owned {
			h.release()
		}
	}()
	body, ref := s.readBody(w, r, h)
	if ref != nil {
		return ref
	}
	at := s.deps.Now().UTC().Truncate(time.Millisecond)
	p, err := split(body)
	if key == "" && len(s.keys) > 0 && (err != nil || !s.keys.admit(p.writeKey)) {
		return unknownKey
	}
	switch {
	case errors.Is(err, errTooMany):
		return refuse(http.StatusRequestEntityTooLarge, "%s", err)
	case err != nil:
		return refuse(http.StatusBadRequest, "%s", err)
	}
	if !h.take(int64(len(p.events)) * int64(recordOverhead+len(p.context))) {
		return busy(http.StatusTooManyRequests, 1, "too many requests wait for the broker: send again later")
	}
	records, ref := s.records(p, typ, at)
	if ref == nil && len(records) > 0 {
		owned = false
		ref = s.deliver(records, h)
	}
	if ref == nil {
		answer(w, http.StatusOK, map[string]any{"success": true})
	}
	return ref
}

// deliver hands the records over and waits for the broker. It releases the hold when nobody needs the bytes any more, which
// may be after it has returned.
func (s *Source) deliver(records []pipeline.Record, h *hold) *refusal {
	away := busy(http.StatusServiceUnavailable, retryAway, "the broker does not take events at the moment: send again")
	timer := time.NewTimer(s.ack)
	defer timer.Stop()
	m := pipeline.NewBatchMessage(s.base, uuid.NewString(), &pipeline.Batch{Records: records})
	select {
	case s.outlet.Out <- m:
	case <-timer.C:
		h.release()
		return away
	case <-s.base.Done():
		h.release()
		return away
	}
	select {
	case <-m.Acked():
		h.release()
		return nil
	case <-m.Nacked():
		h.release()
		return away
	case <-timer.C:
	case <-s.base.Done():
	}
	// The receiver still has the bytes: they count until it answers. The gate waits for this goroutine.
	s.gate.enterAgain()
	go func() {
		defer s.gate.leave()
		defer h.release()
		select {
		case <-m.Acked():
		case <-m.Nacked():
		case <-s.base.Done():
		}
	}()
	return away
}

// gate counts who is inside and can be shut.
type gate struct {
	mu   sync.Mutex
	off  bool
	wait sync.WaitGroup
}

// enter is false once the gate is shut.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.off {
		return false
	}
	g.wait.Add(1)
	return true
}

// enterAgain is for those who are inside.
func (g *gate) enterAgain() { g.wait.Add(1) }

func (g *gate) leave() { g.wait.Done() }

// shut lets nobody in and waits until everybody has left.
func (g *gate) shut() {
	g.mu.Lock()
	g.off = true
	g.mu.Unlock()
	g.wait.Wait()
}
