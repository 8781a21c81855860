package engine

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// lot is where records wait that a sink could not deliver yet: one queue per key, in the sink task's store, so that days of
// retry survive restarts. Only the head of a queue has a time; the others wait for it. What is in memory mirrors the store.
//
// Store key: uvarint length of the record's key, the key, sequence (8 bytes, big endian).
//
// Store value:
//
//	byte 0   format, 1
//	uvarint  attempt number
//	varint   queued at, due at: Unix milliseconds
//	varint   partition, offset
//	uvarint  number of headers; each: name and value, with uvarint lengths
//	rest     the record's value
type lot struct {
	queues map[string]*queue
	heads  dueHeap // may hold stale entries: those that do not match their queue
}

const formatParked = 1

// queue is the waiting records of one key: sequences first … next-1.
type queue struct {
	key         string
	first, next uint64
	due         time.Time
}

// place is where an attempt waits.
type place struct {
	queue    *queue
	sequence uint64
}

// perKey bounds how many records of one key are tried in one Write.
const perKey = 16

// readLot reads what waits from the store.
func readLot(tx pipeline.Tx) (*lot, error) {
	l := &lot{queues: map[string]*queue{}}
	err := tx.Scan(nil, func(key, value []byte) error {
		k, sequence, err := parseParkedKey(key)
		if err != nil {
			return err
		}
		q := l.queues[string(k)]
		if q == nil {
			_, due, err := parseParked(k, value)
			if err != nil {
				return err
			}
			q = &queue{key: string(k), first: sequence, due: due}
			l.queues[q.key] = q
			heap.Push(&l.heads, dueEntry{q, q.due})
		}
		q.next = sequence + 1
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the records that wait for a sink: %w", err)
	}
	return l, nil
}

// holds tells whether records of that key wait.
func (l *lot) holds(key []byte) bool { return l.queues[string(key)] != nil }

// due is the earliest time at which something is to be tried; zero if nothing waits.
func (l *lot) due() time.Time {
	for len(l.heads) > 0 {
		e := l.heads[0]
		if l.queues[e.queue.key] == e.queue && e.queue.due.Equal(e.due) {
			return e.due
		}
		heap.Pop(&l.heads)
	}
	return time.Time{}
}

// add puts a record at the end of its key's queue. due counts if it becomes the head.
func (l *lot) add(tx pipeline.Tx, a *pipeline.Attempt, due time.Time) {
	key := string(a.Record.Key)
	q := l.queues[key]
	if q == nil {
		q = &queue{key: key, due: due}
		l.queues[key] = q
		heap.Push(&l.heads, dueEntry{q, due})
	}
	tx.Set(parkedKey(q.key, q.next), appendParked(nil, a, due))
	q.next++
}

// take returns up to limit attempts of the queues that are due, those of one key together and in order. The records stay in
// the lot until they are removed or postponed.
func (l *lot) take(tx pipeline.Tx, now time.Time, limit int) (attempts []pipeline.Attempt, places []*place, err error) {
	for len(attempts) < limit {
		due := l.due()
		if due.IsZero() || due.After(now) {
			break
		}
		q := heap.Pop(&l.heads).(dueEntry).queue
		for s := q.first; s < q.next && s < q.first+perKey && len(attempts) < limit; s++ {
			value, err := tx.Get(parkedKey(q.key, s))
			if err != nil {
				return nil, nil, err
			}
			a, _, err := parseParked([]byte(q.key), append([]byte(nil), value...))
			if err != nil {
				return nil, nil, err
			}
			attempts = append(attempts, a)
			places = append(places, &place{q, s})
		}
		// Whatever the outcomes, settling them gives the queue a new head or ends it; until then it is not due.
	}
	return attempts, places, nil
}

// postpone notes that a waiting record was tried in vain, or not tried, and is due again at due.
func (l *lot) postpone(tx pipeline.Tx, p *place, a *pipeline.Attempt, due time.Time) {
	tx.Set(parkedKey(p.queue.key, p.sequence), appendParked(nil, a, due))
	if p.sequence == p.queue.first {
		p.queue.due = due
		heap.Push(&l.heads, dueEntry{p.queue, due})
	}
}

// remove takes the head of its queue out; the next one is due at once.
func (l *lot) remove(tx pipeline.Tx, p *place) {
	q := p.queue
	tx.Delete(parkedKey(q.key, p.sequence))
	q.first = p.sequence + 1
	if q.first == q.next {
		delete(l.queues, q.key)
		return
	}
	q.due = time.Unix(0, 0)
	heap.Push(&l.heads, dueEntry{q, q.due})
}

func parkedKey(key string, sequence uint64) []byte {
	b := binary.AppendUvarint(make([]byte, 0, len(key)+12), uint64(len(key)))
	b = append(b, key...)
	return binary.BigEndian.AppendUint64(b, sequence)
}

func parseParkedKey(b []byte) (key []byte, sequence uint64, err error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || uint64(len(b)-w) != n+8 {
		return nil, 0, fmt.Errorf("a key of %d bytes is not that of a waiting record", len(b))
	}
	return b[w : w+int(n)], binary.BigEndian.Uint64(b[w+int(n):]), nil
}

func appendParked(dst []byte, a *pipeline.Attempt, due time.Time) []byte {
	r := a.Record
	dst = append(dst, formatParked)
	dst = binary.AppendUvarint(dst, uint64(a.Number))
	dst = binary.AppendVarint(dst, a.QueuedAt.UnixMilli())
	dst = binary.AppendVarint(dst, due.UnixMilli())
	dst = binary.AppendVarint(dst, int64(r.Partition))
	dst = binary.AppendVarint(dst, r.Offset)
	dst = binary.AppendUvarint(dst, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = append(binary.AppendUvarint(dst, uint64(len(h.Key))), h.Key...)
		dst = append(binary.AppendUvarint(dst, uint64(len(h.Value))), h.Value...)
	}
	return append(dst, r.Value...)
}

func parseParked(key, b []byte) (a pipeline.Attempt, due time.Time, err error) {
	if len(b) == 0 || b[0] != formatParked {
		return a, due, fmt.Errorf("a waiting record has an unknown format; this build reads format %d", formatParked)
	}
	b = b[1:]
	bad := false
	number := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			bad = true
			return 0
		}
		b = b[n:]
		return v
	}
	length := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad = true
			return 0
		}
		b = b[n:]
		return v
	}
	field := func() []byte {
		n := length()
		if n > uint64(len(b)) {
			bad = true
			return nil
		}
		f := b[:n]
		b = b[n:]
		return f
	}
	r := &pipeline.Record{Key: append([]byte(nil), key...)}
	a.Record = r
	a.Number = int(length())
	a.QueuedAt = pipeline.Millis(number())
	due = pipeline.Millis(number())
	r.Partition = int32(number())
	r.Offset = number()
	for n := length(); n > 0 && !bad; n-- {
		name := string(field())
		r.Headers = append(r.Headers, pipeline.Header{Key: name, Value: field()})
	}
	if bad {
		return a, due, fmt.Errorf("a waiting record is cut off")
	}
	r.Value = b
	return a, due, nil
}

// dueHeap orders queues by the time of their heads.
type dueHeap []dueEntry

type dueEntry struct {
	queue *queue
	due   time.Time
}

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueEntry)) }
func (h *dueHeap) Pop() any {
	e := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return e
}
