package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

func TestServerDownAtStartAndInBetween(t *testing.T) {
	engine := sharedEngine(t)
	p := newProxy(t, engine.Address())
	p.down()
	d := &db{t: t, url: engine.URL(), name: newName(), log: new(logLines)}
	through := strings.Replace(engine.URL(), engine.Address(), p.address, 1)
	type opened struct {
		s   *Sink
		err error
	}
	result := make(chan opened, 1)
	go func() {
		s, err := d.openAt(t.Context(), through)
		result <- opened{s, err}
	}()
	eventually(t, "the log says that ClickHouse is down", func() bool { return d.log.count("waiting for ClickHouse") == 1 })
	p.up()
	o := <-result
	if o.err != nil {
		t.Fatal(o.err)
	}
	defer o.s.Close()
	if !strings.Contains(d.log.String(), "ClickHouse answers again") {
		t.Error("the log does not say that it is over")
	}

	p.refuse(true)
	records := months(0, 59)
	written := make(chan error, 1)
	go func() {
		_, err := o.s.WriteRange(t.Context(), rangeOf("resolved", records), records)
		written <- err
	}()
	eventually(t, "several tries", func() bool { return p.refusedConnections() >= 4 })
	if n := d.log.count(`waiting for ClickHouse" trying_to="insert into events`); n > 1 {
		t.Errorf("%d lines about one outage:\n%s", n, d.log)
	}
	p.refuse(false)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	d.want(`SELECT count() FROM events`, "60")
	if next, err := o.s.Resume(t.Context(), "resolved", pipeline.ID{}, 3); next != 60 || err != nil {
		t.Errorf("resume: %d %v", next, err)
	}
	if strings.Contains(d.log.String(), engine.Password()) {
		t.Error("the password is in the log")
	}
}

func TestCancelEndsEverything(t *testing.T) {
	d := newDB(t)
	p, s := d.openBehindProxy()
	if _, err := s.Resume(t.Context(), "resolved", pipeline.ID{}, 0); err != nil { // the topic is known from here on
		t.Fatal(err)
	}
	p.down()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 2 * maxInserts { // more than may run at once
		wg.Go(func() {
			records := months(int64(i*10), int64(i*10+9))
			if _, err := s.WriteRange(ctx, rangeOf("resolved", records), records); !errors.Is(err, context.Canceled) {
				t.Errorf("write: %v", err)
			}
		})
	}
	wg.Go(func() {
		if _, err := s.Resume(ctx, "resolved", pipeline.ID{}, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("resume: %v", err)
		}
	})
	wg.Go(func() {
		if _, err := d.openAt(ctx, "http://"+p.address); !errors.Is(err, context.Canceled) {
			t.Errorf("open: %v", err)
		}
	})
	eventually(t, "the outage is seen", func() bool { return d.log.count("waiting for ClickHouse") >= 3 })
	cancel()
	wg.Wait()
}

// The engine is killed again and again in the middle of inserts over many months with a view.
func TestEngineKilledInTheMiddle(t *testing.T) {
	sharedEngine(t) // skips without the library
	dir := t.TempDir()
	engine, err := startEngine(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	d := openDB(t, engine.URL(), "shop")
	d.userView()
	const size = 2000
	var ranges []pipeline.Range
	var all [][]pipeline.Record
	for i := range int64(6) {
		records := months(i*size, i*size+size-1)
		r := rangeOf("resolved", records)
		ranges, all = append(ranges, r), append(all, records)
		pid := childIn(t, dir)
		done := make(chan error, 1)
		go func() {
			_, err := d.sink.WriteRange(t.Context(), r, records)
			done <- err
		}()
		time.Sleep(time.Duration(rand.IntN(80)) * time.Millisecond) // somewhere; wherever it is, the outcome is the same
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		eventually(t, "a new engine is there", func() bool { _, err := ask(d.url, "shop", "SELECT 1"); return err == nil && childIn(t, dir) != pid })
	}
	want := fmt.Sprintf("%d\t%d", 6*size, 6*size)
	d.want(`SELECT (SELECT count() FROM events), (SELECT sum(n) FROM daily)`, want)
	t.Logf("%d inserts of 6 were interrupted", d.log.count("waiting for ClickHouse"))
	for i := range ranges { // and once more after the restart, as the next owner of the partition would
		ranges[i].Repeated = true
		d.writeRange(ranges[i], all[i])
	}
	d.want(`SELECT (SELECT count() FROM events), (SELECT sum(n) FROM daily)`, want)
}

// childIn is the engine process whose working directory is below dir.
func childIn(t *testing.T, dir string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil || len(links) == 0 {
		t.Skip("needs /proc to find the engine's process")
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, dir) {
			var pid int
			if _, err := fmt.Sscanf(l, "/proc/%d/cwd", &pid); err == nil {
				return pid
			}
		}
	}
	return 0
}

// What a person must repair is said with the table and the cure, without a customer's data, and goes on by itself after it.
func TestBrokenSchemaWaitsForARepair(t *testing.T) {
	d := newDB(t)
	for _, c := range []struct{ name, wreck, repair, log string }{
		{"table gone", `RENAME TABLE events TO elsewhere`, `RENAME TABLE elsewhere TO events`, `trying_to="insert into events" error="code 60 UNKNOWN_TABLE`},
		{"column gone", `ALTER TABLE events RENAME COLUMN library TO lib`, `ALTER TABLE events RENAME COLUMN lib TO library`, `repair="a column of the table is missing`},
		{"failing view", `CREATE MATERIALIZED VIEW bad ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 1000 AS SELECT toUInt64(user_id) AS n FROM events`, `DROP VIEW bad`, `CANNOT_PARSE_TEXT`},
	} {
		before := d.log.String()
		d.query(c.wreck)
		r := resolved(int64(len(before)), `{"type":"track","event":"e","userId":"secret@example.com"}`, nil)
		done := make(chan error, 1)
		go func() {
			_, err := d.sink.WriteRange(t.Context(), rangeOf("resolved", []pipeline.Record{r}), []pipeline.Record{r})
			done <- err
		}()
		eventually(t, c.name+": the log says "+c.log, func() bool { return strings.Contains(strings.TrimPrefix(d.log.String(), before), c.log) })
		d.query(c.repair)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	d.want(`SELECT count() FROM events`, "3")
	if strings.Contains(d.log.String(), "secret") {
		t.Errorf("customer data in the log:\n%s", d.log)
	}
}
