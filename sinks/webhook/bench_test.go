package webhook

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/sinktest"
)

// BenchmarkDeliveries measures the sink against an endpoint on loopback in the same process, and a bare net/http client
// with the same connections, body and headers as its ceiling. Both share the machine with the endpoint.
func BenchmarkDeliveries(b *testing.B) {
	endpoint := fastEndpoint(b)
	const inFlight, perWrite = 64, 1024

	b.Run("ceiling=net-http", func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConns: inFlight, MaxIdleConnsPerHost: inFlight}}
		defer client.CloseIdleConnections()
		body := sinktest.Message(0, 0).AppendJSON(nil)
		perSecond(b, func() {
			var next atomic.Int64
			var workers sync.WaitGroup
			for range inFlight {
				workers.Go(func() {
					for int(next.Add(1)) <= b.N {
						resp, err := client.Post(endpoint, "application/json", bytes.NewReader(body))
						if err != nil {
							b.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				})
			}
			workers.Wait()
		})
	})
	for name, fields := range map[string]map[string]string{
		"sink=envelope": nil,
		"sink=map":      {"id": "identifiers.user_id[0]", "email": "identifiers.email[0]", "orders": "aggregates.orders_90d", "segment": "data.segment"},
	} {
		b.Run(name, func(b *testing.B) {
			c := testConfig(endpoint)
			c.MaxInFlight, c.Map = inFlight, fields
			s, _ := openTest(b, c, &pipeline.Env{})
			list := manyProfiles(perWrite)
			perSecond(b, func() {
				for left := b.N; left > 0; {
					left -= count(writeAll(b, s, list[:min(left, perWrite)]), pipeline.Delivered)
				}
			})
		})
	}
}

func perSecond(b *testing.B, run func()) {
	b.ReportAllocs()
	b.ResetTimer()
	start, cpu := time.Now(), cpuTime(b)
	run()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "deliveries/s")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpuTime is what the process has used, endpoint included: it says something on a busy machine too.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func fastEndpoint(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	b.Cleanup(func() { server.Close(); <-done })
	return "http://" + l.Addr().String()
}
