package clean

import (
	"strconv"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// BenchmarkProcess: the event of 600 bytes of a browser SDK.
func BenchmarkProcess(b *testing.B) {
	env := &pipeline.Env{Identities: pipeline.NewIdentities([]byte("key"))}
	newStage, _ := Kind.Build(Kind.Config(), env)
	received := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	stagetest.Bench(b, Kind, newStage, func(i int, ev *pipeline.Event) {
		*ev = pipeline.Event{Source: "web", MessageID: "ajs-next-" + strconv.Itoa(i), ReceivedAt: received, Raw: []byte(`{"type":"track","event":"Order Completed","messageId":"ajs-next-` +
			strconv.Itoa(i) + `","userId":"u` + strconv.Itoa(i%10000) + `","anonymousId":"b5e9ea44-7e3f-4e3c-9d0a-2a7ed9c40d1f","timestamp":"2026-03-01T09:59:58.123Z","sentAt":"2026-03-01T09:59:59.000Z",` +
			`"properties":{"order_id":"o-1234","revenue":12.34,"currency":"GBP","coupon":"SPRING","products":[{"sku":"A-1","price":6.17,"quantity":2}],"list":"home"},` +
			`"context":{"ip":"203.0.113.7","library":{"name":"analytics.js","version":"next-1.70.0"},"locale":"en-GB","page":{"path":"/checkout","url":"https://shop.example/checkout"},` +
			`"userAgent":"Mozilla/5.0 (X11; Linux x86_64)"},"integrations":{}}`)}
	})
}
