package clickhouse

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// seen is a record of `resolved` at a time on 2026-08-01 or, with a date, any other day.
func seen(offset int64, who pipeline.ID, when, event, properties, context string) pipeline.Record {
	if !strings.Contains(when, "T") {
		when = "2026-08-01T" + when + ":00Z"
	}
	raw := fmt.Sprintf(`{"type":"track","event":%q,"properties":%s,"context":%s}`, event, properties, context)
	return resolved(offset, raw, func(ev *pipeline.Event) {
		ev.Primary, ev.Canonical, ev.Time, ev.ReceivedAt = who, who, at(when), at("2026-08-12T00:00:00Z")
		ev.MessageID = fmt.Sprintf("m%d", offset)
	})
}

// moved is a transition; since is when the membership began, if not then.
func moved(offset int64, who pipeline.ID, messageType, segment, when string, sequence int, since ...string) pipeline.Record {
	meta := fmt.Sprintf(`{"sequence":%d}`, sequence)
	if len(since) > 0 {
		meta = fmt.Sprintf(`{"sequence":%d,"since":%q}`, sequence, since[0])
	}
	return change(offset, who, messageType, fmt.Sprintf(`{"transition_id":%q,"segment":%q,"version":1,"effective_at":%q,"emitted_at":%q,"cause":"live","message_id":"m"}`,
		pipeline.HashID([]byte(fmt.Sprint(offset))), segment, when, when), meta)
}

// A small shop, computed by hand: alice (who was the visitor carol before she logged in), bob, and somebody without an id.
func shop(t *testing.T) *db {
	d := newDB(t)
	d.write("resolved",
		seen(1, carol, "08:00", "Product Viewed", `{}`, `{"campaign":{"source":"ads","name":"spring"}}`),
		seen(2, alice, "09:00", "Product Added", `{}`, `{"campaign":{"source":"mail","name":"summer"}}`),
		seen(3, alice, "09:30", "Checkout Started", `{}`, `{}`),
		seen(4, alice, "10:00", "Order Completed", `{"revenue":100,"currency":"GBP"}`, `{}`),
		seen(5, bob, "11:00", "Order Completed", `{"revenue":50,"currency":"GBP"}`, `{"campaign":{"source":"mail","name":"summer"}}`),
		seen(6, bob, "2026-08-11T11:00:00Z", "Product Viewed", `{}`, `{}`),
		seen(7, pipeline.ID{}, "12:00", "Product Viewed", `{}`, `{}`))
	d.write("changes",
		change(0, alice, pipeline.ProfileCreated, strings.ReplaceAll(aliceDocument, `"plan":"pro"`, `"plan":"free"`), `{"version":1}`),
		change(1, alice, pipeline.ProfileUpdated, aliceDocument, `{"version":2}`),
		change(2, bob, pipeline.ProfileCreated, aliceDocument, `{"version":1}`),
		moved(3, alice, pipeline.SegmentEntered, "vip", "2026-08-01T09:00:00Z", 1),
		moved(4, alice, pipeline.SegmentExited, "vip", "2026-08-02T09:00:00Z", 2),
		moved(5, alice, pipeline.SegmentEntered, "vip", "2026-08-03T09:30:00Z", 4),
		moved(6, bob, pipeline.SegmentEntered, "vip", "2026-08-01T09:10:00Z", 1),
		moved(7, carol, pipeline.SegmentEntered, "hot", "2026-08-01T08:30:00Z", 1),
		// The merge of carol into alice: her membership passes to alice.
		merge(8), override(8, carol, alice, 1),
		moved(9, carol, pipeline.SegmentPassed, "hot", "2026-08-01T10:15:00Z", 2),
		moved(10, alice, pipeline.SegmentCarried, "hot", "2026-08-01T10:15:00Z", 3, "2026-08-01T08:30:00Z"))
	for i, x := range []pipeline.Delivery{{Outcome: "retried", LatencyMS: 100, Status: 503}, {Outcome: "delivered", LatencyMS: 10, Status: 200}, {Outcome: "unchanged"}, {Outcome: "parked", LatencyMS: 30}, {Outcome: "rejected", LatencyMS: 20, Status: 400}} {
		x.WebhookID, x.Sink, x.Attempt, x.SentAt = pipeline.HashID([]byte("w")), "crm", i+1, at("2026-08-01T09:59:00Z").Add(time.Duration(i/4)*time.Minute)
		value, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		d.write("deliveries", pipeline.Record{Offset: int64(i), Value: value})
	}
	return d
}

func TestViewsOfPeople(t *testing.T) {
	d := shop(t)
	byPerson := `SELECT person_id, has_person, count(), sum(revenue), uniqExact(profile_id) FROM person_events GROUP BY ALL ORDER BY person_id SETTINGS join_use_nulls = %d`
	for nulls := range 2 {
		d.want(fmt.Sprintf(byPerson, nulls), `
		`+(pipeline.ID{}).String()+`	0	1	0	1
		`+alice.String()+`	1	4	100	2
		`+bob.String()+`	1	2	50	1`)
	}
	timeline := `SELECT arrayStringConcat(groupArray(event), ', '), any(person_id) FROM (SELECT * FROM person_timeline(person = '%s') ORDER BY time)`
	d.want(fmt.Sprintf(timeline, alice), "Product Viewed, Product Added, Checkout Started, Order Completed\t"+alice.String())
	d.want(fmt.Sprintf(timeline, carol), "\t"+(pipeline.ID{}).String())

	// Un-merged: carol is on her own again, whatever was stamped on the events.
	d.write("changes", override(11, carol, carol, 2))
	d.want(`SELECT person_id, count() FROM person_events WHERE person_id IN ('`+alice.String()+`', '`+carol.String()+`') GROUP BY ALL ORDER BY person_id`, `
		`+alice.String()+`	3
		`+carol.String()+`	1`)
	d.want(fmt.Sprintf(timeline, alice), "Product Added, Checkout Started, Order Completed\t"+alice.String())
	d.want(fmt.Sprintf(timeline, carol), "Product Viewed\t"+carol.String())

	people := `SELECT person_id, traits['plan'], aggregates['orders'] FROM people ORDER BY person_id`
	d.want(people, "\n\t\t"+alice.String()+"\tpro\t3\n\t\t"+bob.String()+"\tpro\t3")
	d.write("changes", joined(12, bob, alice, 9))
	d.want(people, alice.String()+"\tpro\t3")
	d.query(fmt.Sprintf(`INSERT INTO profiles (profile_id, version, deleted) VALUES ('%s', 9, 1)`, alice))
	d.want(people, "")
	d.write("changes", change(13, bob, pipeline.ProfileUpdated, aliceDocument, `{"version":10}`)) // born again
	d.want(people, bob.String()+"\tpro\t3")
}

func TestViewsOfSegments(t *testing.T) {
	d := shop(t)
	d.want(`SELECT segment, profile_id, since, version FROM segment_members ORDER BY segment, profile_id`, `
		hot	`+alice.String()+`	2026-08-01 08:30:00.000	1
		vip	`+alice.String()+`	2026-08-03 09:30:00.000	1
		vip	`+bob.String()+`	2026-08-01 09:10:00.000	1`)
	d.want(`SELECT segment, profile_id, since, until FROM segment_intervals ORDER BY segment, profile_id, since`, `
		hot	`+alice.String()+`	2026-08-01 10:15:00.000	\N
		hot	`+carol.String()+`	2026-08-01 08:30:00.000	2026-08-01 10:15:00.000
		vip	`+alice.String()+`	2026-08-01 09:00:00.000	2026-08-02 09:00:00.000
		vip	`+alice.String()+`	2026-08-03 09:30:00.000	\N
		vip	`+bob.String()+`	2026-08-01 09:10:00.000	\N`)
	d.want(`SELECT segment, hour, size, entered, exited FROM segment_sizes ORDER BY segment, hour`, `
		hot	2026-08-01 08:00:00	1	1	0
		hot	2026-08-01 10:00:00	1	0	0
		vip	2026-08-01 09:00:00	2	2	0
		vip	2026-08-02 09:00:00	1	0	1
		vip	2026-08-03 09:00:00	2	1	0`)
}

func TestViewsOfTroubles(t *testing.T) {
	d := shop(t)
	d.want(`SELECT sink, hour, sent, delivered, retried, failed, p50 > 0, p99 <= 100 FROM delivery_health ORDER BY hour`, `
		crm	2026-08-01 09:00:00	4	2	1	1	1	1
		crm	2026-08-01 10:00:00	1	0	0	1	1	1`)
	d.want(`SELECT count() FROM id_conflicts`, "0")
	again := seen(20, bob, "11:00", "Order Completed", `{"revenue":51,"currency":"GBP"}`, `{}`)
	twin := resolved(21, `{"type":"track","event":"Order Completed","properties":{"revenue":51,"currency":"GBP"}}`, func(ev *pipeline.Event) {
		ev.MessageID, ev.Source, ev.Late = "m20", "file", true
	})
	twin.Partition = 4
	d.write("resolved", again)
	d.write("resolved", twin)
	d.want(`SELECT message_id, arraySort(sources), copies, contents, arraySort(partitions), late FROM id_conflicts`, "m20\t['file','web']\t2\t1\t[3,4]\ttrue")
}

// The questions run, and those that can be answered by hand are answered right.
func TestQuestions(t *testing.T) {
	text, err := os.ReadFile("testdata/questions.sql")
	if err != nil {
		t.Fatal(err)
	}
	d := shop(t)
	answers := map[string]string{
		"Funnel":             "ads\t1\t1\t1\t1\t1\nmail\t1\t0\t0\t0\t0",
		"Retention":          "2026-07-27\t0\t2\t1\n2026-07-27\t2\t1\t0.5",
		"Revenue":            "vip\t2\t2\t150",
		"RFM":                "",
		"Attribution":        "summer\t50\t150\t100\nspring\t100\t0\t50",
		"Overlap":            "hot\tvip\t1\t1",
		"Health":             "crm\t2026-08-01\t5\t0.4\t1\t2\t100",
		"Identity":           "2026-08-01\t7\t0.1429\t1\t0",
		"Merges and splits":  "2026-07-27\t1\t0\t0\t0",
		"Time to conversion": "ads\t1\t1\t[0.1,0.1,0.1]\nmail\t1\t1\t[0,0,0]",
		"Dead letters":       "",
	}
	ran := 0
	for _, q := range statementsOf(string(text)) {
		lines := strings.Split(q, "\n")
		for strings.HasPrefix(lines[1], "--") || lines[1] == "" {
			lines = lines[1:]
		}
		title, _, ok := strings.Cut(strings.TrimPrefix(lines[0], "-- "), ":")
		for prefix, want := range answers {
			if !ok || !strings.HasPrefix(title, prefix) {
				continue
			}
			ran++
			got := d.query(q)
			if want != "" && got != want {
				t.Errorf("%s\ngot:\n%s\nwant:\n%s", title, got, want)
			}
		}
	}
	if ran != len(answers) {
		t.Errorf("%d questions ran, want %d", ran, len(answers))
	}
}
