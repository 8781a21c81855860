package engine

import (
	"maps"
	"sync"
)

// Counters says what went into each task, out of it and aside since the start of the process. Only committed work counts,
// so a batch that is tried again counts once. It is safe for concurrent use.
type Counters struct {
	mu sync.Mutex
	c  Counts
}

// Counts is a reading of Counters.
type Counts struct {
	In      Tally // records taken, by task, and by "source.<name>"
	Out     Tally // records produced, by topic
	Dropped Tally // by "stage/reason"
	Dead    Tally // by "stage/code"
	Parked  Tally // waiting for another try, by sink
}

// Tally is counts by name.
type Tally map[string]int64

// Read returns the counts so far.
func (c *Counters) Read() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Counts{In: maps.Clone(c.c.In), Out: maps.Clone(c.c.Out), Dropped: maps.Clone(c.c.Dropped), Dead: maps.Clone(c.c.Dead), Parked: maps.Clone(c.c.Parked)}
}

// took counts records that a source or a range sink has handed on.
func (c *Counters) took(name string, records int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.In.add(name, int64(records))
}

// refused counts a dead letter that is not part of a transaction.
func (c *Counters) refused(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.Dead.add(key, 1)
}

// committed counts a transaction.
func (c *Counters) committed(task string, k *work) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.In.add(task, int64(len(k.batch.Records)))
	for i := range k.out {
		c.c.Out.add(k.out[i].Topic, 1)
	}
	c.c.Dropped.merge(k.dropped)
	c.c.Dead.merge(k.dead)
	c.c.Parked.merge(k.parked)
}

func (t *Tally) add(name string, n int64) {
	if *t == nil {
		*t = Tally{}
	}
	(*t)[name] += n
}

func (t *Tally) merge(o Tally) {
	for name, n := range o {
		t.add(name, n)
	}
}
