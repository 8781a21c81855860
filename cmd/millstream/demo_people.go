package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/millstream-io/millstream/internal/workload"
	"github.com/millstream-io/millstream/pipeline"
)

// identifierIDs are the ids that the pipeline gives to the identifiers of the truth.
func identifierIDs(plan *pipeline.Plan, t *workload.Truth) (map[string]pipeline.ID, error) {
	ids := make(map[string]pipeline.ID, len(t.Owners))
	for text := range t.Owners {
		id, err := plan.Identities.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("the demo's people need the identifiers of the quickstart: %w", err)
		}
		ids[text] = id.ID
	}
	return ids, nil
}

// comparePeople compares who is who, by the tables, with the true people, and what each profile has done with what it should
// have done.
func (d *demo) comparePeople(ctx context.Context, db *sql.DB, r *report) error {
	now, err := overrides(ctx, db)
	if err != nil {
		return err
	}
	person := func(identifier string) pipeline.ID {
		id := d.ids[identifier]
		if p, ok := now[id]; ok {
			return p
		}
		return id
	}
	t := &d.work.Truth
	owners := map[pipeline.ID][]int{} // of everything that a person at the end holds
	for identifier, people := range t.Owners {
		p := person(identifier)
		if before, ok := owners[p]; ok {
			people = sameOwners(before, people)
		}
		owners[p] = people
	}
	r.WrongMerges, r.MissedMerges = 0, 0
	for _, people := range owners {
		if len(people) == 0 {
			r.WrongMerges++
		}
	}
	for _, l := range t.Links {
		if l.Refused == "" && person(l.Strong) != person(l.Weak) {
			r.MissedMerges++
		}
	}
	return d.compareProfiles(ctx, db, r)
}

// overrides are the identifiers that belong to another one.
func overrides(ctx context.Context, db *sql.DB) (map[pipeline.ID]pipeline.ID, error) {
	rows, err := db.QueryContext(ctx, "SELECT primary_id, profile_id FROM overrides FINAL")
	if err != nil {
		return nil, fmt.Errorf("ask who is who: %w", err)
	}
	defer rows.Close()
	now := map[pipeline.ID]pipeline.ID{}
	for rows.Next() {
		var id, profile pipeline.ID
		if err := rows.Scan(&id, &profile); err != nil {
			return nil, fmt.Errorf("read who is who: %w", err)
		}
		now[id] = profile
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read who is who: %w", err)
	}
	return now, nil
}

func sameOwners(a, b []int) (both []int) {
	for _, x := range a {
		if slices.Contains(b, x) {
			both = append(both, x)
		}
	}
	return both
}

// compareProfiles counts what single profiles lack or have too much of: events in person_events, and the aggregates.
func (d *demo) compareProfiles(ctx context.Context, db *sql.DB, r *report) error {
	type sums struct{ events, viewed, orders, cents int64 }
	left := map[pipeline.ID]sums{}
	for key, p := range d.work.Truth.Profiles {
		id := d.ids[key]
		if of, ambiguous := strings.CutPrefix(key, workload.Ambiguous); ambiguous {
			id = d.plan.Identities.Ambiguous(d.ids[of])
		}
		left[id] = sums{int64(p.Events), int64(p.Viewed), int64(p.Orders), p.Revenue / 10_000}
	}
	rows, err := db.QueryContext(ctx, `
		SELECT id, sum(events), sum(viewed), sum(orders), sum(cents) FROM (
			SELECT person_id AS id, toInt64(count()) AS events, 0::Int64 AS viewed, 0::Int64 AS orders, 0::Int64 AS cents FROM person_events WHERE has_person GROUP BY person_id
			UNION ALL
			SELECT person_id, 0, toInt64(aggregates['viewed']), toInt64(aggregates['orders']), toInt64(round(aggregates['revenue'] * 100)) FROM people
		) GROUP BY id`)
	if err != nil {
		return fmt.Errorf("ask for the profiles: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id pipeline.ID
		var x sums
		if err := rows.Scan(&id, &x.events, &x.viewed, &x.orders, &x.cents); err != nil {
			return fmt.Errorf("read the profiles: %w", err)
		}
		y := left[id]
		left[id] = sums{y.events - x.events, y.viewed - x.viewed, y.orders - x.orders, y.cents - x.cents}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the profiles: %w", err)
	}
	for _, x := range left {
		for _, n := range []int64{x.events, x.viewed, x.orders, x.cents} {
			r.Lost += int(max(n, 0))
			r.Doubled += int(max(-n, 0))
		}
	}
	return nil
}

// sayPeople says who was found, and why somebody is several profiles.
func (d *demo) sayPeople(r *report) {
	t := &d.work.Truth
	f := func(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }
	f("  %6d profiles of %d people: %d merges, %d of them wrong, %d missed", r.Profiles, r.TruePeople, r.Merges, r.WrongMerges, r.MissedMerges)
	parts := map[string]int{}
	for _, p := range t.Profiles {
		parts[p.Missed]++
	}
	for _, why := range []string{workload.NeverSaid, workload.OnlyAddress, workload.AnyOfThem} {
		f("         %d are %s", parts[why], why)
	}
	refused := 0
	for _, l := range t.Links {
		if l.Refused == workload.SharedDevice {
			refused++
		}
	}
	f("         %d logins on somebody else's device joined nobody, and so did %d addresses of offices", refused, t.Quarantined)
}
