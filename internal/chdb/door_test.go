package chdb

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestStatements(t *testing.T) {
	p := startEngine(t, testOptions(t))
	must(t, p, "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	for _, c := range []struct{ name, parameters, body, want string }{
		{"in the body", "", "SELECT currentDatabase()", "millstream\n"},
		{"in the address", withQuery("SELECT 1"), "", "1\n"},
		{"in both", withQuery("SELECT 1,"), " 2", "1\t2\n"},
		{"format in the statement", "", "SELECT 1 AS a FORMAT JSONEachRow", "{\"a\":1}\n"},
		{"format beside it", "default_format=CSV", "SELECT 1, 'x'", "1,\"x\"\n"},
		{"setting", "max_threads=3", "SELECT getSetting('max_threads')", "3\n"},
		{"parameter", "param_p=it's%5Cta%20%5C%5Cext", "SELECT {p:String} FORMAT TSVRaw", "it's\ta \\ext\n"},
		{"database default is ours", "database=default", "SELECT currentDatabase()", "millstream\n"},
		{"database", "database=system", "SELECT currentDatabase()", "system\n"},
		{"totals", "", "SELECT number, count() FROM numbers(2) GROUP BY number WITH TOTALS ORDER BY number", "0\t1\n1\t1\n\n0\t2\n"},
		{"insert values", "", "INSERT INTO t VALUES (1, 'a'), (1+1, upper('b'));", ""},
		{"insert with the data in the body", withQuery("INSERT INTO t FORMAT CSV"), "3,c\n4,d\n", ""},
		{"insert select", "", "INSERT INTO t SELECT number + 5, 'e' FROM numbers(2)", ""},
		{"what was inserted", "", "SELECT groupArray((a, s)) FROM (SELECT * FROM t ORDER BY a)", "[(1,'a'),(2,'B'),(3,'c'),(4,'d'),(5,'e'),(6,'e')]\n"},
	} {
		r, body := ask(t, p, c.body, c.parameters)
		if r.StatusCode != http.StatusOK || body != c.want {
			t.Errorf("%s: status %d, got %q, want %q", c.name, r.StatusCode, body, c.want)
		}
	}
	if r, _ := ask(t, p, "INSERT INTO t VALUES (9,'x')", ""); !strings.Contains(r.Header.Get("X-ClickHouse-Summary"), `"written_rows":"1"`) {
		t.Errorf("summary %q", r.Header.Get("X-ClickHouse-Summary"))
	}
}

func TestCredentials(t *testing.T) {
	p := startEngine(t, testOptions(t))
	request := func(change func(*http.Request)) (int, string, string) {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Address()+"/?query=SELECT+42", nil)
		if err != nil {
			t.Fatal(err)
		}
		change(q)
		r, body, err := do(q)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, r.Header.Get("X-ClickHouse-Exception-Code"), body
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
		code   string
	}{
		"basic": {func(q *http.Request) { q.SetBasicAuth(User, p.Password()) }, 200, ""},
		"headers": {func(q *http.Request) {
			q.Header.Set("X-ClickHouse-User", User)
			q.Header.Set("X-ClickHouse-Key", p.Password())
		}, 200, ""},
		"address":              {func(q *http.Request) { q.URL.RawQuery += "&user=" + User + "&password=" + p.Password() }, 200, ""},
		"none":                 {func(*http.Request) {}, 401, "194"},
		"wrong password":       {func(q *http.Request) { q.SetBasicAuth(User, p.Password()+"x") }, 403, "516"},
		"empty password":       {func(q *http.Request) { q.SetBasicAuth(User, "") }, 403, "516"},
		"wrong user":           {func(q *http.Request) { q.SetBasicAuth("default", p.Password()) }, 403, "516"},
		"wrong in the address": {func(q *http.Request) { q.URL.RawQuery += "&user=" + User + "&password=no" }, 403, "516"},
		// Who says who he is in one place is not looked for in another.
		"wrong header, right address": {func(q *http.Request) {
			q.SetBasicAuth(User, "no")
			q.URL.RawQuery += "&user=" + User + "&password=" + p.Password()
		}, 403, "516"},
	} {
		status, code, body := request(c.change)
		if status != c.status || code != c.code || (status == 200) != (body == "42\n") {
			t.Errorf("%s: status %d, code %q, body %q", name, status, code, body)
		}
		if strings.Contains(body, p.Password()) {
			t.Errorf("%s: the answer contains the password", name)
		}
	}
	for _, path := range []string{"/ping", "/"} { // as ClickHouse: open to health checks
		status, _, body := request(func(q *http.Request) { q.URL.Path, q.URL.RawQuery = path, "" })
		if status != 200 || body != "Ok.\n" {
			t.Errorf("%s: status %d, %q", path, status, body)
		}
	}
	if status, _, _ := request(func(q *http.Request) { q.URL.Path = "/dashboard" }); status != 404 {
		t.Errorf("unknown path: status %d", status)
	}
}

func TestErrorsOfStatements(t *testing.T) {
	o := testOptions(t)
	o.MaxBody = 1 << 20
	p := startEngine(t, o)
	must(t, p, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	for _, c := range []struct {
		name, parameters, body string
		status                 int
		code                   string
	}{
		{"syntax", "", "SELEC 1", 400, "62"},
		{"empty", "", "", 400, "62"},
		{"unknown table", "", "SELECT * FROM nothing", 404, "60"},
		{"unknown database", "database=nothing", "SELECT 1", 404, "81"},
		{"unknown setting", "no_such_setting=1", "SELECT 1", 404, "115"},
		{"setting with an odd name", "a%20b=1", "SELECT 1", 404, "115"},
		{"setting with a bad value", "max_threads=many", "SELECT 1", 400, "27"},
		{"missing parameter", "", "SELECT {p:UInt8}", 500, "456"},
		{"bad parameter", "param_p=x", "SELECT {p:UInt8}", 500, "457"},
		{"unknown format", "default_format=Nope", "SELECT 1", 404, "73"},
		{"several statements", "", "SELECT 1; DROP TABLE t", 400, "62"},
		{"bad data", withQuery("INSERT INTO t FORMAT CSV"), "1\nx\n", 400, "117"},
		{"bad native data", withQuery("INSERT INTO t FORMAT Native"), "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + strings.Repeat("\xff", 1000), 0, ""},
		{"insert into nothing", withQuery("INSERT INTO nothing FORMAT CSV"), "1\n", 404, "60"},
		{"semicolon before data", "", "INSERT INTO t FORMAT CSV; 1", 400, "62"},
		{"outfile", "", "SELECT 1 INTO OUTFILE 'x'", 500, "358"},
		{"body not in gzip", "decompress=1", "SELECT 1 but not compressed, long enough for a header", 500, "271"},
		{"body too large", withQuery("INSERT INTO t FORMAT CSV"), strings.Repeat("1\n", 1<<20), 413, "229"},
		{"bad escape", "query=%zz", "", 400, "36"},
		{"control character", "query_id=a%0Ab", "SELECT 1", 400, "36"},
		{"bad session timeout", "session_id=s&session_timeout=1e9", "SELECT 1", 500, "374"},
		{"absent session", "session_id=absent&session_check=1", "SELECT 1", 500, "372"},
		{"deep nesting", "", "SELECT " + strings.Repeat("(", 100_000) + "1" + strings.Repeat(")", 100_000), 500, "306"},
		{"zero bytes", "", "SELECT '\x00\x00' \x00", 400, "62"},
		{"timeout", "max_execution_time=1", "SELECT count() FROM system.numbers", 408, "159"},
	} {
		r, body := ask(t, p, c.body, c.parameters)
		code := r.Header.Get("X-ClickHouse-Exception-Code")
		if r.StatusCode == http.StatusOK || c.status != 0 && r.StatusCode != c.status || c.code != "" && code != c.code || !strings.HasPrefix(body, "Code: "+code+". DB::Exception: ") {
			t.Errorf("%s: status %d, code %q, body %.300q", c.name, r.StatusCode, code, body)
		}
	}
	if got := must(t, p, "SELECT count() FROM t"); got != "0\n" {
		t.Errorf("rows after refused inserts: %q", got)
	}
}

func TestGetIsReadonly(t *testing.T) {
	p := startEngine(t, testOptions(t))
	must(t, p, "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	get := func(statement, more string) (int, string) {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Address()+"/?"+withQuery(statement)+more, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.SetBasicAuth(User, p.Password())
		r, _, err := do(q)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, r.Header.Get("X-ClickHouse-Exception-Code")
	}
	for _, session := range []string{"", "&session_id=s"} {
		for _, statement := range []string{"INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 1", "DROP TABLE t", "CREATE TABLE u (a UInt8) ENGINE = Memory"} {
			if status, code := get(statement, session); status != 500 || code != "164" {
				t.Errorf("GET %s%s: status %d, code %s", statement, session, status, code)
			}
		}
		if status, _ := get("SELECT count() FROM t", session+"&max_threads=1"); status != 200 {
			t.Errorf("GET SELECT%s: status %d", session, status)
		}
	}
	if r, body := ask(t, p, "INSERT INTO t VALUES (1)", "session_id=s"); r.StatusCode != http.StatusOK {
		t.Errorf("the session stayed readonly: %s", body)
	}
}

func TestSessions(t *testing.T) {
	p := startEngine(t, testOptions(t))
	in := func(session, statement string) string {
		r, body := ask(t, p, statement, "session_timeout=5&session_id="+session)
		return strings.TrimSpace(body) + r.Header.Get("X-ClickHouse-Exception-Code")
	}
	if got := in("a", "CREATE TEMPORARY TABLE x AS SELECT 7 AS n"); got != "" {
		t.Fatal(got)
	}
	if got := in("a", "SET max_threads = 3"); got != "" {
		t.Fatal(got)
	}
	if got := in("a", "SELECT n, getSetting('max_threads') FROM x"); got != "7\t3" {
		t.Errorf("in the session: %q", got)
	}
	if got := in("b", "SELECT n FROM x"); !strings.HasSuffix(got, "60") {
		t.Errorf("in another session: %q", got)
	}
	// A parameter of one request does not stay.
	if _, body := ask(t, p, "SELECT getSetting('max_threads')", "session_id=a&max_threads=2"); body != "2\n" {
		t.Errorf("parameter in the session: %q", body)
	}
	if got := in("a", "SELECT getSetting('max_threads')"); got != "3" {
		t.Errorf("after a request with a parameter: %q", got)
	}
	// A busy session refuses a second request.
	reader, writer := io.Pipe() // a body that does not end
	ended := make(chan error, 1)
	go func() {
		_, _, err := post(t.Context(), p, reader, withQuery("INSERT INTO FUNCTION null('a UInt8') FORMAT TSV")+"&session_id=busy")
		ended <- err
	}()
	if _, err := writer.Write(bytes.Repeat([]byte("1\n"), 100_000)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the insert runs", func() bool {
		return must(t, p, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT%'") == "1\n"
	})
	if got := in("busy", "SELECT 1"); !strings.HasSuffix(got, "373") {
		t.Errorf("second request of a session: %q", got)
	}
	if err := errors.Join(writer.Close(), <-ended); err != nil {
		t.Error(err)
	}
	if got := in("busy", "SELECT 1"); got != "1" {
		t.Errorf("next request of the session: %q", got)
	}
}
