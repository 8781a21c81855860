package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/millstream-io/millstream/stages/score/clv"
)

// historiesQuery makes one row per customer; days are counted in UTC. person_events knows who belongs together now.
const historiesQuery = `
SELECT toFloat64(count() - 1) AS x, toFloat64(max(day) - min(day)) AS t_x, toFloat64(toDate(?, 'UTC') - min(day)) AS observed,
  if(count() > 1, (sum(spent) - argMin(spent, day)) / (count() - 1), 0) AS m
FROM (
  SELECT person_id, toDate(time, 'UTC') AS day, toFloat64(sum(revenue)) AS spent
  FROM person_events
  WHERE has_person AND type = 'track' AND event = ? AND toDate(time, 'UTC') <= toDate(?, 'UTC')
  GROUP BY person_id, day)
GROUP BY person_id
ORDER BY x, t_x, observed, m`

// historiesFromClickHouse reads the purchases that a pipeline has stored.
func historiesFromClickHouse(ctx context.Context, o fitOptions, unit time.Duration, until time.Time) ([]clv.History, error) {
	address, err := clickhouseAddress(o)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	db, err := sql.Open("clickhouse", address.String())
	if err != nil {
		return nil, &exitError{exitUsage, errors.New("--clickhouse is not the address of a ClickHouse: write http://user@host:8123/?database=shop")}
	}
	defer db.Close()
	if err := db.PingContext(ctx); err != nil {
		return nil, &exitError{exitUnreachable, fmt.Errorf("reach ClickHouse at %s: %w", address.Host, err)}
	}
	if until.IsZero() {
		n := 0
		row := db.QueryRowContext(ctx, "SELECT toDateTime(max(toDate(time, 'UTC')), 'UTC'), count() FROM events WHERE type = 'track' AND event = ?", o.event)
		if err := row.Scan(&until, &n); err != nil {
			return nil, &exitError{exitCheckFailed, fmt.Errorf("ask for the last purchase: %w", err)}
		}
		if n == 0 {
			return nil, &exitError{exitCheckFailed, fmt.Errorf("there is no event %q in table events: say which event is a purchase with --event", o.event)}
		}
	}
	last := until.UTC().Format(time.DateOnly)
	rows, err := db.QueryContext(ctx, historiesQuery, last, o.event, last)
	if err != nil {
		return nil, &exitError{exitCheckFailed, fmt.Errorf("ask for the purchases: %w", err)}
	}
	defer rows.Close()
	perUnit := float64(24*time.Hour) / float64(unit)
	var customers []clv.History
	for rows.Next() {
		var h clv.History
		if err := rows.Scan(&h.X, &h.TX, &h.T, &h.M); err != nil {
			return nil, &exitError{exitCheckFailed, fmt.Errorf("read the purchases: %w", err)}
		}
		h.TX, h.T = h.TX*perUnit, h.T*perUnit
		customers = append(customers, h)
	}
	if err := rows.Err(); err != nil {
		return nil, &exitError{exitCheckFailed, fmt.Errorf("read the purchases: %w", err)}
	}
	return customers, nil
}

// clickhouseAddress is the URL with the password in it. Errors never repeat it.
func clickhouseAddress(o fitOptions) (*url.URL, error) {
	u, err := url.Parse(o.clickhouse)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("--clickhouse is not the address of a ClickHouse: write http://user@host:8123/?database=shop")
	}
	password, err := clickhousePassword(o.passwordFile)
	if err != nil {
		return nil, err
	}
	if own, ok := u.User.Password(); password != "" && (!ok || own == "PASSWORD") { // the word that `run` prints
		user := u.User.Username()
		if user == "" {
			user = "default"
		}
		u.User = url.UserPassword(user, password)
	}
	return u, nil
}
