package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// The parts of TestPeopleAreStitched that are about commands and about input that is wrong.

// refuseEarly uses the commands in wrong ways, before the pipeline has run.
func (s *stitching) refuseEarly() {
	s.t.Helper()
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"show", s.file, "user_id:1"}, 1, "has not run yet: there is no topic "},
		{[]string{"show", s.file, "phone:1"}, 2, `there is no identifier type "phone": the pipeline has user_id, email, anonymous_id`},
		{[]string{"unlink", s.file, "user_id:1", "alice"}, 2, `"alice" is not an identifier: write type:value, such as user_id:42`},
		{[]string{"block", s.file, "anonymous_id:null"}, 2, `"null" identifies nobody: it is empty, blocked, or not in the form of its type`},
		{[]string{"link", s.file, "user_id:1"}, 2, "accepts 3 arg(s), received 2"},
	} {
		out, said, status := identity(s.t, s.env, append(c.args, "--data", s.data)...)
		if status != c.status || out != "" || !strings.Contains(said, c.says) {
			s.t.Errorf("%v: status %d, %q %q; want %d and %q", c.args, status, out, said, c.status, c.says)
		}
	}
}

// who is the answer of `identity show`.
func (s *stitching) who(identifier string) (profile string, members []string, history []string) {
	s.t.Helper()
	out, said, status := identity(s.t, s.env, "show", s.file, identifier, "--data", s.data, "--json")
	var m struct {
		ProfileID string `json:"profile_id"`
		Members   []string
		History   []struct{ Op, Kind, Reason string }
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil || status != 0 {
		s.t.Fatalf("show %s: status %d, %v: %q %s", identifier, status, err, out, said)
	}
	for _, h := range m.History {
		history = append(history, strings.TrimSpace(h.Op+" "+h.Kind+" "+h.Reason))
	}
	return m.ProfileID, m.Members, history
}

// corrections takes late-u and late-a apart with the command, and refuses to join alice and bob.
func (s *stitching) corrections() {
	t := s.t
	u, a := s.user("late-u"), s.anonymous("late-a")
	if profile, members, history := s.who("anonymous_id:late-a"); profile != u || len(members) != 2 || !slices.Equal(history, []string{"link merge"}) {
		t.Errorf("before unlink show says %s, %q, %q", profile, members, history)
	}
	out, said, status := identity(t, s.env, "link", s.file, "user_id:alice", "user_id:bob", "--data", s.data)
	if status != 1 || out != "refused: a profile has at most 1 user_id.\n" {
		t.Errorf("a link over the limit: status %d, %q %s", status, out, said)
	}
	const why = "by the test"
	if out, said, status = identity(t, s.env, "unlink", s.file, "user_id:late-u", "anonymous_id:late-a", "--data", s.data, "--reason", why); status != 0 || !strings.HasPrefix(out, "split: 1 ") {
		t.Fatalf("unlink: status %d, %q %s", status, out, said)
	}
	if profile, members, history := s.who("anonymous_id:late-a"); profile != a || len(members) != 1 || !slices.Equal(history, []string{"link merge", "unlink split " + why}) {
		t.Errorf("after unlink show says %s, %q, %q", profile, members, history)
	}
	apart := func() {
		t.Helper()
		s.counted(u, "0\t1\t50\t")
		s.counted(a, "2\t0\t0\tnever_bought viewed")
		s.answers(map[string]string{
			"SELECT uniqExact(person_id), uniqExact(if(anonymous_id = 'late-a' AND user_id = '', person_id, NULL)) FROM person_events WHERE user_id = 'late-u' OR anonymous_id = 'late-a'": "2\t1",
			"SELECT kind, rule, reason FROM merges WHERE from_profile = '" + u + "' AND into_profile = '" + a + "'":                                                                        "split\tunlink\t" + why,
			"SELECT traits FROM people WHERE person_id = '" + u + "'":                                                                                                                      "{'plan':'pro'}",
			"SELECT traits FROM people WHERE person_id = '" + a + "'":                                                                                                                      "{'color':'red'}",
		})
		s.agree()
	}
	apart()
	eventually(t, func() error {
		for _, x := range []struct {
			profile, segment string
			said             []string
		}{{u, "loyal", []string{"entered merge", "exited split"}}, {a, "viewed", []string{"entered live", "merged", "entered split"}}} {
			if said := s.inbox.told(x.profile, x.segment); !slices.Equal(said, x.said) {
				return fmt.Errorf("the receiver was told of %s: %q, want %q", x.profile, said, x.said)
			}
		}
		return nil
	})
	s.send(identified("15:00", both("late-u", "late-a"))) // says again what was taken back
	apart()
	if profile, _, _ := s.who("anonymous_id:late-a"); profile != a {
		t.Error("an event has undone an unlink")
	}
}

// otherOrder starts the pipeline, which has ended, with the types of identifiers in another order: it is refused.
func (s *stitching) otherOrder() {
	t := s.t
	swapped := strings.NewReplacer("- email: {limit: 5, shared_by: 4}", "- anonymous_id: {}", "- anonymous_id: {}", "- email: {limit: 5, shared_by: 4}").Replace(peoplePipeline)
	p := start(t, write(t, swapped), s.data, s.env...)
	p.died()
	const want = "the identifiers are user_id, anonymous_id, email in the YAML, and were user_id, email, anonymous_id at the first start; people would change their profiles"
	p.mu.Lock()
	said := strings.Join(p.lines, "\n")
	p.mu.Unlock()
	if status := p.cmd.ProcessState.ExitCode(); status != 1 || !strings.Contains(said, want) {
		t.Errorf("identifiers in another order: status %d: %s", status, said)
	}
}

// badInput posts what nobody should send: each is a dead letter or a kept event.
func (s *stitching) badInput() {
	t := s.t
	var many []string
	for i := range 10_000 {
		many = append(many, fmt.Sprintf(`{"type":"anonymous_id","id":"x%d"}`, i))
	}
	huge, long := strings.Repeat("x", 1<<20), strings.Repeat("x", 400_000)
	externals := func(list string) string { return `"context":{"externalIds":[` + list + `]}` }
	for _, body := range []string{`"userId":"` + huge + `"`, `"userId":"crowd",` + externals(`{"type":"email","id":"`+huge+`"}`)} {
		if status := post(s.p.http(), `{"batch":[{"messageId":"big","type":"page",`+body+`}]}`); status != http.StatusRequestEntityTooLarge {
			t.Errorf("an id of 1 MiB was answered with %d, want 413", status)
		}
	}
	s.p.batch(t, `{"messageId":"bad-1","type":"page","userId":"`+long+`"}`, `{"messageId":"bad-2","type":"page","userId":"crowd",`+externals(strings.Join(many[:33], ","))+`}`)
	s.p.batch(t, `{"messageId":"bad-3","type":"page","userId":"crowd",`+externals(strings.Join(many, ","))+`}`)
	s.send(`"type":"page","userId":"crowd",` + externals(`{"type":"email","id":"`+long+`"}`))
	s.send(`"type":"alias","userId":"self","previousId":"self"`, `"type":"alias","anonymousId":"same","previousId":"same"`,
		`"type":"alias","userId":"loop","previousId":"loop-a"`, `"type":"alias","anonymousId":"loop-a","previousId":"loop-b"`, `"type":"alias","anonymousId":"loop-b","previousId":"loop"`,
		`"type":"alias","userId":"loop","previousId":"loop"`)
	s.p.answers(t, s.data, patience, map[string]string{
		"SELECT uniqExact(person_id), count() FROM person_events WHERE user_id = 'self' OR anonymous_id = 'same'":            "2\t2",
		"SELECT uniqExact(person_id), count() FROM person_events WHERE user_id = 'loop' OR startsWith(anonymous_id, 'loop')": "1\t4",
		"SELECT uniqExact(person_id), count() FROM person_events WHERE user_id = 'crowd'":                                    "1\t1",
		"SELECT code, count() FROM dead_letters GROUP BY code ORDER BY code":                                                 "id_too_long\t1\ntoo_many_identifiers\t2",
	})
}
