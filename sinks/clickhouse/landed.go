package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// settle decides what to send of rows that may have been sent before.
//
//	none of them has landed                        all, under their token
//	some have, and the table remembers the token   all, under their token: the server drops what it has, and completes
//	                                               views that it had not reached
//	some have, and the token may be forgotten      those that have not landed
//
// A table remembers the tokens of its latest parts, as many as its window. Parts are numbered, and a merged part keeps the
// lowest number of those it was made from, so the distance between the parts in which the rows lie and the newest part is
// never taken for shorter than it is.
func (s *Sink) settle(ctx context.Context, b batch, t *rows, u *unit) error {
	keys, err := s.keysOf(b, t, u)
	if err != nil {
		return err
	}
	parts, err := s.landed(ctx, t, u, keys, "DISTINCT _part")
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return nil
	}
	age, err := s.age(ctx, t.table, parts)
	if err != nil {
		return err
	}
	if age < s.windows[t.table]/2 {
		return nil
	}
	have, err := s.landed(ctx, t, u, keys, t.key)
	if err != nil {
		return err
	}
	if !u.warned {
		u.warned = true
		s.log.Warn("rows of an old try are in the table; only the missing ones are sent, so materialized views on it may lack some",
			"table", t.table, "topic", u.topic, "partition", u.partition, "first_offset", u.first, "last_offset", u.last, "landed", len(have))
	}
	t.have = make(map[string]bool, len(have))
	for _, k := range have {
		t.have[k] = true
	}
	refill(b, u)
	return nil
}

// keysOf returns the keys of all rows of the table.
func (s *Sink) keysOf(b batch, t *rows, u *unit) ([]string, error) {
	t.collect = true
	refill(b, u)
	t.collect = false
	if len(t.keys) != t.count() {
		return nil, fmt.Errorf("table %s has %d keys for %d rows", t.table, len(t.keys), t.count())
	}
	return append([]string(nil), t.keys...), nil
}

// refill builds the rows of a unit again; what was rejected is known already.
func refill(b batch, u *unit) {
	for _, t := range b.tables() {
		t.reset()
	}
	for i := range u.records {
		_ = b.add(&u.records[i])
	}
}

// keysPerQuery keeps a query below ClickHouse's limit of 256 KiB.
const keysPerQuery = 1000

// landed selects an expression of the rows of the unit that are in the table. Rows of another topic of that name do not
// count: an import that is loaded again into new topics has the same transitions, at the same times.
func (s *Sink) landed(ctx context.Context, t *rows, u *unit, keys []string, expression string) ([]string, error) {
	query := "SELECT " + expression + " FROM " + s.table(t.table) +
		" WHERE " + t.timeColumn + " BETWEEN fromUnixTimestamp64Milli(" + strconv.FormatInt(t.from, 10) + ", 'UTC') AND fromUnixTimestamp64Milli(" + strconv.FormatInt(t.to, 10) + ", 'UTC')" +
		" AND topic_id = toUUID(" + quoteText(u.id.String()) + ")"
	if t.table == "events" { // a range of offsets says it all
		query += fmt.Sprintf(" AND kafka_partition = %d AND kafka_offset BETWEEN %d AND %d", u.partition, u.first, u.last)
		return s.texts(ctx, query)
	}
	var all []string
	for len(keys) > 0 {
		n := min(len(keys), keysPerQuery)
		found, err := s.texts(ctx, query+" AND "+t.key+" IN ("+quoteTexts(keys[:n])+")")
		if err != nil {
			return nil, err
		}
		all, keys = append(all, found...), keys[n:]
	}
	return all, nil
}

// age is how many parts the table may have got since the oldest of these was written.
func (s *Sink) age(ctx context.Context, table string, parts []string) (int64, error) {
	oldest := int64(-1)
	for _, p := range parts {
		f := strings.Split(p, "_") // partition_min_max_level[_mutation]
		if len(f) < 4 {
			return 0, fmt.Errorf("part %q of table %s has a name of unknown form", p, table)
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("part %q of table %s has a name of unknown form", p, table)
		}
		if oldest < 0 || n < oldest {
			oldest = n
		}
	}
	var newest int64
	row := s.conn.QueryRow(ctx, "SELECT max(max_block_number) FROM system.parts WHERE database = ? AND table = ?", s.address.database, table)
	if err := row.Scan(&newest); err != nil {
		return 0, err
	}
	return newest - oldest, nil
}

// texts runs a query of one column of texts.
func (s *Sink) texts(ctx context.Context, query string) ([]string, error) {
	found, err := s.conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var all []string
	for found.Next() {
		var text string
		if err := found.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, found.Err()
}

func quoteText(s string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) + "'"
}

func quoteTexts(texts []string) string {
	quoted := make([]string, len(texts))
	for i, t := range texts {
		quoted[i] = quoteText(t)
	}
	return strings.Join(quoted, ", ")
}
