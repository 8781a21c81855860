package clickhouse

import (
	"context"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/millstream-io/millstream/pipeline"
)

// origin is a topic that rows come from. Under one name there may have been several, one after the other: each has its own
// offsets and, if it is `changes`, its own counting of versions and sequences.
type origin struct {
	topic string
	id    pipeline.ID
	// turns is added to the turn of each version and sequence, so that what the topic says of a profile replaces what the
	// topics before it have said, although their state, and so their counting, is lost.
	turns uint64
}

type originKey struct {
	topic string
	id    pipeline.ID
}

// origin looks the topic up, and notes it the first time. It waits for the server until ctx ends.
func (s *Sink) origin(ctx context.Context, topic string, id pipeline.ID) (*origin, error) {
	if known, ok := s.origins.Load(originKey{topic, id}); ok {
		return known.(*origin), nil
	}
	o := &origin{topic: topic, id: id}
	var before predecessors
	err := s.until(ctx, func(ctx context.Context) (string, error) {
		const what = "look the topic up in topic_ids"
		known, err := s.findOrigin(ctx, o)
		if err == nil && !known {
			if before, err = s.noteOrigin(ctx, *o); err == nil {
				_, err = s.findOrigin(ctx, o) // of processes that start together the first one's note counts
			}
		}
		if err == nil {
			s.trouble.over(s.log, what)
		}
		return what, err
	})
	if err != nil {
		return nil, err
	}
	if before.count > 0 {
		s.log.Warn("the topic was made again, or another Kafka cluster writes into this database: the rows of the topic before stay, the new one is written from its start; what is sent again is counted again",
			"topic", topic, "database", s.address.database, "topic_id", id, "before", before.last, "topics_before", before.count)
	}
	s.origins.Store(originKey{topic, id}, o)
	return o, nil
}

// findOrigin reads the topic's row.
func (s *Sink) findOrigin(ctx context.Context, o *origin) (known bool, err error) {
	var rows uint64
	row := s.conn.QueryRow(ctx, "SELECT count(), min(turns) FROM "+s.table("topic_ids")+" WHERE topic = ? AND topic_id = ?", o.topic, o.id)
	err = row.Scan(&rows, &o.turns)
	return rows > 0, err
}

// predecessors are the topics of the same name that the database has rows of. Rows of before topic ids (nil UUID) are
// nobody's.
type predecessors struct {
	count uint64
	last  pipeline.ID
}

// noteOrigin writes the topic's row.
func (s *Sink) noteOrigin(ctx context.Context, o origin) (before predecessors, err error) {
	row := s.conn.QueryRow(ctx, "SELECT uniqExact(topic_id), argMax(topic_id, complete_until) FROM "+s.table("progress")+" WHERE topic = ? AND topic_id NOT IN (?, ?)", o.topic, o.id, pipeline.ID{})
	if err := row.Scan(&before.count, &before.last); err != nil {
		return before, err
	}
	o.turns = 0
	if o.topic == "changes" {
		var highest uint64
		var maxima []string
		for _, c := range [][2]string{{"version", "profiles"}, {"sequence", "segment_log"}, {"sequence", "scores"}, {"version", "overrides"}, {"version", "identifiers"}} {
			maxima = append(maxima, "(SELECT max("+c[0]+") FROM "+s.table(c[1])+")")
		}
		row := s.conn.QueryRow(ctx, "SELECT greatest("+strings.Join(maxima, ", ")+")")
		if err := row.Scan(&highest); err != nil {
			return before, err
		}
		if highest > 0 {
			o.turns = highest>>32 + 1
		}
	}
	t := rows{table: "topic_ids"}
	column(&t, "topic", newLowText()).Append(o.topic)
	column(&t, "topic_id", new(proto.ColUUID)).Append(o.id)
	column(&t, "turns", new(proto.ColUInt64)).Append(o.turns)
	column(&t, "first_seen", newTimes()).AppendRaw(stored(time.Now()))
	return before, s.send(ctx, &t, "topic_ids-"+o.topic+"-"+o.id.String())
}
