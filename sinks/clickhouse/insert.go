package clickhouse

import (
	"bytes"
	"context"
	"maps"

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

// insert sends the rows of one table of a unit, and says which statement it was that failed. doubtful: they may have been
// sent before.
func (s *Sink) insert(ctx context.Context, b batch, t *rows, u *unit, doubtful bool) (what string, err error) {
	if doubtful && t.key != "" && t.count() > 0 {
		what = "look for landed rows in " + t.table
		if err := s.settle(ctx, b, t, u); err != nil {
			return what, err
		}
		s.trouble.over(s.log, what)
	}
	what = "insert into " + t.table
	if t.count() == 0 {
		return what, nil
	}
	return what, s.send(ctx, t, u.token(t.table))
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
