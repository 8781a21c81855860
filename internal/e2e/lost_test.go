package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
)

const lostPipeline = onTheWeb + `stages:
  - clean
  - dedup
  - profile: {orders: {count: events, event: Order Completed}}
  - segment: {buyer: orders >= 1}
sinks:
  analytics: {clickhouse: {url: "${URL}"}}
`

// TestTopicsThatAreLostAndMadeAgain deletes all topics of a pipeline whose ClickHouse stays, and sends as many events again:
// every row of both is there, and the profiles are those of the new state.
func TestTopicsThatAreLostAndMadeAgain(t *testing.T) {
	t.Parallel()
	needEngine(t)
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		brokers := testenv.Kafka(t)
		name, env := on(t, brokers, "URL="+engine(t))
		lose(t, env, func(string) { // with tools of Kafka; the data folder stays
			for _, topic := range topics(t, brokers, name+".") {
				deleteTopic(t, brokers, name+"."+topic)
			}
		})
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		lose(t, []string{"NAME=lost", "BROKERS=embedded", "URL=embedded"}, func(data string) { // all but ClickHouse
			for _, part := range []string{"broker", "state", "instance"} {
				if err := os.RemoveAll(filepath.Join(data, part)); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
}

// lose sends 40 events of 20 people, ends the process, deletes the topics, and sends 40 events of the same 20 and 20 others.
func lose(t *testing.T, env []string, deleteTopics func(data string)) {
	file, data := write(t, lostPipeline), t.TempDir()
	send := func(p *process, prefix string, people int) {
		t.Helper()
		var events []string
		for i := range 40 {
			events = append(events, fmt.Sprintf(`{"messageId":"%s-%d","type":"track","event":"Order Completed","userId":"u%d"}`, prefix, i, i%people))
		}
		p.batch(t, events...)
	}
	p := start(t, file, data, env...)
	send(p, "old", 20)
	p.answers(t, data, patience, map[string]string{
		"SELECT count(), uniqExact(message_id) FROM events":                          "40\t40",
		"SELECT count(), sum(aggregates['orders']) FROM people":                      "20\t40",
		"SELECT sum(next_offset) >= 40 FROM progress FINAL WHERE topic = 'resolved'": "1",
		"SELECT count() > 0 FROM progress FINAL WHERE topic = 'changes'":             "1",
		"SELECT count() FROM segment_members":                                        "20",
	})
	p.stop()
	deleteTopics(data)

	p = start(t, file, data, env...)
	send(p, "new", 40)
	p.answers(t, data, patience, map[string]string{
		"SELECT countIf(startsWith(message_id, 'old')), countIf(startsWith(message_id, 'new')), count(), uniqExact(message_id) FROM events": "40\t40\t80\t80",
		"SELECT n FROM (SELECT topic_id, count() AS n, min(kafka_offset) FROM events GROUP BY topic_id)":                                    "40\n40",
		"SELECT uniqExact(topic_id), count() FROM progress FINAL WHERE topic = 'resolved'":                                                  "2\t4",
		// One order each by the new topics; what the old ones had counted is lost with them.
		"SELECT count(), sum(aggregates['orders']) FROM people":     "40\t40",
		"SELECT count() FROM segment_members":                       "40",
		"SELECT size FROM segment_sizes ORDER BY hour DESC LIMIT 1": "40",
		"SELECT count() FROM segment_log":                           "60",
		"SELECT count() FROM dead_letters":                          "0",
	})
	says := func(topic string) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, l := range p.lines {
			if strings.Contains(l, "level=WARN") && strings.Contains(l, "the topic was made again") && strings.Contains(l, "topic="+topic+" ") {
				return nil
			}
		}
		return errors.New("no warning says that the topic " + topic + " was made again")
	}
	for _, topic := range []string{"resolved", "changes"} {
		if err := says(topic); err != nil {
			t.Error(err)
		}
	}
	p.stop()
}

// TestATopicIsMadeAgainWhileItIsRead makes `dead_letters`, which only ClickHouse reads, again under a running pipeline.
func TestATopicIsMadeAgainWhileItIsRead(t *testing.T) {
	needEngine(t)
	eachBroker(t, func(t *testing.T, brokers []string) {
		data := t.TempDir()
		name, env := on(t, brokers, "URL="+engine(t))
		p := start(t, write(t, lostPipeline), data, env...)
		bad := func(prefix string) {
			t.Helper()
			var events []string
			for i := range 20 {
				events = append(events, fmt.Sprintf(`{"messageId":"%s-%d","userId":"u%d"}`, prefix, i, i))
			}
			p.batch(t, events...)
		}
		bad("old")
		p.answers(t, data, patience, map[string]string{"SELECT count() FROM dead_letters": "20"})
		deleteTopic(t, brokers, name+".dead_letters")
		makeTopic(t, brokers, name+".dead_letters", 2)
		bad("new")
		p.answers(t, data, patience, map[string]string{
			"SELECT count(), uniqExact(payload) FROM dead_letters":                  "40\t40",
			"SELECT uniqExact(topic_id) FROM progress WHERE topic = 'dead_letters'": "2",
			"SELECT count() FROM topic_ids WHERE topic = 'dead_letters'":            "2",
		})
	})
}
