package profile

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// BenchmarkProcess: ten attributes that all change, over a thousand profiles (in the cache) and over many.
func BenchmarkProcess(b *testing.B) {
	config := Config{
		"orders":      {Count: "events", Event: "Order Completed"},
		"pounds":      {Sum: "properties.revenue", Where: `properties.currency == "GBP"`},
		"revenue":     {Sum: "properties.revenue"},
		"basket":      {Avg: "properties.revenue"},
		"largest":     {Max: "properties.revenue"},
		"last_coupon": {Latest: "properties.coupon"},
		"last_order":  {Latest: "properties.order_id"},
		"first_list":  {First: "properties.list"},
		"seen":        {Max: "timestamp"},
		"products":    {Unique: "properties.sku"},
	}
	for _, profiles := range []int{1000, 200_000} {
		b.Run(fmt.Sprintf("profiles=%d", profiles), func(b *testing.B) {
			env := &pipeline.Env{}
			newStage, problems := Kind.Build(&config, env)
			if problems != nil {
				b.Fatal(problems)
			}
			identities := pipeline.NewIdentities([]byte("key"))
			start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
			stagetest.Bench(b, Kind, newStage, func(i int, ev *pipeline.Event) {
				at := start.Add(time.Duration(i) * 100 * time.Millisecond)
				*ev = pipeline.Event{Source: "web", MessageID: "ajs-next-0d1f2a7ed9c4-" + strconv.Itoa(i), ReceivedAt: at, Time: at,
					Type: "track", Name: "Order Completed", UserID: "u" + strconv.Itoa(i*7919%profiles),
					Properties: []byte(`{"order_id":"o-` + strconv.Itoa(i) + `","revenue":12.34,"currency":"GBP","coupon":"SPRING","products":[{"sku":"A-1","price":6.17,"quantity":2}],"list":"home","sku":"A-` + strconv.Itoa(i%50) + `"}`)}
				identities.Identify(ev)
			})
		})
	}
}
