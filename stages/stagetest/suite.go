package stagetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// Suite checks the laws of pipeline.Stage on a chain of stages:
//
//   - how the events are cut into transactions changes nothing, neither output nor state;
//   - a crash anywhere, and the records again, changes nothing; nor does a transaction that is undone while the stages keep
//     what they have in memory; nor a restore of the stores from their changelogs;
//   - two runs are the same, byte by byte;
//   - an event that is refused at the end of the task leaves no trace.
func Suite(t *testing.T, kinds []pipeline.StageKind, stages string) {
	const events = 900
	records := Traffic(7, events)
	reference := New(t, kinds, stages)
	reference.Feed(records...)
	reference.Commit()
	lines, contents := reference.Lines(), reference.State()
	if len(lines) < events {
		t.Fatalf("%d lines for %d records", len(lines), events)
	}

	check := func(t *testing.T, r *Runner) {
		t.Helper()
		same(t, "output", lines, r.Lines())
		same(t, "state", strings.Split(contents, "\n"), strings.Split(r.State(), "\n"))
	}
	for _, size := range []int{1, 7, 100} {
		t.Run(fmt.Sprintf("transactions of %d events", size), func(t *testing.T) {
			r := New(t, kinds, stages)
			for chunk := range slices.Chunk(records, size) {
				r.Feed(chunk...)
				r.Commit()
			}
			check(t, r)
		})
	}
	for name, interrupt := range map[string]func(r *Runner){"crash": (*Runner).Crash, "undo": (*Runner).Undo, "rebuild": (*Runner).Rebuild} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(3, 4))
			r := New(t, kinds, stages)
			for rest := records; len(rest) > 0; {
				n := 1 + random.IntN(min(60, len(rest)))
				if random.IntN(3) == 0 {
					r.Feed(rest[:n]...)
					interrupt(r)
					continue
				}
				r.Feed(rest[:n]...)
				r.Commit()
				rest = rest[n:]
			}
			interrupt(r)
			check(t, r)
		})
	}
	t.Run("second run", func(t *testing.T) {
		r := New(t, kinds, stages)
		r.Feed(records...)
		r.Commit()
		check(t, r)
	})
	t.Run("refused events leave no trace", func(t *testing.T) { noTrace(t, kinds, stages, records, lines, contents) })
}

// noTrace puts an event that is refused before each of the others: a copy under another message id, with the same people.
func noTrace(t *testing.T, kinds []pipeline.StageKind, stages string, records []pipeline.Record, lines []string, contents string) {
	const mark = "refuse-"
	for _, where := range []string{pipeline.TaskResolve, pipeline.TaskProfile} {
		r := New(t, kinds, stages)
		r.Refuse = func(task string, ev *pipeline.Event) bool {
			return task == where && strings.HasPrefix(ev.MessageID, mark)
		}
		for i, rec := range records {
			if raw := strings.ReplaceAll(string(rec.Value), `"messageId":"`, `"messageId":"`+mark); strings.HasPrefix(raw, "{") {
				refused := rec
				refused.Value = []byte(raw)
				refused.Headers = append([]pipeline.Header(nil), rec.Headers...)
				for h := range refused.Headers {
					if refused.Headers[h].Key == pipeline.HeaderID {
						refused.Headers[h].Value = append([]byte(mark), refused.Headers[h].Value...)
					}
				}
				r.Feed(refused)
			}
			r.Feed(rec)
			if i%50 == 0 {
				r.Commit()
			}
		}
		r.Commit()
		kept, refusals := []string{}, 0
		for _, l := range r.Lines() {
			switch {
			case !strings.HasPrefix(l, mark):
				kept = append(kept, l)
			case strings.Contains(l, "/refused: "):
				refusals++
			}
		}
		if len(r.plan.Profile) == 0 && where == pipeline.TaskProfile {
			continue
		}
		if refusals < len(records)/2 {
			t.Errorf("%s: only %d events were refused", where, refusals)
		}
		same(t, where+" output", lines, kept)
		if where == pipeline.TaskResolve {
			same(t, "state", strings.Split(contents, "\n"), strings.Split(r.State(), "\n"))
			continue
		}
		// The resolve task has let the refused events through, so only the profile task's state is as without them.
		same(t, "state of the profile task", onlyFolded(contents), onlyFolded(r.State()))
	}
}

func onlyFolded(contents string) (lines []string) {
	for _, l := range strings.Split(contents, "\n") {
		if strings.Contains(l, " folded ") {
			lines = append(lines, l)
		}
	}
	return lines
}

// same compares two lists of lines, and shows the first that differ.
func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		w, g := "(nothing)", "(nothing)"
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w != g {
			t.Fatalf("%s, line %d\nwant %s\ngot  %s", what, i+1, w, g)
		}
	}
}
