package chdb

import "testing"

func TestShapeOfInsert(t *testing.T) {
	for _, c := range []struct{ sql, head, format, data string }{
		{"INSERT INTO t FORMAT Native\n\x01\x02FORMAT", "INSERT INTO t ", "Native", "\x01\x02FORMAT"},
		{"insert into t format CSV 1,2", "insert into t ", "CSV", "1,2"},
		{"INSERT INTO t FORMAT TSV\n\n1", "INSERT INTO t ", "TSV", "\n1"},
		{"INSERT INTO t FORMAT TSV\r\n1", "INSERT INTO t ", "TSV", "1"},
		{"INSERT INTO t FORMAT CSV", "INSERT INTO t ", "CSV", ""},
		{"INSERT INTO t FORMAT Native\n\f;x", "INSERT INTO t ", "Native", "\f;x"},
		{"INSERT INTO t FORMAT Native\n;x", "INSERT INTO t ", "Native", ";x"},
		{"INSERT INTO t (a, format, values) VALUES (1, 'FORMAT x', 2)", "INSERT INTO t (a, format, values) ", "Values", " (1, 'FORMAT x', 2)"},
		{"INSERT INTO values VALUES (1)", "INSERT INTO values ", "Values", " (1)"},
		{"INSERT INTO db.format FORMAT CSV\n1", "INSERT INTO db.format ", "CSV", "1"},
		{"INSERT INTO `db` . `select` VALUES (1)", "INSERT INTO `db` . `select` ", "Values", " (1)"},
		{"INSERT INTO TABLE FUNCTION file('x', 'CSV') VALUES (1)", "INSERT INTO TABLE FUNCTION file('x', 'CSV') ", "Values", " (1)"},
		{"-- FORMAT A\n/* VALUES */ INSERT INTO t SETTINGS a = 'VALUES' FORMAT B\nx", "-- FORMAT A\n/* VALUES */ INSERT INTO t SETTINGS a = 'VALUES' ", "B", "x"},
	} {
		s := shapeOf([]byte(c.sql))
		if !s.insertData || c.sql[:s.head] != c.head || s.format != c.format || c.sql[s.data:] != c.data || s.semicolon {
			t.Errorf("%q: got %+v", c.sql, s)
		}
	}
	for _, sql := range []string{"INSERT INTO t SELECT 1 FORMAT CSV", "INSERT INTO t WITH 1 AS x SELECT x", "INSERT INTO t", "INSERT", "SELECT 'INSERT INTO t VALUES (1)'", "INSERT INTO t FORMAT", ""} {
		if s := shapeOf([]byte(sql)); s.insertData {
			t.Errorf("%q: taken for an insert with data: %+v", sql, s)
		}
	}
	if s := shapeOf([]byte("INSERT INTO t FORMAT CSV;\n1")); !s.semicolon {
		t.Error("semicolon before data not seen")
	}
	if s := shapeOf([]byte("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV")); !s.toFile {
		t.Error("INFILE not seen")
	}
}

func TestShapeOfSelect(t *testing.T) {
	for sql, format := range map[string]string{
		"SELECT 1 FORMAT JSON":                         "JSON",
		"SELECT 1 FORMAT JSON SETTINGS max_threads=1;": "JSON",
		"SELECT 1 SETTINGS max_threads=1 FORMAT CSV\n": "CSV",
		"SELECT 'x FORMAT JSON'":                       "",
		"SELECT 'it''s \\' FORMAT A', `FORMAT` FROM t": "",
		"SELECT formatDateTime(now(), '%F')":           "",
		"SELECT $x$ FORMAT JSON $x$":                   "",
		"SELECT 1 -- FORMAT JSON":                      "",
		"SELECT (1 FORMAT JSON":                        "",
		"SELECT 'open FORMAT JSON":                     "",
	} {
		if s := shapeOf([]byte(sql)); s.format != format || s.insertData || s.toFile {
			t.Errorf("%q: got %+v, want format %q", sql, s, format)
		}
	}
	if s := shapeOf([]byte("SELECT 1 into\noutfile 'x'")); !s.toFile {
		t.Error("INTO OUTFILE not seen")
	}
	if s := shapeOf([]byte("SELECT a, count() FROM t GROUP BY a WITH totals")); !s.totals {
		t.Error("WITH TOTALS not seen")
	}
}

func FuzzShapeOf(f *testing.F) {
	f.Add([]byte("INSERT INTO t FORMAT Native\n\x00"))
	f.Add([]byte("SELECT $a$ '`\" /* -- # ((("))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := shapeOf(text)
		if s.head > len(text) || s.data > len(text) || s.insertData && s.head > s.data {
			t.Fatalf("shape outside of the text: %+v", s)
		}
	})
}
