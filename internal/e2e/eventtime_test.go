package e2e

import (
	"fmt"
	"testing"
)

const eventTimePipeline = known + `  - profile:
      plan:       {latest: traits.plan}
      first_plan: {first: traits.plan}
sinks:
  analytics: {clickhouse: {url: "${URL}"}}
`

// TestEventTimeDecides: what is first and latest is so by the time at which things happened, whatever the order in which they are
// sent; a clock that is years ahead is corrected by the time of sending, and without that nobody lives in the future.
func TestEventTimeDecides(t *testing.T) {
	needEngine(t)
	eachBroker(t, func(t *testing.T, brokers []string) {
		_, env := on(t, brokers, "URL="+engine(t))
		data := t.TempDir()
		p := start(t, write(t, eventTimePipeline), data, env...)
		identify := func(user, id, at, traits string) string {
			return fmt.Sprintf(`{"type":"identify","userId":%q,"messageId":%q,"timestamp":%q,"traits":{%s}}`, user, user+id, at, traits)
		}
		said := []struct{ at, traits string }{
			{"2026-01-02T11:00:00Z", `"plan":"pro"`}, {"2026-01-02T10:00:00Z", `"plan":"free"`},
			{"2026-01-02T10:30:00Z", `"city":null`}, {"2026-01-02T10:15:00Z", `"city":"Rome"`},
		}
		var events []string
		orders := 0
		for a := range 4 {
			for b := range 4 {
				for c := range 4 {
					d := 6 - a - b - c
					if a == b || a == c || b == c || d < 0 || d > 3 || d == a || d == b || d == c {
						continue
					}
					for _, i := range []int{a, b, c, d} {
						events = append(events, identify(fmt.Sprint("order-", orders), fmt.Sprint("-", i), said[i].at, said[i].traits))
					}
					orders++
				}
			}
		}
		events = append(events, // at one time the message ids decide
			identify("tie", "-2", "2026-01-02T10:00:00Z", `"plan":"y"`), identify("tie", "-1", "2026-01-02T10:00:00Z", `"plan":"x"`))
		p.batch(t, events...)
		p.batch(t, `{"type":"track","event":"x","userId":"future","messageId":"f","timestamp":"2031-01-01T10:00:00Z"}`)
		eventually(t, func() error {
			if s := post(p.http(), `{"sentAt":"2031-01-01T10:00:05Z","batch":[{"type":"track","event":"x","userId":"fast clock","messageId":"c","timestamp":"2031-01-01T10:00:00Z"}]}`); s != 200 {
				return fmt.Errorf("answered with %d", s)
			}
			return nil
		})
		p.answers(t, data, patience, map[string]string{
			"SELECT count(), countIf(traits['plan'] = 'pro' AND traits['first_plan'] = 'free' AND NOT mapContains(traits, 'city')) FROM people WHERE startsWith(arrayElement(identifiers['user_id'], 1), 'order-')": "24\t24",
			"SELECT traits['plan'], traits['first_plan'] FROM people WHERE has(identifiers['user_id'], 'tie')":                                                                                                      "y\tx",
			"SELECT dateDiff('millisecond', time, received_at) FROM events WHERE user_id = 'fast clock'":                                                                                                            "5000",
			"SELECT dateDiff('millisecond', received_at, time) FROM events WHERE user_id = 'future'":                                                                                                                "300000",
			"SELECT count() FROM dead_letters": "0",
		})
		p.stop()
	})
}
