package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const explainPipeline = onTheWeb + `stages:
  - clean
  - dedup
  - identity
  - profile:
      plan: {latest: traits.plan}
      first_plan: {first: traits.plan}
      orders: {count: events, event: Order Completed}
      last_order: {max: timestamp, event: Order Completed}
  - score:
      value: {expr: orders * 10}
  - segment:
      buyer: orders >= 1 and traits.city == "Rome"
      abandoned: {did: Cart, then_not: Order Completed, within: 1d}
sinks:
  analytics: {clickhouse: {url: embedded}}
  crm:
    webhook: {url: "${CRM}", secret: "${SECRET}", allow: ["127.0.0.0/8"]}
    when: entered("buyer")
`

// explained is a program that was run to its end.
type explained struct {
	out, err string
	status   int
}

// explain runs one of the commands that explain, without flags of its own.
func explain(t *testing.T, env []string, args ...string) explained {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, args...)
	c.Env = append(os.Environ(), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	_ = c.Run() // the status says it
	return explained{out.String(), stderr.String(), c.ProcessState.ExitCode()}
}

// answer is the JSON object that a command answers.
func (e explained) answer(t *testing.T) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(e.out), &o); err != nil || e.status != 0 {
		t.Fatalf("status %d, no JSON object (%v): %q %q", e.status, err, e.out, e.err)
	}
	return o
}

// at is what stands under keys and indexes of an answer.
func at(o any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := o.(map[string]any)
			o = m[p]
		case int:
			l, _ := o.([]any)
			if p >= len(l) {
				return nil
			}
			o = l[p]
		}
	}
	return o
}

// each is what stands under key in all objects of a list.
func each(list any, key string) (all []any) {
	l, _ := list.([]any)
	for _, x := range l {
		all = append(all, at(x, key))
	}
	return all
}

// TestExplanationsOfARunningPipeline asks profile, segment and why beside a running pipeline, and after it, about a visitor who logs
// in, a trait that an older event does not change, a repeat, a conflict and a refusal.
func TestExplanationsOfARunningPipeline(t *testing.T) {
	t.Parallel()
	needEngine(t)
	crm := newHooks(t, func(int) int { return 200 })
	file, data := write(t, explainPipeline), filepath.Join(t.TempDir(), "data")
	_, env := on(t, []string{"embedded"}, "CRM="+crm.server.URL)
	ask := func(args ...string) explained { t.Helper(); return explain(t, env, append(args, "--data", data)...) }

	if e := ask("profile", "get", file, "user_id:u1"); e.status != 1 || !strings.Contains(e.err, "has not run in") {
		t.Errorf("before the first run: %+v", e)
	}
	p := start(t, file, data, env...)
	events := []string{
		`{"messageId":"m1","type":"track","event":"Cart","anonymousId":"a1","timestamp":"2026-01-01T10:00:00Z"}`,
		`{"messageId":"m2","type":"identify","anonymousId":"a1","userId":"u1","traits":{"plan":"pro","city":"Rome","address":{"zip":"1\u001b[2J"}},"timestamp":"2026-01-02T10:00:00Z"}`,
		`{"messageId":"m3","type":"identify","userId":"u1","traits":{"plan":"free","city":"Oslo"},"timestamp":"2026-01-01T09:00:00Z"}`,
		`{"messageId":"m4","type":"track","event":"Order Completed","userId":"u1","timestamp":"2026-01-03T10:00:00Z"}`,
		`{"messageId":"m4","type":"track","event":"Order Completed","userId":"u1","timestamp":"2026-01-03T10:00:00Z"}`,
		`{"messageId":"m4","type":"track","event":"Order Completed","userId":"u1","timestamp":"2026-01-03T10:00:00Z","properties":{"other":1}}`,
		`{"messageId":"bad","type":"nonsense","userId":"u1"}`,
		`{"messageId":"n1","type":"track","event":"X","userId":"null"}`,
	}
	for i, e := range events { // one by one: what comes first is first
		p.batch(t, e)
		switch i {
		case 0: // the visitor is known before the login
			p.answers(t, data, patience, map[string]string{"SELECT count() FROM people": "1"})
		case 2: // the order enters the segment, not the merge
			p.answers(t, data, patience, map[string]string{"SELECT count() FROM people WHERE traits['city'] = 'Rome' AND length(mapKeys(identifiers)) = 2": "1"})
		}
	}
	p.answers(t, data, patience, map[string]string{
		"SELECT count() FROM events":                                                           "5",
		"SELECT count() FROM dead_letters":                                                     "2",
		"SELECT count() FROM deliveries WHERE outcome='delivered'":                             "1",
		"SELECT count() FROM people WHERE aggregates['orders'] = 1 AND has(segments, 'buyer')": "1",
		"SELECT count() > 0 FROM person_scores WHERE value = 10":                               "1",
	})
	for _, running := range []bool{true, false} {
		if !running {
			p.stop()
		}
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			explainsProfile(t, ask, file)
			explainsSegment(t, ask, file)
			explainsEvents(t, ask, file)
			explainsNothing(t, ask, file)
		})
		if running {
			p.explainsBlocked(t, ask, file, data)
		}
	}
}

type asker func(args ...string) explained

// expect compares what stands at a path of an answer.
func expect(t *testing.T, o any, want any, path ...any) {
	t.Helper()
	if got := at(o, path...); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v is %v, want %v", path, got, want)
	}
}

func explainsProfile(t *testing.T, ask asker, file string) {
	t.Helper()
	o := ask("profile", "get", file, "anonymous_id:a1", "--json").answer(t)
	id, _ := o["profile_id"].(string)
	if id == "" || id == o["asked"] {
		t.Errorf("the visitor was not followed: %v", o)
	}
	expect(t, o, "[u1]", "identifiers", "user_id")
	expect(t, o, "[a1]", "identifiers", "anonymous_id")
	for name, want := range map[string][2]string{"city": {"Rome", "m2"}, "plan": {"pro", "m2"}, "first_plan": {"free", "m3"}, "address.zip": {"1\x1b[2J", "m2"}} {
		expect(t, o, want[0], "traits", name, "value")
		expect(t, o, want[1], "traits", name, "set_by", "message_id")
		expect(t, o, "web", "traits", name, "set_by", "source")
	}
	expect(t, o, "2026-01-02T10:00:00Z", "traits", "city", "set_by", "at")
	expect(t, o, "{latest: traits.plan}", "traits", "plan", "rule")
	expect(t, o, 1, "aggregates", "orders", "value")
	expect(t, o, "2026-01-03T10:00:00.000Z", "aggregates", "last_order", "value")
	if names := fmt.Sprint(each(o["segments"], "segment")); names != "[buyer]" {
		t.Errorf("segments %s", names)
	}
	expect(t, o, 10, "scores", 0, "value")
	expect(t, o, "merge", "merges", 0, "kind")
	expect(t, o, "m2", "merges", 0, "message_id")
	expect(t, ask("profile", "get", file, id, "--json").answer(t), id, "profile_id")

	text := ask("profile", "get", file, "user_id:u1")
	for _, word := range []string{id, "Rome", "m2", "{count: events, event: Order Completed}", "link merge"} {
		if !strings.Contains(text.out, word) {
			t.Errorf("the text lacks %q:\n%s", word, text.out)
		}
	}
	if strings.Contains(text.out, "\x1b") {
		t.Error("a control character of a trait reaches the terminal")
	}

	story := ask("profile", "history", file, "anonymous_id:a1", "--json").answer(t)["story"]
	kinds := each(story, "kind")
	for _, kind := range []any{"event", "merge", "segment", "score", "delivery"} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("the story lacks a %s: %v", kind, story)
		}
	}
	var events []any
	list, _ := story.([]any)
	for _, x := range list {
		if at(x, "kind") == "event" {
			events = append(events, at(x, "message_id"))
		}
	}
	if fmt.Sprint(events) != "[m3 m1 m2 m4]" {
		t.Errorf("the events of the story are %v", events)
	}
	last := ask("profile", "history", file, "user_id:u1", "--json", "--limit", "1").answer(t)["story"]
	if l, _ := last.([]any); len(l) != 1 || at(last, 0, "kind") != kinds[len(kinds)-1] {
		t.Errorf("the last of the story is %v, want the last of %v", last, kinds)
	}
}

func explainsSegment(t *testing.T, ask asker, file string) {
	t.Helper()
	o := ask("segment", file, "buyer", "--json").answer(t)
	expect(t, o, `orders >= 1 and traits.city == "Rome"`, "condition")
	expect(t, o, 1, "size")
	expect(t, o, 1, "last_24h", "entered")
	expect(t, o, 0, "last_24h", "exited")
	expect(t, o, "m4", "transitions", 0, "message_id")

	o = ask("segment", file, "buyer", "anonymous_id:a1", "--json").answer(t)
	expect(t, o, true, "in")
	expect(t, o, "[map[name:orders value:1] map[name:traits.city value:Rome]]", "inputs")
	expect(t, o, "enter", "transitions", 0, "op")
	expect(t, o, "live", "transitions", 0, "cause")
	if at(o, "since") != at(o, "transitions", 0, "effective_at") {
		t.Errorf("in since %v, entered at %v", at(o, "since"), at(o, "transitions", 0, "effective_at"))
	}
	o = ask("segment", file, "abandoned", "user_id:u1", "--json").answer(t)
	expect(t, o, false, "in")
	expect(t, o, `did "Cart" then_not "Order Completed" within 1d`, "condition")
	expect(t, o, `[map[name:latest "Cart" value:2026-01-01T10:00:00.000Z] map[name:latest "Order Completed" value:2026-01-03T10:00:00.000Z]]`, "inputs")
	if text := ask("segment", file, "buyer", "user_id:u1").out; !strings.Contains(text, "traits.city  = Rome") || !strings.Contains(text, "in         since") {
		t.Errorf("the text is\n%s", text)
	}
}

func explainsEvents(t *testing.T, ask asker, file string) {
	t.Helper()
	o := ask("why", file, "m4", "--json").answer(t)
	if got := fmt.Sprint(each(o["arrivals"], "outcome")); got != "[accepted duplicate refused]" {
		t.Errorf("the three copies were %s", got)
	}
	expect(t, o, "id_conflict", "dead_letters", 0, "code")
	expect(t, o, "dedup", "dead_letters", 0, "stage")
	expect(t, o, at(o, "events", 0, "profile_now"), "events", 0, "profile_then")
	expect(t, o, "buyer", "transitions", 0, "segment")
	expect(t, o, 10, "scores", 0, "value")
	expect(t, o, "delivered", "deliveries", 0, "outcome")
	expect(t, o, at(o, "transitions", 0, "transition_id"), "deliveries", 0, "webhook_id")

	before := ask("why", file, "m1", "--json").answer(t) // of the visitor before the login
	expect(t, before, at(o, "events", 0, "profile_now"), "events", 0, "profile_now")
	expect(t, before, at(before, "events", 0, "primary_id"), "events", 0, "profile_then")
	if at(before, "events", 0, "profile_then") == at(before, "events", 0, "profile_now") {
		t.Error("the visitor's event was the person's from the beginning")
	}
	expect(t, ask("why", file, "m2", "--json").answer(t), "merge", "merges", 0, "kind")
	refused := ask("why", file, "bad", "--json").answer(t)
	expect(t, refused, "type_unknown", "dead_letters", 0, "code")
	expect(t, refused, "[]", "events")
	if text := ask("why", file, "n1").out; !strings.Contains(text, "nobody") {
		t.Errorf("of an event without a person it says\n%s", text)
	}
	for _, word := range []string{"duplicate", "id_conflict", "enter buyer", "delivered", "person now"} {
		if text := ask("why", file, "m4").out; !strings.Contains(text, word) {
			t.Errorf("the text lacks %q:\n%s", word, text)
		}
	}
}

// explainsBlocked asks about an identifier that an operator has blocked: what comes under it alone belongs to nobody else.
func (p *process) explainsBlocked(t *testing.T, ask asker, file, data string) {
	t.Helper()
	p.batch(t, `{"messageId":"b1","type":"track","event":"X","userId":"u7","anonymousId":"a7"}`)
	p.answers(t, data, patience, map[string]string{"SELECT count() FROM events WHERE message_id = 'b1'": "1"})
	expect(t, ask("profile", "get", file, "anonymous_id:a7", "--json").answer(t), false, "ambiguous")
	ask("identity", "block", file, "anonymous_id:a7", "--json").answer(t)
	p.answers(t, data, patience, map[string]string{"SELECT count() FROM merges WHERE rule = 'block'": "1"})
	p.batch(t, `{"messageId":"b2","type":"track","event":"X","anonymousId":"a7"}`)
	p.answers(t, data, patience, map[string]string{"SELECT count() FROM people AS p INNER JOIN events AS e ON e.primary_id = p.person_id WHERE message_id = 'b2'": "1"})
	o := ask("profile", "get", file, "anonymous_id:a7", "--json").answer(t)
	expect(t, o, true, "ambiguous")
	expect(t, o, "block", "merges", 1, "op")
	expect(t, ask("why", file, "b2", "--json").answer(t), o["profile_id"], "events", 0, "profile_now")
}

// explainsNothing asks about what is not there, in ways that would break a query put together from texts.
func explainsNothing(t *testing.T, ask asker, file string) {
	t.Helper()
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"why", file, "m9"}, 1, "no event with that message id"},
		{[]string{"why", file, `' OR 1=1 -- ?`}, 1, "no event with that message id"},
		{[]string{"profile", "get", file, "user_id:u9"}, 1, "nobody is known"},
		{[]string{"profile", "history", file, `user_id:' OR '1'='1`}, 1, "nobody is known"},
		{[]string{"segment", file, "buyer", "user_id:u9"}, 1, "nobody is known"},
		{[]string{"segment", file, "byer"}, 2, `did you mean "buyer"`},
	} {
		if e := ask(c.args...); e.status != c.status || !strings.Contains(e.err, c.says) || e.out != "" {
			t.Errorf("%v: %+v", c.args[2:], e)
		}
	}
}
