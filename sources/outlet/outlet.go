// Package outlet is what the engine sees of a source: a channel of messages that begins once and ends cleanly, and, for
// sources that read by themselves, batches that are handed over in order until they are acknowledged.
package outlet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

const (
	nackPause    = 200 * time.Millisecond
	nackPauseMax = 5 * time.Second
	drainTimeout = 10 * time.Second
)

// Outlet is the channel of one source. Its methods are safe for concurrent use, but for Send, which one goroutine calls.
type Outlet struct {
	// Out is the channel. Only what Start runs may send to it.
	Out chan *message.Message
	// Drain is how long Send waits for the answer to a batch in flight after the end, 10 s. It is set before Start.
	Drain time.Duration

	base    context.Context // of the messages that Send makes; ends after run
	closing chan struct{}
	done    chan struct{}

	mu    sync.Mutex
	state state
}

type state int

const (
	idle state = iota
	started
	closed
)

// New returns an outlet that is not started.
func New() *Outlet {
	return &Outlet{Out: make(chan *message.Message), Drain: drainTimeout, closing: make(chan struct{}), done: make(chan struct{})}
}

// Start calls open, and if that succeeds run in a goroutine; both are a source's own. The context of run ends with ctx and with
// Close; when run has returned, the channel is closed, so nothing of the source may be running then. It can be called once,
// but again after an error of open.
func (o *Outlet) Start(ctx context.Context, open func() error, run func(ctx context.Context)) (<-chan *message.Message, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != idle {
		return nil, errors.New("subscribe: the source was subscribed or closed before")
	}
	if err := open(); err != nil {
		return nil, err
	}
	o.state = started
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	o.base = base
	running, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-o.closing:
			cancel()
		case <-running.Done():
		}
	})
	go func() {
		defer close(o.done)
		defer close(o.Out)
		defer watching.Wait()
		defer end()
		defer cancel()
		run(running)
	}()
	return o.Out, nil
}

// Close ends what Start runs and waits until nothing of it is running. It may be called again, and before Start.
func (o *Outlet) Close() {
	o.mu.Lock()
	was := o.state
	if was != closed {
		o.state = closed
		close(o.closing)
		if was == idle {
			close(o.Out)
			close(o.done)
		}
	}
	o.mu.Unlock()
	<-o.done
}

// Send hands a batch over until it is acknowledged, after a nack again; false if ctx, which is that of run, ended first. After
// false nothing may follow: the position of a later batch would skip this one.
func (o *Outlet) Send(ctx context.Context, b *pipeline.Batch) bool {
	for pause := nackPause; ctx.Err() == nil; pause = min(2*pause, nackPauseMax) {
		m := pipeline.NewBatchMessage(o.base, uuid.NewString(), b)
		select {
		case o.Out <- m:
		case <-ctx.Done():
			return false
		}
		select {
		case <-m.Acked():
			return true
		case <-m.Nacked():
		case <-ctx.Done():
			select { // the batch is in flight: let it end
			case <-m.Acked():
			case <-m.Nacked():
			case <-time.After(o.Drain):
			}
			return false
		}
		if pipeline.Sleep(ctx, pause) != nil {
			return false
		}
	}
	return false
}
