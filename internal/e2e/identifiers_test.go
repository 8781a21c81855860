package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

const identifiersPipeline = `
pipeline: shop
kafka: {brokers: embedded, partitions: 2}
sources:
  web: {http: {listen: "127.0.0.1:0", write_keys: {site: key}}}
stages:
  - clean: {}
  - identity:
      key: "e2e"
      ids: [{user_id: {limit: 1}}, {email: {from: [traits.email]}}, {anonymous_id: {limit: 500}}]
  - profile: {n: {count: events}}
sinks:
  analytics: {clickhouse: {url: embedded}}
`

// TestIdentifiersAreWhose: table identifiers has every identifier as it was written, with the profile that it belongs to now:
// after a login, a login on somebody else's device, corrections, and restarts.
func TestIdentifiersAreWhose(t *testing.T) {
	needEngine(t)
	n := naming{pipeline.NewIdentities([]byte("e2e"))}
	file, data := write(t, identifiersPipeline), filepath.Join(t.TempDir(), "data")
	p := start(t, file, data)
	whose := func(want ...string) {
		t.Helper()
		p.answers(t, data, patience, map[string]string{
			"SELECT type, value, id, profile_id FROM identifiers FINAL ORDER BY type, value":                                                                               strings.Join(want, "\n"),
			"SELECT count() FROM identifiers AS i FINAL LEFT JOIN overrides AS o FINAL ON i.id = o.primary_id WHERE i.profile_id != if(o.version = 0, i.id, o.profile_id)": "0",
		})
	}
	row := func(kind, value, whose string) string {
		return kind + "\t" + value + "\t" + n.id(kind, value).String() + "\t" + whose
	}
	send := func(events ...string) {
		t.Helper()
		for _, e := range events {
			if s := post(p.http(), `{"batch":[`+e+`]}`); s != 200 {
				t.Fatalf("answered with %d, want 200", s)
			}
		}
	}
	correct := func(args ...string) {
		t.Helper()
		if out, said, status := identity(t, nil, append([]string{args[0], file, "--data", data}, args[1:]...)...); status != 0 {
			t.Fatalf("%v: status %d, %s %s", args, status, out, said)
		}
	}
	bob, visitor := n.user("bob"), n.anonymous("visitor")

	send(`{"messageId":"1","type":"page","anonymousId":"visitor"}`)
	whose(row("anonymous_id", "visitor", visitor))
	send(`{"messageId":"2","type":"identify","anonymousId":"visitor","userId":"bob","traits":{"email":"A@b.c"}}`)
	whose(row("anonymous_id", "visitor", bob), row("email", "a@b.c", bob), row("user_id", "bob", bob))
	send(`{"messageId":"3","type":"identify","anonymousId":"visitor","userId":"alice"}`)
	alice := row("user_id", "alice", n.user("alice"))
	whose(row("anonymous_id", "visitor", bob), row("email", "a@b.c", bob), alice, row("user_id", "bob", bob))

	// No event shows the address without bob: its value goes along. People are made anew by that, and bob, whose id is smaller
	// than alice's, keeps the device.
	correct("unlink", "user_id:bob", "email:a@b.c")
	whose(row("anonymous_id", "visitor", bob), row("email", "a@b.c", n.id("email", "a@b.c").String()), alice, row("user_id", "bob", bob))
	send(`{"messageId":"4","type":"page","userId":"carol"}`)
	correct("link", "user_id:carol", "email:a@b.c")
	whose(row("anonymous_id", "visitor", bob), row("email", "a@b.c", n.user("carol")), alice, row("user_id", "bob", bob), row("user_id", "carol", n.user("carol")))
	before, err := p.clickhouse(data, "SELECT count() FROM identifiers")
	if err != nil {
		t.Fatal(err)
	}
	if s := p.stop(); s != 130 {
		t.Errorf("exit status %d after SIGTERM, want 130", s)
	}

	p = start(t, file, data)
	send(`{"messageId":"5","type":"identify","anonymousId":"visitor","userId":"bob","traits":{"email":"a@b.c"}}`) // nothing new
	p.answers(t, data, patience, map[string]string{"SELECT count() FROM events": "5", "SELECT aggregates['n'] FROM people WHERE person_id = '" + bob + "'": "3"})
	if after, err := p.clickhouse(data, "SELECT count() FROM identifiers"); err != nil || after > before {
		t.Errorf("%s rows, and %s before an event that shows nothing new: %v", after, before, err)
	}

	// What a kiosk sends between two logins is of the first one, also if all of it comes at once.
	send(`{"messageId":"6","type":"page","anonymousId":"kiosk"},{"messageId":"7","type":"identify","anonymousId":"kiosk","userId":"dave"},` +
		`{"messageId":"8","type":"page","anonymousId":"kiosk"},{"messageId":"9","type":"identify","anonymousId":"kiosk","userId":"erin"},{"messageId":"10","type":"page","anonymousId":"kiosk"}`)
	p.answers(t, data, patience, map[string]string{
		"SELECT count() FROM events": "10",
		"SELECT aggregates['n'] FROM people WHERE person_id = '" + n.user("dave") + "'":                                               "3",
		"SELECT aggregates['n'] FROM people WHERE person_id = '" + n.user("erin") + "'":                                               "1",
		"SELECT aggregates['n'] FROM people WHERE person_id = '" + n.Ambiguous(n.id("anonymous_id", "kiosk")).String() + "'":          "1",
		"SELECT profile_id = toUUID('" + n.user("dave") + "') FROM identifiers FINAL WHERE type = 'anonymous_id' AND value = 'kiosk'": "1",
	})
	if s := p.stop(); s != 130 {
		t.Errorf("exit status %d after SIGTERM, want 130", s)
	}
}
