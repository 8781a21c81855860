package clickhouse

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// Our own cost of a row, parsing and encoding, without the server: go test -bench Rows ./sinks/clickhouse

func BenchmarkRowsOfEvents(b *testing.B) {
	var records []pipeline.Record
	names := []string{"Product Viewed", "Product Added", "Checkout Started", "Order Completed"}
	for i := range 10_000 {
		raw := fmt.Sprintf(`{"type":"track","event":%q,"messageId":"ajs-next-%d","userId":"user-%d","anonymousId":"%08x-aaaa-4bbb-8ccc-0123456789ab",`+
			`"timestamp":"2026-08-01T09:59:58.123Z","context":{"page":{"path":"/shop/item/%d","referrer":"https://www.example.com/","title":"Shop","url":"https://shop.example.com/item"},`+
			`"campaign":{"source":"newsletter","medium":"email","name":"summer"},"library":{"name":"analytics.js","version":"next-1.70.0"},"locale":"en-GB",`+
			`"userAgent":"Mozilla/5.0 (X11; Linux x86_64)"},"properties":{"product_id":"sku-%d","price":19.99,"quantity":2,"currency":"GBP","revenue":39.98}}`,
			names[i%4], i, i%2000, i%3000, i%500, i%700)
		records = append(records, resolved(int64(i), raw, nil))
	}
	benchmarkRows(b, "resolved", records)
}

func BenchmarkRowsOfChanges(b *testing.B) {
	var records []pipeline.Record
	for i := range 10_000 {
		if i%4 == 0 {
			t := pipeline.HashID([]byte(fmt.Sprint(i)))
			records = append(records, change(int64(i), alice, pipeline.SegmentEntered, `{"transition_id":"`+t.String()+`","segment":"vip","version":3,"effective_at":"2026-08-01T09:00:00.123Z",`+
				`"emitted_at":"2026-08-01T09:00:01.000Z","cause":"live","message_id":"m1","profile":`+aliceDocument+`}`, `{"op":"enter","sequence":8589934593,"delta":1,"since":"2026-08-01T08:00:00.000Z"}`))
			continue
		}
		records = append(records, change(int64(i), alice, pipeline.ProfileUpdated, `{"profile":`+aliceDocument+`,"changed":["plan"]}`, fmt.Sprintf(`{"version":%d}`, i)))
	}
	benchmarkRows(b, "changes", records)
}

func benchmarkRows(b *testing.B, topic string, records []pipeline.Record) {
	batch := newBatch(topic)
	bytes := 0
	for _, r := range records {
		bytes += len(r.Value)
	}
	b.ReportAllocs()
	encoded, cpu := 0, cpuTime(b)
	for b.Loop() {
		rejected := make(map[int64]*pipeline.RejectError)
		fillBatch(batch, records, rejected)
		encoded = 0
		for _, t := range batch.tables() {
			text, err := t.encode()
			if err != nil || len(rejected) > 0 {
				b.Fatal(err, rejected)
			}
			encoded += len(text)
			t.reset()
		}
	}
	rows := float64(b.N) * float64(len(records))
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/rows, "cpu-ns/row") // garbage collection included
	b.ReportMetric(float64(bytes)/float64(len(records)), "B/record")
	b.ReportMetric(float64(encoded)/float64(len(records)), "B/row")
}

// cpuTime is what the process has used; on a machine that is shared it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
