package http

import (
	"bytes"
	"context"
	"fmt"
	nethttp "net/http"
	"net/http/httptest"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// BenchmarkBatchesOf50 takes requests of 50 events of about 500 bytes without a network, from a receiver that acknowledges
// at once. Run it with -cpu 1.
func BenchmarkBatchesOf50(b *testing.B) {
	const events = 50
	var body bytes.Buffer
	body.WriteString(`{"sentAt":"2026-01-02T03:04:05.678Z","batch":[`)
	for i := range events {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"type":"track","event":"Product Viewed","messageId":"ajs-next-1795438682420-29fa44bb-5c45-43e8-%04d","anonymousId":"fa44bb5c-45e3-48cc-b78e-27c27cda4aba",
"timestamp":"2026-01-02T03:04:05.000Z","properties":{"product_id":"p-%d","price":12.50,"currency":"GBP","category":"Shoes","position":3},
"context":{"library":{"name":"analytics.js","version":"npm:next-1.84.3"},"page":{"path":"/shoes/running","title":"Running shoes","url":"https://shop.example/shoes/running"},"locale":"en-GB"}}`, i, i)
	}
	body.WriteString("]}")
	for name, posted := range map[string][]byte{"plain": body.Bytes(), "gzip": zipped(body.Bytes())} {
		b.Run(name, func(b *testing.B) {
			c := Kind.Config().(*Config)
			c.WriteKeys = map[string]pipeline.Secret{"site": pipeline.NewSecret("wk")}
			c.Listen = "127.0.0.1:0"
			s := New("web", *c, pipeline.Deps{})
			out, err := s.Subscribe(context.Background(), "events")
			if err != nil {
				b.Fatal(err)
			}
			go func() {
				for m := range out {
					m.Ack()
				}
			}()
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(nethttp.MethodPost, "/v1/batch", bytes.NewReader(posted))
				r.SetBasicAuth("wk", "")
				w := httptest.NewRecorder()
				if s.ServeHTTP(w, r); w.Code != nethttp.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
			}
			b.ReportMetric(float64(b.N)*events/b.Elapsed().Seconds(), "events/s")
			s.Close()
		})
	}
}
