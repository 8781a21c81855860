package chdb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// doorConfig says whom the door lets in, and how much.
type doorConfig struct {
	database    string
	password    string
	memoryLimit uint64 // bytes of the engine; one statement gets three quarters of it
	statements  int    // how many run at once; others wait
	maxBody     int64  // bytes of one request, decompressed
}

// Limits that no client needs to change.
const (
	queueTimeout     = 30 * time.Second // how long a statement waits for its turn
	maxStatement     = 16 << 20         // bytes of SQL without data; the engine's own limit is max_query_size, 256 KiB
	statementTimeout = time.Hour        // max_execution_time unless the client sets it
	insertChunk      = 256 << 10        // bytes of data handed to the engine at once
)

// door answers ClickHouse's HTTP interface. Not supported: external tables (multipart bodies), progress headers, roles, and
// KILL QUERY by query_id, because the engine gives its own ids.
type door struct {
	config   doorConfig
	engine   *engine
	secret   [sha256.Size]byte
	slots    chan struct{}
	sessions *sessions
	running  sync.WaitGroup
	log      *slog.Logger
}

func newDoor(e *engine, c doorConfig, log *slog.Logger) *door {
	return &door{
		config: c, engine: e, secret: sha256.Sum256([]byte(c.password)),
		slots: make(chan struct{}, c.statements), sessions: newSessions(e.connect), log: log,
	}
}

// close ends the sessions and waits for running requests until ctx ends. The server must accept nothing any more.
func (d *door) close(ctx context.Context) error {
	d.sessions.close()
	done := make(chan struct{})
	go func() { d.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.running.Add(1)
	defer d.running.Done()
	defer func() {
		if p := recover(); p != nil { // of this request only; the engine lives on
			d.log.Error("clickhouse request panicked", "panic", p, "stack", string(debug.Stack()))
			panic(http.ErrAbortHandler)
		}
	}()
	w.Header().Set("X-ClickHouse-Server-Display-Name", "millstream")
	w.Header().Set("X-ClickHouse-Timezone", d.engine.timezone)
	parameters, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		newAnswer(w).finish(newException(codeBadArguments, "The address cannot be parsed: %s", err), d.engine.version)
		return
	}
	hasQuery := parameters.Get("query") != ""
	switch {
	case r.URL.Path == "/ping", r.URL.Path == "/replicas_status", r.URL.Path == "/" && r.Method == http.MethodGet && !hasQuery:
		_, _ = io.WriteString(w, "Ok.\n") // the client is gone
	case r.URL.Path != "/" && r.URL.Path != "/query":
		http.Error(w, "There is no handle "+r.URL.Path, http.StatusNotFound)
	default:
		a := newAnswer(w)
		a.finish(d.serve(a, r, parameters), d.engine.version)
	}
}

// serve runs one statement.
func (d *door) serve(a *answer, r *http.Request, parameters url.Values) error {
	if err := d.authenticate(r, parameters); err != nil {
		return err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost {
		return newException(codeNotImplemented, "Method %s", r.Method)
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return newException(codeNotImplemented, "External tables in a multipart body")
	}
	q, err := parseRequest(r, parameters)
	if err != nil {
		return err
	}
	a.w.Header().Set("X-ClickHouse-Query-Id", q.queryID)
	body, err := requestBody(a.w, r, q, d.config.maxBody)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // reports nothing that reading did not

	if err := d.takeSlot(r.Context()); err != nil {
		return err
	}
	defer func() { <-d.slots }()
	s, err := d.openStatement(q)
	if err != nil {
		return err
	}
	defer s.close()
	a.compress(r, q)

	// A client that hangs up cancels its statement.
	done, killed := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(r.Context(), func() {
		defer close(killed)
		d.engine.kill(s.tag, done)
	})
	defer func() {
		close(done)
		if !stop() {
			<-killed
		}
	}()
	return s.run(a, body, r.UserAgent())
}

// authenticate takes user and password from the places where ClickHouse looks for them.
func (d *door) authenticate(r *http.Request, parameters url.Values) error {
	user, password, ok := r.BasicAuth()
	if !ok {
		user, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	}
	if user == "" && password == "" {
		user, password = parameters.Get("user"), parameters.Get("password")
	}
	if user == "" && password == "" {
		return newException(codeRequiredPassword, "Authentication required: user %s, password in the file \"password\" of the data folder", User)
	}
	given := sha256.Sum256([]byte(password))
	if subtle.ConstantTimeCompare(given[:], d.secret[:]) != 1 || user != User {
		return newException(codeAuthentication, "Authentication failed: password is incorrect, or there is no user with such name")
	}
	return nil
}

func (d *door) takeSlot(ctx context.Context) error {
	timeout := time.NewTimer(queueTimeout)
	defer timeout.Stop()
	select {
	case d.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		return newException(codeTooManyQueries, "Too many simultaneous queries: %d run, this one waited %s", d.config.statements, queueTimeout)
	}
}

// readHead reads as much of the statement as its shape needs: all of it, or, of an INSERT with data, up to somewhere in the
// data. rest is what is left in the body.
func readHead(query string, body io.Reader) (head []byte, s shape, rest io.Reader, err error) {
	var text bytes.Buffer
	if text.WriteString(query); query != "" {
		text.WriteByte('\n') // as ClickHouse joins them
	}
	for limit := int64(64 << 10); ; limit = maxStatement {
		n, err := text.ReadFrom(io.LimitReader(body, limit))
		if err != nil {
			return nil, shape{}, nil, err
		}
		s = shapeOf(text.Bytes())
		if s.insertData || n < limit {
			if s.empty {
				return nil, shape{}, nil, newException(codeSyntaxError, "Empty query")
			}
			return text.Bytes(), s, body, nil
		}
		if limit == maxStatement {
			return nil, shape{}, nil, newException(codeTooLarge, "A statement without data is longer than %d bytes", maxStatement)
		}
	}
}
