package clickhouse

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// insertSettings go with every insert. Most are the server's defaults, but a profile may say otherwise, and a repetition
// must be cut into the same blocks under the same rules.
func insertSettings(token string) clickhouse.Settings {
	return clickhouse.Settings{
		"async_insert":                                       0, // the answer must mean that the rows are written; on by default since 26.2
		"insert_deduplicate":                                 1,
		"insert_deduplication_token":                         token,
		"max_partitions_per_insert_block":                    0, // a backfill of years is one block
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		"max_insert_block_size":                              1048449,
		"min_insert_block_size_rows":                         1048449,
		"min_insert_block_size_bytes":                        268402944,
		"optimize_on_insert":                                 1,
	}
}

// newSettings go with every insert to a server that knows them. deduplicate_insert (26.2) overrides insert_deduplicate.
func newSettings() clickhouse.Settings {
	return clickhouse.Settings{"deduplicate_insert": "enable"}
}

// insert sends the rows of one table of a unit. doubtful: they may have been sent before.
func (s *Sink) insert(ctx context.Context, b batch, t *rows, u *unit, doubtful bool) error {
	if doubtful && t.key != "" && t.count() > 0 {
		if err := s.settle(ctx, b, t, u); err != nil {
			return err
		}
	}
	if t.count() == 0 {
		return nil
	}
	return s.send(ctx, t, u.token(t.table))
}

// send is one INSERT.
func (s *Sink) send(ctx context.Context, t *rows, token string) error {
	encoded, err := t.encode()
	if err != nil {
		return err
	}
	settings := insertSettings(token)
	maps.Copy(settings, s.settings)
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	return s.conn.InsertFormat(ctx, "Native", t.statement(s.address.database), bytes.NewReader(encoded))
}

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
	s.log.Warn("rows of an old try are in the table; only the missing ones are sent, so materialized views on it may lack some",
		"table", t.table, "topic", u.topic, "partition", u.partition, "first_offset", u.first, "last_offset", u.last, "landed", len(have))
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

// landed selects an expression of the rows of the unit that are in the table.
func (s *Sink) landed(ctx context.Context, t *rows, u *unit, keys []string, expression string) ([]string, error) {
	query := "SELECT " + expression + " FROM " + s.table(t.table) +
		" WHERE " + t.timeColumn + " BETWEEN fromUnixTimestamp64Milli(" + strconv.FormatInt(t.from, 10) + ", 'UTC') AND fromUnixTimestamp64Milli(" + strconv.FormatInt(t.to, 10) + ", 'UTC')"
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
