package dedup

import (
	"strconv"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// BenchmarkProcess: new ids over 25 buckets, with one repeat in a hundred.
func BenchmarkProcess(b *testing.B) {
	newStage, _ := Kind.Build(Kind.Config(), &pipeline.Env{})
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	stagetest.Bench(b, Kind, newStage, func(i int, ev *pipeline.Event) {
		n := i
		if i%100 == 99 {
			n -= 50
		}
		at := start.Add(time.Duration(i) * 100 * time.Millisecond)
		*ev = pipeline.Event{Source: "web", MessageID: "ajs-next-0d1f2a7ed9c4-" + strconv.Itoa(n), OwnID: true, ReceivedAt: at, Time: at,
			Type: "track", Name: "Order Completed", UserID: "u" + strconv.Itoa(n), AnonymousID: "b5e9ea44-7e3f-4e3c-9d0a-2a7ed9c40d1f",
			Properties: []byte(`{"order_id":"o-1234","revenue":12.34,"currency":"GBP","coupon":"SPRING","products":[{"sku":"A-1","price":6.17,"quantity":2}],"list":"home"}`)}
	})
}
