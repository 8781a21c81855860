package clickhouse

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// Answers that no retry can mend are errors with their code and the statement, although nobody has listed them: not the
// "waiting" of an outage. The row is stored once the cause is gone, and no customer data is in the log.
func TestRefusalsAreLoud(t *testing.T) {
	d := newDB(t)
	p, s := d.openBehindProxy()
	if _, err := s.Resume(t.Context(), "resolved", pipeline.ID{}, 3); err != nil { // the topic is known from here on
		t.Fatal(err)
	}
	for i, c := range []struct {
		name          string
		wreck, repair func()
		log           string
	}{
		{"syntax", func() {
			p.alterRequests(func(b []byte) []byte {
				return bytes.Replace(b, []byte("query=INSERT+INTO"), []byte("query=INSERT+INTU"), 1)
			})
		}, func() { p.alterRequests(nil) }, `trying_to="insert into events" error="code 62 SYNTAX_ERROR" repair=`},
		{"type", func() {
			d.query(`ALTER TABLE events DROP COLUMN late`)
			d.query(`ALTER TABLE events ADD COLUMN late Array(UInt8) AFTER raw`)
		}, func() {
			d.query(`ALTER TABLE events DROP COLUMN late`)
			d.query(`ALTER TABLE events ADD COLUMN late Bool AFTER raw`)
		}, `trying_to="insert into events" error="code 53 TYPE_MISMATCH" repair=`},
		{"value of a customer in the answer", func() {
			d.query(`CREATE MATERIALIZED VIEW bad ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 1000 AS SELECT parseDateTimeBestEffort(user_id) AS n FROM events`)
		}, func() { d.query(`DROP VIEW bad`) }, `trying_to="insert into events" error="code 41 CANNOT_PARSE_DATETIME" repair=`},
	} {
		before := d.log.String()
		c.wreck()
		r := resolved(int64(i), `{"type":"track","event":"e","userId":"secret@example.com"}`, nil)
		done := make(chan error, 1)
		go func() {
			_, err := s.WriteRange(t.Context(), rangeOf("resolved", []pipeline.Record{r}), []pipeline.Record{r})
			done <- err
		}()
		said := func() string { return strings.TrimPrefix(d.log.String(), before) }
		eventually(t, c.name+": an error with its code", func() bool { return strings.Contains(said(), c.log) })
		if log := said(); !strings.Contains(log, `level=ERROR msg="ClickHouse refuses; nothing is lost`) || strings.Contains(log, "waiting for ClickHouse") {
			t.Errorf("%s: the log does not tell a refusal from an outage:\n%s", c.name, log)
		}
		c.repair()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	d.want(`SELECT count(), uniqExact(kafka_offset) FROM events`, "3\t3")
	if strings.Contains(d.log.String(), "secret") {
		t.Errorf("customer data in the log:\n%s", d.log)
	}
}

// What answers instead of ClickHouse, or cannot be trusted, is an error too; an outage is not.
func TestExplainTellsRefusalsFromOutages(t *testing.T) {
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret", status) }
	}
	plain := func(status int) *httptest.Server { return httptest.NewServer(answer(status)) }
	gone := plain(200)
	gone.Close()
	for _, c := range []struct {
		name   string
		server *httptest.Server
		scheme string
		text   string
		repair string
	}{
		{"nobody", gone, "http", "refused", ""},
		{"a proxy whose server is away", plain(http.StatusBadGateway), "http", "HTTP status 502", ""},
		{"a proxy that is busy", plain(http.StatusTooManyRequests), "http", "HTTP status 429", ""},
		{"another web server", plain(http.StatusNotFound), "http", "HTTP status 404", "HTTP port"},
		{"no TLS", plain(200), "https", "HTTP response to HTTPS client", "speaks http"},
		{"a foreign certificate", httptest.NewTLSServer(answer(200)), "https", "certificate", "not trusted"},
	} {
		a, err := parseAddress(pipeline.NewSecret(c.scheme+"://"+c.server.Listener.Addr().String()), pipeline.Secret{}, "shop")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := a.open("shop")
		if err != nil {
			t.Fatal(err)
		}
		f := explain(conn.Exec(t.Context(), "SELECT 1"))
		if !strings.Contains(f.text, c.text) || !strings.Contains(f.repair, c.repair) || (c.repair == "") != (f.repair == "") || f.answered || strings.Contains(f.text+f.repair, "secret") {
			t.Errorf("%s: got %+v", c.name, f)
		}
		_ = conn.Close()
		c.server.Close()
	}
	for code, passes := range map[int32]bool{252: true, 241: true, 62: false, 53: false, 497: false, 4711: false} {
		f := explain(&clickhouse.Exception{Code: code, CodeName: "NAME", Message: "text"})
		if !f.answered || (f.repair == "") != passes || !strings.Contains(f.text, "NAME") {
			t.Errorf("code %d: got %+v", code, f)
		}
	}
}

// A server that has too much to do is no outage and no refusal.
func TestBusyServerIsTriedAgain(t *testing.T) {
	d := newDB(t)
	answers := 0
	busy := func(context.Context) (string, error) {
		if answers++; answers <= 2 {
			return "insert into events", &clickhouse.Exception{Code: 252, CodeName: "TOO_MANY_PARTS", Message: "secret"}
		}
		return "", nil
	}
	if err := d.sink.until(t.Context(), busy); err != nil {
		t.Fatal(err)
	}
	if log := d.log.String(); strings.Count(log, `level=WARN msg="ClickHouse cannot do it now; trying again"`) != 1 || !strings.Contains(log, `trying_to="insert into events" error="code 252 TOO_MANY_PARTS"`) || strings.Contains(log, "secret") {
		t.Errorf("the log says:\n%s", log)
	}
}
