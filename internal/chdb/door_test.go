package chdb

import (
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
