package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// Sink writes ranges into one database. It is safe for concurrent use by several partitions.
type Sink struct {
	address *address
	conn    clickhouse.Conn
	log     *slog.Logger
	trouble trouble
	// What prepare has found; read-only after it.
	windows  map[string]int64    // how many parts the tables remember the tokens of, by table
	settings clickhouse.Settings // those of newSettings that the server knows

	slots   chan struct{} // one for each insert that runs; they bound the memory of encoded rows
	batches sync.Map      // topic -> *sync.Pool of batch
	origins sync.Map      // originKey -> *origin
	erasures
}

func newSink(a *address, log *slog.Logger) (*Sink, error) {
	conn, err := a.open(a.database)
	if err != nil {
		return nil, err
	}
	return &Sink{address: a, conn: conn, log: log.With("server", a.host), slots: make(chan struct{}, maxInserts)}, nil
}

// Close releases the connections; no WriteRange is running.
func (s *Sink) Close() error {
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("close the connections to ClickHouse at %s: %w", s.address, err)
	}
	return nil
}

// Limits of one unit of statements, in records and in bytes of their values. ClickHouse cuts a statement into several
// blocks above 1,048,449 rows or 256 MiB, and each block is deduplicated by itself; a row of events takes up to seven
// times the bytes of its record, so a unit stays below 64 MB. Changing a limit changes how a range is cut: ranges that were
// begun under the old one would be written twice if they are repeated.
const (
	maxUnitRecords = 100_000
	maxUnitBytes   = 8 << 20
)

// unit is a part of a range that is small enough for one statement per table. Its offsets are in its tokens.
type unit struct {
	*origin
	partition   int32
	first, last int64
	records     []pipeline.Record
	warned      bool // that only what had not landed is sent
}

// cut divides a range into units, by the records alone.
func cut(o *origin, r pipeline.Range, records []pipeline.Record) []unit {
	var units []unit
	first, begin, bytes := r.First, 0, 0
	for i := range records {
		size := len(records[i].Value)
		if i > begin && (i-begin >= maxUnitRecords || bytes+size > maxUnitBytes) {
			units = append(units, unit{origin: o, partition: r.Partition, first: first, last: records[i].Offset - 1, records: records[begin:i]})
			first, begin, bytes = records[i].Offset, i, 0
		}
		bytes += size
	}
	return append(units, unit{origin: o, partition: r.Partition, first: first, last: r.Last, records: records[begin:]})
}

func (u *unit) token(table string) string { return u.origin.token(u.partition, u.first, u.last, table) }

// token names a range of one partition of the topic. The id is in it: offsets of a topic that is made again start over.
func (o *origin) token(partition int32, first, last int64, table string) string {
	return fmt.Sprintf("%s-%s-%d-%d-%d-%s", o.topic, o.id, partition, first, last, table)
}

// WriteRange stores the records and returns once the server has them all, or when ctx ends; then the same range must come
// again. Errors other than the end of ctx are waited out. A record that cannot be a row is rejected, its neighbours pass.
// nil outcomes mean that all records are stored.
func (s *Sink) WriteRange(ctx context.Context, r pipeline.Range, records []pipeline.Record) ([]pipeline.Outcome, error) {
	if newBatch(r.Topic) == nil {
		return nil, fmt.Errorf("write a range of topic %s: the clickhouse sink does not read it", r.Topic)
	}
	o, err := s.origin(ctx, r.Topic, r.TopicID)
	if err != nil {
		return nil, fmt.Errorf("look up topic %s: %w", r.Topic, err)
	}
	rejected := make(map[int64]*pipeline.RejectError) // by offset
	for _, u := range cut(o, r, records) {
		if err := s.writeUnit(ctx, &u, r.Repeated, rejected); err != nil {
			return nil, fmt.Errorf("write %s partition %d offsets %d to %d: %w", r.Topic, r.Partition, r.First, r.Last, err)
		}
	}
	if err := s.writeProgress(ctx, o, r); err != nil {
		return nil, fmt.Errorf("note the progress of %s partition %d at offset %d: %w", r.Topic, r.Partition, r.Last, err)
	}
	if len(rejected) == 0 {
		return nil, nil
	}
	outcomes := make([]pipeline.Outcome, len(records))
	for i := range records {
		if rej := rejected[records[i].Offset]; rej != nil {
			outcomes[i] = pipeline.Outcome{Kind: pipeline.Rejected, Code: rej.Code, Reason: rej.Reason}
		}
	}
	return outcomes, nil
}

// writeUnit writes one unit into its tables. doubtful: an earlier try may have written some of it.
func (s *Sink) writeUnit(ctx context.Context, u *unit, doubtful bool, rejected map[int64]*pipeline.RejectError) error {
	if len(u.records) == 0 {
		return nil
	}
	done := make(map[string]bool)
	return s.until(ctx, func(ctx context.Context) (string, error) {
		what, err := s.tryUnit(ctx, u, doubtful, done, rejected)
		doubtful = true
		return what, err
	})
}

// tryUnit builds the rows and sends those of the tables that are not done yet. They are built again for each try, so that a
// range that waits for hours holds no memory but its records.
func (s *Sink) tryUnit(ctx context.Context, u *unit, doubtful bool, done map[string]bool, rejected map[int64]*pipeline.RejectError) (what string, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return "wait for its turn", ctx.Err()
	}
	b := s.batch(u.topic)
	defer s.release(u.topic, b)
	for _, t := range b.tables() {
		t.origin = u.origin
	}
	fillBatch(b, u.records, rejected)
	for _, t := range b.tables() {
		if done[t.table] {
			continue
		}
		if what, err = s.insert(ctx, b, t, u, doubtful); err != nil {
			return what, err
		}
		done[t.table] = true
		s.trouble.over(s.log, what)
	}
	return s.forget(ctx, b, u)
}

// fillBatch turns the records into rows and notes those that cannot be.
func fillBatch(b batch, records []pipeline.Record, rejected map[int64]*pipeline.RejectError) {
	for i := range records {
		if rej := b.add(&records[i]); rej != nil {
			rejected[records[i].Offset] = rej
		}
	}
}

func (s *Sink) batch(topic string) batch {
	pool, _ := s.batches.LoadOrStore(topic, &sync.Pool{New: func() any { return newBatch(topic) }})
	return pool.(*sync.Pool).Get().(batch)
}

func (s *Sink) release(topic string, b batch) {
	for _, t := range b.tables() {
		t.reset()
		t.have, t.origin = nil, nil
	}
	pool, _ := s.batches.Load(topic)
	pool.(*sync.Pool).Put(b)
}

// writeProgress adds the row of progress: what is below next_offset is stored, and so is what the broker got before
// complete_until.
func (s *Sink) writeProgress(ctx context.Context, o *origin, r pipeline.Range) error {
	t := rows{table: "progress"}
	column(&t, "topic", newLowText()).Append(r.Topic)
	column(&t, "topic_id", new(proto.ColUUID)).Append(o.id)
	column(&t, "kafka_partition", new(proto.ColUInt16)).Append(uint16(r.Partition))
	column(&t, "next_offset", new(proto.ColUInt64)).Append(uint64(r.Last + 1))
	until := proto.DateTime64(0)
	if !r.Watermark.IsZero() {
		until = stored(r.Watermark)
	}
	column(&t, "complete_until", newTimes()).AppendRaw(until)
	token := o.token(r.Partition, r.First, r.Last, "progress")
	return s.until(ctx, func(ctx context.Context) (string, error) {
		const what = "insert into progress"
		err := s.send(ctx, &t, token)
		if err == nil {
			s.trouble.over(s.log, what)
		}
		return what, err
	})
}

// Resume is the offset after the last range of the partition that is stored whole, -1 if there is none. What another topic
// of that name has reached is of no use. It waits for the server until ctx ends.
func (s *Sink) Resume(ctx context.Context, topic string, id pipeline.ID, partition int32) (int64, error) {
	next := int64(-1)
	_, err := s.origin(ctx, topic, id)
	if err != nil {
		return -1, fmt.Errorf("look up topic %s: %w", topic, err)
	}
	err = s.until(ctx, func(ctx context.Context) (string, error) {
		const what = "read progress"
		var known, offset uint64
		row := s.conn.QueryRow(ctx, "SELECT count(), max(next_offset) FROM "+s.table("progress")+" WHERE topic = ? AND topic_id = ? AND kafka_partition = ?", topic, id, partition)
		if err := row.Scan(&known, &offset); err != nil {
			return what, err
		}
		if known > 0 {
			next = int64(offset)
		}
		s.trouble.over(s.log, what)
		return what, nil
	})
	if err != nil {
		return -1, fmt.Errorf("ask for the progress of %s partition %d: %w", topic, partition, err)
	}
	return next, nil
}

// table is a table's full name, quoted.
func (s *Sink) table(name string) string {
	return quoteName(s.address.database) + "." + quoteName(name)
}
