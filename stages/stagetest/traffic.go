package stagetest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// Start is when the events of Traffic begin to arrive.
var Start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// Record is a record of `events` as a source makes it: id is the message id of the header.
func Record(source, id string, received time.Time, raw string) pipeline.Record {
	ev := pipeline.Event{Source: source, MessageID: id, ReceivedAt: received, Raw: []byte(raw)}
	rec := pipeline.EventRecord(&ev)
	rec.Partition = 0
	return rec
}

// Traffic returns n records that arrive over some hours: all types of events of forty people on two sources, with what real
// traffic has: repeats, ids that are used twice, late and early clocks, missing and odd values, and events that are none.
func Traffic(seed uint64, n int) []pipeline.Record {
	g := generator{random: rand.New(rand.NewPCG(seed, 1)), now: Start}
	records := make([]pipeline.Record, 0, n)
	for i := range n {
		g.now = g.now.Add(time.Duration(g.random.IntN(90_000)) * time.Millisecond)
		switch k := g.random.IntN(100); {
		case k < 8 && i > 0: // a repeat
			again := records[i-1-g.random.IntN(min(i, 200))]
			again.Headers = append([]pipeline.Header(nil), again.Headers...)
			for h := range again.Headers {
				if again.Headers[h].Key == pipeline.HeaderReceived {
					again.Headers[h].Value = fmt.Append(nil, g.now.UnixMilli())
				}
			}
			records = append(records, again)
		case k < 11 && i > 0: // other content under an id that was used
			id := string(records[g.random.IntN(i)].Header(pipeline.HeaderID))
			records = append(records, Record("web", id, g.now, g.event(id, i)))
		case k < 14: // not an event
			records = append(records, Record("web", fmt.Sprintf("bad-%d", i), g.now, g.bad()))
		case k < 30: // no id of its own
			records = append(records, Record("orders", fmt.Sprintf("orders/0/%d", i), g.now, g.event("", i)))
		default:
			id := fmt.Sprintf("m-%d", i)
			records = append(records, Record("web", id, g.now, g.event(id, i)))
		}
	}
	return records
}

type generator struct {
	random *rand.Rand
	now    time.Time
}

func (g *generator) of(choices ...string) string { return choices[g.random.IntN(len(choices))] }

// event is one event that is one.
func (g *generator) event(id string, i int) string {
	fields := []string{}
	add := func(format string, args ...any) { fields = append(fields, fmt.Sprintf(format, args...)) }
	if id != "" {
		add(`"messageId":%q`, id)
	}
	at := g.now.Add(-time.Duration(g.random.IntN(600)) * time.Second)
	switch g.random.IntN(12) {
	case 0:
		at = g.now.Add(-time.Duration(g.random.IntN(100)) * time.Hour)
	case 1:
		at = g.now.Add(time.Duration(g.random.IntN(100)) * time.Hour)
	}
	switch g.random.IntN(6) {
	case 0:
		add(`"originalTimestamp":%q,"sentAt":%q`, at.Add(time.Hour).Format(time.RFC3339Nano), g.now.Add(time.Hour).Format(time.RFC3339))
	case 1:
		add(`"timestamp":%d`, at.UnixMilli())
	case 2: // none
	default:
		add(`"timestamp":%q`, at.Format(time.RFC3339Nano))
	}
	switch person := g.random.IntN(40); {
	case person < 2:
		add(`"userId":%q`, g.of("null", "", " ", "anonymous"))
	case person < 15:
		add(`"anonymousId":"a%d"`, person)
	default:
		add(`"userId":"u%d","anonymousId":"a%d"`, person, person%7)
	}
	switch g.random.IntN(8) {
	case 0:
		add(`"type":"identify","traits":{"email":"p%d@example.org","plan":%s,"age":%d,"address":{"city":%q}}`, i%40, g.of(`"free"`, `"pro"`, "null"), g.random.IntN(80), g.of("York", "Łódź"))
	case 1:
		add(`"type":"page","name":%q,"properties":{"path":"/%d"}`, g.of("Home", "Cart"), i%9)
	case 2:
		add(`"type":"group","groupId":"g%d","traits":{"plan":"enterprise"}`, i%3)
	default:
		add(`"type":"track","event":%q,"properties":{"revenue":%s,"currency":%q,"quantity":%d,"sku":%s,"coupon":%s}`,
			g.of("Order Completed", "Product Viewed", "Product Added"), g.of("12.34", "0.1", `"99.90"`, "1e2", "-5.005", "null"),
			g.of("GBP", "EUR"), g.random.IntN(9), g.of(`"A-1"`, "7", `"7"`, "null"), g.of(`"SPRING"`, "null", `{"code": 1}`))
	}
	g.random.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return "{" + strings.Join(fields, ",") + "}"
}

// bad is something that is refused, in the resolve or in the profile task.
func (g *generator) bad() string {
	return g.of(
		`{"userId":"u20"}`,
		`{"type":"track","event":"X","userId":{"id":1}}`,
		`{"type":"track","event":"X","userId":"u20","properties":[1]}`,
		"{\"type\":\"track\",\"event\":\"\xff\"}",
		`{"type":"track","userId":"u21"}`,
		`{"type":"buy","userId":"u22"}`,
		`[]`, `{`, ``,
		`{"type":"track","event":"Order Completed","userId":"u23","properties":{"revenue":"a lot"}}`,
		`{"type":"track","event":"Order Completed","userId":"u24","properties":{"revenue":1e300}}`,
	)
}
