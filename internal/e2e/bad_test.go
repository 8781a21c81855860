package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

const clickhousePipeline = onTheWeb + `stages: [clean, dedup, profile: {orders: {count: events, event: Order Completed}}]
sinks:
  analytics: {clickhouse: {url: "${URL}"}}
`

// TestBadEventsAreDeadLettersAndTheirNeighboursPass posts ten events of which four cannot be accepted; their bytes must be
// in dead_letters as they were posted, and the one whose id means nobody is kept without a profile.
func TestBadEventsAreDeadLettersAndTheirNeighboursPass(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		data := t.TempDir()
		_, env := on(t, brokers, "URL="+engine(t))
		p := start(t, write(t, clickhousePipeline), data, env...)
		bad := map[string]string{
			"type_missing": `{"messageId":"b1", "userId":"u1","event":"X"}`,
			"field_type":   `{"messageId":"b2","type":"track","event":"X","userId":{"id":  1}}`,
			"properties":   `{"messageId":"b3","type":"track","event":"X","userId":"u1","properties":[1]}`,
			"not_utf8":     "{\"messageId\":\"b4\",\"type\":\"track\",\"event\":\"X\",\"userId\":\"\xff\"}",
		}
		var events []string
		for i := range 5 {
			events = append(events, fmt.Sprintf(`{"messageId":"g%d","type":"track","event":"X","userId":"u%d"}`, i, i))
		}
		events = append(events, bad["type_missing"], bad["field_type"], bad["properties"], bad["not_utf8"],
			`{"messageId":"n1","type":"track","event":"X","userId":"null"}`)
		p.batch(t, events...)
		p.answers(t, data, patience, map[string]string{
			"SELECT count(), countIf(primary_id = toUUID('00000000-0000-0000-0000-000000000000')) FROM events": "6\t1",
			"SELECT count() FROM people":                  "5",
			"SELECT code FROM dead_letters ORDER BY code": "field_type\nfield_type\nnot_utf8\ntype_missing",
		})
		got, err := p.clickhouse(data, "SELECT arrayStringConcat(groupArray(base64Encode(payload)), ' ') FROM dead_letters")
		if err != nil {
			t.Fatal(err)
		}
		for name, payload := range bad {
			if !strings.Contains(got, base64.StdEncoding.EncodeToString([]byte(payload))) {
				t.Errorf("the dead letters do not hold the bytes of %s", name)
			}
		}
		p.stop()
	})
}
