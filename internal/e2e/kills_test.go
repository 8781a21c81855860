package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	_ "github.com/ClickHouse/clickhouse-go/v2" // driver "clickhouse"
)

const killPipeline = onTheWeb + counting + `  - segment:
      buyer: orders >= 1
      vip:   orders >= 10
sinks:
  out:       {file: {path: "${OUT}"}}
  analytics: {clickhouse: {url: "${URL}"}}
`

// TestKilledAtRandomNothingIsLostOrDoubled posts a thousand orders of fifty people while the process is killed again and
// again. Every order that was answered with 200 must be counted once everywhere; broker and ClickHouse run apart, and the
// data folder survives the kill, is deleted at each kill, or is put back as it was some kills before.
func TestKilledAtRandomNothingIsLostOrDoubled(t *testing.T) {
	modes := []struct {
		name   string
		rounds int
	}{{"kept", 20}, {"deleted", 8}, {"old-copy", 8}}
	eachBroker(t, func(t *testing.T, brokers []string) {
		for _, m := range modes {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel() // mostly waiting: for the group to notice that a member with a lost folder is dead
				killAtRandom(t, brokers, m.name, m.rounds)
			})
		}
	})
}

func killAtRandom(t *testing.T, brokers []string, mode string, rounds int) {
	const posts, people = 1000, 50
	out, data, old := t.TempDir(), t.TempDir()+"/data", t.TempDir()+"/old"
	engine := engine(t)
	file := write(t, killPipeline)
	name, env := on(t, brokers, "OUT="+out, "URL="+engine)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))

	sent := 0
	p := start(t, file, data, env...)
	address := p.http()
	for round := range rounds {
		killAfter := r.IntN(posts / rounds)
		until := (round + 1) * posts / rounds
		for n := 0; sent < until; n++ {
			if n == killAfter {
				victim := p.cmd.Process // not the one that is started meanwhile
				time.AfterFunc(time.Duration(r.IntN(60))*time.Millisecond, func() { _ = victim.Kill() })
			}
			body := fmt.Sprintf(`{"batch":[{"messageId":"m%d","type":"track","event":"Order Completed","userId":"u%d","properties":{"revenue":%d.10}}]}`, sent, sent%people, sent)
			if post(address, body) == 200 {
				sent++
				continue
			}
			select {
			case <-p.done:
				p, address = restart(t, p, round, mode, file, data, old, env)
			case <-time.After(50 * time.Millisecond):
			}
		}
		p.kill()
		p, address = restart(t, p, round, mode, file, data, old, env)
	}

	db, err := sql.Open("clickhouse", engine+"/"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ask := func(query, want string) {
		t.Helper()
		eventually(t, func() error {
			var got string
			if err := db.QueryRowContext(context.Background(), query).Scan(&got); err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("%s: %s, want %s", query, got, want)
			}
			return nil
		})
	}
	ask("SELECT concat(toString(count()), ' ', toString(uniqExact(message_id)), ' ', toString(sum(revenue))) FROM events", fmt.Sprintf("%d %d %s", posts, posts, "499600"))
	ask("SELECT concat(toString(count()), ' ', toString(sum(aggregates['orders'])), ' ', toString(round(sum(aggregates['revenue']), 2))) FROM people", fmt.Sprintf("%d %d 499600", people, posts))
	ask("SELECT concat(toString(count()), ' ', toString(uniqExact(transition_id))) FROM segment_log", fmt.Sprintf("%d %d", 2*people, 2*people))
	eventually(t, func() error { return checkFile(out, people, posts) }) // its task may have waited longer for dead members
	p.stop()
	if err := checkFile(out, people, posts); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// restart starts the process again after its death, with what the mode leaves of the data folder.
func restart(t *testing.T, p *process, round int, mode, file, data, old string, env []string) (*process, string) {
	t.Helper()
	p.kill()
	if p.cmd.ProcessState.Exited() { // not by a signal
		t.Fatalf("the process gave up by itself: %v", p.cmd.ProcessState)
	}
	switch mode {
	case "deleted":
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
	case "old-copy":
		if round%4 == 0 { // keep a copy of now, for the next three rounds
			if err := os.RemoveAll(old); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(old, os.DirFS(data)); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(data, os.DirFS(old)); err != nil {
			t.Fatal(err)
		}
	}
	p = start(t, file, data, env...)
	return p, p.http()
}

// checkFile checks the messages that a file sink wrote: each id once, two transitions a person, and in the end all orders.
func checkFile(dir string, people, orders int) error {
	lines, err := fileLines(dir)
	if err != nil {
		return err
	}
	ids := map[string]bool{}
	last := map[string]float64{}
	entered := 0
	for _, l := range lines {
		var m struct {
			ID, Type string
			Data     struct {
				Profile struct {
					ID         string `json:"profile_id"`
					Aggregates map[string]float64
				}
			}
		}
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			return fmt.Errorf("line %q: %w", l, err)
		}
		if ids[m.ID] {
			return fmt.Errorf("message %s of type %s stands twice", m.ID, m.Type)
		}
		ids[m.ID] = true
		if m.Type == "segment.entered" {
			entered++
		}
		last[m.Data.Profile.ID] = max(last[m.Data.Profile.ID], m.Data.Profile.Aggregates["orders"])
	}
	total := 0.0
	for _, n := range last {
		total += n
	}
	if entered != 2*people || len(last) != people || int(total) != orders {
		return fmt.Errorf("%d entered, %d profiles, %v orders in the file; want %d, %d, %d", entered, len(last), total, 2*people, people, orders)
	}
	return nil
}
