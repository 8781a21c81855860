package clickhouse

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// userView hangs a materialized view as a user would on the database, its target with a deduplication window.
func (d *db) userView() {
	d.t.Helper()
	d.query(`CREATE TABLE daily (day Date, event LowCardinality(String), n UInt64, revenue Decimal(38, 6)) ENGINE = SummingMergeTree ORDER BY (day, event) SETTINGS non_replicated_deduplication_window = 10000`)
	d.query(`CREATE MATERIALIZED VIEW daily_view TO daily AS SELECT toDate(time) AS day, event, count() AS n, sum(revenue) AS revenue FROM events GROUP BY day, event`)
}

// months is a record for each offset, spread over many months, so that an insert writes several parts.
func months(first, last int64) []pipeline.Record {
	var records []pipeline.Record
	for o := first; o <= last; o++ {
		records = append(records, resolved(o, `{"type":"track","event":"Order Completed","properties":{"revenue":1.5}}`, func(ev *pipeline.Event) {
			ev.Time = at("2026-07-01T00:00:00Z").AddDate(0, -int(o%12), 0)
		}))
	}
	return records
}

func transition(offset int64) pipeline.Record {
	return change(offset, alice, pipeline.SegmentEntered, fmt.Sprintf(`{"transition_id":%q,"segment":"vip","version":1,"effective_at":"202%d-08-01T09:00:00Z"}`,
		pipeline.HashID([]byte(fmt.Sprint(offset))), offset%7), fmt.Sprintf(`{"sequence":%d}`, offset))
}

func delivery(offset int64) pipeline.Record {
	value, err := json.Marshal(pipeline.Delivery{WebhookID: pipeline.HashID([]byte(fmt.Sprint(offset / 3))), Sink: "it's " + fmt.Sprint(offset%3), Attempt: 1, SentAt: at("2026-08-01T10:00:00Z").AddDate(0, -int(offset%4), 0)})
	if err != nil {
		panic(err)
	}
	return pipeline.Record{Partition: 1, Offset: offset, Value: value}
}

func letter(offset int64) pipeline.Record {
	original := pipeline.Record{Offset: offset, Value: []byte("x")}
	r := pipeline.NewDeadLetter("events", &original, pipeline.Reject("c", "r"), 0, nil, at("2026-08-01T10:00:00Z").AddDate(0, -int(offset%4), 0)).AsRecord()
	r.Partition, r.Offset = 1, offset
	return r
}

// numbered makes the records with offsets first to last.
func numbered(first, last int64, record func(int64) pipeline.Record) []pipeline.Record {
	var records []pipeline.Record
	for o := first; o <= last; o++ {
		records = append(records, record(o))
	}
	return records
}

func TestSameRangeThreeTimesIsOnce(t *testing.T) {
	d := newDB(t)
	d.userView()
	for topic, records := range map[string][]pipeline.Record{
		"resolved": months(0, 99), "deliveries": numbered(0, 9, delivery), "dead_letters": numbered(0, 9, letter),
		"changes": append(numbered(0, 9, transition), change(10, bob, pipeline.ProfileUpdated, aliceDocument, `{"version":1}`), merge(11), merge(12), scored(13, bob, "heat", "5", "null", 2)),
	} {
		r := rangeOf(topic, records)
		d.writeRange(r, records)
		d.writeRange(r, records) // an engine that forgot to say that it repeats
		r.Repeated = true
		d.writeRange(r, records)
		other, err := d.open(t.Context()) // another process
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.WriteRange(t.Context(), r, records); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}
	d.want(`SELECT (SELECT count() FROM events), (SELECT sum(n) FROM daily), (SELECT sum(revenue) FROM daily), (SELECT count() FROM segment_log), (SELECT count() FROM profiles), (SELECT count() FROM deliveries), (SELECT count() FROM dead_letters), (SELECT count() FROM merges), (SELECT count() FROM scores)`,
		"100\t100\t150\t10\t1\t10\t10\t2\t1")
	if strings.Contains(d.log.String(), "old try") {
		t.Error("a young range was treated as an old one")
	}
}

// A table that remembers few inserts, a range that landed in part, and many inserts after it: only the rest is sent.
func TestRangeThatIsOlderThanTheWindow(t *testing.T) {
	for _, c := range []struct {
		topic, table string
		first        int64
		record       func(int64) pipeline.Record
	}{
		{"resolved", "events", 100, amid}, {"changes", "segment_log", 100, transition}, {"changes", "merges", 100, merge},
		{"deliveries", "deliveries", 102, delivery}, {"dead_letters", "dead_letters", 100, letter},
	} {
		t.Run(c.table, func(t *testing.T) {
			t.Parallel()
			d := newDB(t)
			topic, table, records := c.topic, c.table, numbered(c.first, 160, c.record)
			d.query("ALTER TABLE " + table + " MODIFY SETTING non_replicated_deduplication_window = 4")
			d.sink.windows[table] = 4
			r := rangeOf(topic, records)

			// What a crash in the middle leaves: the parts of some months. Same token, fewer rows.
			var some []pipeline.Record
			for _, rec := range records {
				if rec.Offset%12 < 3 {
					some = append(some, rec)
				}
			}
			d.writeRange(r, some)
			landed := d.query("SELECT count() FROM " + table)
			for o := int64(900); o < 912; o++ {
				d.write(topic, c.record(o))
			}
			if landed != fmt.Sprint(rowsOf(some)) {
				t.Fatalf("%s rows have landed, want %d", landed, rowsOf(some))
			}

			r.Repeated = true
			for range 3 {
				d.writeRange(r, records)
			}
			d.want("SELECT count() FROM "+table, fmt.Sprint(rowsOf(records)+rowsOf(numbered(900, 911, c.record))))
			if !strings.Contains(d.log.String(), "old try") {
				t.Error("the log does not say that views may lack rows")
			}
		})
	}
}

// The server has committed, but its answer never arrives.
func TestAnswerLostAfterCommit(t *testing.T) {
	d := newDB(t)
	d.userView()
	p, s := d.openBehindProxy()
	tries := make(map[string]int)
	p.loseAnswers(func(head []byte) bool {
		query, err := url.QueryUnescape(string(head))
		i := strings.Index(query, "INSERT INTO")
		if err != nil || i < 0 {
			return false
		}
		table := strings.Fields(query[i:])[2]
		tries[table]++
		return tries[table] <= 2 // the first try and one repetition
	})
	for topic, records := range map[string][]pipeline.Record{"resolved": months(0, 59), "changes": append(numbered(0, 9, transition), change(10, bob, pipeline.ProfileUpdated, aliceDocument, `{"version":1}`)),
		"deliveries": numbered(0, 9, delivery), "dead_letters": numbered(0, 9, letter)} {
		if _, err := s.WriteRange(t.Context(), rangeOf(topic, records), records); err != nil {
			t.Fatal(err)
		}
	}
	if p.lostAnswers() != 2*7 {
		t.Errorf("%d answers were lost, want 14", p.lostAnswers())
	}
	d.want(`SELECT (SELECT count() FROM events), (SELECT sum(n) FROM daily), (SELECT count() FROM segment_log), (SELECT count() FROM profiles), (SELECT count() FROM deliveries), (SELECT count() FROM dead_letters), (SELECT count() FROM progress FINAL)`,
		"60\t60\t10\t1\t10\t10\t4")
}

// While a try waits for its answer the table takes in so many others that it forgets the token.
func TestAnswerLostAndManyInsertsMeanwhile(t *testing.T) {
	d := newDB(t)
	p, s := d.openBehindProxy()
	d.query("ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 4")
	s.windows["events"] = 4
	p.loseAnswers(func(head []byte) bool {
		if p.lost > 0 || !bytes.Contains(head, []byte("events")) || !bytes.Contains(head, []byte("INSERT")) {
			return false
		}
		for o := int64(100); o < 112; o++ {
			d.write("resolved", months(o, o)...)
		}
		return true
	})
	records := months(0, 59)
	if _, err := s.WriteRange(t.Context(), rangeOf("resolved", records), records); err != nil {
		t.Fatal(err)
	}
	if p.lostAnswers() != 1 {
		t.Errorf("%d answers were lost, want 1", p.lostAnswers())
	}
	d.want(`SELECT count() FROM events`, "72")
}

// What every insert carries, and a repetition repeats to the byte.
func TestInsertsAreNamedAndRepeatedToTheByte(t *testing.T) {
	d := newDB(t)
	p, s := d.openBehindProxy()
	if _, err := s.Resume(t.Context(), "resolved", pipeline.ID{}, 0); err != nil { // the topic is known from here on
		t.Fatal(err)
	}
	var heads []string
	p.loseAnswers(func(head []byte) bool {
		if bytes.Contains(head, []byte("INSERT")) {
			heads = append(heads, string(head))
			return len(heads) == 1
		}
		return false
	})
	records := months(7, 9)
	if _, err := s.WriteRange(t.Context(), rangeOf("resolved", records), records); err != nil {
		t.Fatal(err)
	}
	if len(heads) != 3 || heads[0] != heads[1] {
		t.Fatalf("want one insert twice and one of progress, got:\n%s", strings.Join(heads, "\n"))
	}
	u, err := url.Parse(strings.Fields(heads[0])[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"insert_deduplication_token": "resolved-00000000-0000-0000-0000-000000000000-3-7-9-events", "async_insert": "0", "insert_deduplicate": "1", "deduplicate_insert": "enable", "max_partitions_per_insert_block": "0",
		"deduplicate_blocks_in_dependent_materialized_views": "1", "max_insert_block_size": "1048449", "min_insert_block_size_rows": "1048449",
		"min_insert_block_size_bytes": "268402944", "optimize_on_insert": "1",
	} {
		if got := u.Query().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}

	b := newBatch("resolved")
	var before []byte
	for range 3 { // a used batch gives the same bytes as a new one
		fillBatch(b, records, nil)
		encoded, err := b.tables()[0].encode()
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && !bytes.Equal(before, encoded) {
			t.Error("the same records gave other bytes")
		}
		before = bytes.Clone(encoded)
		b.tables()[0].reset()
		fillBatch(b, months(100, 140), nil)
		b.tables()[0].reset()
	}
}

func TestCut(t *testing.T) {
	big := func(o int64, size int) pipeline.Record { return pipeline.Record{Offset: o, Value: make([]byte, size)} }
	for _, c := range []struct {
		name    string
		records []pipeline.Record
		want    string
	}{
		{"no record", nil, "5-99 "},
		{"gaps between records", []pipeline.Record{big(7, 1), big(9, 1)}, "5-99 "},
		{"bytes", []pipeline.Record{big(7, maxUnitBytes-1), big(9, 1), big(20, 1), big(21, maxUnitBytes), big(30, 1)}, "5-19 20-20 21-29 30-99 "},
		{"one record above the limit", []pipeline.Record{big(7, 2*maxUnitBytes), big(8, 1)}, "5-7 8-99 "},
		{"records", make([]pipeline.Record, maxUnitRecords+1), "5--1 0-99 "},
	} {
		got, n := "", 0
		for _, u := range cut(&origin{}, pipeline.Range{First: 5, Last: 99}, c.records) {
			got += fmt.Sprintf("%d-%d ", u.first, u.last)
			n += len(u.records)
		}
		if got != c.want || n != len(c.records) {
			t.Errorf("%s: got %q with %d records, want %q", c.name, got, n, c.want)
		}
	}
}

func TestLargeRangeFromManyPartitionsAtOnce(t *testing.T) {
	d := newDB(t)
	var wg sync.WaitGroup
	for partition := range int32(6) {
		wg.Go(func() {
			var records []pipeline.Record
			for o := range int64(25) {
				r := resolved(o, `{"type":"track","event":"e","properties":{"n":`+fmt.Sprint(o)+`,"blob":"`+strings.Repeat("x", 500_000)+`"}}`, nil)
				r.Partition = partition
				records = append(records, r)
			}
			for range 2 {
				if _, err := d.sink.WriteRange(t.Context(), rangeOf("resolved", records), records); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d.want(`SELECT count(), uniqExact(kafka_partition, kafka_offset), sum(toUInt64(properties['n'])), min(length(raw)) > 500000 FROM events`, "150\t150\t1800\t1")
	d.want(`SELECT groupUniqArray(next_offset) FROM progress FINAL`, "[25]")
}

func TestResume(t *testing.T) {
	d := newDB(t)
	resume := func(topic string, partition int32, want int64) {
		t.Helper()
		if got, err := d.sink.Resume(t.Context(), topic, pipeline.ID{}, partition); got != want || err != nil {
			t.Errorf("%s %d: got %d %v, want %d", topic, partition, got, err, want)
		}
	}
	resume("resolved", 3, -1)
	r := rangeOf("resolved", months(0, 4))
	r.Last = 7 // transaction markers follow the last record
	d.writeRange(r, months(0, 4))
	d.write("resolved", months(8, 8)...)
	r.Repeated = true
	d.writeRange(r, months(0, 4))
	resume("resolved", 3, 9)
	d.writeRange(pipeline.Range{Topic: "resolved", Partition: 3, First: 9, Last: 14}, nil) // nothing but transaction markers
	resume("resolved", 3, 15)
	resume("resolved", 2, -1)
	resume("changes", 3, -1)
	if _, err := d.sink.WriteRange(t.Context(), pipeline.Range{Topic: "links"}, nil); err == nil {
		t.Error("a topic that the sink does not read was accepted")
	}
}
