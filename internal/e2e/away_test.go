package e2e

import (
	"database/sql"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
)

const awayPipeline = onTheWeb + `  export: {file: {path: "${IN}/*.ndjson"}}
` + counting + `  - segment: {buyer: orders >= 1}
sinks:
  analytics: {clickhouse: {url: "${URL}"}}
` + receivers

// outage is how long ClickHouse's port is closed in mid-run; the broker is away for a part of it.
const outage = time.Minute

// TestServersThatAreAwayAreWaitedFor starts a pipeline while the broker is stopped and ClickHouse's port closed, and takes
// both away again in mid-run; one receiver answers 500 or cuts connections meanwhile. HTTP must answer 503 while the broker
// is away and 200 while only ClickHouse is, the other receiver must not wait for anything but the broker, and in the end
// everything that was answered with 200 is everywhere once.
func TestServersThatAreAwayAreWaitedFor(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("needs a run without -short: it takes two minutes")
	}
	engine := engine(t)
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		b := testenv.StartKafka(t, testenv.Options{})
		away(t, engine, b, b.Kill)
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		b := startBroker(t)
		away(t, engine, b, b.Stop) // what a kill of it may tear is not promised
	})
}

// restartable is a broker that goes away and comes back at its address.
type restartable interface {
	Addrs() []string
	Start(testing.TB)
	Stop(testing.TB)
}

func away(t *testing.T, engine string, broker restartable, kill func(testing.TB)) {
	var failing atomic.Bool
	failing.Store(true)
	crm := newHooks(t, func(n int) int {
		if failing.Load() {
			return []int{0, 500}[n%2]
		}
		return 200
	})
	healthy := newHooks(t, func(int) int { return 200 })
	in, door := t.TempDir(), newDoor(t, engine[strings.Index(engine, "@")+1:])
	login := strings.TrimSuffix(engine, door.target)

	// At the start neither the broker nor ClickHouse is there.
	broker.Stop(t)
	begun := time.Now()
	name, env := on(t, broker.Addrs(), "IN="+in, "URL="+login+door.address, "CRM="+crm.server.URL, "HEALTHY="+healthy.server.URL)
	p := start(t, write(t, awayPipeline), t.TempDir(), env...)
	c := &customers{t: t, address: p.http()}
	c.refused(4)
	waiting := []string{"level=WARN", "waiting for Kafka at " + broker.Addrs()[0]}
	p.says(waiting...)
	if n, most := p.said(waiting...), 1+int(time.Since(begun)/(10*time.Second)); n > most {
		t.Errorf("%d lines say that Kafka is waited for, want one in 10 s", n)
	}
	broker.Start(t)
	c.again()
	for range 16 {
		c.accepted()
	}
	c.reached(healthy)
	if n := crm.count(); n != 0 {
		t.Errorf("the failing receiver has accepted %d", n)
	}
	p.says("level=WARN", "waiting for ClickHouse", "server="+door.address)
	failing.Store(false)
	door.open()
	c.counted(engine + "/" + name)
	c.reached(crm)

	// In mid-run ClickHouse goes away, a receiver fails, and then the broker goes away too.
	failing.Store(true)
	door.close()
	begun = time.Now()
	reachedBefore := crm.count()
	for time.Since(begun) < outage/4 {
		c.accepted()
		time.Sleep(100 * time.Millisecond) // a client's pace
	}
	c.reached(healthy)
	if n := crm.count(); n != reachedBefore {
		t.Errorf("the failing receiver has accepted %d meanwhile", n-reachedBefore)
	}
	failing.Store(false)
	kill(t)
	c.export(in)
	c.refused(12)
	refusing := []string{"level=WARN", "Kafka does not take events", "source=web", "brokers=" + broker.Addrs()[0]}
	p.says(refusing...)
	if n := p.said(refusing...); n > 2 {
		t.Errorf("%d lines about 12 posts that were refused at once", n)
	}
	broker.Start(t)
	c.again()
	for time.Since(begun) < outage {
		c.accepted()
		time.Sleep(100 * time.Millisecond)
	}
	c.reached(healthy)
	c.reached(crm)
	door.open()
	transitions := c.counted(engine + "/" + name)
	p.stop()
	t.Logf("%d orders, %d requests for %d messages at the failing receiver", c.sent, crm.total, len(crm.tries))

	for _, l := range p.lines {
		if !strings.HasPrefix(l, "time=") && !strings.HasPrefix(l, "http ") && !strings.HasPrefix(l, "clickhouse ") && !strings.HasPrefix(l, "file ") {
			t.Errorf("on standard error: %s", l)
		}
	}
	for _, h := range []*hooks{crm, healthy} {
		if len(h.wrong) > 0 {
			t.Errorf("%d wrong messages, the first: %s", len(h.wrong), h.wrong[0])
		}
		// The id is that of the transition, over all tries, and there is no other.
		if ids := slices.Sorted(maps.Keys(h.tries)); !slices.Equal(ids, transitions) {
			t.Errorf("%d webhook ids, %d transitions, or not the same", len(ids), len(transitions))
		}
	}
	t.Run("node", func(t *testing.T) {
		var again []signed
		for id, n := range crm.tries {
			if n > 1 {
				again = append(again, crm.last[id])
			}
		}
		nodeVerifies(t, again)
	})
}

// customers post orders, two each. An order that was not answered with 200 is posted again, as SDKs do.
type customers struct {
	t       *testing.T
	address string
	sent    int      // orders that were accepted
	open    []string // bodies of those that were not
}

// people is how many have ordered.
func (c *customers) people() int { return (c.sent + 1) / 2 }

// order is the next one; it must be counted before the one after it.
func (c *customers) order() string {
	n := c.sent + len(c.open)
	return fmt.Sprintf(`{"messageId":"m%d","type":"track","event":"Order Completed","userId":"u%d","properties":{"revenue":%d.10}}`, n, n/2, n)
}

func (c *customers) body() string { return batch(c.order()) }

// accepted posts an order and expects 200 at once.
func (c *customers) accepted() {
	c.t.Helper()
	if status := post(c.address, c.body()); status != 200 {
		c.t.Fatalf("order %d was answered with %d although the broker is there", c.sent, status)
	}
	c.sent++
}

// refused posts some orders at once and expects 503 for all.
func (c *customers) refused(n int) {
	c.t.Helper()
	var posting sync.WaitGroup
	for range n {
		body := c.body()
		c.open = append(c.open, body)
		posting.Go(func() {
			status, header := answer(c.address, body)
			if status != 503 || header.Get("Retry-After") == "" {
				c.t.Errorf("a post was answered with %d, Retry-After %q, although the broker is away", status, header.Get("Retry-After"))
			}
		})
	}
	posting.Wait()
}

// again posts what was refused until it is accepted.
func (c *customers) again() {
	c.t.Helper()
	for len(c.open) > 0 {
		body := c.open[0]
		eventually(c.t, func() error {
			if status := post(c.address, body); status != 200 {
				return fmt.Errorf("a post was answered with %d although the broker is back", status)
			}
			return nil
		})
		c.sent++
		c.open = c.open[1:]
	}
}

// export lays an order down for the file source.
func (c *customers) export(folder string) {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "export")
	if err := os.WriteFile(path, []byte(c.order()+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(path, filepath.Join(folder, "export.ndjson")); err != nil { // complete when it is seen
		c.t.Fatal(err)
	}
	c.sent++
}

// reached waits until a receiver has a message for each person.
func (c *customers) reached(h *hooks) {
	c.t.Helper()
	eventually(c.t, func() error {
		if n := h.count(); n != c.people() {
			return fmt.Errorf("%s has accepted %d of %d messages", h.server.URL, n, c.people())
		}
		return nil
	})
}

// counted waits until ClickHouse has every order once, and returns the transition ids, sorted.
func (c *customers) counted(database string) (transitions []string) {
	c.t.Helper()
	db, err := sql.Open("clickhouse", database)
	if err != nil {
		c.t.Fatal(err)
	}
	defer db.Close()
	cents := 100*c.sent*(c.sent-1)/2 + 10*c.sent
	for query, want := range map[string]string{
		"SELECT format('{} {} {}', count(), uniqExact(message_id), toInt64(sum(revenue) * 100)) FROM events":                          fmt.Sprint(c.sent, c.sent, cents),
		"SELECT format('{} {} {}', count(), sum(aggregates['orders']), toInt64(round(sum(aggregates['revenue']) * 100))) FROM people": fmt.Sprint(c.people(), c.sent, cents),
		"SELECT format('{} {} {}', count(), uniqExact(transition_id), uniqExact(profile_id)) FROM segment_log WHERE op = 'enter'":     fmt.Sprint(c.people(), c.people(), c.people()),
		"SELECT format('{} {}', countIf(op != 'enter'), (SELECT count() FROM dead_letters)) FROM segment_log":                         "0 0",
	} {
		eventually(c.t, func() error {
			var got string
			if err := db.QueryRowContext(c.t.Context(), query).Scan(&got); err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("%s: %s, want %s", query, got, want)
			}
			return nil
		})
	}
	rows, err := db.QueryContext(c.t.Context(), "SELECT toString(transition_id) AS id FROM segment_log ORDER BY id")
	if err != nil {
		c.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			c.t.Fatal(err)
		}
		transitions = append(transitions, id)
	}
	if err := rows.Err(); err != nil {
		c.t.Fatal(err)
	}
	return transitions
}

// said is how many lines of standard error have all the words.
func (p *process) said(words ...string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) }) {
			n++
		}
	}
	return n
}

// says waits for a line of standard error that has all the words.
func (p *process) says(words ...string) {
	p.t.Helper()
	eventually(p.t, func() error {
		if p.said(words...) == 0 {
			return fmt.Errorf("no line with %q", words)
		}
		return nil
	})
}
