package e2e

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/millstream-io/millstream/examples/quickstart"
)

// demo plays the demo to its end and returns what it reports and its exit status.
func demo(t *testing.T, args ...string) (map[string]any, int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, append([]string{"demo", "--exit", "--json", "--data", t.TempDir()}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Env = ownClickHouse()
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var report map[string]any
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("the report is not one JSON object: %v: %q\n%s", err, out, stderr.String())
	}
	return report, c.ProcessState.ExitCode()
}

// ownClickHouse is the environment without a ClickHouse of the developer's.
func ownClickHouse() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CLICKHOUSE_URL=") {
			env = append(env, v)
		}
	}
	return env
}

// counted returns a number of the report.
func counted(t *testing.T, report map[string]any, name string) int {
	t.Helper()
	n, ok := report[name].(float64)
	if !ok {
		t.Fatalf("the report has no %s: %v", name, report)
	}
	return int(n)
}

// TestTheDemoAgreesWithTheTruthOfItsSeed also checks that a seed is one population, and another seed another.
func TestTheDemoAgreesWithTheTruthOfItsSeed(t *testing.T) {
	t.Parallel()
	needEngine(t)
	timeless := func(seed string) map[string]any {
		t.Helper()
		r, status := demo(t, "--events", "4000", "--seed", seed)
		n := func(name string) int { return counted(t, r, name) }
		if status != 0 || n("lost") != 0 || n("doubled") != 0 || n("wrong_merges") != 0 || n("missed_merges") != 0 {
			t.Errorf("seed %s: exit status %d: %v", seed, status, r)
		}
		if n("events_sent") != 4000 || n("unique_events")+n("duplicates_sent") != 4000 || n("events_in_clickhouse")+n("dead_letters") != n("unique_events") {
			t.Errorf("seed %s: the events do not add up: %v", seed, r)
		}
		for _, name := range []string{"duplicates_sent", "dead_letters", "webhooks_delivered", "merges", "elapsed_s"} {
			if r[name].(float64) <= 0 {
				t.Errorf("seed %s: %s is %v", seed, name, r[name])
			}
		}
		if people, profiles := n("true_people"), n("profiles"); profiles <= people || n("merges") < people {
			t.Errorf("seed %s: %d profiles of %d people after %d merges: some people are several profiles, and most have merged", seed, profiles, people, n("merges"))
		}
		r = maps.Clone(r)
		delete(r, "elapsed_s")
		return r
	}
	first := timeless("7")
	if again := timeless("7"); !reflect.DeepEqual(first, again) {
		t.Errorf("the same seed gave\n%v\n%v", first, again)
	}
	if other := timeless("8"); reflect.DeepEqual(first, other) {
		t.Errorf("another seed gave the same: %v", other)
	}
}

// TestTheDemoNoticesDoubledEvents takes dedup out of the quickstart: a demo that cannot fail would prove nothing.
func TestTheDemoNoticesDoubledEvents(t *testing.T) {
	t.Parallel()
	needEngine(t)
	const stage = "  - dedup: {window: 24h}\n"
	yaml := string(quickstart.Pipeline)
	if strings.Count(yaml, stage) != 1 {
		t.Fatalf("the quickstart has no line %q", stage)
	}
	r, status := demo(t, "--events", "4000", "--seed", "7", write(t, strings.Replace(yaml, stage, "", 1)))
	if status != 1 || counted(t, r, "doubled") == 0 || counted(t, r, "lost") != 0 {
		t.Errorf("without dedup: exit status %d, want 1 and doubled: %v", status, r)
	}
	if got, want := counted(t, r, "events_in_clickhouse"), counted(t, r, "unique_events")+counted(t, r, "duplicates_sent")-counted(t, r, "dead_letters"); got != want {
		t.Errorf("%d events in ClickHouse, want all %d that were sent", got, want)
	}
}

// TestTheDemoNoticesWrongMerges lets one person have several accounts, so that whoever shares a tablet becomes one.
func TestTheDemoNoticesWrongMerges(t *testing.T) {
	t.Parallel()
	needEngine(t)
	const limit = "user_id: {limit: 1}"
	yaml := string(quickstart.Pipeline)
	if strings.Count(yaml, limit) != 1 {
		t.Fatalf("the quickstart has no %q", limit)
	}
	r, status := demo(t, "--events", "2000", "--seed", "7", write(t, strings.Replace(yaml, limit, "user_id: {limit: 9}", 1)))
	if status != 1 || counted(t, r, "wrong_merges") == 0 {
		t.Errorf("with shared devices joining people: exit status %d, want 1 and wrong merges: %v", status, r)
	}
}

// TestTheDemoTellsOnePersonsStory reads what people read: the story, the correction and its being taken back.
func TestTheDemoTellsOnePersonsStory(t *testing.T) {
	t.Parallel()
	needEngine(t)
	c := exec.CommandContext(t.Context(), program, "demo", "--exit", "--events", "3000", "--seed", "1", "--data", t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Env = ownClickHouse()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rest := string(out)
	for _, part := range []string{
		"0 of them wrong, 0 missed", "0 lost, 0 doubled",
		"One person, from anonymous to customer", "events without a name", "of the link log", "Order Completed: ", "entered buyer", "told the CRM, which answered 200",
		"identity unlink user_id:user-1-", "profiles: 2;", "identity link user_id:user-1-", "profiles: 1;",
		"Who spent most",
	} {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Fatalf("the demo does not say %q after what came before:\n%s", part, out)
		}
		rest = after
	}
}
