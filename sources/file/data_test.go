package file

import (
	"os"
	"testing"

	"github.com/shopspring/decimal"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// shared skips the test if the real data sets do not lie beside the repository.
func shared(t *testing.T, name string) string {
	t.Helper()
	path := "../../../shared/data/" + name
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs ../shared/data: %s", name)
	}
	return path
}

func TestOnlineRetailSumsExactly(t *testing.T) {
	path := shared(t, "online-retail")
	rows, ids := 0, map[string]bool{}
	var total, customer decimal.Decimal
	readOnce(t, Config{
		Path: Paths{path + "/*.csv"},
		Set:  map[string]any{"type": "track", "event": "Order Completed"},
		Map:  map[string]string{"user_id": "CustomerID", "timestamp": "InvoiceDate"},
		Expr: map[string]string{"properties.revenue": "number(Quantity) * number(UnitPrice)"},
	}, func(r *pipeline.Record) {
		rows++
		ids[string(r.Header(pipeline.HeaderID))] = true
		d := decimal.RequireFromString(gjson.GetBytes(r.Value, "properties.revenue").Raw)
		total = total.Add(d)
		if gjson.GetBytes(r.Value, "userId").Str == "17850.0" {
			customer = customer.Add(d)
		}
	})
	if rows != 190046 || len(ids) != rows || total.String() != "3268776.18" || customer.String() != "5288.63" {
		t.Errorf("%d rows, %d ids, total %s, customer %s", rows, len(ids), total, customer)
	}
}

func TestCDNowIsRunsOfSpaces(t *testing.T) {
	path := shared(t, "cdnow")
	rows, yes := 0, true
	var total decimal.Decimal
	people := map[string]bool{}
	s := readOnce(t, Config{
		Path: Paths{path + "/CDNOW_master.txt"}, Format: "csv", Delimiter: spaces, Header: &yes,
		Columns: []string{"customer", "date", "cds", "value"},
		Set:     map[string]any{"type": "track", "event": "Purchase"},
		Map:     map[string]string{"user_id": "customer", "timestamp": "date"}, TimeFormat: "20060102",
	}, func(r *pipeline.Record) {
		rows++
		total = total.Add(decimal.RequireFromString(gjson.GetBytes(r.Value, "properties.value").Str))
		people[gjson.GetBytes(r.Value, "userId").Str] = true
		if rows == 1 && string(r.Value) != `{"event":"Purchase","properties":{"cds":"1","value":"11.77"},"timestamp":"1997-01-01T00:00:00Z","type":"track","userId":"00001"}` {
			t.Errorf("first row: %s", r.Value)
		}
	})
	if rows != 69659 || total.String() != "2500315.63" || len(people) != 23570 || s.Counters()["raw_rows"] != 0 {
		t.Errorf("%d rows, %s, %d people", rows, total, len(people))
	}
}
