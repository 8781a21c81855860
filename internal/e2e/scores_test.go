package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const scoresPipeline = inOrder + `stages:
  - clean
  - dedup
  - profile: {orders_30d: {count: events, event: Order Completed, over: 30d}}
  - score: {engagement: {points: {Product Viewed: 1, Order Completed: 20}, half_life: 7d, cross: [5]}}
  - segment:
      active: orders_30d >= 1
      hot:    engagement >= 5
sinks:
  analytics: {clickhouse: {url: "${URL}"}}
  crm:
    webhook: {url: "${CRM}", secret: "${SECRET}", allow: ["127.0.0.0/8"]}
    when: changed("engagement") or entered("active") or exited("active") or entered("hot") or exited("hot")
`

// TestAScoreAndAWindowReachAnalystsAndCRM follows points that lose half of their worth every 7 days, and orders of 30 days, to the tables
// and to a receiver. At 2026-01-15T10:00 an order of 14 days ago is worth 20/4, a view of 7 days ago 1/2, together 5.5. That is
// 5 after 7 d * log2(5.5/5) = 83162.1312 s, so at 09:06:02.132 of the next day it is less. Both had 20/2^(30/7) + 1/2^(23/7) =
// 1.13 when the order was 30 days old.
func TestAScoreAndAWindowReachAnalystsAndCRM(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		box, data, file := newInbox(t), t.TempDir(), write(t, scoresPipeline)
		_, env := on(t, brokers, "URL="+engine(t), "CRM="+box.server.URL)
		var p *process
		runs := func(clock string) {
			t.Helper()
			if p != nil {
				p.stop()
			}
			p = start(t, file, data, append(env, "MILLSTREAM_CLOCK="+clock)...)
		}
		transitions := func(segment string, want ...string) {
			t.Helper()
			p.answers(t, data, patience, map[string]string{
				"SELECT op, cause, effective_at FROM segment_log WHERE segment = '" + segment + "' AND effective_at > '2026-01-15 10:10:00' ORDER BY sequence": strings.Join(want, "\n"),
			})
		}
		tells := func(want ...string) {
			t.Helper()
			eventually(t, func() error {
				if said := box.scored(); !slices.Equal(said, slices.Sorted(slices.Values(want))) {
					return fmt.Errorf("the receiver was told %q, want %q", said, want)
				}
				return nil
			})
		}

		runs("2026-01-15T10:00:00Z")
		p.batch(t, `{"messageId":"view","type":"track","event":"Product Viewed","userId":"u","timestamp":"2026-01-08T10:00:00Z"}`)
		p.batch(t, `{"messageId":"order","type":"track","event":"Order Completed","userId":"u","timestamp":"2026-01-01T10:00:00Z"}`)
		p.answers(t, data, patience, map[string]string{
			"SELECT round(value, 1), arrayMap(x -> round(x, 1), [reasons['Product Viewed'], reasons['Order Completed']]), trigger_message_id FROM scores": "5.5\t[0.5,5]\torder",
			"SELECT op, cause, segment FROM segment_log ORDER BY segment":                                                                                 "enter\tlive\tactive\nenter\tlive\thot",
			// To the digit, by the time at which it was computed.
			"SELECT max(abs(value - 20 * exp2(-(toUnixTimestamp64Milli(at) - toUnixTimestamp64Milli(toDateTime64('2026-01-01 10:00:00', 3, 'UTC'))) / 604800000)" +
				" - exp2(-(toUnixTimestamp64Milli(at) - toUnixTimestamp64Milli(toDateTime64('2026-01-08 10:00:00', 3, 'UTC'))) / 604800000))) < 1e-9 FROM scores": "1",
		})
		first := []string{"changed 5.50", "entered active 5.50", "entered hot 5.50"}
		tells(first...)

		runs("2026-01-17T00:00:00Z")
		transitions("hot", "exit\ttimer\t2026-01-16 09:06:02.132")
		p.answers(t, data, patience, map[string]string{
			"SELECT round(value, 6), value < 5, at, trigger_message_id FROM scores WHERE value < 5.4": "5\t1\t2026-01-16 09:06:02.132\t",
		})
		second := append(slices.Clip(first), "changed 5.00", "exited hot 5.00")
		tells(second...)

		runs("2026-02-01T00:00:00Z")
		transitions("active", "exit\ttimer\t2026-01-31 10:00:00.000")
		tells(append(slices.Clip(second), "exited active 1.13")...)
		p.stop()
		box.check(t)
	})
}

// scored is what has arrived, sorted, with the profile's score to two digits: "entered hot 5.50".
func (b *inbox) scored() (said []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.order {
		c := &b.order[i]
		_, verb, _ := strings.Cut(c.Type, ".")
		line := verb
		if c.Data.Segment != "" {
			line += " " + c.Data.Segment
		}
		said = append(said, line+fmt.Sprintf(" %.2f", c.Data.Profile.Scores["engagement"]))
	}
	slices.Sort(said)
	return said
}
