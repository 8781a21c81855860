package clickhouse

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// change is a record of `changes`.
func change(offset int64, profile pipeline.ID, messageType, data, meta string) pipeline.Record {
	m := pipeline.Message{ID: pipeline.HashID([]byte(data), []byte(meta)), Type: messageType, Timestamp: at("2026-08-01T10:00:00Z"), ProfileID: profile, Data: json.RawMessage(data)}
	if meta != "" {
		m.Meta = json.RawMessage(meta)
	}
	return pipeline.Record{Topic: "shop.changes", Partition: 1, Offset: offset, Time: at("2026-08-01T10:00:02Z"), Key: []byte(profile.String()), Value: m.AppendJSON(nil)}
}

const aliceDocument = `{"profile_id":"01000000-0000-8000-8000-00000000000a","previous_ids":[],"identifiers":{"user_id":["u1"],"email":["a@b.c","d@e.f"]},` +
	`"traits":{"plan":"pro","address":{"city":"Ulm"},"tags":["a","b"],"age":33},"aggregates":{"orders":3,"revenue":12.5,"ok":true},` +
	`"segments":["vip","hot"],"scores":{"engagement":0.75},"first_seen":"2026-07-01T00:00:00.000Z","last_seen":"2026-08-01T09:00:00.500Z"}`

func TestProfileColumns(t *testing.T) {
	d := newDB(t)
	d.write("changes",
		change(1, alice, pipeline.ProfileCreated, `{"profile":`+aliceDocument+`,"changed":["plan"]}`, `{"version":4294967297}`),
		change(2, bob, pipeline.ProfileUpdated, strings.Replace(aliceDocument, `"ok":true`, `"last":"x","nothing":null`, 1), `{"version":2}`),
		change(3, carol, pipeline.ProfileCreated, `{"profile":{"first_seen":1785542400,"last_seen":"2300-01-01T00:00:00Z"}}`, `{"version":1}`))
	d.want(`SELECT profile_id, version, deleted, merged_into, first_seen, last_seen, updated_at FROM profiles ORDER BY profile_id`, `
		`+alice.String()+`	4294967297	0	\N	2026-07-01 00:00:00.000	2026-08-01 09:00:00.500	2026-08-01 10:00:00.000
		`+bob.String()+`	2	0	\N	2026-07-01 00:00:00.000	2026-08-01 09:00:00.500	2026-08-01 10:00:00.000
		`+carol.String()+`	1	0	\N	2026-08-01 00:00:00.000	2106-02-06 23:59:59.999	2026-08-01 10:00:00.000`)
	d.want(`SELECT identifiers, traits, aggregates, segments, scores FROM profiles ORDER BY profile_id FORMAT TSVRaw`, `
		{'user_id':['u1'],'email':['a@b.c','d@e.f']}	{'plan':'pro','address.city':'Ulm','tags':'["a","b"]','age':'33'}	{'orders':3,'revenue':12.5,'ok':1}	['vip','hot']	{'engagement':0.75}
		{'user_id':['u1'],'email':['a@b.c','d@e.f']}	{'plan':'pro','address.city':'Ulm','tags':'["a","b"]','age':'33','last':'x'}	{'orders':3,'revenue':12.5}	['vip','hot']	{'engagement':0.75}
		{}	{}	{}	[]	{}`)
}

func TestSegmentColumns(t *testing.T) {
	d := newDB(t)
	transition := pipeline.HashID([]byte("t1"))
	d.write("changes",
		change(7, alice, pipeline.SegmentEntered, `{"transition_id":"`+transition.String()+`","segment":"vip","version":3,"effective_at":"2026-08-01T09:00:00.123Z",`+
			`"emitted_at":"2026-08-01T09:00:01.000Z","cause":"live","message_id":"m1","profile":{}}`, `{"op":"enter","sequence":8589934593,"delta":1,"since":"2026-08-01T08:00:00.000Z"}`),
		change(8, bob, pipeline.SegmentExited, `{"transition_id":"`+pipeline.HashID([]byte("t2")).String()+`","segment":"vip","version":3,"effective_at":"2026-08-01T09:00:00Z"}`, `{"sequence":5}`),
		change(9, bob, "score.changed", `{"score":"engagement"}`, ``),
		change(10, bob, pipeline.SegmentPassed, `{"transition_id":"`+pipeline.HashID([]byte("t3")).String()+`","segment":"new","version":3,"effective_at":"2026-08-01T09:00:00Z"}`, `{"sequence":6}`),
		change(11, bob, pipeline.SegmentCarried, `{"transition_id":"`+pipeline.HashID([]byte("t4")).String()+`","segment":"old","version":3,"effective_at":"2026-08-01T09:00:00Z"}`, `{"sequence":7,"op":"carried","delta":0,"since":"2026-08-01T08:00:00.000Z"}`))
	d.want(`SELECT transition_id, segment, version, profile_id, sequence, op, delta, since, cause, effective_at, emitted_at, trigger_message_id FROM segment_log ORDER BY profile_id, sequence`, `
		`+transition.String()+`	vip	3	`+alice.String()+`	8589934593	enter	1	2026-08-01 08:00:00.000	live	2026-08-01 09:00:00.123	2026-08-01 09:00:01.000	m1
		`+pipeline.HashID([]byte("t2")).String()+`	vip	3	`+bob.String()+`	5	exit	-1	2026-08-01 09:00:00.000		2026-08-01 09:00:00.000	2026-08-01 10:00:00.000	
		`+pipeline.HashID([]byte("t3")).String()+`	new	3	`+bob.String()+`	6	passed	-1	2026-08-01 09:00:00.000		2026-08-01 09:00:00.000	2026-08-01 10:00:00.000	
		`+pipeline.HashID([]byte("t4")).String()+`	old	3	`+bob.String()+`	7	carried	0	2026-08-01 08:00:00.000		2026-08-01 09:00:00.000	2026-08-01 10:00:00.000	`)
	d.want(`SELECT next_offset FROM progress`, "12")
}

func TestScoreColumns(t *testing.T) {
	d := newDB(t)
	d.write("changes",
		scored(7, alice, "heat", "12.5", "null", 8589934593),
		scored(8, alice, "heat", "40", "12.5", 8589934594),
		scored(9, bob, "heat", "null", "7", 1),
		scored(10, bob, "rfm", "543", "null", 2))
	d.want(`SELECT change_id = '`+pipeline.HashID([]byte("heat"), []byte("40")).String()+`' AS id, score, version, profile_id, sequence, value, has_value, previous, reasons, features, cause, at, trigger_message_id FROM scores ORDER BY profile_id, sequence FORMAT TSVRaw`, `
		0	heat	3	`+alice.String()+`	8589934593	12.5	true	\N	{'Order Completed':20,'Product Viewed':-1.5}	{'Order Completed':'1.25'}	timer	2026-08-01 10:00:00.000	m1
		1	heat	3	`+alice.String()+`	8589934594	40	true	12.5	{'Order Completed':20,'Product Viewed':-1.5}	{'Order Completed':'1.25'}	timer	2026-08-01 10:00:00.000	m1
		0	heat	3	`+bob.String()+`	1	0	false	7	{'Order Completed':20,'Product Viewed':-1.5}	{'Order Completed':'1.25'}	timer	2026-08-01 10:00:00.000	m1
		0	rfm	3	`+bob.String()+`	2	543	true	\N	{'Order Completed':20,'Product Viewed':-1.5}	{'Order Completed':'1.25'}	timer	2026-08-01 10:00:00.000	m1`)

	scores := `SELECT person_id, score, value, version, reasons['Order Completed'], features['Order Completed'] FROM person_scores ORDER BY person_id, score`
	d.want(scores, `
		`+alice.String()+`	heat	40	3	20	1.25
		`+bob.String()+`	rfm	543	3	20	1.25`)
	// bob is merged into alice, and un-merged.
	d.query(fmt.Sprintf(`INSERT INTO overrides VALUES ('%s', '%s', 1)`, bob, alice))
	d.want(scores, alice.String()+"\theat\t40\t3\t20\t1.25")
	d.query(fmt.Sprintf(`INSERT INTO overrides VALUES ('%s', '%s', 2)`, bob, bob))
	d.want(`SELECT count() FROM person_scores`, "2")
}

// scored is a record of a score that has changed.
func scored(offset int64, profile pipeline.ID, score, value, previous string, sequence uint64) pipeline.Record {
	r := change(offset, profile, pipeline.ScoreChanged, `{"score":"`+score+`","value":`+value+`,"previous":`+previous+`,"version":3,"reasons":{"Order Completed":20,"Product Viewed":-1.5},"cause":"timer","message_id":"m1","profile":{}}`,
		fmt.Sprintf(`{"sequence":%d,"deltas":[],"features":{"Order Completed":"1.25"}}`, sequence))
	m, err := pipeline.ParseMessage(r.Key, r.Value)
	if err != nil {
		panic(err)
	}
	m.ID = pipeline.HashID([]byte(score), []byte(value))
	r.Value = m.AppendJSON(nil)
	return r
}

func TestDeliveryColumns(t *testing.T) {
	d := newDB(t)
	value := func(x pipeline.Delivery) []byte {
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	hook := pipeline.HashID([]byte("hook"))
	full := pipeline.Delivery{WebhookID: hook, Sink: "crm", Type: "segment.entered", ProfileID: alice, Attempt: 2, QueuedAt: at("2026-08-01T10:00:00Z"),
		SentAt: at("2026-08-01T10:00:05Z").Add(7 * time.Millisecond), LatencyMS: 120, Status: 503, Outcome: "retried", Error: "try later"}
	odd := full
	odd.Sink, odd.Attempt, odd.LatencyMS, odd.Status, odd.Error, odd.QueuedAt = "other", 70000, -5, 1<<20, "cut \xff", time.Time{}
	records := []pipeline.Record{{Partition: 2, Offset: 0, Value: value(full)}, {Partition: 2, Offset: 1, Value: value(odd)}}
	d.write("deliveries", records...)
	d.want(`SELECT * EXCEPT topic_id FROM deliveries ORDER BY sink`, `
		`+hook.String()+`	crm	segment.entered	`+alice.String()+`	2	2026-08-01 10:00:00.000	2026-08-01 10:00:05.007	120	503	retried	try later
		`+hook.String()+`	other	segment.entered	`+alice.String()+`	65535	1970-01-02 00:00:00.000	2026-08-01 10:00:05.007	0	65535	retried	cut �`)
}

func TestDeadLetterColumns(t *testing.T) {
	d := newDB(t)
	original := pipeline.Record{Partition: 4, Offset: 99, Time: at("2026-08-01T10:00:00Z"), Value: []byte("\x00\xffnot json"),
		Headers: []pipeline.Header{{Key: "ms-received", Value: []byte("1785578400000")}, {Key: "x", Value: []byte("1")}, {Key: "x", Value: []byte("2")}}}
	l := pipeline.NewDeadLetter("events", &original, &pipeline.RejectError{Stage: "clean", Code: "not_json", Reason: "the event is not valid JSON"}, 7, []pipeline.ID{alice, bob}, at("2026-08-01T10:00:03Z"))
	r := l.AsRecord()
	r.Partition, r.Offset, r.Time = 0, 5, at("2026-08-01T10:00:04Z")
	foreign := pipeline.Record{Topic: "shop.dead_letters", Partition: 0, Offset: 6, Time: at("2026-08-01T10:00:05Z"), Value: []byte("hello"), Headers: []pipeline.Header{{Key: "ms-dead-partition", Value: []byte("-3")}, {Key: "ms-dead-offset", Value: []byte("-1")}}}
	empty := pipeline.Record{Topic: "shop.dead_letters", Partition: 0, Offset: 7}
	if out := d.write("dead_letters", r, foreign, empty); out != nil {
		t.Errorf("outcomes %v: a dead letter must never be rejected", out)
	}
	d.want(`SELECT id, stage, code, reason, topic, kafka_partition, kafka_offset, ids, hex(payload), headers, received_at, failed_at FROM dead_letters WHERE stage = 'clean' FORMAT TSVRaw`,
		l.ID.String()+"\tclean\tnot_json\tthe event is not valid JSON\tevents\t4\t99\t['"+alice.String()+"','"+bob.String()+"']\t00FF6E6F74206A736F6E\t{'ms-received':'1785578400000','x':'1'}\t2026-08-01 10:00:00.000\t2026-08-01 10:00:03.000")
	d.want(`SELECT uniqExact(id), groupArray(payload), max(kafka_partition), max(failed_at), min(failed_at) FROM (SELECT * FROM dead_letters WHERE stage = '' ORDER BY failed_at)`,
		"2\t['','hello']\t0\t2026-08-01 10:00:05.000\t1970-01-02 00:00:00.000")
}

func TestRejectedRowsLeaveTheirNeighbours(t *testing.T) {
	d := newDB(t)
	good := `{"transition_id":"` + pipeline.HashID([]byte("t")).String() + `","segment":"vip","version":1,"effective_at":"2026-08-01T09:00:00Z"}`
	cases := []struct {
		r    pipeline.Record
		code string
	}{
		{change(0, alice, pipeline.SegmentEntered, good, `{"sequence":1}`), ""},
		{change(1, alice, pipeline.SegmentEntered, good, ``), "transition_incomplete"},
		{change(2, alice, pipeline.SegmentEntered, strings.Replace(good, `"version":1`, `"version":4294967296`, 1), `{"sequence":1}`), "transition_incomplete"},
		{change(3, alice, pipeline.SegmentEntered, strings.Replace(good, `"transition_id":"`, `"transition_id":"x`, 1), `{"sequence":1}`), "transition_incomplete"},
		{change(4, alice, pipeline.SegmentEntered, strings.Replace(good, `:00Z"`, `"`, 1), `{"sequence":1}`), "transition_time"},
		{change(5, alice, pipeline.SegmentEntered, good, `{"sequence":1,"op":"merge"}`), "transition_op"},
		{change(6, alice, pipeline.SegmentEntered, good, `{"sequence":1,"delta":2}`), "transition_delta"},
		{change(7, alice, pipeline.ProfileUpdated, aliceDocument, `{}`), "profile_incomplete"},
		{change(8, alice, pipeline.ProfileUpdated, aliceDocument, `{"version":18446744073709551616}`), "profile_incomplete"},
		{change(9, alice, pipeline.ProfileUpdated, `{"profile":{"first_seen":"x","last_seen":1}}`, `{"version":1}`), "profile_time"},
		{change(10, alice, pipeline.ProfileUpdated, strings.Replace(aliceDocument, `12.5`, `1e400`, 1), `{"version":1}`), "number_range"},
		{change(11, alice, pipeline.ProfileUpdated, strings.Replace(aliceDocument, `0.75`, `-1e999`, 1), `{"version":1}`), "number_range"},
		{change(16, alice, pipeline.ScoreChanged, `{"score":"heat","value":5,"version":1}`, ``), "score_incomplete"},
		{change(17, alice, pipeline.ScoreChanged, `{"score":"heat","version":1}`, `{"sequence":1}`), "score_incomplete"},
		{change(18, alice, pipeline.ScoreChanged, `{"score":"heat","value":"5","version":1}`, `{"sequence":1}`), "score_incomplete"},
		{change(19, alice, pipeline.ScoreChanged, `{"score":"","value":5,"version":1}`, `{"sequence":1}`), "score_incomplete"},
		{change(20, alice, pipeline.ScoreChanged, `{"score":"heat","value":1e400,"version":1}`, `{"sequence":1}`), "number_range"},
		{change(21, alice, pipeline.ScoreChanged, `{"score":"heat","value":5,"version":1,"reasons":{"a":-1e400}}`, `{"sequence":1}`), "number_range"},
		{pipeline.Record{Partition: 1, Offset: 12, Key: []byte(alice.String()), Value: []byte(`{"v":2}`)}, "message_version"},
		{pipeline.Record{Partition: 1, Offset: 13, Key: []byte(alice.String()), Value: []byte(`{`)}, "message_undecodable"},
		{pipeline.Record{Partition: 1, Offset: 14, Key: []byte("alice"), Value: change(0, alice, pipeline.SegmentEntered, good, `{"sequence":1}`).Value}, "message_key"},
		{change(15, alice, pipeline.ProfileUpdated, aliceDocument, `{"version":1}`), ""},
	}
	var records []pipeline.Record
	for _, c := range cases {
		records = append(records, c.r)
	}
	out := d.write("changes", records...)
	if len(out) != len(records) {
		t.Fatalf("%d outcomes for %d records", len(out), len(records))
	}
	for i, c := range cases {
		kind := pipeline.Delivered
		if c.code != "" {
			kind = pipeline.Rejected
		}
		if out[i].Kind != kind || out[i].Code != c.code || (out[i].Reason == "") != (c.code == "") {
			t.Errorf("record %d: got %v %q %q, want code %q", i, out[i].Kind, out[i].Code, out[i].Reason, c.code)
		}
		if strings.Contains(out[i].Reason, alice.String()) || strings.Contains(out[i].Reason, "u1") {
			t.Errorf("record %d: the reason %q holds customer data", i, out[i].Reason)
		}
	}
	d.want(`SELECT (SELECT count() FROM segment_log), (SELECT count() FROM profiles)`, "1\t1")

	out = d.write("resolved", resolved(0, `{"type":"track","event":"e"}`, nil), pipeline.Record{Partition: 3, Offset: 1, Value: []byte{9}}, pipeline.Record{Partition: 3, Offset: 2},
		resolved(3, `{"type":"track","event":"e","properties":{"revenue":1e400}}`, nil), pipeline.Record{Partition: 3, Offset: 4, Value: resolved(4, "{}", nil).Value[:40]})
	codes := ""
	for _, o := range out {
		codes += o.Code + " "
	}
	if codes != " resolved_format resolved_format revenue_range resolved_truncated " {
		t.Errorf("codes %q", codes)
	}
	d.want(`SELECT count() FROM events`, "1")

	out = d.write("deliveries", pipeline.Record{Offset: 0, Value: []byte(`{`)}, pipeline.Record{Offset: 1, Value: []byte(`{"sink":"crm"}`)}, pipeline.Record{Offset: 2, Value: []byte(`{"attempt":1e99}`)})
	if out[0].Code != "delivery_undecodable" || out[1].Code != "delivery_incomplete" || out[2].Code != "delivery_undecodable" {
		t.Errorf("outcomes %v", out)
	}
	d.want(`SELECT count() FROM deliveries`, "0")
}
