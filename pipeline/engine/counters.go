package engine

import (
	"maps"
	"sync"
)

// Counters says what went into each task, out of it and aside. Counts are of committed and of running work alike, since
// the start of the process. It is safe for concurrent use.
type Counters struct {
	mu sync.Mutex
	c  Counts
}

// Counts is a reading of Counters, by task, or by stage and reason.
type Counts struct {
	In      map[string]int64 // records taken, by task
	Out     map[string]int64 // records produced, by topic
	Dropped map[string]int64 // by "stage/reason"
	Dead    map[string]int64 // by "stage/code"
	Parked  map[string]int64 // waiting for another try, by sink
}

// Read returns the counts so far.
func (c *Counters) Read() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Counts{In: maps.Clone(c.c.In), Out: maps.Clone(c.c.Out), Dropped: maps.Clone(c.c.Dropped), Dead: maps.Clone(c.c.Dead), Parked: maps.Clone(c.c.Parked)}
}

func (c *Counters) add(m *map[string]int64, key string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = map[string]int64{}
	}
	(*m)[key] += n
}

func (c *Counters) in(task string, n int)     { c.add(&c.c.In, task, int64(n)) }
func (c *Counters) out(topic string, n int)   { c.add(&c.c.Out, topic, int64(n)) }
func (c *Counters) drop(stage, reason string) { c.add(&c.c.Dropped, stage+"/"+reason, 1) }
func (c *Counters) dead(stage, code string)   { c.add(&c.c.Dead, stage+"/"+code, 1) }
func (c *Counters) parked(sink string, n int) { c.add(&c.c.Parked, sink, int64(n)) }
