package clickhouse

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// How people are forgotten. identity.erased says the ids of a person, which nobody has from then on; they go into the table
// erasures, and then the person's rows are deleted from all tables. A row that another partition or process writes at the
// same time could be missed, so whoever has written rows looks into erasures afterwards and deletes those of erased ids again:
// either the row was there before the deletion, or the ids stood in erasures before the row was written. Deletions can be
// repeated, and do not touch what a table remembers of inserts, so a range that is repeated is still once.

// erasureRows is the table erasures.
type erasureRows struct {
	rows
	id, origin, successor, profile *proto.ColUUID
	offset                         *proto.ColUInt64
	at                             *proto.ColDateTime64
}

func (t *erasureRows) init() {
	t.rows = rows{table: "erasures", key: "concat(toString(id), '/', toString(log_offset))", timeColumn: "at"}
	t.id = column(&t.rows, "id", new(proto.ColUUID))
	t.origin = column(&t.rows, "origin", new(proto.ColUUID))
	t.successor = column(&t.rows, "successor", new(proto.ColUUID))
	t.profile = column(&t.rows, "profile_id", new(proto.ColUUID))
	t.offset = column(&t.rows, "log_offset", new(proto.ColUInt64))
	t.at = column(&t.rows, "at", newTimes())
}

// add appends an identity.erased: two rows for each identifier.
func (t *erasureRows) add(data gjson.Result) *pipeline.RejectError {
	bad := func() *pipeline.RejectError {
		return pipeline.Reject("erasure_incomplete", "the message lacks a usable log_offset, profile_id, at or ids")
	}
	offset, okOffset := unsigned(data.Get("log_offset"), math.MaxInt64)
	profile, err := uuid.Parse(data.Get("profile_id").Str)
	at, okAt := readTime(data.Get("at"))
	list := data.Get("ids").Array()
	if !okOffset || err != nil || !okAt || len(list) == 0 {
		return bad()
	}
	ids := make([][4]pipeline.ID, len(list))
	for i, x := range list {
		for k, name := range []string{"id", "origin", "successor", "ambiguous"} {
			if ids[i][k], err = uuid.Parse(x.Get(name).Str); err != nil || ids[i][k] == uuid.Nil {
				return bad()
			}
		}
	}
	row := func(id, origin, successor pipeline.ID) {
		if t.skip(stored(at), func() string { return fmt.Sprintf("%s/%d", id, offset) }) {
			return
		}
		t.id.Append(id)
		t.origin.Append(origin)
		t.successor.Append(successor)
		t.profile.Append(profile)
		t.offset.Append(offset)
		t.at.AppendRaw(stored(at))
	}
	for _, x := range ids {
		row(x[0], x[1], x[2])
		row(x[3], uuid.Nil, uuid.Nil)
	}
	return nil
}

// erasures is what this process knows of the table.
type erasures struct {
	mu    sync.Mutex
	topic pipeline.ID // `changes`, of which they are
	count uint64
	gone  map[pipeline.ID]bool             // ids
	until map[pipeline.ID]proto.DateTime64 // origins: what was received until then is the erased person's
}

// personal are the ids of which rows are to be deleted.
type personal struct {
	ids     []pipeline.ID
	origins []pipeline.ID
	until   []proto.DateTime64 // of origins
}

// forget deletes the rows of people who are erased, after the rows of the unit were written: of those whose erasure is in the
// unit everywhere, of others in the tables that the unit was written into.
func (s *Sink) forget(ctx context.Context, b batch, u *unit) (what string, err error) {
	what = "look into erasures"
	var again []*rows
	for _, t := range b.tables() {
		if t.have != nil { // without those that had landed before
			t.have = nil
			again = append(again, t)
		}
	}
	if len(again) > 0 {
		refill(b, u)
	}
	gone, until, err := s.erased(ctx)
	if err != nil || len(gone) == 0 {
		return what, err
	}
	s.trouble.over(s.log, what)
	if c, ok := b.(*changeBatch); ok && c.erasures.count() > 0 {
		var all personal
		for i, id := range *c.erasures.id {
			all.ids = append(all.ids, id)
			if origin := (*c.erasures.origin)[i]; origin != uuid.Nil {
				all.origins, all.until = append(all.origins, origin), append(all.until, c.erasures.at.Data[i])
			}
		}
		for _, table := range personalTables() {
			if what, err = s.delete(ctx, table, &all); err != nil {
				return what, err
			}
		}
	}
	for _, t := range b.tables() {
		var found personal
		known := map[pipeline.ID]bool{}
		for _, column := range t.people {
			for _, id := range *column {
				switch at, letter := until[id]; {
				case known[id]:
				case t.table == "dead_letters" && letter:
					known[id] = true
					found.origins, found.until = append(found.origins, id), append(found.until, at)
				case t.table != "dead_letters" && gone[id]:
					known[id] = true
					found.ids = append(found.ids, id)
				}
			}
		}
		if len(known) == 0 {
			continue
		}
		if what, err = s.delete(ctx, t.table, &found); err != nil {
			return what, err
		}
	}
	return what, nil
}

// erased are the ids of all who were erased, as the table has them now. A topic `changes` that was made again belongs to a new
// link log, in which the values have their first ids again, so the erasures of the one before are over.
func (s *Sink) erased(ctx context.Context) (gone map[pipeline.ID]bool, until map[pipeline.ID]proto.DateTime64, err error) {
	const current = "(SELECT argMax(topic_id, first_seen) FROM %s WHERE topic = 'changes')"
	where := " FROM " + s.table("erasures") + " WHERE topic_id = " + fmt.Sprintf(current, s.table("topic_ids"))
	var topic pipeline.ID
	var count uint64
	if err := s.conn.QueryRow(ctx, "SELECT max(topic_id), uniqExact(id, log_offset)"+where).Scan(&topic, &count); err != nil {
		return nil, nil, err
	}
	e := &s.erasures
	e.mu.Lock()
	defer e.mu.Unlock()
	if count == 0 {
		return nil, nil, nil
	}
	if e.topic == topic && e.count == count {
		return e.gone, e.until, nil
	}
	found, err := s.conn.Query(ctx, "SELECT id, origin, toUnixTimestamp64Milli(at)"+where)
	if err != nil {
		return nil, nil, err
	}
	defer found.Close()
	gone, until = map[pipeline.ID]bool{}, map[pipeline.ID]proto.DateTime64{}
	for found.Next() {
		var id, origin pipeline.ID
		var at int64
		if err := found.Scan(&id, &origin, &at); err != nil {
			return nil, nil, err
		}
		gone[id] = true
		if origin != uuid.Nil {
			until[origin] = max(until[origin], proto.DateTime64(at))
		}
	}
	if err := found.Err(); err != nil {
		return nil, nil, err
	}
	e.topic, e.count, e.gone, e.until = topic, count, gone, until
	return gone, until, nil
}

// personalTables are those that hold rows of people.
func personalTables() []string {
	return []string{"events", "profiles", "identifiers", "overrides", "segment_log", "scores", "deliveries", "merges", "dead_letters"}
}

// delete deletes the rows of these ids from a table, and returns when that is done: also what the table's parts hold of them
// is gone then, once ClickHouse has removed the old parts.
func (s *Sink) delete(ctx context.Context, table string, p *personal) (what string, err error) {
	what = "delete erased people from " + table
	ids, origins, until := p.ids, p.origins, p.until
	for len(ids) > 0 || len(origins) > 0 {
		n, m := min(len(ids), keysPerQuery), min(len(origins), keysPerQuery)
		where := condition(table, &personal{ids[:n], origins[:m], until[:m]})
		ids, origins, until = ids[n:], origins[m:], until[m:]
		if where == "" {
			continue
		}
		var count uint64
		if err := s.conn.QueryRow(ctx, "SELECT count() FROM "+s.table(table)+" WHERE "+where).Scan(&count); err != nil {
			return what, err
		}
		if count == 0 { // a mutation renames parts, also those in which it finds nothing
			continue
		}
		ctx := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"mutations_sync": 1}))
		if err := s.conn.Exec(ctx, "ALTER TABLE "+s.table(table)+" DELETE WHERE "+where); err != nil {
			return what, err
		}
	}
	s.trouble.over(s.log, what)
	return what, nil
}

// condition finds the rows of these ids in a table, empty: there can be none. What stays is in merges that somebody was
// erased, and in deliveries that receivers were told. Dead letters have the ids that follow from values, which whoever comes with them later
// has, too: the time at which they were received tells whose they are.
func condition(table string, p *personal) string {
	if table == "dead_letters" {
		var list []string
		for _, at := range slices.Compact(slices.Sorted(slices.Values(p.until))) {
			var origins []string
			for k, origin := range p.origins {
				if p.until[k] == at {
					origins = append(origins, "toUUID("+quoteText(origin.String())+")")
				}
			}
			list = append(list, fmt.Sprintf("(hasAny(ids, [%s]) AND received_at <= fromUnixTimestamp64Milli(%d, 'UTC'))", strings.Join(origins, ", "), at))
		}
		return strings.Join(list, " OR ")
	}
	if len(p.ids) == 0 {
		return ""
	}
	texts := make([]string, len(p.ids))
	for i, id := range p.ids {
		texts[i] = id.String()
	}
	in := " IN (" + quoteTexts(texts) + ")"
	switch table {
	case "events":
		return "primary_id" + in
	case "identifiers":
		return "id" + in + " OR profile_id" + in
	case "overrides":
		return "primary_id" + in + " OR profile_id" + in
	case "merges":
		return "kind <> 'erased' AND (from_profile" + in + " OR into_profile" + in + ")"
	case "deliveries":
		return "profile_id" + in + " AND type <> " + quoteText(pipeline.ProfileErased)
	}
	return "profile_id" + in
}
