package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

const snowplowPipeline = `
pipeline: snowplow
sources:
  web:
    file:
      path: "${SNOWPLOW}/snowplow_web_events.csv"
      set: {type: track}
      map: {user_id: user_id, anonymous_id: domain_userid, message_id: event_id, event: event_name, timestamp: derived_tstamp}
      time_format: "2006-01-02 15:04:05.999"
stages:
  - clean
  - dedup
  - identity: {ids: [user_id: {limit: 1}, anonymous_id: {limit: 500}]}
  - profile:
      page_views: {count: events, event: page_view}
      sessions:   {unique: properties.domain_sessionid}
sinks:
  analytics: {clickhouse: {url: embedded}}
`

// TestSnowplowsEdgeCases loads the events with which Snowplow tests its model of web users. Its expected users are ours, except
// where docs/identity.md says why not.
func TestSnowplowsEdgeCases(t *testing.T) {
	t.Parallel()
	needEngine(t)
	folder := shared(t, "snowplow-web-edge-cases")
	data := t.TempDir()
	p := start(t, write(t, snowplowPipeline), data, "SNOWPLOW="+folder)
	p.answers(t, data, loading, map[string]string{
		// Three of the 160 have the id of another one but not its content: the first counts, and the others are kept aside.
		"SELECT count(), uniqExact(message_id) FROM events":    "157\t157",
		"SELECT code, count() FROM dead_letters GROUP BY code": "id_conflict\t3",
	})
	// By user: page views and sessions as Snowplow expects them, and as they are here.
	differ := map[string]string{
		"No edge cases":   "6 3 -> 4 3", // Snowplow counts a page ping without a page view as one
		"stray page ping": "2 2 -> 1 2", // likewise
		"dupe: page_view_id different derived_tstamp": "7 1 -> 8 1", // eight events with eight ids: only Snowplow knows of page views sent twice
		"long session":                     "2 1 -> 4 1", // Snowplow ends a session after three days
		"Unexpired session":                "1 1 -> 2 1", // likewise
		"user stitch - session: 1st id: 1": "7 2 -> 1 1", // ten people who log in on one device: see below
	}
	for _, row := range readTable(t, filepath.Join(folder, "snowplow_web_users_expected.csv")) {
		user, expected := row["user_id"], row["page_views"]+" "+row["sessions"]
		eventually(t, func() error {
			answer, err := p.clickhouse(data, "SELECT toString(aggregates['page_views']) || ' ' || toString(aggregates['sessions']) FROM people WHERE has(identifiers['user_id'], '"+user+"')")
			if err != nil {
				return err
			}
			want := expected
			if d, ok := differ[user]; ok {
				want = d[strings.Index(d, "-> ")+3:]
				if !strings.HasPrefix(d, expected+" ") {
					t.Errorf("%s: Snowplow expects %s, the test says %s", user, expected, d)
				}
			}
			if got := strings.TrimSpace(answer); got != want {
				return fmt.Errorf("%s: page views and sessions %q, want %q", user, got, want)
			}
			return nil
		})
	}
	p.answers(t, data, loading, map[string]string{
		// One user with three cookies is one person; ten users of one cookie stay ten.
		"SELECT count(), any(length(identifiers['anonymous_id'])) FROM people WHERE has(identifiers['user_id'], 'Rotating domain_userid per session')": "1\t3",
		"SELECT count() FROM people WHERE arrayExists(u -> startsWith(u, 'user stitch'), identifiers['user_id'])":                                      "10",
		"SELECT max(length(identifiers['user_id'])) FROM people":                                                                                       "1",
		// Consent given again and again by one user with 26 cookies, and an event without a cookie.
		"SELECT count(), any(length(identifiers['anonymous_id'])) FROM people WHERE has(identifiers['user_id'], 'consent_accel')":      "1\t26",
		"SELECT count(), any(length(identifiers['anonymous_id'])) FROM people WHERE has(identifiers['user_id'], 'NULL domain_userid')": "1\t0",
	})
	p.stop()
}
