package kafka

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// convert makes the record for `events` of one foreign record.
func convert(t *testing.T, c Config, r pipeline.Record) (pipeline.Record, *pipeline.Event, bool) {
	t.Helper()
	c.Topic, c.From = "erp.orders", oldest
	f, problems := compile(c, &pipeline.Env{Pipeline: "shop"})
	if problems != nil {
		t.Fatal(problems)
	}
	s := newSource("orders", f, nil, pipeline.Deps{})
	out, _, ok := s.converter(pipeline.ID{1}).record(&r, pipeline.Millis(1767323045678), nil)
	ev := &pipeline.Event{}
	if rej := pipeline.ParseEventRecord(&out, ev); rej != nil {
		t.Fatal(rej)
	}
	return out, ev, ok
}

func TestRecordsBecomeEvents(t *testing.T) {
	set := map[string]any{"type": "track", "event": "Order Completed"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	for name, test := range map[string]struct {
		config     Config
		key, value string
		want, id   string
	}{
		"mapped": {
			Config{Set: set, Map: map[string]string{"user_id": "customer_no", "timestamp": "booked_at", "properties.revenue": "total"}},
			"", `{"customer_no":"c7","booked_at":"2026-01-01 10:00:00","total":12.50,"lines":[1]}`,
			`{"event":"Order Completed","properties":{"lines":[1],"revenue":12.50},"timestamp":"2026-01-01T10:00:00Z","type":"track","userId":"c7"}`, "",
		},
		"time of the record": {
			Config{Set: set, Map: map[string]string{"user_id": "u"}}, "", `{"u":1}`,
			`{"event":"Order Completed","timestamp":"2026-01-02T03:04:05.678Z","type":"track","userId":1}`, "",
		},
		"time of the record, since the field is empty": {
			Config{Set: set, Map: map[string]string{"timestamp": "at"}}, "", `{"at":null}`,
			`{"event":"Order Completed","timestamp":"2026-01-02T03:04:05.678Z","type":"track"}`, "",
		},
		"key is the user": {
			Config{Set: set, Key: "user_id"}, "c7", `{}`,
			`{"event":"Order Completed","timestamp":"2026-01-02T03:04:05.678Z","type":"track","userId":"c7"}`, "",
		},
		"key is JSON": {
			Config{Set: set, Key: "properties.order_no"}, `"A \u00e4"`, `{}`,
			`{"event":"Order Completed","properties":{"order_no":"A ä"},"timestamp":"2026-01-02T03:04:05.678Z","type":"track"}`, "",
		},
		"key is the message id": {
			Config{Set: set, Key: "message_id"}, "order-7", `{}`,
			`{"event":"Order Completed","timestamp":"2026-01-02T03:04:05.678Z","type":"track"}`, "orders/order-7",
		},
		"no key": {
			Config{Set: set, Key: "message_id"}, "", `{}`,
			`{"event":"Order Completed","timestamp":"2026-01-02T03:04:05.678Z","type":"track"}`, "",
		},
		"expression, Unix time, traits": {
			Config{Set: map[string]any{"type": "identify"}, Map: map[string]string{"timestamp": "t"}, TimeFormat: "unix_ms",
				Expr: map[string]string{"traits.total": "number(a.b) * 2"}}, "", `{"t":1767225600000,"a":{"b":"4"}}`,
			`{"timestamp":"2026-01-01T00:00:00Z","traits":{"a":{"b":"4"},"total":8},"type":"identify"}`, "",
		},
		"Confluent's JSON Schema": {
			Config{Set: set, Map: map[string]string{"user_id": "u"}}, "", "\x00\x00\x00\x00\x07" + `{"u":"x"}`,
			`{"event":"Order Completed","timestamp":"2026-01-02T03:04:05.678Z","type":"track","userId":"x"}`, "",
		},
		"an event already": {
			Config{}, "k", ` {"type":"track","event":"A","messageId":"m1","userId":"u"}`,
			` {"type":"track","event":"A","messageId":"m1","userId":"u"}`, "m1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := pipeline.Record{Partition: 3, Offset: 42, Time: at, Key: []byte(test.key), Value: []byte(test.value)}
			_, ev, ok := convert(t, test.config, r)
			if !ok || string(ev.Raw) != test.want {
				t.Errorf("event is\n%s, want\n%s (%s)", ev.Raw, test.want, ev.Refused)
			}
			id := test.id
			if id == "" {
				id = "orders/" + pipeline.HashID([]byte("orders"), []byte("erp.orders"), append([]byte{1}, make([]byte, 15)...), []byte("3"), []byte("42")).String()
			}
			if ev.MessageID != id || ev.Source != "orders" || ev.ReceivedAt.UnixMilli() != 1767323045678 {
				t.Errorf("message id is %s, want %s; source %s, received %s", ev.MessageID, id, ev.Source, ev.ReceivedAt)
			}
		})
	}
}

func TestRecordsThatMakeNoEvent(t *testing.T) {
	mapped := Config{Set: map[string]any{"type": "track", "event": "A"}, Map: map[string]string{"timestamp": "at", "message_id": "id"}}
	big := `{"x":"` + strings.Repeat("y", pipeline.MaxEventBytes) + `"}`
	huge := strings.Repeat("z", maxRecord+7)
	for name, test := range map[string]struct {
		config Config
		value  []byte
		code   string
		bytes  string
	}{
		"not JSON":     {mapped, []byte("<order/>"), "not_json", "<order/>"},
		"empty":        {mapped, []byte{}, "not_json", ""},
		"tombstone":    {mapped, nil, "tombstone", ""},
		"a list":       {mapped, []byte(`[{"x":1}]`), "not_an_object", `[{"x":1}]`},
		"not UTF-8":    {mapped, []byte("{\"x\":\"\xff\"}"), "not_utf8", "{\"x\":\"\xff\"}"},
		"Avro":         {mapped, []byte("\x00\x00\x00\x00\x07\x02\x04"), "not_json", "\x00\x00\x00\x00\x07\x02\x04"},
		"deep":         {mapped, []byte(strings.Repeat("[", 99)), "too_deep", strings.Repeat("[", 99)},
		"no time":      {mapped, []byte(`{"at":"soon"}`), "row_value", `{"at":"soon"}`},
		"long id":      {mapped, []byte(`{"id":"` + strings.Repeat("i", 2000) + `"}`), "id_too_long", `{"id":"` + strings.Repeat("i", 2000) + `"}`},
		"own long id":  {Config{}, []byte(`{"messageId":"` + strings.Repeat("i", 2000) + `"}`), "id_too_long", `{"messageId":"` + strings.Repeat("i", 2000) + `"}`},
		"large":        {mapped, []byte(big), "oversize", big},
		"huge":         {mapped, []byte(huge), "oversize", huge[:maxRecord]},
		"own not JSON": {Config{}, []byte(`{"type":`), "not_json", `{"type":`},
	} {
		t.Run(name, func(t *testing.T) {
			r := pipeline.Record{Partition: 3, Offset: 42, Time: time.Now(), Key: []byte("k"), Value: test.value,
				Headers: []pipeline.Header{{Key: "trace", Value: []byte("t1")}, {Key: "ms-id", Value: []byte("not ours")}}}
			out, ev, ok := convert(t, test.config, r)
			rej := ev.Refusal()
			if ok || rej == nil || rej.Code != test.code || string(ev.Raw) != test.bytes {
				t.Fatalf("refusal is %v, with %d bytes; want %s with %d", rej, len(ev.Raw), test.code, len(test.bytes))
			}
			if !strings.HasSuffix(rej.Reason, "(erp.orders, partition 3, offset 42)") || strings.Contains(rej.Reason, "soon") {
				t.Errorf("reason is %q", rej.Reason)
			}
			if name != "huge" && (string(out.Header(pipeline.HeaderKey)) != "k" || string(out.Header("trace")) != "t1") {
				t.Errorf("headers are %q", out.Headers)
			}
			size := len(out.Key) + len(out.Value)
			for _, h := range out.Headers {
				size += len(h.Key) + len(h.Value)
			}
			if size > maxRecord+4096 || ev.MessageID == "not ours" {
				t.Errorf("the record has %d bytes, message id %s", size, ev.MessageID)
			}
		})
	}
}

func TestKeyThatIsNoText(t *testing.T) {
	r := pipeline.Record{Key: []byte{0xff, 0xfe}, Value: []byte(`{}`)}
	_, ev, ok := convert(t, Config{Set: map[string]any{"type": "track", "event": "A"}, Key: "user_id"}, r)
	if rej := ev.Refusal(); ok || rej == nil || rej.Code != "not_utf8" {
		t.Errorf("refusal is %v", rej)
	}
}

// TestBadRecordsComeOnceAndTheirNeighboursPass reads them from a real topic, over a restart.
func TestBadRecordsComeOnceAndTheirNeighboursPass(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		f := newForeign(t, brokers, 1)
		for n := range 4 {
			f.produce(pipeline.Record{Partition: 0, Value: []byte(order(2 * n))}, pipeline.Record{Partition: 0, Key: []byte("gone")},
				pipeline.Record{Partition: 0, Value: fmt.Appendf(nil, "{%d", n)}, pipeline.Record{Partition: 0, Value: []byte(order(2*n + 1))})
		}
		r := f.read(nil)
		m, b := r.next()
		r.ack(m, b)
		all := b.Records
		r.end()
		r = f.read(r.position)
		all = append(all, r.take(16-len(all))...)
		var good []pipeline.Record
		bad := map[string]int{}
		for i := range all {
			var ev pipeline.Event
			if rej := pipeline.ParseEventRecord(&all[i], &ev); rej != nil {
				t.Fatal(rej)
			}
			if ev.Refused == "" {
				good = append(good, all[i])
				continue
			}
			bad[string(ev.Raw)+string(all[i].Header(pipeline.HeaderKey))]++
		}
		once(t, good, 0, 8)
		for value, n := range map[string]int{"gone": 4, "{0": 1, "{1": 1, "{2": 1, "{3": 1} {
			if bad[value] != n {
				t.Errorf("%q was refused %d times, want %d", value, bad[value], n)
			}
		}
		if log := f.logged(); !strings.Contains(log, "records that make no event become dead letters") || bytes.Contains([]byte(log), []byte("{0")) {
			t.Errorf("log:\n%s", log)
		}
	})
}
