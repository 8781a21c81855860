package clickhouse

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// erased is an identity.erased: alice and carol were one person, alice, who was erased at that time.
func erased(offset int64, at string) pipeline.Record {
	var ids []string
	for _, id := range []pipeline.ID{alice, carol} {
		ids = append(ids, fmt.Sprintf(`{"id":%q,"origin":%q,"successor":%q,"ambiguous":%q}`, id, id, next(id), nobody(id)))
	}
	return change(offset, alice, pipeline.IdentityErased, fmt.Sprintf(`{"log_offset":9,"profile_id":%q,"at":%q,"ids":[%s]}`, alice, at, strings.Join(ids, ",")), "")
}

func next(id pipeline.ID) pipeline.ID   { id[1] = 0xee; return id }
func nobody(id pipeline.ID) pipeline.ID { id[0] = pipeline.CodeAmbiguous; return id }

// whole is a record of each kind about somebody, in every topic, with offsets from first.
func whole(first int64, who pipeline.ID) map[string][]pipeline.Record {
	d, err := json.Marshal(pipeline.Delivery{WebhookID: who, Sink: "crm", Type: pipeline.ProfileUpdated, ProfileID: who, Attempt: 1, SentAt: at("2026-08-01T10:00:00Z")})
	if err != nil {
		panic(err)
	}
	told, err := json.Marshal(pipeline.Delivery{WebhookID: who, Sink: "crm", Type: pipeline.ProfileErased, ProfileID: who, Attempt: 2, SentAt: at("2026-08-01T10:00:00Z")})
	if err != nil {
		panic(err)
	}
	original := pipeline.Record{Offset: first, Value: []byte("x"), Headers: []pipeline.Header{{Key: pipeline.HeaderReceived, Value: []byte("1785578400000")}}} // 10:00
	l := pipeline.NewDeadLetter("events", &original, pipeline.Reject("c", "r"), 0, []pipeline.ID{bob, who}, at("2026-08-01T10:00:00Z")).AsRecord()
	l.Partition, l.Offset = 1, first
	t := transition(first)
	t.Key = []byte(who.String())
	return map[string][]pipeline.Record{
		"resolved": {resolved(first, `{"type":"track","event":"View"}`, func(ev *pipeline.Event) { ev.Primary, ev.Canonical = who, bob }),
			resolved(first+1, `{"type":"track","event":"View"}`, func(ev *pipeline.Event) { ev.Primary, ev.Canonical = bob, who })},
		"changes": {t, change(first+1, who, pipeline.ProfileUpdated, aliceDocument, `{"version":1}`), scored(first+2, who, "heat", fmt.Sprint(first), "null", 2),
			change(first+3, bob, pipeline.IdentityMerge, fmt.Sprintf(`{"log_offset":%d,"kind":"merge","from":%q,"into":%q,"at":"2026-08-01T10:00:00Z"}`, first, who, bob), ""),
			override(first+4, who, bob, 7), identifier(first+5, who.String(), who, bob, 1),
			change(first+6, who, pipeline.IdentityMerge, fmt.Sprintf(`{"log_offset":%d,"kind":"erased","from":%q,"into":%q,"at":"2026-08-01T10:00:00Z"}`, first+1, who, pipeline.ID{}), "")},
		"deliveries":   {{Partition: 1, Offset: first, Value: d}, {Partition: 1, Offset: first + 1, Value: told}},
		"dead_letters": {l},
	}
}

const counts = `SELECT (SELECT count() FROM events), (SELECT count() FROM segment_log), (SELECT count() FROM profiles), (SELECT count() FROM scores), (SELECT count() FROM merges), (SELECT count() FROM overrides), (SELECT count() FROM identifiers), (SELECT count() FROM deliveries), (SELECT count() FROM dead_letters)`

// The rows of an erased person go from every table, whichever partition writes them, before and after, however often. Those of
// others stay, and their inserts are still recognised.
func TestErasedPeopleHaveNoRows(t *testing.T) {
	d := newDB(t)
	d.userView()
	writeAll := func(first int64, who pipeline.ID, repeated bool) {
		for topic, records := range whole(first, who) {
			r := rangeOf(topic, records)
			r.Repeated = repeated
			d.writeRange(r, records)
		}
	}
	writeAll(100, alice, false)
	writeAll(200, carol, false)
	writeAll(300, bob, false)
	writeAll(400, nobody(carol), false)
	d.want(counts, "8\t4\t4\t4\t8\t4\t4\t8\t4")
	erasure := []pipeline.Record{erased(500, "2026-08-01T11:00:00Z")}
	d.write("changes", erasure...)
	// Of each erased id there stay: the event of bob, that somebody was erased, that receivers were told; of letters those of the ambiguous
	// one, because no letter has such an id.
	after := "5\t1\t1\t1\t5\t1\t1\t5\t2"
	d.want(counts, after)
	d.want(`SELECT count() FROM events WHERE primary_id <> toUUID('`+bob.String()+`')`, "0")
	d.want(`SELECT id, successor, profile_id, log_offset FROM erasures WHERE origin = id ORDER BY id`,
		"\n\t\t"+alice.String()+"\t"+next(alice).String()+"\t"+alice.String()+"\t9\n\t\t"+carol.String()+"\t"+next(carol).String()+"\t"+alice.String()+"\t9")
	views := d.query(`SELECT sum(n) FROM daily`)

	other, err := d.open(t.Context()) // another process repeats it all
	if err != nil {
		t.Fatal(err)
	}
	for repeated, s := range map[bool]*Sink{false: d.sink, true: other} {
		again := func(topic string, records []pipeline.Record) {
			r := rangeOf(topic, records)
			r.Repeated = repeated
			if _, err := s.WriteRange(t.Context(), r, records); err != nil {
				t.Fatal(err)
			}
		}
		for first, who := range map[int64]pipeline.ID{100: alice, 200: carol, 300: bob, 400: nobody(carol)} {
			for topic, records := range whole(first, who) {
				again(topic, records)
			}
		}
		again("changes", erasure)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	d.want(counts, after)
	d.want(`SELECT sum(n) FROM daily`, views)
	d.want(`SELECT count() FROM erasures`, "4")

	writeAll(600, alice, false) // what was on its way
	d.want(counts, "6\t1\t1\t1\t6\t1\t1\t6\t2")
	late := numbered(700, 701, letter) // received after the erasure: of whoever has the identifier now
	for i := range late {
		l := pipeline.NewDeadLetter("events", &pipeline.Record{Offset: int64(700 + i), Value: []byte("x"), Headers: []pipeline.Header{{Key: pipeline.HeaderReceived, Value: []byte("1785582000001")}}},
			pipeline.Reject("c", "r"), 0, []pipeline.ID{alice}, at("2026-08-01T12:00:00Z")).AsRecord()
		l.Partition, l.Offset = 1, late[i].Offset
		late[i] = l
	}
	d.write("dead_letters", late...)
	d.want(counts, "6\t1\t1\t1\t6\t1\t1\t6\t4")
	d.write("resolved", resolved(800, `{"type":"track","event":"View"}`, func(ev *pipeline.Event) { ev.Primary, ev.Canonical = next(alice), next(alice) }))
	d.want(`SELECT count() FROM person_events WHERE person_id = toUUID('`+next(alice).String()+`')`, "1")
}

// A range that landed in part, of which some rows were deleted since, and whose token is forgotten.
func TestErasureBetweenTwoTriesOfOneRange(t *testing.T) {
	d := newDB(t)
	d.query("ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 4")
	d.sink.windows["events"] = 4
	of := func(o int64) pipeline.Record {
		who := bob
		if o%2 == 0 {
			who = alice
		}
		return resolved(o, `{"type":"track","event":"View"}`, func(ev *pipeline.Event) {
			ev.Primary, ev.Time = who, at("2026-07-01T00:00:00Z").AddDate(0, -int(o%12), 0)
		})
	}
	records := numbered(100, 160, of)
	r := rangeOf("resolved", records)
	var some []pipeline.Record
	for _, rec := range records {
		if rec.Offset%12 < 3 {
			some = append(some, rec)
		}
	}
	d.writeRange(r, some)
	d.write("changes", erased(1, "2026-08-01T11:00:00Z"))
	for o := int64(900); o < 912; o++ {
		d.write("resolved", of(o))
	}
	r.Repeated = true
	for range 2 {
		d.writeRange(r, records)
	}
	d.want(`SELECT countIf(primary_id = toUUID('`+bob.String()+`')), count(), uniqExact(kafka_offset) FROM events`, "36\t36\t36")
}

// The topics were lost, and with them the link log that knew of the erasure: the values have their first ids again.
func TestErasuresEndWithTheirTopic(t *testing.T) {
	d := newDB(t)
	d.write("changes", erased(1, "2026-08-01T11:00:00Z"))
	records := whole(100, alice)
	for _, topic := range []string{"changes", "resolved"} {
		r := rangeOf(topic, records[topic])
		r.TopicID = pipeline.HashID([]byte(topic))
		d.writeRange(r, records[topic])
	}
	d.want(`SELECT (SELECT count() FROM events), (SELECT count() FROM profiles)`, "2\t1")
}

func TestErasuresThatAreNoRows(t *testing.T) {
	d := newDB(t)
	good := string(erased(0, "2026-08-01T11:00:00Z").Value)
	var records []pipeline.Record
	for i, c := range [][2]string{{`"log_offset":9`, `"log_offset":-1`}, {`"at":"2026`, `"at":"x`}, {`"profile_id":"0`, `"profile_id":"x`}, {`"origin":"0`, `"origin":"x`}, {`"ids":[`, `"other":[`}, {"", ""}} {
		r := erased(int64(i), "2026-08-01T11:00:00Z")
		if r.Value = []byte(strings.Replace(good, c[0], c[1], 1)); c[0] != "" && string(r.Value) == good {
			t.Fatalf("%s is not in %s", c[0], good)
		}
		records = append(records, r)
	}
	for i, o := range d.write("changes", records...) {
		if want := map[bool]string{true: "erasure_incomplete"}[i < 5]; o.Code != want {
			t.Errorf("record %d: code %q, want %q", i, o.Code, want)
		}
	}
	d.want(`SELECT count() FROM erasures`, "4")
}

// A predecessor wrote rows of an erased person, crashed before it deleted them, and the token is forgotten since: the
// successor, who writes only what is missing, deletes them all the same.
func TestErasedRowsOfAPredecessorWhoCrashed(t *testing.T) {
	d := newDB(t)
	d.query("ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 4")
	d.sink.windows["events"] = 4
	d.write("changes", erased(1, "2026-08-01T11:00:00Z"))
	of := func(offset int64, who pipeline.ID) pipeline.Record {
		return resolved(offset, `{"type":"track","event":"View"}`, func(ev *pipeline.Event) { ev.Primary = who })
	}
	records := []pipeline.Record{of(100, alice), of(101, bob)}
	r := rangeOf("resolved", records)
	d.writeRange(r, []pipeline.Record{of(100, bob)})
	d.query("ALTER TABLE events UPDATE primary_id = toUUID('" + alice.String() + "') WHERE kafka_offset = 100 SETTINGS mutations_sync = 1")
	for o := int64(900); o < 912; o++ {
		d.write("resolved", of(o, bob))
	}
	r.Repeated = true
	d.writeRange(r, records)
	d.want(`SELECT countIf(primary_id = toUUID('`+alice.String()+`')), countIf(kafka_offset = 101), count() FROM events`, "0\t1\t13")
	if !strings.Contains(d.log.String(), "old try") {
		t.Error("the token was not forgotten")
	}
}
