package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

var (
	oldTopic = id("aaaaaaaa-0000-4000-8000-000000000001")
	newTopic = id("bbbbbbbb-0000-4000-8000-000000000002")
)

// writeOf is write for a topic with an id.
func (d *db) writeOf(topicID pipeline.ID, topic string, records ...pipeline.Record) {
	d.t.Helper()
	r := rangeOf(topic, records)
	r.TopicID = topicID
	d.writeRange(r, records)
}

// A topic is deleted and made again: its offsets start over, and its first ranges have the numbers, and even the contents, of
// ranges that are in the tables already.
func TestTopicMadeAgain(t *testing.T) {
	d := newDB(t)
	d.userView()
	for topic, records := range map[string][]pipeline.Record{
		"resolved": months(0, 39), "changes": numbered(0, 39, transition), "deliveries": numbered(0, 38, delivery), "dead_letters": numbered(0, 39, letter),
	} {
		partition, next := records[0].Partition, records[len(records)-1].Offset+1
		d.writeOf(oldTopic, topic, records...)
		if n, err := d.sink.Resume(t.Context(), topic, oldTopic, partition); n != next || err != nil {
			t.Errorf("%s: resume of the old topic: %d %v", topic, n, err)
		}
		if n, err := d.sink.Resume(t.Context(), topic, newTopic, partition); n != -1 || err != nil {
			t.Errorf("%s: resume of the new topic: %d %v, want -1: it has stored nothing of it", topic, n, err)
		}
		for _, repeated := range []bool{false, false, true} {
			r := rangeOf(topic, records)
			r.TopicID, r.Repeated = newTopic, repeated
			d.writeRange(r, records)
		}
		if n, err := d.sink.Resume(t.Context(), topic, newTopic, partition); n != next || err != nil {
			t.Errorf("%s: resume of the new topic: %d %v", topic, n, err)
		}
		if n := d.log.count(`topic=` + topic + ` `); n != 1 {
			t.Errorf("%d lines about the topic %s:\n%s", n, topic, d.log)
		}
	}
	d.want(`SELECT (SELECT count() FROM events), (SELECT sum(n) FROM daily), (SELECT count() FROM segment_log), (SELECT count() FROM deliveries), (SELECT count() FROM dead_letters)`, "80\t80\t80\t78\t80")
	d.want(`SELECT topic_id, count(), min(kafka_offset), max(kafka_offset) FROM events GROUP BY topic_id ORDER BY topic_id`, "\n\t\t"+oldTopic.String()+"\t40\t0\t39\n\t\t"+newTopic.String()+"\t40\t0\t39")
	d.want(`SELECT topic_id, kafka_partition, next_offset FROM progress FINAL WHERE topic = 'resolved' ORDER BY topic_id`, "\n\t\t"+oldTopic.String()+"\t3\t40\n\t\t"+newTopic.String()+"\t3\t40")

	before := d.log.count("made again")
	s, err := d.open(t.Context()) // a restart is not a new topic
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := s.Resume(t.Context(), "resolved", newTopic, 3); n != 40 || err != nil {
		t.Errorf("resume after a restart: %d %v", n, err)
	}
	if n := d.log.count("made again"); n != before || n != 4 {
		t.Errorf("%d lines about new topics, %d of them after a restart, want 4 and 0", n, n-before)
	}
}

// Rows of the old topic must not be taken for those of a range of the new one that was cut short long ago.
func TestOldRangeOfATopicMadeAgain(t *testing.T) {
	for topic, records := range map[string][]pipeline.Record{"resolved": months(100, 160), "changes": numbered(100, 160, transition)} {
		d := newDB(t)
		table := map[string]string{"resolved": "events", "changes": "segment_log"}[topic]
		d.query("ALTER TABLE " + table + " MODIFY SETTING non_replicated_deduplication_window = 4")
		d.sink.windows[table] = 4
		d.writeOf(oldTopic, topic, records...)
		r := rangeOf(topic, records)
		r.TopicID = newTopic
		d.writeRange(r, records[:20])
		for o := int64(900); o < 912; o++ {
			record := map[string]func(int64) pipeline.Record{"resolved": func(o int64) pipeline.Record { return months(o, o)[0] }, "changes": transition}[topic]
			d.writeOf(newTopic, topic, record(o))
		}
		r.Repeated = true
		for range 2 {
			d.writeRange(r, records)
		}
		d.want("SELECT count() FROM "+table, fmt.Sprint(2*len(records)+12))
		if !strings.Contains(d.log.String(), "old try") {
			t.Errorf("%s: the range was not taken for an old one", topic)
		}
	}
}

// The state is lost with its topics, so versions and sequences start over: the new ones must count all the same.
func TestProfilesAndSegmentsOfATopicMadeAgain(t *testing.T) {
	d := newDB(t)
	plan := func(offset int64, who pipeline.ID, plan string, version int) pipeline.Record {
		return change(offset, who, pipeline.ProfileUpdated, strings.ReplaceAll(aliceDocument, `"plan":"pro"`, `"plan":"`+plan+`"`), fmt.Sprintf(`{"version":%d}`, version))
	}
	d.writeOf(oldTopic, "changes",
		plan(0, alice, "old", 7), plan(1, bob, "old", 9),
		moved(2, alice, pipeline.SegmentEntered, "vip", "2026-08-01T08:00:00Z", 1),
		moved(3, alice, pipeline.SegmentExited, "vip", "2026-08-01T09:00:00Z", 2),
		moved(4, alice, pipeline.SegmentEntered, "vip", "2026-08-01T10:00:00Z", 3),
		moved(5, bob, pipeline.SegmentEntered, "vip", "2026-08-01T10:00:00Z", 1))
	d.writeOf(newTopic, "changes",
		plan(0, alice, "new", 1),
		moved(1, alice, pipeline.SegmentEntered, "vip", "2026-08-02T08:00:00Z", 1))
	d.want(`SELECT person_id, traits['plan'] FROM people ORDER BY person_id`, "\n\t\t"+alice.String()+"\tnew\n\t\t"+bob.String()+"\told")
	d.want(`SELECT profile_id, since FROM segment_members ORDER BY profile_id`, "\n\t\t"+alice.String()+"\t2026-08-02 08:00:00.000\n\t\t"+bob.String()+"\t2026-08-01 10:00:00.000")
	d.want(`SELECT hour, size, entered, exited FROM segment_sizes ORDER BY hour`, `
		2026-08-01 08:00:00	1	1	0
		2026-08-01 09:00:00	0	0	1
		2026-08-01 10:00:00	2	2	0
		2026-08-02 08:00:00	2	1	0`)
	d.writeOf(newTopic, "changes", moved(2, alice, pipeline.SegmentExited, "vip", "2026-08-03T08:00:00Z", 2))
	d.want(`SELECT profile_id FROM segment_members`, bob.String())
	d.want(`SELECT size FROM segment_sizes ORDER BY hour DESC LIMIT 1`, "1")

	d.writeOf(id("cccccccc-0000-4000-8000-000000000003"), "changes", plan(0, alice, "newest", 1))
	d.want(`SELECT traits['plan'] FROM people WHERE person_id = '`+alice.String()+`'`, "newest")
	d.want(`SELECT topic_id, turns FROM topic_ids WHERE topic = 'changes' ORDER BY topic_id`, "\n\t\t"+oldTopic.String()+"\t0\n\t\t"+newTopic.String()+"\t1\n\t\tcccccccc-0000-4000-8000-000000000003\t2")
}

// Processes that meet a topic at the same time must agree on what its versions begin with.
func TestTopicIsNotedOnce(t *testing.T) {
	d := newDB(t)
	d.writeOf(oldTopic, "changes", change(0, alice, pipeline.ProfileUpdated, aliceDocument, `{"version":4294967300}`))
	var wg sync.WaitGroup
	for range 4 {
		s, err := d.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		wg.Go(func() {
			if o, err := s.origin(t.Context(), "changes", newTopic); err != nil || o.turns != 2 {
				t.Errorf("got %v %v", o, err)
			}
		})
	}
	wg.Wait()
	d.want(`SELECT count() FROM topic_ids WHERE topic_id = '`+newTopic.String()+`'`, "1")
}

// A database of before topic ids: its rows stay, and nobody goes on at its offsets.
func TestDatabaseOfBeforeTopicIDs(t *testing.T) {
	d := &db{t: t, url: sharedEngine(t).URL(), name: newName(), log: new(logLines)}
	steps, err := readMigrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	migrateTo(t, d, steps[:2])
	d.query(`INSERT INTO events (message_id, kafka_partition, kafka_offset, time) VALUES ('old', 3, 7, '2026-08-01 00:00:00')`)
	d.query(`INSERT INTO progress VALUES ('resolved', 3, 8, '2026-08-01 00:00:00'), ('resolved', 4, 2, '2026-08-01 00:00:00')`)
	d.query(`INSERT INTO profiles (profile_id, version) VALUES ('` + alice.String() + `', 5)`)
	if d.sink, err = d.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer d.sink.Close()
	if n, err := d.sink.Resume(t.Context(), "resolved", newTopic, 3); n != -1 || err != nil {
		t.Errorf("resume: %d %v", n, err)
	}
	d.writeOf(newTopic, "resolved", months(7, 7)...)
	d.writeOf(newTopic, "changes", change(0, alice, pipeline.ProfileUpdated, aliceDocument, `{"version":1}`))
	d.want(`SELECT topic_id, kafka_partition, next_offset FROM progress FINAL WHERE topic = 'resolved' ORDER BY ALL`, `
		00000000-0000-0000-0000-000000000000	3	8
		00000000-0000-0000-0000-000000000000	4	2
		`+newTopic.String()+`	3	8`)
	d.want(`SELECT topic_id, message_id FROM person_events ORDER BY topic_id`, "\n\t\t00000000-0000-0000-0000-000000000000\told\n\t\t"+newTopic.String()+"\tmh")
	d.want(`SELECT traits['plan'] FROM people`, "pro")
	d.want(`SELECT sorting_key FROM system.tables WHERE database = currentDatabase() AND name = 'progress'`, "topic, kafka_partition, topic_id")
	if strings.Contains(d.log.String(), "made again") {
		t.Errorf("an upgrade was taken for a new topic:\n%s", d.log)
	}
}

// migrateTo makes the database as an older build would.
func migrateTo(t *testing.T, d *db, steps []migration) {
	t.Helper()
	a, err := parseAddress(pipeline.NewSecret(stripQuery(d.url)), pipeline.Secret{}, d.name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSink(a, slog.New(slog.NewTextHandler(d.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, do := range []func(context.Context) error{s.createDatabase, func(ctx context.Context) error { return s.migrate(ctx, steps) }} {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
