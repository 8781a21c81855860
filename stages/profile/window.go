package profile

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
)

// window is the content of an attribute with `over`: what the events of the last so many milliseconds say. At the time now it
// holds the events with now - over < time <= now, exactly to the millisecond, as long as no bucket is coarse.
//
// A bucket is a 64th of the window. Up to 16 entries of a bucket keep their times; beyond that the bucket is coarse: its entries
// come in with the first and leave with the last of them. What is in a bucket depends on the set of its events alone, and a
// bucket is forgotten when no time can come at which it counts, which depends on the newest event alone; so the order of
// events, and how they are split into fragments, does not matter.
type window struct {
	over    int64    // Unix milliseconds, like all times here
	newest  int64    // time of the newest event that was added
	buckets []bucket // by index
}

type bucket struct {
	index       int64 // of the multiple of the width at which it begins
	coarse      bool
	first, last int64
	entries     []entry // by time and key
}

type entry struct {
	at     int64  // 0 in a coarse bucket
	key    uint64 // unique: the hash of the value
	count  uint64 // count, avg
	number int64  // as in aggregate
}

const (
	windowBuckets = 64
	maxExactTimes = 16 // entries of a bucket that is not coarse
	maxCoarseKeys = 32 // different values of a coarse bucket, for unique; those with the smallest hashes stay
	maxWindows    = 32 // attributes with over
	// maxAhead is how far the time of an event can be ahead of now, by clean; with a reserve.
	maxAhead = 10 * 60_000
)

func (w *window) width() int64 { return max(w.over/windowBuckets, 1) }

func (w *window) indexOf(at int64) int64 {
	i := at / w.width()
	if at < 0 && at%w.width() != 0 {
		i--
	}
	return i
}

// expired tells whether a bucket is before every window from now on: now is never before newest - maxAhead.
func (w *window) expired(index int64) bool {
	return (index+1)*w.width() <= w.newest-maxAhead-w.over
}

// outdated tells whether an event of that time is before every window from now on.
func (w *window) outdated(at int64) bool { return w.expired(w.indexOf(at)) }

func newWindow(over int64) *window { return &window{over: over, newest: math.MinInt64 / 2} }

// add takes what one event says.
func (w *window) add(o op, x entry) {
	w.advance(x.at)
	if index := w.indexOf(x.at); !w.expired(index) {
		w.bucket(index, x.at).add(o, x)
	}
}

// advance notes the time of an event, and forgets what is over.
func (w *window) advance(newest int64) {
	if newest <= w.newest {
		return
	}
	w.newest = newest
	n := 0
	for n < len(w.buckets) && w.expired(w.buckets[n].index) {
		n++
	}
	w.buckets = slices.Delete(w.buckets, 0, n)
}

// bucket finds or makes the bucket with that index, and stretches it to that time.
func (w *window) bucket(index, at int64) *bucket {
	i, found := w.search(index)
	if !found {
		w.buckets = slices.Insert(w.buckets, i, bucket{index: index, first: at, last: at})
	}
	b := &w.buckets[i]
	b.first, b.last = min(b.first, at), max(b.last, at)
	return b
}

func (w *window) search(index int64) (int, bool) {
	return slices.BinarySearchFunc(w.buckets, index, func(b bucket, index int64) int { return cmp.Compare(b.index, index) })
}

func (b *bucket) add(o op, x entry) {
	if b.coarse {
		x.at = 0
	}
	i, found := slices.BinarySearchFunc(b.entries, x, func(e, x entry) int { return cmp.Or(cmp.Compare(e.at, x.at), cmp.Compare(e.key, x.key)) })
	if found {
		b.entries[i].combine(o, x)
		return
	}
	b.entries = insert(b.entries, i, x)
	switch {
	case b.coarse:
		b.entries = b.entries[:min(len(b.entries), maxCoarseKeys)]
	case len(b.entries) > maxExactTimes:
		b.coarsen(o)
	}
}

func (b *bucket) coarsen(o op) {
	entries := b.entries
	b.coarse, b.entries = true, nil
	for _, x := range entries {
		b.add(o, x)
	}
}

// combine adds the content of an entry of the same time and key.
func (e *entry) combine(o op, x entry) {
	e.count += x.count
	switch o.plain() {
	case opSum, opAvg:
		e.number = clampedSum(e.number, x.number)
	case opMin:
		e.number = lesser(e.number, x.number)
	case opMax:
		e.number = greater(e.number, x.number)
	case opMinTime:
		e.number = min(e.number, x.number)
	case opMaxTime:
		e.number = max(e.number, x.number)
	}
}

// lesser and greater compare the bits of two float64.
func lesser(a, b int64) int64 {
	if math.Float64frombits(uint64(b)) < math.Float64frombits(uint64(a)) {
		return b
	}
	return a
}

func greater(a, b int64) int64 {
	if math.Float64frombits(uint64(b)) > math.Float64frombits(uint64(a)) {
		return b
	}
	return a
}

// absorb adds the content of the same attribute in another state.
func (w *window) absorb(o op, c content) {
	other := c.(*window)
	if other.over != w.over {
		return
	}
	w.advance(other.newest)
	for i := range other.buckets {
		from := &other.buckets[i]
		if w.expired(from.index) {
			continue
		}
		b := w.bucket(from.index, from.first)
		w.bucket(from.index, from.last)
		if from.coarse && !b.coarse {
			b.coarsen(o)
		}
		for _, x := range from.entries {
			b.add(o, x)
		}
	}
}

func (w *window) clone() content {
	c := *w
	c.buckets = slices.Clone(w.buckets)
	for i := range c.buckets {
		c.buckets[i].entries = slices.Clone(c.buckets[i].entries)
	}
	return &c
}

// size is the memory in bytes.
func (w *window) size() int {
	n := 64
	for i := range w.buckets {
		n += 64 + 32*cap(w.buckets[i].entries)
	}
	return n
}

// each visits the entries that count at a time.
func (w *window) each(now int64, visit func(e *entry)) {
	for i := range w.buckets {
		b := &w.buckets[i]
		if b.last <= now-w.over || b.first > now {
			continue
		}
		for k := range b.entries {
			if e := &b.entries[k]; b.coarse || e.at > now-w.over && e.at <= now {
				visit(e)
			}
		}
	}
}

// in is the attribute at a time, as an aggregate without `over`; nil if nothing counts.
func (a *aggregate) in(now int64) *aggregate {
	w := a.window()
	if w == nil {
		return a
	}
	var total entry
	var keys []uint64
	some := false
	w.each(now, func(e *entry) {
		if a.op == opUnique|opOver {
			keys = append(keys, e.key)
		}
		if !some {
			total, some = *e, true
			return
		}
		total.combine(a.op, *e)
	})
	if !some {
		return nil
	}
	result := &aggregate{name: a.name, op: a.op.plain(), count: total.count, number: total.number}
	if result.op == opUnique {
		slices.Sort(keys)
		result.op, result.count = opCount, uint64(len(slices.Compact(keys)))
	}
	return result
}

// next is the first time after now at which an entry comes in or leaves, never if there is none.
func (w *window) next(now int64) int64 {
	next := never
	look := func(first, last int64) {
		if first > now {
			next = min(next, first)
		} else if last+w.over > now {
			next = min(next, last+w.over)
		}
	}
	for i := range w.buckets {
		b := &w.buckets[i]
		if b.coarse {
			look(b.first, b.last)
			continue
		}
		if b.last+w.over <= now {
			continue
		}
		for k := range b.entries {
			look(b.entries[k].at, b.entries[k].at)
		}
	}
	return next
}

const never int64 = math.MaxInt64

// takes tells whether an entry would count at now, or could change what does: in a coarse bucket times are not exact.
func (w *window) takes(x entry, now int64) (counts, coarse bool) {
	if i, found := w.search(w.indexOf(x.at)); found {
		coarse = w.buckets[i].coarse || len(w.buckets[i].entries) == maxExactTimes
	}
	return x.at > now-w.over && x.at <= now, coarse
}

// Layout of a window: varint over, varint newest, uvarint number of buckets; each: byte 1 if it is coarse, else 0; uvarint
// number of entries; if it is coarse: varint first, varint last; the entries; each: unless the bucket is coarse varint time,
// less the time before it in the window; then as in a delta.
func (w *window) encode(dst []byte, o op) []byte {
	dst = binary.AppendVarint(binary.AppendVarint(dst, w.over), w.newest)
	dst = binary.AppendUvarint(dst, uint64(len(w.buckets)))
	before := int64(0)
	for i := range w.buckets {
		b := &w.buckets[i]
		if b.coarse {
			dst = binary.AppendUvarint(append(dst, 1), uint64(len(b.entries)))
			dst = binary.AppendVarint(binary.AppendVarint(dst, b.first), b.last)
		} else {
			dst = binary.AppendUvarint(append(dst, 0), uint64(len(b.entries)))
		}
		for _, e := range b.entries {
			if !b.coarse {
				dst = binary.AppendVarint(dst, e.at-before)
				before = e.at
			}
			dst = e.append(dst, o)
		}
	}
	return dst
}

// append appends the content of an entry: count: uvarint · sum, minTime, maxTime: varint · avg: varint, uvarint · min, max,
// unique: 8 bytes.
func (e *entry) append(dst []byte, o op) []byte {
	switch o.plain() {
	case opCount:
		return binary.AppendUvarint(dst, e.count)
	case opAvg:
		return binary.AppendUvarint(binary.AppendVarint(dst, e.number), e.count)
	case opMin, opMax:
		return binary.BigEndian.AppendUint64(dst, uint64(e.number))
	case opUnique:
		return binary.BigEndian.AppendUint64(dst, e.key)
	}
	return binary.AppendVarint(dst, e.number)
}

func (r *reader) entry(o op) (e entry) {
	switch o.plain() {
	case opCount:
		e.count = r.uvarint()
	case opAvg:
		e.number, e.count = r.varint(), r.uvarint()
	case opMin, opMax:
		e.number = int64(r.fixed64())
	case opUnique:
		e.key = r.fixed64()
	default:
		e.number = r.varint()
	}
	return e
}

func (r *reader) window(o op) *window {
	w := newWindow(r.varint())
	if w.over <= 0 {
		r.bad = true
		return w
	}
	w.newest = r.varint()
	w.buckets = make([]bucket, r.length())
	before := int64(0)
	for i := range w.buckets {
		b := &w.buckets[i]
		b.coarse = r.byte() == 1
		n := r.length()
		if b.coarse {
			b.first, b.last = r.varint(), r.varint()
		}
		b.entries = make([]entry, n)
		for k := range b.entries {
			at := int64(0)
			if !b.coarse {
				before += r.varint()
				at = before
				if k == 0 {
					b.first = at
				}
				b.last = at
			}
			b.entries[k] = r.entry(o)
			b.entries[k].at = at
		}
		b.index = w.indexOf(b.first)
	}
	return w
}
