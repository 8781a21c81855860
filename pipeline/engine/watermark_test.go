package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestWatermarkOracle lets a pipeline of three partitions run in a random order of small steps, each reading in pieces
// between them, and compares every watermark with what was really done: no event that counts as received at or before it
// waits anywhere, or comes later; it never goes back; and at rest it follows the clock.
func TestWatermarkOracle(t *testing.T) {
	for seed := range uint64(3000) {
		w := newWorld(seed)
		for range 300 {
			w.step()
		}
		if w.settle(); w.bad == nil && w.frontier.at != w.clock-clockSlack.Milliseconds() {
			w.bad = fmt.Errorf("at rest the watermark is %d, the clock %d", w.frontier.at, w.clock)
		}
		if w.bad != nil {
			t.Fatalf("seed %d: %v", seed, w.bad)
		}
	}
}

const worldPartitions = 3

// world is two topics and two tasks.
type world struct {
	*rand.Rand
	clock    int64
	events   [worldPartitions][]*worldEvent // nil: a marker, or what was aborted
	resolved [worldPartitions][]worldRecord
	resolver [worldPartitions]resolver
	resolve  [worldPartitions]progress // committed
	profile  [worldPartitions]progress

	reading  *reading // in pieces
	pieces   int
	frontier frontier
	bad      error
}

type worldEvent struct {
	received int64 // as its partition's task counts it
	done     bool
}

// worldRecord is an event, or a marker if event is nil.
type worldRecord struct {
	event   *worldEvent
	open    *resolver // the undecided transaction
	aborted bool
}

// resolver is a worker of the resolve task with its open transaction.
type resolver struct {
	next    progress
	sent    []*worldEvent // to be sent
	touched map[int]bool  // partitions of resolved that get a marker
	begun   bool
	visible bool // the offset is committed
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 0)), clock: 1_000_000}
	for p := range worldPartitions {
		w.resolve[p].offset, w.profile[p].offset = -1, -1
	}
	return w
}

func (w *world) step() {
	p := w.IntN(worldPartitions)
	switch w.IntN(8) {
	case 0:
		w.clock += w.Int64N(400)
	case 1:
		w.produce(p)
	case 2, 3, 4:
		w.resolveStep(p, w.IntN(10) == 0)
	case 5:
		w.profileStep(p)
	default:
		w.read()
	}
}

// produce appends an event that was stamped within the slack, or a marker of a source's transaction.
func (w *world) produce(p int) {
	if w.IntN(4) == 0 {
		w.events[p] = append(w.events[p], nil)
		return
	}
	ev := &worldEvent{received: w.clock - w.Int64N(clockSlack.Milliseconds())}
	for _, before := range w.events[p] {
		if before != nil {
			ev.received = max(ev.received, before.received)
		}
	}
	w.events[p] = append(w.events[p], ev)
	if ev.received <= w.frontier.at {
		w.bad = fmt.Errorf("an event received at %d comes after the watermark %d", ev.received, w.frontier.at)
	}
}

// resolveStep begins a transaction, sends one record of it, or ends it: the offset first or the markers first.
func (w *world) resolveStep(p int, abort bool) {
	r := &w.resolver[p]
	switch {
	case !r.begun:
		from := max(w.resolve[p].offset, 0)
		waiting := int64(len(w.events[p])) - from
		if waiting == 0 {
			return
		}
		*r = resolver{next: progress{offset: from + 1 + w.Int64N(waiting), streamTime: w.resolve[p].streamTime}, touched: map[int]bool{}, begun: true}
		for _, ev := range w.events[p][from:r.next.offset] {
			if ev != nil {
				r.sent, r.next.streamTime = append(r.sent, ev), ev.received
			}
		}
	case abort && !r.visible:
		w.decide(r, true)
	case len(r.sent) > 0:
		q := w.IntN(worldPartitions)
		w.resolved[q] = append(w.resolved[q], worldRecord{event: r.sent[0], open: r})
		r.touched[q] = true
		r.sent = r.sent[1:]
	case !r.visible:
		w.resolve[p], r.visible = r.next, true
	default:
		w.decide(r, false)
	}
}

// decide makes the transaction's records readable, or aborts them.
func (w *world) decide(r *resolver, abort bool) {
	for q := range worldPartitions {
		for i := range w.resolved[q] {
			if rec := &w.resolved[q][i]; rec.open == r {
				rec.open, rec.aborted = nil, abort
			}
		}
		if r.touched[q] {
			w.resolved[q] = append(w.resolved[q], worldRecord{})
		}
	}
	*r = resolver{}
}

// profileStep commits some records below the last stable offset.
func (w *world) profileStep(q int) {
	from := max(w.profile[q].offset, 0)
	stable := from
	for stable < int64(len(w.resolved[q])) && w.resolved[q][stable].open == nil {
		stable++
	}
	if stable == from {
		return
	}
	to := from + 1 + w.Int64N(stable-from)
	for _, rec := range w.resolved[q][from:to] {
		if rec.event != nil && !rec.aborted {
			rec.event.done = true
		}
	}
	w.profile[q].offset = to
}

// read reads the next piece, and takes the reading when it is whole.
func (w *world) read() {
	if w.reading == nil {
		w.reading, w.pieces = &reading{clock: w.clock}, 0
	}
	switch w.pieces++; w.pieces {
	case 1:
		w.reading.resolve = byPartition(func(p int) progress { return w.resolve[p] })
	case 2:
		w.reading.profile = byPartition(func(p int) progress { return w.profile[p] })
	case 3:
		w.reading.events = byPartition(func(p int) int64 { return int64(len(w.events[p])) })
	case 4:
		w.reading.resolved = byPartition(func(p int) int64 { return int64(len(w.resolved[p])) })
		before := w.frontier.at
		if at := w.frontier.take(w.reading); at < before {
			w.bad = fmt.Errorf("the watermark went back from %d to %d", before, at)
		}
		w.reading = nil
		w.check()
	}
}

func byPartition[T any](f func(p int) T) map[int32]T {
	m := map[int32]T{}
	for p := range worldPartitions {
		m[int32(p)] = f(p)
	}
	return m
}

func (w *world) check() {
	for p := range worldPartitions {
		for offset, ev := range w.events[p] {
			if ev != nil && !ev.done && ev.received <= w.frontier.at {
				w.bad = fmt.Errorf("the watermark is %d although offset %d of partition %d, received at %d, is not through", w.frontier.at, offset, p, ev.received)
			}
		}
	}
}

// settle lets the tasks finish, and takes two readings.
func (w *world) settle() {
	for p := range worldPartitions {
		for w.resolver[p].begun || max(w.resolve[p].offset, 0) < int64(len(w.events[p])) {
			w.resolveStep(p, false)
		}
	}
	for q := range worldPartitions {
		for max(w.profile[q].offset, 0) < int64(len(w.resolved[q])) {
			w.profileStep(q)
		}
	}
	for w.reading != nil {
		w.read()
	}
	for range 4 {
		w.read()
	}
}

func TestWatermark(t *testing.T) {
	type ends = map[int32]int64
	type done = map[int32]progress
	const clock = 50_000
	for name, c := range map[string]struct {
		readings []reading
		want     int64
	}{
		"nothing was ever written": {[]reading{
			{resolve: done{0: {-1, 0}}, profile: done{0: {-1, 0}}, events: ends{0: 0}, resolved: ends{0: 0}}}, clock - 1000},
		"at rest": {[]reading{
			{resolve: done{0: {7, 20_000}}, profile: done{0: {9, 0}}, events: ends{0: 7}, resolved: ends{0: 9}}}, clock - 1000},
		"one event waits": {[]reading{
			{resolve: done{0: {6, 20_000}, 1: {5, 30_000}}, profile: done{0: {9, 0}}, events: ends{0: 7, 1: 5}, resolved: ends{0: 9}}}, 19_999},
		"one waits where nothing was ever committed": {[]reading{
			{resolve: done{0: {-1, 0}, 1: {5, 30_000}}, profile: done{0: {9, 0}}, events: ends{0: 7, 1: 5}, resolved: ends{0: 9}}}, 0},
		"a stream time ahead of the clock": {[]reading{
			{resolve: done{0: {6, 90_000}}, profile: done{0: {9, 0}}, events: ends{0: 7}, resolved: ends{0: 9}}}, clock - 1000},
		"profile is behind": {[]reading{
			{resolve: done{0: {7, 20_000}}, profile: done{0: {8, 0}}, events: ends{0: 7}, resolved: ends{0: 9}}}, 0},
		"profile is always behind": {[]reading{
			{resolve: done{0: {7, 20_000}}, profile: done{0: {8, 0}}, events: ends{0: 8}, resolved: ends{0: 9}},
			{resolve: done{0: {8, 21_000}}, profile: done{0: {9, 0}}, events: ends{0: 9}, resolved: ends{0: 10}},
			{resolve: done{0: {9, 22_000}}, profile: done{0: {10, 0}}, events: ends{0: 10}, resolved: ends{0: 11}}}, 20_999},
		"an offset of a topic that was lost": {[]reading{
			{resolve: done{0: {7, 20_000}}, profile: done{0: {9, 0}}, events: ends{0: 3}, resolved: ends{0: 9}}}, 19_999},
		"a partition wakes after a long rest": {[]reading{
			{resolve: done{0: {7, 20_000}, 1: {1, 5}}, profile: done{0: {9, 0}}, events: ends{0: 7, 1: 1}, resolved: ends{0: 9}},
			{resolve: done{0: {7, 20_000}, 1: {1, 5}}, profile: done{0: {9, 0}}, events: ends{0: 7, 1: 2}, resolved: ends{0: 9}}}, clock - 1000},
	} {
		t.Run(name, func(t *testing.T) {
			var f frontier
			var got int64
			for i := range c.readings {
				c.readings[i].clock = clock
				got = f.take(&c.readings[i])
			}
			if got != c.want {
				t.Errorf("the watermark is %d, want %d", got, c.want)
			}
		})
	}
}
