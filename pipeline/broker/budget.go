package broker

import (
	"context"
	"sync"
)

// budget bounds the bytes that wait for acknowledgements. One taker above the limit is let through when nothing else is
// out, so that no record is too large for it.
type budget struct {
	limit int

	mu    sync.Mutex
	used  int
	freed chan struct{} // closed and replaced at every give
}

func newBudget(limit int) *budget {
	return &budget{limit: limit, freed: make(chan struct{})}
}

func (b *budget) take(ctx context.Context, n int) error {
	b.mu.Lock()
	for b.used > 0 && b.used+n > b.limit {
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		b.mu.Lock()
	}
	b.used += n
	b.mu.Unlock()
	return nil
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wasFull := b.used >= b.limit/2
	b.used -= n
	if wasFull || b.used == 0 {
		close(b.freed)
		b.freed = make(chan struct{})
	}
}
