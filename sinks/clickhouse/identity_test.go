package clickhouse

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// merge is an identity.merge: what the operation at log offset o did.
func merge(o int64) pipeline.Record {
	return change(o, alice, pipeline.IdentityMerge, fmt.Sprintf(`{"log_offset":%d,"kind":"merge","from":%q,"into":%q,"id_type":"anonymous_id","rule":"link","reason":"","message_id":"m1","at":"2026-08-01T10:00:%02dZ"}`,
		o, carol, alice, o%60), "")
}

// override is an identity.override: the operation at that offset of the link log gave an identifier to a profile.
func override(offset int64, primary, profile pipeline.ID, logOffset int) pipeline.Record {
	return change(offset, primary, pipeline.IdentityOverride, fmt.Sprintf(`{"primary_id":%q,"profile_id":%q,"log_offset":%d}`, primary, profile, logOffset), "")
}

// joined is a profile.merged.
func joined(offset int64, profile, into pipeline.ID, version uint64) pipeline.Record {
	return change(offset, profile, pipeline.ProfileMerged, fmt.Sprintf(`{"profile_id":%q,"into":%q,"rule":"merge","reason":"","message_id":"m1"}`, profile, into), fmt.Sprintf(`{"version":%d}`, version))
}

// parted is a profile.split.
func parted(offset int64, profile, from pipeline.ID, version uint64) pipeline.Record {
	return change(offset, profile, pipeline.ProfileSplit, fmt.Sprintf(`{"profile_id":%q,"from":%q,"rule":"split","reason":"","message_id":""}`, profile, from), fmt.Sprintf(`{"version":%d}`, version))
}

// amid is months with records in between that are no events, or events that were in the topic before.
func amid(o int64) pipeline.Record {
	r := months(o, o)[0]
	switch o % 7 {
	case 2:
		r.Value = (&pipeline.Regroup{Offset: uint64(o), Profile: alice, From: []pipeline.ID{carol}, Now: 1}).Append(nil)
	case 4:
		r.Value = (&pipeline.Move{Offset: uint64(o), From: carol, To: alice, Whole: true, Last: true, Now: 1}).Append(nil)
	case 6:
		// Its revenue is beyond the table: the first time it was a dead letter, and need not be one again.
		r = resolved(o, `{"type":"track","event":"Order Completed","properties":{"revenue":1e30}}`, func(ev *pipeline.Event) { ev.Forwarded = true })
	}
	return r
}

// rowsOf counts the records that are rows.
func rowsOf(records []pipeline.Record) int {
	n := 0
	for i := range records {
		if records[i].Topic != "shop.resolved" || records[i].Offset%7 != 2 && records[i].Offset%7 != 4 && records[i].Offset%7 != 6 {
			n++
		}
	}
	return n
}

func TestRecordsBetweenEventsAreNoRows(t *testing.T) {
	d := newDB(t)
	d.userView()
	records := numbered(0, 69, amid)
	r := rangeOf("resolved", records)
	for _, repeated := range []bool{false, false, true} {
		r.Repeated = repeated
		if out := d.writeRange(r, records); out != nil {
			t.Errorf("outcomes %v: regroups, moves and forwarded events are not refused", out)
		}
	}
	d.want(`SELECT count(), uniqExact(kafka_offset), countIf(kafka_offset % 7 IN (2, 4, 6)) FROM events`, "40\t40\t0")
	d.want(`SELECT sum(n), sum(revenue) FROM daily`, "40\t60")
	d.want(`SELECT next_offset FROM progress FINAL`, "70")

	alone := []pipeline.Record{amid(72), amid(74), amid(76)} // a range without a row
	if out := d.write("resolved", alone...); out != nil {
		t.Errorf("outcomes %v", out)
	}
	d.want(`SELECT count() FROM events`, "40")
	if n, err := d.sink.Resume(t.Context(), "resolved", pipeline.ID{}, 3); n != 77 || err != nil {
		t.Errorf("resume: %d %v, want 77", n, err)
	}
	if out := d.write("resolved", months(77, 77)[0], pipeline.Record{Partition: 3, Offset: 78, Value: []byte{1, 'x'}}); len(out) != 2 || out[1].Code != "resolved_kind" {
		t.Errorf("outcomes %v: a kind that nobody knows is a dead letter", out)
	}
}

func TestIdentityColumns(t *testing.T) {
	d := newDB(t)
	d.write("changes",
		change(1, alice, pipeline.IdentityMerge, fmt.Sprintf(`{"at":"2026-08-01T10:00:00.250Z","from":%q,"id_type":"anonymous_id","into":%q,"kind":"merge","log_offset":7,"message_id":"m7","reason":"","rule":"link","strong":%q,"weak":%q}`, carol, alice, alice, carol), ""),
		change(2, alice, pipeline.IdentityMerge, fmt.Sprintf(`{"log_offset":8,"kind":"refused","from":%q,"into":%q,"id_type":"email","rule":"link","reason":"a profile has at most 1 user_id","message_id":"m8","at":"1970-01-01T00:00:00.000Z"}`, bob, alice), ""),
		override(3, carol, alice, 7),
		joined(4, carol, alice, 7<<32),
		parted(5, bob, alice, 8<<32),
		change(6, alice, pipeline.IdentityIdentifier, fmt.Sprintf(`{"type":"email","value":"a@b.c","id":%q,"profile_id":%q,"linked_at":"2026-08-01T09:00:00.125Z","version":30064771073}`, bob, alice), ""),
		change(7, alice, "identity.other", `{}`, ""))
	d.want(`SELECT * EXCEPT topic_id FROM merges ORDER BY log_offset`, `
		7	merge	`+carol.String()+`	`+alice.String()+`	anonymous_id	link		m7	2026-08-01 10:00:00.250
		8	refused	`+bob.String()+`	`+alice.String()+`	email	link	a profile has at most 1 user_id	m8	1970-01-02 00:00:00.000`)
	d.want(`SELECT * FROM overrides`, carol.String()+"\t"+alice.String()+"\t7")
	d.want(`SELECT * FROM profiles`, carol.String()+"\t30064771072\t0\t"+alice.String()+"\t1970-01-01 00:00:00.000\t1970-01-01 00:00:00.000\t{}\t{}\t{}\t[]\t{}\t2026-08-01 10:00:00.000")
	d.want(`SELECT * FROM identifiers`, "email\ta@b.c\t"+bob.String()+"\t"+alice.String()+"\t2026-08-01 09:00:00.125\t30064771073\t0")
}

func TestIdentityMessagesThatAreNoRows(t *testing.T) {
	d := newDB(t)
	cases := []struct {
		good pipeline.Record
		from string
		to   string
		code string
	}{
		{merge(0), `"log_offset":0`, `"log_offset":-1`, "merge_incomplete"},
		{merge(1), carol.String(), "carol", "merge_incomplete"},
		{merge(2), `"kind":"merge"`, `"kind":""`, "merge_incomplete"},
		{merge(3), `"at":"2026`, `"at":"x2026`, "merge_incomplete"},
		{override(4, carol, alice, 1), `"profile_id":"` + alice.String(), `"profile_id":"`, "override_incomplete"},
		{override(5, carol, alice, 1), alice.String(), pipeline.ID{}.String(), "override_incomplete"},
		{override(6, carol, alice, 1), `"log_offset":1`, `"log_offset":1.5`, "override_incomplete"},
		{joined(7, carol, alice, 1), `"into":"` + alice.String(), `"into":"`, "profile_incomplete"},
		{joined(8, carol, alice, 1), `"version":1`, `"v":1`, "profile_incomplete"},
		{identifier(9, "a@b.c", bob, alice, 1), `"value":"a@b.c"`, `"value":""`, "identifier_incomplete"},
		{identifier(10, "a@b.c", bob, alice, 1), `"version":1`, `"version":"x"`, "identifier_incomplete"},
		{merge(11), "", "", ""},
		{override(12, carol, alice, 1), "", "", ""},
		{joined(13, carol, alice, 1), "", "", ""},
		{identifier(14, "a@b.c", bob, alice, 1), "", "", ""},
	}
	var records []pipeline.Record
	for _, c := range cases {
		r := c.good
		r.Value = []byte(strings.Replace(string(r.Value), c.from, c.to, 1))
		records = append(records, r)
	}
	out := d.write("changes", records...)
	for i, c := range cases {
		if out[i].Code != c.code || strings.Contains(out[i].Reason, alice.String()) {
			t.Errorf("record %d: got %q %q, want code %q", i, out[i].Code, out[i].Reason, c.code)
		}
	}
	d.want(`SELECT (SELECT count() FROM merges), (SELECT count() FROM overrides), (SELECT count() FROM profiles), (SELECT count() FROM identifiers)`, "1\t1\t1\t1")
}

func identifier(offset int64, value string, id, profile pipeline.ID, version int) pipeline.Record {
	return change(offset, profile, pipeline.IdentityIdentifier, fmt.Sprintf(`{"type":"email","value":%q,"id":%q,"profile_id":%q,"linked_at":"2026-08-01T09:00:00Z","version":%d}`, value, id, profile, version), "")
}

// Carol, a visitor, logs in as alice; later it turns out that she was not. Bob has nothing to do with it.
func TestPeopleWhoMergeAndPart(t *testing.T) {
	d := newDB(t)
	person := func(offset int64, who pipeline.ID, kind string, orders int, version uint64) pipeline.Record {
		return change(offset, who, kind, `{"profile":`+strings.Replace(aliceDocument, `"orders":3`, fmt.Sprintf(`"orders":%d`, orders), 1)+`,"changed":[]}`, fmt.Sprintf(`{"version":%d}`, version))
	}
	order := func(offset int64, primary, canonical pipeline.ID, revenue int, idv uint64) pipeline.Record {
		return resolved(offset, fmt.Sprintf(`{"type":"track","event":"Order Completed","properties":{"revenue":%d}}`, revenue), func(ev *pipeline.Event) {
			ev.Primary, ev.Canonical, ev.IDV = primary, canonical, idv
		})
	}
	state := func(when, events, people, members string) {
		t.Helper()
		before := t.Failed()
		for nulls := range 2 {
			d.want(fmt.Sprintf(`SELECT person_id, count(), sum(revenue) FROM person_events GROUP BY person_id ORDER BY person_id SETTINGS join_use_nulls = %d`, nulls), events)
		}
		d.want(`SELECT person_id, aggregates['orders'] FROM people ORDER BY person_id`, people)
		d.want(`SELECT segment, profile_id, since FROM segment_members ORDER BY ALL`, members)
		for _, who := range []pipeline.ID{alice, bob, carol} {
			d.want(fmt.Sprintf(`SELECT count(), sum(revenue) FROM person_timeline(person = '%s')`, who), d.query(fmt.Sprintf(`SELECT count(), sum(revenue) FROM person_events WHERE person_id = '%s'`, who)))
		}
		if t.Failed() && !before {
			t.Fatal(when)
		}
	}
	a, b, c := alice.String(), bob.String(), carol.String()

	d.write("resolved", order(0, alice, alice, 100, 0), order(1, bob, bob, 7, 0), order(2, carol, carol, 20, 0), order(3, carol, carol, 3, 0))
	d.write("changes",
		person(0, alice, pipeline.ProfileCreated, 1, 1), person(1, bob, pipeline.ProfileCreated, 1, 1), person(2, carol, pipeline.ProfileCreated, 2, 2),
		moved(3, carol, pipeline.SegmentEntered, "hot", "2026-08-01T08:00:00Z", 1),
		moved(4, carol, pipeline.SegmentEntered, "vip", "2026-08-01T08:10:00Z", 2),
		moved(5, alice, pipeline.SegmentEntered, "vip", "2026-08-01T08:20:00Z", 1))
	state("before", "\n\t\t"+a+"\t1\t100\n\t\t"+b+"\t1\t7\n\t\t"+c+"\t2\t23", "\n\t\t"+a+"\t1\n\t\t"+b+"\t1\n\t\t"+c+"\t2",
		"\n\t\thot\t"+c+"\t2026-08-01 08:00:00.000\n\t\tvip\t"+a+"\t2026-08-01 08:20:00.000\n\t\tvip\t"+c+"\t2026-08-01 08:10:00.000")

	// Operation 5 of the log: carol is alice. One event of hers was on its way, and is forwarded.
	const turn = 5
	forwarded := order(7, carol, alice, 4, turn)
	late := order(4, carol, carol, 4, 0)
	d.write("resolved", late,
		pipeline.Record{Partition: 3, Offset: 5, Key: []byte(a), Value: (&pipeline.Regroup{Offset: turn, Profile: alice, From: []pipeline.ID{carol}, Rule: "merge"}).Append(nil)},
		pipeline.Record{Partition: 3, Offset: 6, Key: []byte(a), Value: (&pipeline.Move{Offset: turn, From: carol, To: alice, Whole: true, Last: true}).Append(nil)},
		forwardedOf(forwarded), order(8, carol, alice, 5, turn))
	d.write("changes", merge(6), override(7, carol, alice, turn),
		joined(8, carol, alice, turn<<32),
		moved(9, carol, pipeline.SegmentPassed, "hot", "2026-08-01T09:00:00Z", turn<<32|3),
		moved(10, carol, pipeline.SegmentPassed, "vip", "2026-08-01T09:00:00Z", turn<<32|4),
		moved(11, alice, pipeline.SegmentCarried, "hot", "2026-08-01T09:00:00Z", turn<<32|2, "2026-08-01T08:00:00Z"),
		change(12, alice, pipeline.SegmentCarried, fmt.Sprintf(`{"transition_id":%q,"segment":"vip","version":1,"effective_at":"2026-08-01T09:00:00Z"}`, pipeline.HashID([]byte("carried"))),
			fmt.Sprintf(`{"sequence":%d,"delta":0,"since":"2026-08-01T08:10:00Z"}`, turn<<32|3)),
		person(13, alice, pipeline.ProfileUpdated, 5, turn<<32|5))
	merged := "\n\t\t" + a + "\t5\t132\n\t\t" + b + "\t1\t7"
	state("merged", merged, "\n\t\t"+a+"\t5\n\t\t"+b+"\t1",
		"\n\t\thot\t"+a+"\t2026-08-01 08:00:00.000\n\t\tvip\t"+a+"\t2026-08-01 08:20:00.000")
	d.want(`SELECT merged_into FROM profiles FINAL WHERE profile_id = '`+c+`'`, a)
	d.want(`SELECT segment, argMax(size, hour), sum(entered), sum(exited) FROM segment_sizes GROUP BY segment ORDER BY segment`, "\n\t\thot\t1\t1\t0\n\t\tvip\t1\t2\t0")
	d.want(`SELECT person_id, countIf(person_id <> profile_id) FROM person_events GROUP BY person_id ORDER BY person_id`, "\n\t\t"+a+"\t3\n\t\t"+b+"\t0")

	// Operation 9: they are two. What was carried is left by both if it is no more true.
	const split = 9
	d.write("changes",
		change(14, alice, pipeline.IdentityMerge, fmt.Sprintf(`{"log_offset":9,"kind":"split","from":%q,"into":%q,"id_type":"anonymous_id","rule":"unlink","reason":"asked","message_id":"","at":"2026-08-01T11:00:00Z"}`, alice, carol), ""),
		override(15, carol, carol, split),
		moved(16, alice, pipeline.SegmentExited, "hot", "2026-08-01T11:00:00Z", split<<32|4),
		parted(17, carol, alice, split<<32),
		moved(18, carol, pipeline.SegmentEntered, "hot", "2026-08-01T11:00:00Z", split<<32|1),
		person(19, carol, pipeline.ProfileUpdated, 4, split<<32|4),
		person(20, alice, pipeline.ProfileUpdated, 1, split<<32|1))
	d.write("resolved", order(9, carol, carol, 6, split))
	parting := "\n\t\t" + a + "\t1\t100\n\t\t" + b + "\t1\t7\n\t\t" + c + "\t5\t38"
	state("parted", parting, "\n\t\t"+a+"\t1\n\t\t"+b+"\t1\n\t\t"+c+"\t4",
		"\n\t\thot\t"+c+"\t2026-08-01 11:00:00.000\n\t\tvip\t"+a+"\t2026-08-01 08:20:00.000")
	d.want(`SELECT segment, profile_id, since, until FROM segment_intervals ORDER BY ALL`, `
		hot	`+a+`	2026-08-01 09:00:00.000	2026-08-01 11:00:00.000
		hot	`+c+`	2026-08-01 08:00:00.000	2026-08-01 09:00:00.000
		hot	`+c+`	2026-08-01 11:00:00.000	\N
		vip	`+a+`	2026-08-01 08:20:00.000	\N
		vip	`+c+`	2026-08-01 08:10:00.000	2026-08-01 09:00:00.000`)
	d.want(`SELECT log_offset, kind, from_profile, into_profile FROM merges ORDER BY log_offset`, "\n\t\t6\tmerge\t"+c+"\t"+a+"\n\t\t9\tsplit\t"+a+"\t"+c)

	// Old messages again, as after a loss of progress, and ClickHouse's own merging change nothing.
	d.write("changes", override(30, carol, alice, turn), joined(31, carol, alice, turn<<32), person(32, alice, pipeline.ProfileUpdated, 5, turn<<32|5))
	for _, table := range []string{"overrides", "profiles"} {
		d.query(`OPTIMIZE TABLE ` + table + ` FINAL`)
	}
	state("repeated", parting, "\n\t\t"+a+"\t1\n\t\t"+b+"\t1\n\t\t"+c+"\t4",
		"\n\t\thot\t"+c+"\t2026-08-01 11:00:00.000\n\t\tvip\t"+a+"\t2026-08-01 08:20:00.000")
	d.want(`SELECT count(), countIf(primary_id = profile_id) FROM overrides`, "1\t1")
}

// forwardedOf is the record as the profile task writes it a second time.
func forwardedOf(r pipeline.Record) pipeline.Record {
	var ev pipeline.Event
	config, rej := pipeline.ParseResolved(&r, &ev)
	if rej != nil {
		panic(rej)
	}
	ev.Forwarded = true
	r.Value = pipeline.AppendResolved(nil, &ev, config)
	return r
}

// The link log is lost with the other topics, and its offsets start over: what the new one says of an identifier counts.
func TestOverridesOfATopicMadeAgain(t *testing.T) {
	d := newDB(t)
	a, b, c := alice.String(), bob.String(), carol.String()
	d.write("resolved", seen(1, carol, "08:00", "e", `{}`, `{}`), seen(2, bob, "08:00", "e", `{}`, `{}`))
	d.writeOf(oldTopic, "changes", override(0, carol, alice, 700), override(1, bob, alice, 701), merge(2))
	d.writeOf(newTopic, "changes", override(0, carol, bob, 1), merge(2), identifier(3, "a@b.c", alice, alice, 7<<32))
	d.want(`SELECT primary_id, profile_id, version FROM overrides FINAL ORDER BY primary_id`, "\n\t\t"+b+"\t"+a+"\t701\n\t\t"+c+"\t"+b+"\t4294967297")
	d.want(`SELECT primary_id, person_id FROM person_events ORDER BY primary_id`, "\n\t\t"+b+"\t"+a+"\n\t\t"+c+"\t"+b)
	d.want(`SELECT topic_id, log_offset FROM merges ORDER BY topic_id`, "\n\t\t"+oldTopic.String()+"\t2\n\t\t"+newTopic.String()+"\t2")

	third := id("cccccccc-0000-4000-8000-000000000003")
	d.writeOf(third, "changes", override(0, carol, carol, 1), identifier(1, "a@b.c", alice, carol, 1))
	d.want(`SELECT primary_id, person_id FROM person_events WHERE primary_id = '`+c+`'`, c+"\t"+c)
	d.want(`SELECT profile_id, version FROM identifiers FINAL`, c+"\t38654705665")
}
