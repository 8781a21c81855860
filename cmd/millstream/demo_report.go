package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	_ "github.com/ClickHouse/clickhouse-go/v2" // driver "clickhouse"
)

// report is the comparison of what came out with the truth.
type report struct {
	EventsSent         int            `json:"events_sent"`
	UniqueEvents       int            `json:"unique_events"`
	EventsInClickHouse int            `json:"events_in_clickhouse"`
	DuplicatesSent     int            `json:"duplicates_sent"`
	DuplicatesDropped  int            `json:"duplicates_dropped"`
	DeadLetters        int            `json:"dead_letters"`
	TruePeople         int            `json:"true_people"`
	Profiles           int            `json:"profiles"`
	Merges             int            `json:"merges"`
	WrongMerges        int            `json:"wrong_merges"`        // people at the end who hold identifiers of several true people
	MissedMerges       int            `json:"missed_merges"`       // links that events have stated, that had to be accepted, and that do not hold
	Transitions        map[string]int `json:"segment_transitions"` // of browser the members alone, see expected
	WebhooksDelivered  int            `json:"webhooks_delivered"`
	WebhooksVerified   int            `json:"webhooks_verified"`
	Lost               int            `json:"lost"`
	Doubled            int            `json:"doubled"`
	ElapsedS           float64        `json:"elapsed_s"`

	doubledRows bool
}

// moves is another text when something has arrived.
func (r *report) moves() string {
	return fmt.Sprint(r.EventsInClickHouse, r.DeadLetters, r.Profiles, r.Merges, r.Transitions, r.WebhooksDelivered, r.DuplicatesDropped)
}

func (r *report) right() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.WrongMerges == 0 && r.MissedMerges == 0
}

// expected is what the log of segments must say by the truth. buyer and vip need an account, so each profile enters them
// once, however its parts have found each other. An anonymous visitor may be a browser on two devices before the login that
// joins them, or only after it, as the events happen to arrive: what is certain is who is in at the end.
func (d *demo) expected() map[string]int {
	n := map[string]int{browserMembers: 0, "buyer.enter": 0, "vip.enter": 0}
	for _, p := range d.work.Truth.Profiles {
		if p.Viewed >= 5 {
			n[browserMembers]++
		}
		if p.Account() && p.Orders >= 1 {
			n["buyer.enter"]++
		}
		if p.Account() && p.Orders >= 3 && p.Revenue > 500_000_000 {
			n["vip.enter"]++
		}
	}
	return n
}

const browserMembers = "browser.members"

// settle waits until the outcome equals the truth, or nothing has moved for a while, and compares.
func (d *demo) settle(ctx context.Context) (*report, error) {
	db, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	want := d.expected()
	var last string
	moved := time.Now()
	for {
		r, err := d.compare(ctx, db, want)
		if err == nil && (r.right() || time.Since(moved) > demoStill) { // the people of a large population take a moment
			if err = d.comparePeople(ctx, db, r); err == nil && r.right() {
				return r, nil
			}
		}
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		if err == nil {
			if now := r.moves(); now != last {
				last, moved = now, time.Now()
			}
		}
		patient := demoPatient
		if err == nil && (r.doubledRows && r.EventsInClickHouse >= r.EventsSent-r.DeadLetters || r.WrongMerges > 0) {
			patient = demoWrong // it cannot become right, but what is on its way must not be called lost
		}
		if time.Since(moved) > patient {
			if err != nil {
				return nil, err
			}
			r.ElapsedS = time.Since(d.begun).Seconds()
			return r, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// connect opens the pipeline's database.
func (d *demo) connect(ctx context.Context) (*sql.DB, error) {
	url, err := d.services.clickhouseURL(ctx)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("clickhouse", url)
	if err != nil {
		return nil, fmt.Errorf("open ClickHouse: %w", err)
	}
	return db, nil
}

// compare reads what came out. What is missing counts as lost, what is there twice or too much as doubled: rows, sums,
// transitions and webhooks alike.
func (d *demo) compare(ctx context.Context, db *sql.DB, want map[string]int) (*report, error) {
	t := d.work.Truth
	r := &report{EventsSent: t.Sent, UniqueEvents: t.Unique, DuplicatesSent: t.Repeats, TruePeople: t.People, Transitions: map[string]int{}}
	for name := range want { // also what nobody has entered
		r.Transitions[name] = 0
	}
	var distinct, orders, trueOrders int
	var revenue float64
	var trueRevenue int64
	for _, p := range t.Profiles {
		trueOrders += p.Orders
		trueRevenue += p.Revenue
	}
	err := errors.Join(
		ask(ctx, db, "SELECT count(), uniqExact(message_id) FROM events", &r.EventsInClickHouse, &distinct),
		ask(ctx, db, "SELECT uniqExact(id) FROM dead_letters", &r.DeadLetters),
		ask(ctx, db, "SELECT uniqExact(topic_id, log_offset, from_profile) FROM merges WHERE kind = 'merge'", &r.Merges),
		ask(ctx, db, "SELECT count(), toInt64(sum(aggregates['orders'])), sum(aggregates['revenue']) FROM people", &r.Profiles, &orders, &revenue),
	)
	if err != nil {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, "SELECT segment, op, count(), uniqExact(transition_id), sum(delta) FROM segment_log GROUP BY segment, op ORDER BY segment, op")
	if err != nil {
		return nil, fmt.Errorf("ask for the transitions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var segment, op string
		var n, unique, change int
		if err := rows.Scan(&segment, &op, &n, &unique, &change); err != nil {
			return nil, fmt.Errorf("read the transitions: %w", err)
		}
		if segment == "browser" {
			r.Transitions[browserMembers] += change
		} else {
			r.Transitions[segment+"."+op] = n
		}
		r.Doubled += n - unique
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the transitions: %w", err)
	}
	differ := func(got, want int) {
		r.Lost += max(want-got, 0)
		r.Doubled += max(got-want, 0)
	}
	differ(distinct, t.Unique-t.Broken)
	r.Doubled += r.EventsInClickHouse - distinct
	r.doubledRows = r.EventsInClickHouse > distinct
	differ(r.DeadLetters, t.Broken)
	differ(r.Profiles, len(t.Profiles))
	differ(r.Merges, t.Merges)
	differ(orders, trueOrders)
	differ(int(revenue*100+0.5), int(trueRevenue/10_000))
	delivered, verified, told := d.receiver.counts()
	r.WebhooksDelivered, r.WebhooksVerified = delivered, verified
	for name, n := range want {
		differ(r.Transitions[name], n)
		if segment, isEnter := strings.CutSuffix(name, ".enter"); isEnter { // of browser the quickstart tells nobody
			differ(told[segment], n)
		}
	}
	r.Lost += delivered - verified
	r.DuplicatesDropped = int(d.counters.Read().Dropped["dedup/duplicate"])
	r.ElapsedS = time.Since(d.begun).Seconds()
	return r, nil
}

func ask(ctx context.Context, db *sql.DB, query string, into ...any) error {
	if err := db.QueryRowContext(ctx, query).Scan(into...); err != nil {
		return fmt.Errorf("ask ClickHouse: %w", err)
	}
	return nil
}

// questions are what the demo asks ClickHouse for people to see.
var questions = []struct{ title, query string }{
	{"Who spent most, and on how many devices do they look around?", `SELECT any(p.traits['name']) AS name, any(p.traits['plan']) AS plan, countIf(e.event = 'Order Completed') AS orders, round(toFloat64(sum(e.revenue)), 2) AS revenue, uniqExact(e.anonymous_id) AS devices FROM person_events AS e INNER JOIN people AS p ON p.person_id = e.person_id GROUP BY e.person_id ORDER BY revenue DESC, name LIMIT 5`},
	{"How large are the segments, and what did their members spend?", `SELECT m.segment AS segment, count() AS members, round(sum(s.spent), 2) AS spent FROM segment_members AS m INNER JOIN (SELECT person_id, toFloat64(sum(revenue)) AS spent FROM person_events WHERE has_person GROUP BY person_id) AS s ON s.person_id = m.profile_id GROUP BY segment ORDER BY members DESC`},
	{"Which campaign brought the buyers, on whatever device they first came?", `SELECT if(campaign = '', '(none)', campaign) AS campaign, count() AS buyers, round(sum(spent), 2) AS revenue FROM (SELECT person_id, argMin(utm_source, time) AS campaign, toFloat64(sum(revenue)) AS spent FROM person_events WHERE has_person GROUP BY person_id HAVING spent > 0) GROUP BY campaign ORDER BY revenue DESC`},
}

// tell shows people what happened.
func (d *demo) tell(ctx context.Context, r *report) error {
	f := func(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }
	f("\nWhat happened, in %.1f s", r.ElapsedS)
	f("  %6d events sent", r.EventsSent)
	f("  %6d were repeats of others, %d dropped by dedup", r.DuplicatesSent, r.DuplicatesDropped)
	f("  %6d were broken and are in dead_letters, with the reason", r.DeadLetters)
	f("  %6d are in ClickHouse, each once", r.EventsInClickHouse)
	d.sayPeople(r)
	f("  %6d webhooks delivered, %d with a valid signature", r.WebhooksDelivered, r.WebhooksVerified)
	f("  %6d lost, %d doubled, compared with the truth of the generator", r.Lost, r.Doubled)
	db, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := d.tellStory(ctx, db); err != nil {
		return err
	}
	if err := d.correct(ctx, db); err != nil {
		return err
	}
	for _, q := range questions {
		f("\n%s\n  %s\n", q.title, q.query)
		if err := d.table(ctx, db, q.query); err != nil {
			return err
		}
	}
	return nil
}

// table prints the answer to a query.
func (d *demo) table(ctx context.Context, db *sql.DB, query string) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return fmt.Errorf("ask ClickHouse: %w", err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	lines := [][]string{names}
	for rows.Next() {
		values := make([]any, len(names))
		into := make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		line := make([]string, len(names))
		for i, v := range values {
			line[i] = fmt.Sprint(v)
		}
		lines = append(lines, line)
	}
	width := make([]int, len(names))
	for _, l := range lines {
		for i, c := range l {
			width[i] = max(width[i], len(c))
		}
	}
	for _, l := range lines {
		for i := range l {
			l[i] = fmt.Sprintf("%-*s", width[i], l[i])
		}
		fmt.Fprintln(d.out, "    "+strings.TrimRight(strings.Join(l, "  "), " "))
	}
	return rows.Err()
}
