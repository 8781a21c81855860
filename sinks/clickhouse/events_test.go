package clickhouse

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func id(text string) pipeline.ID { return uuid.MustParse(text) }

var (
	alice = id("01000000-0000-8000-8000-00000000000a")
	bob   = id("01000000-0000-8000-8000-00000000000b")
	carol = id("04000000-0000-8000-8000-00000000000c")
)

// resolved is the record of an event in `resolved`; what the sources, clean and identity stamp has plain defaults.
func resolved(offset int64, raw string, change func(ev *pipeline.Event)) pipeline.Record {
	ev := pipeline.Event{
		Source: "web", MessageID: "m" + string(rune('a'+offset%26)), Raw: []byte(raw), ReceivedAt: at("2026-08-01T10:00:00Z"),
		Time: at("2026-08-01T09:59:58Z"), Primary: alice, Canonical: alice,
	}
	if change != nil {
		change(&ev)
	}
	_ = ev.Scan()
	return pipeline.Record{Topic: "shop.resolved", Partition: 3, Offset: offset, Time: at("2026-08-01T10:00:01Z"), Key: []byte(ev.Canonical.String()),
		Value: pipeline.AppendResolved(nil, &ev, 0xfeed)}
}

func TestEventColumns(t *testing.T) {
	d := newDB(t)
	raw := `{"type":"track","event":"Order Completed","messageId":"x","userId":"u1","anonymousId":"a1","sentAt":"2026-08-01T11:59:59.5+02:00",` +
		`"context":{"page":{"path":"/cart","referrer":"https://r.example/"},"campaign":{"source":"news","medium":"mail","name":"summer"},` +
		`"location":{"country":"DE"},"device":{"type":"ios"},"os":{"name":"iOS"},"library":{"name":"analytics.js"}},` +
		`"properties":{"revenue":12.345,"currency":"EUR","coupon":"a\"b\\c","items":[1, {"x":2}],"ship":{"city":"Köln","geo":{"lat":50.10}},"gift":true,"none":null,"coupon":"second"}}`
	d.write("resolved", resolved(41, raw, func(ev *pipeline.Event) {
		ev.MessageID, ev.Canonical, ev.OriginalTime, ev.Late = "m-1", bob, at("2026-07-31T00:00:00Z"), true
		ev.Time = at("2026-08-01T09:59:58Z").Add(123 * time.Millisecond)
		ev.Context = []byte(`{"page":{"path":"/batch"},"locale":"de"}`)
	}))
	d.want(`SELECT message_id, source, type, event, time, original_time, sent_at, received_at FROM events`,
		"m-1\tweb\ttrack\tOrder Completed\t2026-08-01 09:59:58.123\t2026-07-31 00:00:00.000\t2026-08-01 09:59:59.500\t2026-08-01 10:00:00.000")
	d.want(`SELECT profile_id, primary_id, user_id, anonymous_id FROM events`, bob.String()+"\t"+alice.String()+"\tu1\ta1")
	d.want(`SELECT toJSONString(mapSort(properties)) FROM events FORMAT TSVRaw`,
		`{"coupon":"a\"b\\c","currency":"EUR","gift":"true","items":"[1, {\"x\":2}]","revenue":"12.345","ship.city":"Köln","ship.geo.lat":"50.10"}`)
	d.want(`SELECT page_path, page_referrer, utm_source, utm_medium, utm_campaign, country, device, library FROM events`,
		"/cart\thttps://r.example/\tnews\tmail\tsummer\tDE\tios\tanalytics.js")
	d.want(`SELECT revenue, currency, late, config, kafka_partition, kafka_offset FROM events`, "12.345\tEUR\ttrue\t65261\t3\t41")
	d.want(`SELECT raw FROM events FORMAT TSVRaw`, raw)
	d.want(`SELECT topic, kafka_partition, next_offset, complete_until FROM progress`, "resolved\t3\t42\t2026-08-01 10:00:01.000")
}

func TestEventDefaults(t *testing.T) {
	d := newDB(t)
	d.write("resolved",
		resolved(1, `{"type":"page","name":"Home","properties":{"path":"/p","referrer":"r"}}`, func(ev *pipeline.Event) {
			ev.Primary, ev.Canonical = pipeline.ID{}, pipeline.ID{}
			ev.Context = []byte(`{"page":{"path":"/batch"},"os":{"name":"Android"},"library":{"name":"lib"},"campaign":{"name":7}}`)
			ev.SentAt = "yesterday"
		}),
		resolved(2, `{"type":"identify","userId":7,"traits":{"plan":"pro"},"properties":{"x":1}}`, nil),
		resolved(3, `{"type":"page","properties":{"path":"/own"}}`, func(ev *pipeline.Event) { ev.SentAt = "2026-08-01T09:59:59Z" }))
	d.want(`SELECT event, user_id, profile_id = toUUID('00000000-0000-0000-0000-000000000000'), original_time, sent_at, properties, page_path, page_referrer, device, library, utm_campaign, revenue, currency, late FROM events ORDER BY kafka_offset`, `
		Home		1	\N	\N	{'path':'/p','referrer':'r'}	/batch	r	Android	lib	7	0		false
			7	0	\N	\N	{'plan':'pro'}						0		false
				0	\N	2026-08-01 09:59:59.000	{'path':'/own'}	/own					0		false`)
}

// Every value that the Native format would carry and ClickHouse could not read, and every odd value of JSON.
func TestOddValues(t *testing.T) {
	d := newDB(t)
	odd := []string{
		`{"type":"track","event":"e","properties":{"a":"\u0000\u0001","b":"\ud800","c":18446744073709551617,"d":1e400,"e":-0.0,"f":"🙂","":"empty","date":"2024-01-01T00:00:00Z","o":{},"l":[]}}`,
		`{"type":"track","event":"` + strings.Repeat("ü", 300) + `","properties":{"` + strings.Repeat("k", 256) + `":1,"` + strings.Repeat("k", 255) + `":2}}`,
		`{"type":"track","event":"e","properties":{"a.b":1,"a":{"b":2,"c":3},"n":null,"n":4}}`,
		`{"type":"track","event":"e","properties":{"1":{"2":{"3":{"4":{"5":"kept","o":{"6":"only raw"}}}}}}}`,
		`{"type":"track","event":"e","properties":null,"context":null}`,
		`{"type":"track","event":"e","context":{"page":[],"campaign":{"source":{"x":1},"source":"s"},"device":"d"}}`,
	}
	var records []pipeline.Record
	for i, raw := range odd {
		records = append(records, resolved(int64(i), raw, nil))
	}
	far := resolved(6, `{"type":"track","event":"e"}`, func(ev *pipeline.Event) {
		ev.Time, ev.OriginalTime = time.UnixMilli(-62135596800000), time.UnixMilli(253402300799000)
		ev.MessageID, ev.Source = "bad \xff utf8", "s\xff"
	})
	future := resolved(7, `{"type":"track","event":"e"}`, func(ev *pipeline.Event) {
		ev.Time, ev.OriginalTime = time.UnixMilli(253402300799000), time.UnixMilli(-2208988800000)
	})
	if out := d.write("resolved", append(records, far, future)...); out != nil {
		t.Errorf("outcomes %v", out)
	}
	d.want(`SELECT kafka_offset, toJSONString(properties) FROM events WHERE kafka_offset IN (0, 2, 3, 4, 5) ORDER BY kafka_offset FORMAT TSVRaw`, `
		0	{"a":"\u0000\u0001","b":"�","c":"18446744073709551617","d":"1e400","e":"-0.0","f":"🙂","":"empty","date":"2024-01-01T00:00:00Z","l":"[]"}
		2	{"a.b":"1","a.c":"3"}
		3	{"1.2.3.4.5":"kept"}
		4	{}
		5	{}`)
	d.want(`SELECT length(event), lengthUTF8(event), mapKeys(properties) = [repeat('k', 255)] FROM events WHERE kafka_offset = 1`, "254\t127\t1")
	d.want(`SELECT utm_source, device FROM events WHERE kafka_offset = 5`, "s\t")
	d.want(`SELECT time, original_time, message_id, source FROM events WHERE kafka_offset >= 6 ORDER BY kafka_offset`, `
		1970-01-02 00:00:00.000	\N	bad � utf8	s�
		2026-08-01 10:05:00.000	1900-01-01 00:00:00.000	mh	web`)
	d.want(`SELECT count(), countIf(isValidUTF8(event)) FROM events`, "8\t8")
	d.query(`OPTIMIZE TABLE events FINAL`) // what cannot be merged would fail here
	d.want(`SELECT count() FROM events WHERE NOT ignore(*)`, "8")
}

// Beyond its limits an object is only in raw, and its neighbours do not suffer.
func TestLargeObjects(t *testing.T) {
	d := newDB(t)
	var many, deep strings.Builder
	many.WriteString(`{"type":"track","event":"e","properties":{"k0":0`)
	for i := 1; i < 300; i++ {
		many.WriteString(`,"k` + strings.Repeat("x", i%7) + string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10)) + `":1`)
	}
	many.WriteString(`,"revenue":7.5,"currency":"EUR"}}`)
	deep.WriteString(`{"type":"track","event":"e","properties":{"first":1,"` + strings.Repeat("p", 240) + `":{`)
	for i := range 200 {
		if i > 0 {
			deep.WriteString(",")
		}
		deep.WriteString(`"` + string(rune('a'+i/26)) + string(rune('a'+i%26)) + `":1`)
	}
	deep.WriteString(`}}}`)
	d.write("resolved", resolved(1, many.String(), nil), resolved(2, deep.String(), nil), resolved(3, `{"type":"track","event":"e","properties":{"last":1}}`, nil))
	d.want(`SELECT length(properties), length(raw) > 2000, revenue, currency FROM events WHERE kafka_offset = 1`, "256\t1\t7.5\tEUR")
	d.want(`SELECT arraySum(arrayMap((k, v) -> length(k) + length(v), mapKeys(properties), mapValues(properties))) BETWEEN 4000 AND 4 * length(raw), length(properties) < 200 FROM events WHERE kafka_offset = 2`, "1\t1")
	d.want(`SELECT properties FROM events WHERE kafka_offset = 3`, `{'last':'1'}`)
}

func TestRevenue(t *testing.T) {
	d := newDB(t)
	var records []pipeline.Record
	revenues := []string{`0.1`, `-12.5`, `"7.25"`, `" 3 "`, `"1,000"`, `"free"`, `true`, `{"x":1}`, `999999999999.999999`, `1e11`, `0.0000005`, `0.00000049`}
	for i, r := range revenues {
		records = append(records, resolved(int64(i), `{"type":"track","event":"e","properties":{"revenue":`+r+`,"currency":"GBP"}}`, nil))
	}
	d.write("resolved", records...)
	d.want(`SELECT arrayStringConcat(groupArray(toString(revenue)), ' ') FROM (SELECT revenue FROM events ORDER BY kafka_offset)`,
		`0.1 -12.5 7.25 3 0 0 0 0 999999999999.999999 100000000000 0.000001 0`)
	d.want(`SELECT sum(revenue * 2) FROM events WHERE kafka_offset < 3`, "-10.3")
}

func TestParseMoney(t *testing.T) {
	for _, c := range []struct {
		text     string
		want     int64
		ok, fits bool
	}{
		{"0", 0, true, true}, {"-0", 0, true, true}, {"1", 1e6, true, true}, {"0.1", 1e5, true, true}, {".5", 5e5, true, true}, {"5.", 5e6, true, true},
		{"3268776.1799993", 3268776179999, true, true}, {"0.0000005", 1, true, true}, {"-0.0000005", -1, true, true}, {"0.00000049999", 0, true, true},
		{"1.9999995", 2e6, true, true}, {"1e2", 1e8, true, true}, {"1E+2", 1e8, true, true}, {"12345e-4", 1234500, true, true}, {"1e-400", 0, true, true},
		{"0e99999", 0, true, true}, {"000000000000000000000000001", 1e6, true, true}, {"999999999999.9999994", 999999999999999999, true, true},
		{"-999999999999.999999", -999999999999999999, true, true},
		{"999999999999.9999995", 0, true, false}, {"1000000000000", 0, true, false}, {"1e400", 0, true, false}, {"1e99999999999999999999", 0, true, false}, {"18446744073709551617", 0, true, false},
		{"", 0, false, false}, {"-", 0, false, false}, {".", 0, false, false}, {"1.2.3", 0, false, false}, {"-+5", 0, false, false}, {"--5", 0, false, false},
		{"1e", 0, false, false}, {"1e5e5", 0, false, false}, {"0x10", 0, false, false}, {"NaN", 0, false, false}, {"Infinity", 0, false, false}, {"£5", 0, false, false}, {"1 000", 0, false, false},
	} {
		got, ok, fits := parseMoney(c.text)
		if ok != c.ok || fits != c.fits || fits && got != c.want {
			t.Errorf("%q: got %d %v %v, want %d %v %v", c.text, got, ok, fits, c.want, c.ok, c.fits)
		}
	}
}
