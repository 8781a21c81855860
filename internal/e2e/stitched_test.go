package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

const peoplePipeline = known + shopping + `sinks:
  out:       {file: {path: "${OUT}"}}
  analytics: {clickhouse: {url: "${URL}"}}
  crm:
    webhook: {url: "${CRM}", secret: "${SECRET}", allow: ["127.0.0.0/8"]}
    when: merged() or entered("loyal") or exited("loyal") or entered("viewed") or exited("viewed") or entered("never_bought")
`

// shoppers is how many people buy before they log in, and members how many share one address.
const (
	shoppers = 200
	members  = 60
	guests   = 300 // anonymous ids that a server library invents beside one user
)

// stitching is a run of peoplePipeline.
type stitching struct {
	naming
	t     *testing.T
	file  string
	data  string
	out   string
	env   []string
	inbox *inbox
	p     *process
	sent  int // events that must be in ClickHouse
}

// TestPeopleAreStitched plays the traps of identity stitching through one pipeline, corrects people with the commands, and
// compares what file sink, ClickHouse and receiver know of everybody, also after the data folder was lost.
func TestPeopleAreStitched(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		s := &stitching{t: t, file: write(t, peoplePipeline), data: t.TempDir(), out: t.TempDir(), inbox: newInbox(t)}
		name, env := on(t, brokers, "URL="+engine(t), "OUT="+s.out, "CRM="+s.inbox.server.URL)
		s.env, s.naming = env, naming{pipeline.NewIdentities([]byte(name))}
		s.refuseEarly()
		s.p = start(t, s.file, s.data, s.env...)
		s.strangers()
		s.logins()
		s.corrections()
		s.startAgain()
		s.inbox.check(t)
		s.p.stop()
		s.onceInTheFile()
	})
}

// send posts events that are all accepted: {"messageId":M and the time are added.
func (s *stitching) send(events ...string) {
	s.t.Helper()
	for i, e := range events {
		events[i] = fmt.Sprintf(`{"messageId":"m%d",%s}`, s.sent, e)
		s.sent++
	}
	s.p.batch(s.t, events...)
}

func viewed(at, who string) string {
	return `"type":"track","event":"Product Viewed","timestamp":"2026-01-02T` + at + `:00Z",` + who
}

func bought(at, who, revenue string) string {
	return `"type":"track","event":"Order Completed","timestamp":"2026-01-02T` + at + `:00Z","properties":{"revenue":` + revenue + `},` + who
}

func identified(at, who string) string {
	return `"type":"identify","timestamp":"2026-01-02T` + at + `:00Z",` + who
}

// both names a user at a device.
func both(user, device string) string {
	return `"userId":"` + user + `","anonymousId":"` + device + `"`
}

func device(d string) string { return `"anonymousId":"` + d + `"` }

// pair is a device that says which other one it was.
func pair(a, b string) string {
	return device(a) + `,"context":{"externalIds":[{"type":"anonymous_id","id":"` + b + `"}]}`
}

// answers asks ClickHouse; see process.answers.
func (s *stitching) answers(want map[string]string) {
	s.t.Helper()
	want["SELECT uniqExact(message_id), count() FROM events"] = fmt.Sprintf("%d\t%d", s.sent, s.sent)
	s.p.answers(s.t, s.data, patience, want)
}

// counted is what one person has: views, orders, revenue and segments.
func (s *stitching) counted(profile, want string) {
	s.t.Helper()
	s.p.answers(s.t, s.data, patience, map[string]string{
		"SELECT aggregates['views'], aggregates['orders'], aggregates['revenue'], arrayStringConcat(arraySort(segments), ' ') FROM people WHERE person_id = '" + profile + "'": want,
	})
}

// agree waits until file sink and ClickHouse tell the same of everybody.
func (s *stitching) agree() {
	s.t.Helper()
	eventually(s.t, func() error {
		a, err := alive(s.out)
		if err != nil {
			return err
		}
		b, err := s.p.inClickHouse(s.data)
		if err != nil {
			return err
		}
		if err := samePeople(a, b); err != nil {
			return fmt.Errorf("file sink and ClickHouse: %w", err)
		}
		return nil
	})
}

// strangers is the time before anybody logs in.
func (s *stitching) strangers() {
	late := `,"traits":{"color":"red"}`
	events := []string{viewed("10:00", device("late-a")), viewed("10:01", device("late-a")), bought("10:05", `"userId":"late-u"`, "50.00"),
		identified("09:00", device("late-a")+late),
		viewed("09:00", device("visitor")),
		identified("09:05", both("alice", "D")), viewed("09:10", device("D"))}
	for i := range shoppers {
		d := device(fmt.Sprintf("shopper-%d", i))
		events = append(events, viewed("08:00", d), bought("08:01", d, "10.00"))
	}
	for i := range members {
		events = append(events, identified("08:00", fmt.Sprintf(`"userId":"member-%d","traits":{"email":"Info@example.com"}`, i)))
	}
	for i := range guests {
		events = append(events, viewed("08:00", both("busy", fmt.Sprintf("guest-%d", i))+`,"channel":"server"`))
	}
	for range 2 {
		events = append(events, viewed("08:00", pair("ring-a", "ring-b")), viewed("08:01", pair("ring-b", "ring-c")), viewed("08:02", pair("ring-c", "ring-a")))
	}
	for i, nobody := range []string{"null", "0", " ", "undefined", "[object Object]", "00000000-0000-0000-0000-000000000000"} {
		events = append(events, viewed("08:00", both(nobody, nobody)), viewed("08:00", both(fmt.Sprintf("someone-%d", i%2), nobody)))
	}
	s.send(events...)
	s.badInput()
	s.answers(map[string]string{
		"SELECT count() FROM person_events WHERE has_person = 0":                                                    "6",
		"SELECT count() FROM people WHERE startsWith(arrayElement(identifiers['user_id'], 1), 'member-')":           fmt.Sprint(members),
		"SELECT uniqExact(person_id) FROM person_events WHERE startsWith(user_id, 'member-')":                       fmt.Sprint(members),
		"SELECT uniqExact(person_id) FROM person_events WHERE user_id = 'busy'":                                     "1",
		"SELECT count() FROM people WHERE hasAny(identifiers['anonymous_id'], ['guest-0', 'guest-299'])":            "0",
		"SELECT uniqExact(person_id), count() FROM person_events WHERE startsWith(anonymous_id, 'ring-')":           "1\t6",
		"SELECT uniqExact(person_id) FROM person_events WHERE startsWith(user_id, 'someone-')":                      "2",
		"SELECT count() FROM merges WHERE kind = 'quarantined'":                                                     "1",
		"SELECT count() FROM segment_members WHERE segment = 'loyal' AND profile_id IN (" + s.of("late") + ")":      "0",
		"SELECT uniqExact(person_id) FROM person_events WHERE user_id = 'late-u' OR anonymous_id = 'late-a'":        "2",
		"SELECT count() FROM segment_log WHERE segment = 'never_bought' AND op = 'exit'":                            fmt.Sprint(shoppers),
		"SELECT count(), countIf(kind = 'merge') FROM merges WHERE id_type = 'anonymous_id' AND " + s.about("ring"): "2\t2",
	})
	s.counted(s.user("busy"), fmt.Sprintf("%d\t0\t0\tnever_bought viewed", guests))
	s.counted(s.user("alice"), "1\t0\t0\tnever_bought viewed")
}

// of lists the profiles that a trap may have.
func (s *stitching) of(trap string) string {
	return "'" + s.user(trap+"-u") + "', '" + s.anonymous(trap+"-a") + "'"
}

// about is the condition that a row of merges is about the devices of a ring.
func (s *stitching) about(ring string) string {
	var ids []string
	for _, x := range []string{"-a", "-b", "-c"} {
		ids = append(ids, "'"+s.anonymous(ring+x)+"'")
	}
	list := strings.Join(ids, ", ")
	return "from_profile IN (" + list + ") AND into_profile IN (" + list + ")"
}

// logins is when people are told apart and put together.
func (s *stitching) logins() {
	events := []string{identified("10:06", both("late-u", "late-a")+`,"traits":{"plan":"pro"}`), identified("10:00", both("member-v", "visitor")),
		identified("12:00", both("bob", "D")), viewed("07:00", device("ring-b"))}
	for i := range shoppers {
		events = append(events, identified("10:00", both(fmt.Sprintf("buyer-%d", i), fmt.Sprintf("shopper-%d", i))))
	}
	s.send(events...)
	s.answers(map[string]string{
		"SELECT kind, reason, id_type FROM merges WHERE " + s.between(s.user("alice"), s.user("bob")): "refused\ta profile has at most 1 user_id\tanonymous_id",
	})
	s.send(viewed("13:00", device("D"))) // by whom?
	s.answers(map[string]string{
		// Late merge.
		"SELECT count(), countIf(kind = 'merge') FROM merges WHERE " + s.between(s.user("late-u"), s.anonymous("late-a")):                                         "1\t1",
		"SELECT op, cause FROM segment_log WHERE segment = 'loyal' AND profile_id IN (" + s.of("late") + ")":                                                      "enter\tmerge",
		"SELECT uniqExact(person_id), count(), sum(revenue) FROM person_events WHERE user_id = 'late-u' OR anonymous_id = 'late-a'":                               "1\t5\t50",
		"SELECT count() FROM people WHERE startsWith(arrayElement(identifiers['user_id'], 1), 'buyer-') AND aggregates['orders'] = 1 AND aggregates['views'] = 1": fmt.Sprint(shoppers),
		// Membership goes along.
		"SELECT groupArray(op) FROM (SELECT op FROM segment_log WHERE segment = 'viewed' AND profile_id = '" + s.anonymous("visitor") + "' ORDER BY sequence)": "['enter','passed']",
		"SELECT groupArray(op) FROM (SELECT op FROM segment_log WHERE segment = 'viewed' AND profile_id = '" + s.user("member-v") + "' ORDER BY sequence)":     "['carried']",
		// Shared device: three events of it, and the last belongs to neither.
		"SELECT countIf(person_id = '" + s.user("alice") + "'), countIf(person_id = '" + s.user("bob") + "'), count() FROM person_events WHERE anonymous_id = 'D'": "2\t1\t4",
		"SELECT count() FROM merges WHERE " + s.between(s.user("alice"), s.user("bob")):                                                                            "1",
		// A late event in a ring.
		"SELECT uniqExact(person_id), count() FROM person_events WHERE startsWith(anonymous_id, 'ring-')":                   "1\t7",
		"SELECT groupArray(aggregates['views']) FROM people WHERE hasAny(identifiers['anonymous_id'], ['ring-a','ring-b'])": "[7]",
		"SELECT count(), countIf(kind = 'merge') FROM merges WHERE " + s.about("ring"):                                      "2\t2",
	})
	s.counted(s.user("late-u"), "2\t1\t50\tloyal viewed")
	s.agree()
	eventually(s.t, func() error {
		if said := s.inbox.told(s.user("late-u"), "loyal"); !slices.Equal(said, []string{"entered merge"}) {
			return fmt.Errorf("the receiver was told of late-u: %q", said)
		}
		if said := s.inbox.told(s.anonymous("visitor"), "viewed"); !slices.Equal(said, []string{"entered live", "merged"}) {
			return fmt.Errorf("the receiver was told of the visitor: %q", said)
		}
		return nil
	})
	if said := s.inbox.told(s.user("member-v"), "viewed"); len(said) > 0 {
		s.t.Errorf("the receiver was told of member-v: %q", said)
	}
}

// between is the condition that a row of merges is about two profiles.
func (s *stitching) between(a, b string) string {
	return "from_profile IN ('" + a + "', '" + b + "') AND into_profile IN ('" + a + "', '" + b + "')"
}

// startAgain starts the pipeline with what it must refuse, and then without its stores and its replica of the link log: who is
// who is read from the log again, corrections with it, and nobody has another id.
func (s *stitching) startAgain() {
	t := s.t
	s.p.stop()
	before, err := alive(s.out)
	if err != nil {
		t.Fatal(err)
	}
	s.otherOrder()
	for _, part := range []string{"state", "links"} {
		if _, err := os.Stat(filepath.Join(s.data, part)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(s.data, part)); err != nil {
			t.Fatal(err)
		}
	}
	s.p = start(t, s.file, s.data, s.env...)
	s.send(identified("16:00", both("late-u", "late-a")), identified("16:00", `"userId":"late-u"`), viewed("16:00", device("late-b")))
	s.answers(map[string]string{
		"SELECT uniqExact(primary_id), any(primary_id) = '" + s.user("late-u") + "' FROM events WHERE user_id = 'late-u'": "1\t1",
		"SELECT any(person_id) = '" + s.anonymous("late-b") + "' FROM person_events WHERE anonymous_id = 'late-b'":        "1",
		"SELECT count() FROM people WHERE person_id = '" + s.anonymous("late-b") + "'":                                    "1",
	})
	s.counted(s.user("late-u"), "0\t1\t50\t")
	s.counted(s.anonymous("late-a"), "2\t0\t0\tnever_bought viewed")
	s.agree()
	after, err := alive(s.out)
	if err != nil {
		t.Fatal(err)
	}
	delete(after, s.anonymous("late-b"))
	if err := samePeople(before, after); err != nil {
		t.Errorf("before and after the loss of the stores: %v", err)
	}
}

// onceInTheFile checks all that was ever said: nothing twice, and nobody who had bought was said to have never bought.
func (s *stitching) onceInTheFile() {
	all, err := notices(s.out)
	if err != nil {
		s.t.Fatal(err)
	}
	buyers, seen := map[string]bool{}, map[string]bool{}
	for i := range shoppers {
		buyers[s.user(fmt.Sprintf("buyer-%d", i))] = true
	}
	loyal := 0
	for i := range all {
		c := &all[i]
		if seen[c.ID] {
			s.t.Errorf("message %s of type %s stands twice", c.ID, c.Type)
		}
		seen[c.ID] = true
		if c.Type == "segment.entered" && c.Data.Segment == "never_bought" && buyers[c.profile()] {
			s.t.Errorf("somebody with an order was said to have never bought: %v", c.Data.Profile)
		}
		if c.Type == "segment.entered" && c.Data.Segment == "loyal" {
			loyal++
		}
	}
	if loyal != 1 {
		s.t.Errorf("%d have entered loyal, want 1", loyal)
	}
}
