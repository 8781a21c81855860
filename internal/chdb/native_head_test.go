package chdb

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestNativeHeadIsNotReadAsText inserts blocks whose first bytes, the numbers of columns and rows, are blanks and signs of
// SQL: 12 columns are a form feed, 59 rows a semicolon. Each must arrive whole, with the statement in the address or before
// the data.
func TestNativeHeadIsNotReadAsText(t *testing.T) {
	p := startEngine(t, testOptions(t))
	for _, columns := range []int{9, 10, 12, 13, 32, 35, 59} {
		names := make([]string, columns)
		values := make([]string, columns)
		for i := range names {
			names[i] = fmt.Sprintf("c%d UInt8", i)
			values[i] = fmt.Sprintf("toUInt8(number) AS c%d", i)
		}
		for _, rows := range []int{9, 10, 12, 13, 32, 35, 39, 59} {
			must(t, p, "CREATE OR REPLACE TABLE head ("+strings.Join(names, ", ")+") ENGINE = MergeTree ORDER BY c0")
			data := must(t, p, fmt.Sprintf("SELECT %s FROM numbers(%d) FORMAT Native", strings.Join(values, ", "), rows))
			if data[0] != byte(columns) || data[1] != byte(rows) {
				t.Fatalf("the block begins with %q, want %d and %d", data[:2], columns, rows)
			}
			must(t, p, "INSERT INTO head FORMAT Native\n"+data)
			if r, body := ask(t, p, data, withQuery("INSERT INTO head FORMAT Native")); r.StatusCode != http.StatusOK {
				t.Fatalf("%d columns, %d rows: %s: %s", columns, rows, r.Status, body)
			}
			if got, want := must(t, p, "SELECT count(), sum(c0) FROM head"), fmt.Sprintf("%d\t%d\n", 2*rows, rows*(rows-1)); got != want {
				t.Errorf("%d columns, %d rows: %q, want %q", columns, rows, got, want)
			}
		}
	}
}
