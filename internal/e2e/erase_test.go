package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// TestAnErasedPersonIsGone erases somebody with the command: nothing is left in ClickHouse but that somebody was erased, receivers
// are told and hear nothing more, and whoever comes with the same identifiers is somebody new, also after a restart.
func TestAnErasedPersonIsGone(t *testing.T) {
	needEngine(t)
	eachBroker(t, anErasedPersonIsGone)
}

func anErasedPersonIsGone(t *testing.T, brokers []string) {
	yaml := strings.Replace(peoplePipeline, "when: merged()", "when: erased() or merged()", 1)
	file, data, out, inbox := write(t, yaml), t.TempDir(), t.TempDir(), newInbox(t)
	name, env := on(t, brokers, "URL=embedded", "OUT="+out, "CRM="+inbox.server.URL)
	who := naming{pipeline.NewIdentities([]byte(name))}
	s := &stitching{naming: who, t: t, file: file, data: data, out: out, env: env, inbox: inbox, p: start(t, file, data, env...)}
	erase := func(args ...string) explained {
		return explain(t, env, append([]string{"erase", file}, append(args, "--data", data)...)...)
	}

	s.send(viewed("10:00", device("d1")), viewed("10:01", device("d1")), bought("10:02", both("u1", "d1"), "50"), viewed("10:03", both("u1", "d2")),
		identified("10:04", `"userId":"u1","traits":{"email":"a@b.c"}`), bought("10:05", `"userId":"u1"`, `"not a number"`), bought("10:06", both("u2", "d3"), "7"))
	u := who.user("u1")
	s.counted(u, "3\t1\t50\tloyal viewed")
	s.p.answers(t, data, patience, map[string]string{
		"SELECT count(), countIf(has(ids, toUUID('" + u + "'))) FROM dead_letters": "1\t1",
		"SELECT count() FROM events": "7",
	})
	eventually(t, func() error {
		if n := len(inbox.told(u, "loyal")); n == 0 {
			return fmt.Errorf("the receiver has heard nothing of the person")
		}
		return nil
	})

	if e := erase("user_id:nobody"); e.status != 1 || e.out != "" || !strings.Contains(e.err, "nobody is known under that identifier") {
		t.Errorf("somebody unknown: %+v", e)
	}
	if e := erase("phone:1"); e.status != 2 {
		t.Errorf("a type that the pipeline has not: %+v", e)
	}
	says := fmt.Sprintf("erased: the person of profile %s, with 4 identifiers.\n", u)
	if e := erase("anonymous_id:d2", "--dry-run"); e.status != 0 || e.out != "Would be: "+says {
		t.Errorf("dry run: %+v", e)
	}
	if profile, members, _ := s.who("user_id:u1"); profile != u || len(members) != 4 {
		t.Fatalf("a dry run has changed something: %s %v", profile, members)
	}
	if e := erase("anonymous_id:d2", "--reason", "request 1"); e.status != 0 || e.out != says {
		t.Fatalf("erase: %+v", e)
	}
	if profile, members, history := s.who("user_id:u1"); profile == u || len(members) != 1 || len(history) != 0 {
		t.Errorf("after the erasure show says %s, %v, %v", profile, members, history)
	}
	gone := map[string]string{
		"SELECT count() FROM events WHERE user_id = 'u1' OR anonymous_id IN ('d1', 'd2') OR position(raw, 'a@b.c') > 0":                                             "0",
		"SELECT count(), countIf(profile_id = toUUID('" + who.user("u2") + "')) FROM profiles FINAL WHERE merged_into IS NULL":                                      "1\t1",
		"SELECT count() FROM segment_log WHERE profile_id NOT IN (toUUID('" + who.user("u2") + "'), toUUID('" + who.anonymous("d3") + "'))":                         "0",
		"SELECT kind, reason, into_profile, id_type, trigger_message_id FROM merges WHERE from_profile = toUUID('" + u + "') OR into_profile = toUUID('" + u + "')": "erased\trequest 1\t00000000-0000-0000-0000-000000000000\tanonymous_id\t",
		"SELECT count() FROM overrides WHERE profile_id = toUUID('" + u + "')":                                                                                      "0",
		"SELECT type FROM deliveries WHERE profile_id = toUUID('" + u + "')":                                                                                        "profile.erased",
		"SELECT count() FROM dead_letters": "0",
		"SELECT count() FROM events":       "1",
	}
	s.p.answers(t, data, patience, gone)
	s.lastTold(u)
	if e := erase("user_id:u1"); e.status != 0 {
		t.Errorf("again: %+v", e)
	}

	if status := s.p.stop(); status != 130 {
		t.Errorf("exit status %d after SIGTERM, want 130", status)
	}
	s.p = start(t, file, data, env...)
	s.send(bought("12:00", both("u1", "d1"), "3"), viewed("12:01", device("d2")))
	s.p.answers(t, data, patience, map[string]string{
		"SELECT uniqExact(person_id), count(), sum(revenue) FROM person_events WHERE anonymous_id = 'd1' AND person_id <> toUUID('" + u + "')": "1\t1\t3",
		"SELECT count() FROM events": "3",
		"SELECT aggregates['orders'], aggregates['views'], has(segments, 'loyal') FROM people WHERE identifiers['user_id'] = ['u1']": "1\t0\t0",
	})
	s.send(viewed("12:02", device("alone"))) // never linked: the log says nothing of it
	s.p.answers(t, data, patience, map[string]string{"SELECT aggregates['views'] FROM people WHERE person_id = toUUID('" + who.anonymous("alone") + "')": "1"})
	if e := erase("anonymous_id:alone"); e.status != 0 {
		t.Errorf("somebody who was never linked: %+v", e)
	}
	s.p.answers(t, data, patience, map[string]string{"SELECT (SELECT count() FROM events), (SELECT count() FROM profiles WHERE profile_id = toUUID('" + who.anonymous("alone") + "'))": "3\t0"})
	s.lastTold(who.anonymous("alone"))
	var profile any
	eventually(t, func() error {
		e := explain(t, env, "profile", "get", file, "user_id:u1", "--data", data, "--json")
		if e.status != 0 {
			return fmt.Errorf("profile get: %+v", e)
		}
		profile = e.answer(t)["profile_id"]
		return nil
	})
	if now, members, _ := s.who("anonymous_id:d1"); now != profile || now == u || len(members) != 2 {
		t.Errorf("profile get finds %v, show %s with %v", profile, now, members)
	}
	s.lastTold(u)
	inbox.check(t)
	if status := s.p.stop(); status != 130 {
		t.Errorf("exit status %d after SIGTERM, want 130", status)
	}
}

// lastTold waits until file and receiver have been told that the profile was erased, once and at last.
func (s *stitching) lastTold(profile string) {
	s.t.Helper()
	eventually(s.t, func() error {
		said := s.inbox.told(profile, "")
		all, err := notices(s.out)
		if err != nil {
			return err
		}
		var file []string
		for i := range all {
			if all[i].profile() == profile {
				file = append(file, all[i].Type)
			}
		}
		if len(said) == 0 || len(file) == 0 || strings.Count(strings.Join(file, " "), "profile.erased") != 1 || file[len(file)-1] != "profile.erased" || said[len(said)-1] != "erased" {
			return fmt.Errorf("the file has %q at last, the receiver %q", file, said)
		}
		return nil
	})
}
