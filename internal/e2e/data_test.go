package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// loading bounds the wait for a data set: it takes some ten seconds on two cores that have nothing else to do.
const loading = 2 * time.Minute

// shared is the folder of a real data set, which lies beside the repository.
func shared(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../../shared/data/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs ../shared/data: %s", name)
	}
	return path
}

const retailPipeline = `
pipeline: retail
sources:
  lines:
    file:
      path: "${IN}/*.csv"
      set:  {type: track, event: Order Completed}
      map:  {user_id: CustomerID, timestamp: InvoiceDate}
      expr: {properties.revenue: 'number(Quantity) * number(UnitPrice)'}
stages:
  - clean
  - dedup
  - profile:
      orders:  {count: events, event: Order Completed}
      revenue: {sum: properties.revenue}
sinks:
  analytics: {clickhouse: {url: embedded}}
`

// retail is what the 94 files say, by a sum in decimal numbers over their lines; extra is one more line of 1.00.
func retail(extra bool) map[string]string {
	count, sum := "190046", "3268776.18"
	if extra {
		count, sum = "190047", "3268777.18"
	}
	return map[string]string{
		"SELECT count(), uniqExact(message_id), sum(revenue) FROM events":                                            count + "\t" + count + "\t" + sum,
		"SELECT sum(revenue) FROM events WHERE user_id = '17850.0'":                                                  "5288.63",
		"SELECT sum(revenue) FROM events WHERE toYYYYMM(time) = 201111":                                              "1461756.25",
		"SELECT count(), countIf(properties['Quantity'] = '') FROM events WHERE user_id = ''":                        "55323\t0",
		"SELECT round(aggregates['revenue'], 2) FROM people WHERE has(identifiers['user_id'], '17850.0')":            "5288.63",
		"SELECT count() FROM dead_letters":                                                                           "0",
		"SELECT count(), toUInt64(sum(aggregates['orders'])) FROM people WHERE NOT has(identifiers['user_id'], 'x')": "2712\t134723",
	}
}

// TestOnlineRetailArrivesToThePenny loads the files, and loads them again after a restart from another place.
func TestOnlineRetailArrivesToThePenny(t *testing.T) {
	t.Parallel()
	needEngine(t)
	in, data := shared(t, "online-retail"), t.TempDir()
	file := write(t, retailPipeline)
	begun := time.Now()
	p := start(t, file, data, "IN="+in)
	p.answers(t, data, loading, retail(false))
	t.Logf("loaded in %v", time.Since(begun).Round(time.Millisecond))
	p.stop()

	// Files are read in the order of their names: where the line of the last one is seen, the others have been read.
	other := filepath.Join(t.TempDir(), "other")
	if err := os.CopyFS(other, os.DirFS(in)); err != nil {
		t.Fatal(err)
	}
	const extra = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n1,1,LAST,1,2012-01-01 00:00:00,1.00,x,United Kingdom\n"
	if err := os.WriteFile(filepath.Join(other, "last.csv"), []byte(extra), 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t, file, data, "IN="+other)
	p.answers(t, data, loading, retail(true))
	p.stop()
}

const cdnowPipeline = `
pipeline: cdnow
sources:
  purchases:
    file:
      path: "${IN}/CDNOW_master.txt"
      format: csv
      delimiter: spaces
      header: true
      columns: [customer, date, cds, value]
      set:  {type: track, event: Purchase}
      map:  {user_id: customer, timestamp: date}
      expr: {properties.revenue: number(value)}
      time_format: "20060102"
stages:
  - clean
  - dedup
  - profile:
      purchases: {count: events, event: Purchase}
      revenue:   {sum: properties.revenue}
sinks:
  analytics: {clickhouse: {url: embedded}}
`

// TestCDNowArrivesToTheCent loads the purchases of 23,570 customers; their file is a table without quotes or commas.
func TestCDNowArrivesToTheCent(t *testing.T) {
	t.Parallel()
	needEngine(t)
	in, data := shared(t, "cdnow"), t.TempDir()
	begun := time.Now()
	p := start(t, write(t, cdnowPipeline), data, "IN="+in)
	p.answers(t, data, loading, map[string]string{
		"SELECT count(), uniqExact(user_id), sum(revenue) FROM events":                                             "69659\t23570\t2500315.63",
		"SELECT count(), toUInt64(sum(aggregates['purchases'])), round(sum(aggregates['revenue']), 2) FROM people": "23570\t69659\t2500315.63",
		"SELECT count() FROM dead_letters":                                                                         "0",
	})
	t.Logf("loaded in %v", time.Since(begun).Round(time.Millisecond))
	p.stop()
}
