package clickhouse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Pauses between tries. An error that only a person can repair is tried as rarely as slowPause, so that it goes on by
// itself once it is repaired.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	slowPause  = 30 * time.Second
	// quiet is how long a trouble that goes on is not said again.
	quiet = time.Minute
)

// until calls try until it succeeds, ctx ends, or it returns a refusal. try says what it was doing when it failed, for the
// log: "insert into events".
func (s *Sink) until(ctx context.Context, try func(context.Context) (what string, err error)) error {
	pause := firstPause
	for {
		what, err := try(ctx)
		var final *refusal
		switch {
		case err == nil:
			return nil
		case errors.As(err, &final):
			return err
		}
		fault := explain(err)
		if ctx.Err() == nil {
			s.trouble.say(s.log, what, fault)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s in ClickHouse: %w (last error: %s)", what, ctx.Err(), fault.text)
		case <-timer.C:
		}
		longest := longPause
		if fault.repair != "" {
			longest = slowPause
		}
		pause = min(pause*2, longest)
	}
}

// refusal is an error that no waiting can cure: the sink does not start.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// fault is what an operator may know of an error.
type fault struct {
	text     string // without secrets or customer data
	answered bool   // by ClickHouse itself
	repair   string // what a person must do; empty: it may pass by itself
}

// explain describes an error without repeating what may hold customer data: ClickHouse quotes values that it cannot
// convert, so its texts are repeated only where they consist of names.
func explain(err error) fault {
	var exception *clickhouse.Exception
	if errors.As(err, &exception) {
		f := fault{text: strings.TrimSpace(fmt.Sprintf("code %d %s", exception.Code, exception.CodeName)), answered: true, repair: repairs[exception.Code]}
		switch {
		case f.repair != "":
			f.text += ": " + firstLine(exception.Message)
		case !slices.Contains(passing, exception.Code):
			f.repair = "the whole answer, which may quote customer data, is in the server's log and in system.query_log"
		}
		return f
	}
	var status *clickhouse.HTTPError
	if errors.As(err, &status) {
		f := fault{text: fmt.Sprintf("HTTP status %d without an answer of ClickHouse", status.StatusCode)}
		if status.StatusCode < 500 && status.StatusCode != http.StatusTooManyRequests && status.StatusCode != http.StatusRequestTimeout {
			f.repair = "something else answers there: check url, it must be ClickHouse's HTTP port"
		}
		return f
	}
	// Network errors. net/http blanks the password but shows user and parameters; the part after the address is enough.
	text := err.Error()
	if i := strings.LastIndex(text, "\": "); i >= 0 {
		text = text[i+3:]
	}
	f := fault{text: firstLine(text)}
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		f.repair = "the server's certificate is not trusted here, or is for another name: check url and the certificate"
	case errors.Is(err, http.ErrSchemeMismatch):
		f.repair = "url says https://, but the server speaks http there: check url"
	}
	return f
}

// passing are answers that pass by themselves: the server, or one it depends on, has too much to do, starts or stops. Every
// other answer comes again until somebody changes something.
var passing = []int32{
	159, 160, 202, 203, 209, 210, 225, 236, 241, 252, // TIMEOUT_EXCEEDED, TOO_SLOW, TOO_MANY_SIMULTANEOUS_QUERIES, NO_FREE_CONNECTION, SOCKET_TIMEOUT, NETWORK_ERROR, NO_ZOOKEEPER, ABORTED, MEMORY_LIMIT_EXCEEDED, TOO_MANY_PARTS
	279, 285, 286, 289, 319, 394, 439, 473, 499, 517, // ALL_CONNECTION_TRIES_FAILED, TOO_FEW_LIVE_REPLICAS, UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE, REPLICA_IS_NOT_IN_QUORUM, UNKNOWN_STATUS_OF_INSERT, QUERY_WAS_CANCELLED, CANNOT_SCHEDULE_TASK, DEADLOCK_AVOIDED, S3_ERROR, CANNOT_ASSIGN_ALTER
	999, 1002, // KEEPER_EXCEPTION, UNKNOWN_EXCEPTION
}

// repairs are errors that stay until somebody changes the server, by ClickHouse's number. Their texts name columns, tables,
// users and settings.
var repairs = map[int32]string{
	16:  "a column of the table is missing: add it again as in the migrations",
	20:  "the table has other columns than the migrations made: compare SHOW CREATE TABLE",
	44:  "the table cannot be written like that: compare SHOW CREATE TABLE",
	47:  "a materialized view on the table names a column that does not exist: repair or drop the view",
	48:  "the server does not know the statement: it may be too old",
	60:  "the table, or the target of a materialized view on it, is missing: restore it, or drop its row in schema_migrations and start again",
	81:  "the database is missing: start again to make it",
	115: "the server does not know a setting: it may be too old",
	164: "the user may only read: allow it to insert and to change settings",
	192: "the user is unknown: check url",
	193: "the password is wrong: check url and password",
	194: "the server wants a password: set password",
	242: "the table is read-only: look at its replicas and disks",
	243: "the disk is full: make room",
	452: "the user's profile fixes a setting that exactly-once needs: allow it to be changed",
	497: "the user lacks a right: grant it",
	516: "user or password is wrong: check url and password",
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 300 {
		s = valid(s[:300])
	}
	return s
}

// trouble remembers what has been said, so that an outage is one line now and one a minute, not one per try and partition.
type trouble struct {
	mu   sync.Mutex
	said map[string]saying // by what is tried
}

type saying struct {
	fault fault
	at    time.Time
}

func (t *trouble) say(log *slog.Logger, what string, f fault) {
	t.mu.Lock()
	last, known := t.said[what]
	// An outage has many texts: refused, reset, end of file.
	same := last.fault.text == f.text || last.fault.repair == "" && f.repair == ""
	repeated := known && same && time.Since(last.at) < quiet
	if !repeated {
		if t.said == nil {
			t.said = make(map[string]saying)
		}
		t.said[what] = saying{f, time.Now()}
	}
	t.mu.Unlock()
	switch {
	case repeated:
	case f.repair != "":
		log.Error("ClickHouse refuses; nothing is lost, the sink waits for a repair", "trying_to", what, "error", f.text, "repair", f.repair)
	case f.answered:
		log.Warn("ClickHouse cannot do it now; trying again", "trying_to", what, "error", f.text)
	default:
		log.Warn("waiting for ClickHouse", "trying_to", what, "error", f.text)
	}
}

// over says that what could not be done before has been done now.
func (t *trouble) over(log *slog.Logger, what string) {
	t.mu.Lock()
	_, known := t.said[what]
	delete(t.said, what)
	t.mu.Unlock()
	if known {
		log.Info("ClickHouse answers again", "trying_to", what)
	}
}
