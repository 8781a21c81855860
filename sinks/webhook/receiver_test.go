package webhook

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/sinktest"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// request is one request that a receiver saw.
type request struct {
	header http.Header
	body   string
	at     time.Time
}

func (r *request) id() string { return r.header.Get("webhook-id") }

// receiver is an endpoint that remembers its requests and answers as told.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
	answer   func(w http.ResponseWriter, r *http.Request, n int) // n counts from 1; nil: 200
}

func newReceiver(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) *receiver {
	t.Helper()
	rec := &receiver{answer: answer}
	rec.Server = httptest.NewServer(rec)
	t.Cleanup(rec.Close)
	return rec
}

func (rec *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	rec.mu.Lock()
	rec.requests = append(rec.requests, request{header: r.Header.Clone(), body: string(body), at: time.Now()})
	n, answer := len(rec.requests), rec.answer
	rec.mu.Unlock()
	if answer != nil {
		answer(w, r, n)
	}
}

func (rec *receiver) seen() []request {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.Clone(rec.requests)
}

func (rec *receiver) setAnswer(answer func(w http.ResponseWriter, r *http.Request, n int)) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.answer = answer
}

func status(code int, headers ...string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

// hang answers when the client has gone.
func hang(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() }

// listen serves each connection with serve, for what no HTTP server does.
func listen(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			conns.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range maps.Keys(open) {
			c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return "http://" + l.Addr().String()
}

// testConfig is the default with a loopback endpoint.
func testConfig(url string) *Config {
	c := Kind.Config().(*Config)
	c.URL, c.Secret = url, pipeline.NewSecret(testSecret)
	c.Allow = []CIDR{{netip.MustParsePrefix("127.0.0.0/8")}}
	return c
}

// logged is the sink's log, for reading while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
}

func openTest(t testing.TB, c *Config, env *pipeline.Env) (*sink, *logged) {
	t.Helper()
	open, problems := Kind.Build("crm", c, env)
	if problems != nil {
		t.Fatalf("the configuration has problems: %+v", problems)
	}
	lines := &logged{}
	s, err := open(t.Context(), pipeline.Deps{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.(*sink).Close() })
	return s.(*sink), lines
}

// attempts are first tries of n messages of partition 0, of 5 profiles in turn.
func attempts(n int) []pipeline.Attempt {
	records := sinktest.Records(0, 0, n)
	list := make([]pipeline.Attempt, n)
	for i := range records {
		list[i] = pipeline.Attempt{Record: &records[i], Number: 1, QueuedAt: time.Now()}
	}
	return list
}

// manyProfiles are first tries of n messages of n profiles.
func manyProfiles(n int) []pipeline.Attempt {
	list := attempts(n)
	for i := range list {
		list[i].Record.Key = []byte(pipeline.HashID(fmt.Append(nil, i)).String())
	}
	return list
}

func writeAll(t testing.TB, s *sink, list []pipeline.Attempt) []pipeline.Outcome {
	t.Helper()
	start := time.Now()
	got, err := s.Write(t.Context(), nil, list)
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("write took %s, the contract gives it 5 s", took)
	}
	return got
}

func writeOne(t testing.TB, s *sink) pipeline.Outcome {
	t.Helper()
	return writeAll(t, s, attempts(1))[0]
}

func count(list []pipeline.Outcome, kind pipeline.OutcomeKind) (n int) {
	for _, o := range list {
		if o.Kind == kind {
			n++
		}
	}
	return n
}

func newTLSServer(t *testing.T, h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}
