package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// batch is one batch of one resolver: events as `device` or `device>user`, the latter a login. It returns how many transactions
// it took.
func (s *people) batch(events ...string) (transactions int) {
	s.t.Helper()
	a := s.resolve[0]
	for _, e := range events {
		n := len(s.events[0])
		device, user, login := strings.Cut(e, ">")
		raw := fmt.Sprintf(`{"type":"track","event":"View","messageId":"m%d","anonymousId":%q}`, n, device)
		if login {
			raw = fmt.Sprintf(`{"type":"identify","messageId":"m%d","anonymousId":%q,"userId":%q}`, n, device, user)
		}
		s.send(0, fmt.Sprintf("m%d", n), pipeline.Millis(1_700_000_000_000+int64(n)*1000), raw)
	}
	for a.next < len(s.events[0]) {
		s.take(a, s.events[0], len(s.events[0]))
		transactions++
	}
	s.settle()
	return transactions
}

// views counts the events without a login.
func (s *people) views() map[string]float64 {
	views := map[string]float64{}
	names := map[pipeline.ID]string{}
	for _, u := range []string{"alice", "bob", "carol", "dave"} {
		names[s.user(u)] = u
	}
	for _, d := range []string{"D", "E"} {
		names[s.anon(d)], names[s.plan.Identities.Ambiguous(s.anon(d))] = d, "whoever is at "+d
	}
	for id, p := range s.persons() {
		if n := p.values["views"].(float64); n > 0 {
			views[names[id]] = n
		}
	}
	return views
}

// A device without a login is its first user's until the second user logs in, wherever the batches begin and end.
func TestSharedDeviceInOneBatch(t *testing.T) {
	for _, c := range []struct {
		before, batch string
		transactions  int
		views         string
	}{
		{"D>alice", "D D>bob D", 2, "map[alice:1 whoever is at D:1]"},
		{"", "D D>alice D D>bob D", 2, "map[alice:2 whoever is at D:1]"},
		{"", "D>alice D>bob D", 1, "map[whoever is at D:1]"},
		{"D>alice", "D>bob D D", 1, "map[whoever is at D:2]"},
		{"D>alice", "D D>alice D", 1, "map[alice:2]"},
		{"", "D D>alice D", 1, "map[alice:2]"},
		{"D>alice E>bob", "D E D>carol E>dave D E", 2, "map[alice:1 bob:1 whoever is at D:1 whoever is at E:1]"}, // one division serves both
		{"D>alice E>bob", "D D>carol E E>dave E", 3, "map[alice:1 bob:1 whoever is at E:1]"},
		{"D>alice D>bob", "D D>carol D", 1, "map[whoever is at D:2]"}, // nobody's before and after
	} {
		t.Run(c.before+" then "+c.batch, func(t *testing.T) {
			s := story(t, 1)
			s.batch(strings.Fields(c.before)...)
			if n := s.batch(strings.Fields(c.batch)...); n != c.transactions {
				t.Errorf("%d transactions, want %d", n, c.transactions)
			}
			if got := fmt.Sprint(s.views()); got != c.views {
				t.Errorf("views of %s, want %s", got, c.views)
			}
		})
	}
}

// A backlog of first logins is one transaction, whatever the visitors did before.
func TestFirstLoginsDivideNothing(t *testing.T) {
	s := story(t, 1)
	var events []string
	for i := range 100 {
		device := fmt.Sprintf("d%d", i)
		events = append(events, device, device, fmt.Sprintf("%s>u%d", device, i), device)
	}
	if n := s.batch(events...); n != 1 {
		t.Errorf("%d transactions, want 1", n)
	}
}

func TestPartsOfABatch(t *testing.T) {
	b := &pipeline.Batch{Topic: "events", Partition: 3, Next: 40}
	for _, offset := range []int64{10, 12, 15, 20, 31} { // transaction markers lie between
		b.Records = append(b.Records, pipeline.Record{Offset: offset})
	}
	var got []string
	for _, p := range (&dividedError{[]int64{15, 31}}).parts(b) {
		var offsets []int64
		for _, r := range p.Records {
			offsets = append(offsets, r.Offset)
		}
		got = append(got, fmt.Sprint(p.Topic, p.Partition, offsets, p.Next))
	}
	if want := []string{"events3 [10 12] 15", "events3 [15 20] 31", "events3 [31] 40"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
