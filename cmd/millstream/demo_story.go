package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/engine"
	"github.com/millstream-io/millstream/pipeline/links"
)

// story is one person, from the first anonymous visit to the customer.
type story struct {
	person          pipeline.ID
	user, device    string
	seen            time.Time
	first, product  string
	anonymous       int
	login           time.Time
	message, how    string
	offset          uint64
	order           time.Time
	bought          string
	revenue         float64
	segment         string
	entered         time.Time
	webhook         string
	status          int
	devices, events int
}

// pick is somebody who first came without a name, was joined by a login on that very device, and bought: the one with the
// fewest events, so that a reader can look through them.
const pick = `
SELECT f.person_id, f.user, f.device, f.seen, f.first, f.product, f.anonymous, f.devices, f.events, f.ordered, f.bought, f.revenue,
  m.log_offset, m.trigger_message_id, l.time, if(l.type = 'identify', 'identify', l.event)
FROM (
  SELECT person_id, max(user_id) AS user, argMin(anonymous_id, time) AS device, argMin(primary_id, time) AS origin, min(time) AS seen,
    argMin(event, time) AS first, argMin(properties['product'], time) AS product, toInt64(countIf(user_id = '')) AS anonymous,
    toInt64(uniqExact(anonymous_id)) AS devices, toInt64(count()) AS events, minIf(time, event = 'Order Completed' AND user_id != '') AS ordered,
    argMinIf(properties['product'], time, event = 'Order Completed' AND user_id != '') AS bought,
    toFloat64(argMinIf(revenue, time, event = 'Order Completed' AND user_id != '')) AS revenue
  FROM person_events WHERE has_person GROUP BY person_id
  HAVING argMin(user_id, time) = '' AND countIf(event = 'Newsletter Subscribed') = 0 AND bought != ''
) AS f
INNER JOIN (SELECT * FROM merges WHERE kind = 'merge') AS m ON m.from_profile = f.origin AND m.into_profile = f.person_id
INNER JOIN events AS l ON l.message_id = m.trigger_message_id
WHERE l.anonymous_id = f.device AND l.time < f.ordered
ORDER BY f.devices < 2, f.events, f.user LIMIT 1`

// tellStory tells it; of a population without such a person nothing.
func (d *demo) tellStory(ctx context.Context, db *sql.DB) error {
	s := &story{}
	err := ask(ctx, db, pick, &s.person, &s.user, &s.device, &s.seen, &s.first, &s.product, &s.anonymous, &s.devices, &s.events, &s.order, &s.bought, &s.revenue,
		&s.offset, &s.message, &s.login, &s.how)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = ask(ctx, db, fmt.Sprintf("SELECT segment, effective_at FROM segment_log WHERE profile_id = '%s' AND op = 'enter' AND segment = 'buyer'", s.person), &s.segment, &s.entered)
	}
	if err == nil {
		err = d.awaitWebhook(ctx, db, s)
	}
	if err != nil {
		return err
	}
	d.told = s
	const day = "Mon 15:04:05"
	f := func(at time.Time, format string, args ...any) {
		fmt.Fprintf(d.out, "  %s  %s\n", at.Format(day), fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(d.out, "\nOne person, from anonymous to customer (profile %s)\n", s.person)
	f(s.seen, "%s, %s: somebody on %s; %d events without a name", s.first, s.product, s.device, s.anonymous)
	f(s.login, "%s: event %s has both %s and %s, so", s.how, s.message, s.device, s.user)
	f(s.login, "they are one person: merge %d of the link log. %d devices and %d events are theirs now", s.offset, s.devices, s.events)
	f(s.order, "Order Completed: %s for %.2f", s.bought, s.revenue)
	f(s.entered, "entered %s", s.segment)
	if s.webhook != "" {
		fmt.Fprintf(d.out, "  %*s  webhook %s told the CRM, which answered %d\n", len(day), "", s.webhook, s.status)
	}
	return nil
}

// awaitWebhook reads what became of the webhook about the segment. The row follows the request within a second or two.
func (d *demo) awaitWebhook(ctx context.Context, db *sql.DB, s *story) error {
	query := fmt.Sprintf("SELECT toString(webhook_id), toInt64(status) FROM deliveries WHERE profile_id = '%s' AND outcome = 'delivered' ORDER BY sent_at LIMIT 1", s.person)
	for range 25 {
		err := ask(ctx, db, query, &s.webhook, &s.status)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

// correct takes the merge of the story back and joins the two again, as an operator does.
func (d *demo) correct(ctx context.Context, db *sql.DB) error {
	s := d.told
	if s == nil {
		return nil
	}
	fmt.Fprintf(d.out, "\nWas that login somebody else's? An operator takes the merge back, and then joins the two again\n")
	ids := []pipeline.ID{s.person, d.ids["anonymous_id:"+s.device]}
	for _, op := range []string{links.OpUnlink, links.OpLink} {
		fmt.Fprintf(d.out, "  identity %s user_id:%s anonymous_id:%s\n", op, s.user, s.device)
		err := withLinkLog(ctx, d.plan, d.data, demoPatient, func(log *engine.LinkLog) error {
			out, err := log.Operate(ctx, op, "demo", time.Now().UTC().Truncate(time.Millisecond), false, ids...)
			if err == nil {
				fmt.Fprintln(d.out, "    "+sentence(out, false))
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := d.awaitEvents(ctx, db, s, ids, op == links.OpLink); err != nil {
			return err
		}
	}
	return nil
}

// awaitEvents waits until the events of the story's person, by both tables, are one person's or two people's.
func (d *demo) awaitEvents(ctx context.Context, db *sql.DB, s *story, ids []pipeline.ID, joined bool) error {
	const query = "SELECT toInt64(countIf(person_id = '%[1]s')), toInt64(countIf(person_id = '%[2]s')), (SELECT toInt64(count()) FROM people WHERE person_id IN ('%[1]s', '%[2]s')) FROM person_events"
	for begun := time.Now(); ; {
		var user, device, profiles int
		if err := ask(ctx, db, fmt.Sprintf(query, ids[0], ids[1]), &user, &device, &profiles); err != nil {
			return err
		}
		if user+device == s.events && joined == (device == 0) && joined == (profiles == 1) {
			fmt.Fprintf(d.out, "    profiles: %d; events of user_id:%s %d, of the visitor apart %d\n", profiles, s.user, user, device)
			return nil
		}
		if time.Since(begun) > demoPatient {
			return fmt.Errorf("the correction has not arrived in ClickHouse: %d profiles, %d and %d of %d events", profiles, user, device, s.events)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// sayCorrection shows how to do that by hand.
func (d *demo) sayCorrection() {
	s := d.told
	if s == nil {
		return
	}
	fmt.Fprintf(d.out, "\nShow and correct who is who, in another terminal; profiles, segments and person_events follow within seconds:\n\n  export CRM_URL='%s' CRM_SECRET='%s'\n", d.receiver.url, d.receiver.secret)
	f := func(op, more string) {
		fmt.Fprintf(d.out, "  %s identity %s %s --data %s user_id:%s%s\n", os.Args[0], op, d.file, d.data, s.user, more)
	}
	f("show", "")
	f(links.OpUnlink, " anonymous_id:"+s.device)
	f(links.OpLink, " anonymous_id:"+s.device)
	fmt.Fprintln(d.out)
}
