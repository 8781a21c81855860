package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/pipeline"
)

// fetchSize is how much a fetch asks for. A record batch that is larger still comes whole, alone in its answer (KIP-74).
const fetchSize = 1 << 20

// chunk is what one fetch gave.
type chunk struct {
	records []pipeline.Record // committed ones only; the bytes alias the answer's buffer
	bytes   int               // of keys, values and headers
	next    int64             // after the last batch of the answer, markers and aborted batches included
	stable  int64             // last stable offset when the leader answered
}

// fetcher reads one partition with read_committed over a connection of its own, so that no other request waits behind a
// fetch that waits for records. One owner goroutine.
//
// It uses the library's requests and decoders, not its consumer: that one hides how far it has read (markers, aborted and
// compacted records move the position without giving a record) and costs six channel hops per record.
type fetcher struct {
	c     *Cluster
	topic string
	part  int32
	next  int64 // the first offset that is wanted
	size  int32
	conn  *sarama.Broker
	names headerNames
	bad   int // answers in a row that could not be decoded
}

func (c *Cluster) newFetcher(topic string, part int32, from int64) *fetcher {
	return &fetcher{c: c, topic: topic, part: part, next: from, size: fetchSize, names: headerNames{}}
}

func (f *fetcher) close() {
	if f.conn != nil {
		_ = f.conn.Close() // a connection that is broken already has nothing to say
		f.conn = nil
	}
}

// fetch asks once for records from f.next on and waits at most wait for minBytes of them. It retries until it has an
// answer; an answer may be empty. Errors: *OutOfRangeError, a refusal by the broker, data that cannot be decoded, or the end
// of ctx.
func (f *fetcher) fetch(ctx context.Context, minBytes int32, wait time.Duration) (chunk, error) {
	var got chunk
	err := f.c.retry(ctx, fmt.Sprintf("reading %s partition %d", f.topic, f.part), func() (err error) {
		got, err = f.once(ctx, minBytes, wait)
		if err != nil {
			err = f.failed(ctx, err)
		}
		return err
	})
	if err != nil {
		return chunk{}, fmt.Errorf("read %s partition %d at offset %d: %w", f.topic, f.part, f.next, err)
	}
	f.bad = 0
	f.next = got.next
	return got, nil
}

func (f *fetcher) once(ctx context.Context, minBytes int32, wait time.Duration) (chunk, error) {
	if err := f.connect(); err != nil {
		return chunk{}, err
	}
	conn := f.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the wait at once
	defer stop()
	req := &sarama.FetchRequest{
		Version: 11, MinBytes: minBytes, MaxWaitTime: int32(wait.Milliseconds()), MaxBytes: f.size,
		Isolation: sarama.ReadCommitted, SessionEpoch: -1,
	}
	req.AddBlock(f.topic, f.part, f.next, f.size, -1)
	resp, err := conn.Fetch(req)
	if err != nil {
		return chunk{}, err
	}
	if resp.ErrorCode != 0 {
		return chunk{}, sarama.KError(resp.ErrorCode)
	}
	b := resp.GetBlock(f.topic, f.part)
	if b == nil {
		return chunk{}, sarama.ErrIncompleteResponse
	}
	if b.Err != sarama.ErrNoError {
		return chunk{}, b.Err
	}
	return f.decode(b)
}

// connect opens the connection to the partition's leader if there is none.
func (f *fetcher) connect() error {
	if f.conn != nil {
		return nil
	}
	leader, err := f.c.client.Leader(f.topic, f.part)
	if err != nil {
		return err
	}
	conn := sarama.NewBroker(leader.Addr())
	if err := conn.Open(f.c.conf.fetch()); err != nil {
		return err
	}
	if ok, err := conn.Connected(); !ok {
		_ = f.c.client.RefreshMetadata(f.topic)
		return errors.Join(sarama.ErrNotConnected, err)
	}
	f.conn = conn
	return nil
}

// failed turns an error of an attempt into what the retry loop shall think of it.
func (f *fetcher) failed(ctx context.Context, err error) error {
	f.close()
	if ctx.Err() != nil {
		return err
	}
	var decoding sarama.PacketDecodingError
	switch {
	case errors.Is(err, sarama.ErrOffsetOutOfRange):
		return f.outOfRange(ctx, err)
	case errors.As(err, &decoding), errors.Is(err, errOldFormat):
		if f.bad++; f.bad >= 5 { // damaged on the way, or in the broker's log
			return &final{err}
		}
	case errors.Is(err, errPartial):
		return err
	}
	_ = f.c.client.RefreshMetadata(f.topic) // a failure shows when the leader is asked for
	return err
}

// outOfRange tells a position that is really gone from a leader that does not know its own end yet, just after an election.
func (f *fetcher) outOfRange(ctx context.Context, err error) error {
	parts := []int32{f.part}
	start, e1 := f.c.Starts(ctx, f.topic, parts)
	end, e2 := f.c.Ends(ctx, f.topic, parts, false)
	if e1 != nil || e2 != nil {
		return errors.Join(err, e1, e2)
	}
	if f.next >= start[f.part] && f.next <= end[f.part] {
		return err
	}
	return &final{&OutOfRangeError{f.topic, f.part, f.next, start[f.part], end[f.part]}}
}

var (
	errOldFormat = errors.New("record format of before Kafka 0.11")
	errPartial   = errors.New("batch larger than the fetch")
)

// decode takes the committed records of an answer. Aborted transactions come as (producer, first offset); from there on the
// producer's transactional batches are dropped until its next marker.
func (f *fetcher) decode(b *sarama.FetchResponseBlock) (chunk, error) {
	got := chunk{next: f.next, stable: b.LastStableOffset}
	todo := slices.Clone(b.AbortedTransactions)
	slices.SortFunc(todo, func(a, b *sarama.AbortedTransaction) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	aborted := map[int64]bool{}
	total := 0
	for _, set := range b.RecordsSet {
		if set.RecordBatch != nil {
			total += len(set.RecordBatch.Records)
		}
	}
	got.records = make([]pipeline.Record, 0, total)
	for _, set := range b.RecordsSet {
		batch := set.RecordBatch
		if batch == nil {
			return chunk{}, errOldFormat
		}
		if batch.PartialTrailingRecord {
			break
		}
		for len(todo) > 0 && todo[0].FirstOffset <= batch.LastOffset() {
			aborted[todo[0].ProducerID] = true
			todo = todo[1:]
		}
		got.next = max(got.next, batch.LastOffset()+1)
		if batch.Control {
			delete(aborted, batch.ProducerID)
			continue
		}
		if batch.IsTransactional && aborted[batch.ProducerID] {
			continue
		}
		f.take(&got, batch)
	}
	if len(b.RecordsSet) == 0 && !b.Partial { // batches that compaction has emptied: the library drops them
		got.next = max(got.next, afterEmpty(b))
	}
	if got.next == f.next && len(b.RecordsSet) > 0 && b.RecordsSet[0].RecordBatch.PartialTrailingRecord {
		if f.size >= sarama.MaxResponseSize/2 {
			return chunk{}, &final{fmt.Errorf("%w of %d bytes", errPartial, f.size)}
		}
		f.size *= 2
		return chunk{}, errPartial
	}
	return got, nil
}

// take appends the records of a batch, from f.next on: an answer starts with the batch that holds the wanted offset.
func (f *fetcher) take(got *chunk, batch *sarama.RecordBatch) {
	headers := 0
	for _, r := range batch.Records {
		headers += len(r.Headers)
	}
	slab := make([]pipeline.Header, 0, headers)
	for _, r := range batch.Records {
		offset := batch.FirstOffset + r.OffsetDelta
		if offset < f.next {
			continue
		}
		at := batch.FirstTimestamp.Add(r.TimestampDelta)
		if batch.LogAppendTime {
			at = batch.MaxTimestamp
		}
		first := len(slab)
		got.bytes += len(r.Key) + len(r.Value)
		for _, h := range r.Headers {
			slab = append(slab, pipeline.Header{Key: f.names.of(h.Key), Value: h.Value})
			got.bytes += len(h.Key) + len(h.Value)
		}
		got.records = append(got.records, pipeline.Record{
			Topic: f.topic, Partition: f.part, Offset: offset, Time: at, Key: r.Key, Value: r.Value,
			Headers: slab[first:len(slab):len(slab)],
		})
	}
}

// afterEmpty is the offset after the last batch of an answer that holds only batches without records. The library keeps it in
// a field for its own consumer, which has the same need; there is no other way to see it. (In other answers the field may
// count a batch that came in part.) Zero if the field is gone; TestEmptyBatch would fail then.
func afterEmpty(b *sarama.FetchResponseBlock) int64 {
	next := reflect.ValueOf(b).Elem().FieldByName("recordsNextOffset")
	if !next.IsValid() || next.Kind() != reflect.Pointer || next.IsNil() {
		return 0
	}
	return next.Elem().Int()
}

// headerNames keeps one string per header name: a topic has few, and they come with every record.
type headerNames map[string]string

func (n headerNames) of(b []byte) string {
	if s, ok := n[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(n) < 64 {
		n[s] = s
	}
	return s
}

// ReadToEnd calls fn for each committed record of the partition from offset from (or where the partition starts by now) up
// to the last stable offset as of the call, in order, and returns the offset to go on from. The record and its bytes are
// fn's only until it returns. It reads over a connection of its own, rides out outages and elections, and ends with fn's
// error, ctx, or a refusal.
func (c *Cluster) ReadToEnd(ctx context.Context, topic string, part int32, from int64, fn func(*pipeline.Record) error) (next int64, err error) {
	ends, err := c.Ends(ctx, topic, []int32{part}, true)
	if err != nil {
		return from, err
	}
	starts, err := c.Starts(ctx, topic, []int32{part})
	if err != nil {
		return from, err
	}
	end := ends[part]
	f := c.newFetcher(topic, part, max(from, starts[part]))
	f.size = 4 * fetchSize
	defer f.close()
	for f.next < end {
		got, err := f.fetch(ctx, 1, time.Second)
		var gone *OutOfRangeError
		if errors.As(err, &gone) && gone.Offset < gone.Start { // deleted while we read
			f.next = gone.Start
			continue
		}
		if err != nil {
			return f.next, err
		}
		for i := range got.records {
			if got.records[i].Offset >= end {
				break
			}
			if err := fn(&got.records[i]); err != nil {
				return got.records[i].Offset, err
			}
		}
	}
	return max(from, min(f.next, end)), nil
}
