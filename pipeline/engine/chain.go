package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// chain is the stages of one task for one partition.
type chain struct {
	steps []step
	// out takes what comes out of the last stage.
	out    func(ev *pipeline.Event) error
	logger *slog.Logger
	work   *work // the running transaction

	// Of the event in hand.
	ctx      context.Context
	messages []pipeline.Message
	wake     time.Time // the earliest time that a stage asked for; zero: none
}

// step is one stage of the chain; it is what that stage emits to.
type step struct {
	chain *chain
	at    int
	kind  string
	code  byte
	stage pipeline.Stage
	tx    pipeline.Tx
	ended int // how often the stage has passed on or dropped the event in hand
}

func newChain(plans []pipeline.StagePlan, out func(*pipeline.Event) error, logger *slog.Logger) *chain {
	c := &chain{out: out, logger: logger, steps: make([]step, len(plans))}
	for i, p := range plans {
		c.steps[i] = step{chain: c, at: i, kind: p.Kind, code: p.Code, stage: p.New()}
	}
	return c
}

// split cuts the chain in two: c keeps the steps before at and hands what comes out of them to next, the new chain has the
// others.
func (c *chain) split(at int, next func(*pipeline.Event) error) *chain {
	rest := &chain{out: c.out, logger: c.logger, steps: c.steps[at:len(c.steps):len(c.steps)]}
	c.steps, c.out = c.steps[:at:at], next
	for i := range rest.steps {
		rest.steps[i].chain, rest.steps[i].at = rest, i
	}
	return rest
}

// begin gives every stage its key space in the transaction.
func (c *chain) begin(w *work) {
	c.work = w
	for i := range c.steps {
		c.steps[i].tx = w.tx.Stage(c.steps[i].code)
	}
}

// process takes one event through the stages. A *pipeline.RejectError names the stage that refused it; the caller undoes
// what the event wrote.
func (c *chain) process(ctx context.Context, ev *pipeline.Event) error {
	c.ctx, c.messages, c.wake = ctx, c.messages[:0], time.Time{}
	return c.enter(ctx, 0, ev)
}

func (c *chain) enter(ctx context.Context, at int, ev *pipeline.Event) error {
	if at == len(c.steps) {
		return c.out(ev)
	}
	s := &c.steps[at]
	s.ended = 0
	if err := s.run(ctx, ev); err != nil {
		return err
	}
	if s.ended != 1 {
		return fmt.Errorf("stage %s ended an event %d times instead of once", s.kind, s.ended)
	}
	return nil
}

// run calls the stage; its panics are rejections.
func (s *step) run(ctx context.Context, ev *pipeline.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// The value may hold a customer's data; the stack holds only code and addresses.
			s.chain.logger.Error("stage panicked; the event is a dead letter", "stage", s.kind, "partition", ev.Partition, "offset", ev.Offset, "stack", string(debug.Stack()))
			err = pipeline.Reject("panic", "the stage panicked on this event")
		}
		if err != nil {
			s.sign(err)
		}
	}()
	if err := s.stage.Process(ctx, s.tx, ev, s); err != nil {
		return err
	}
	return s.chain.work.tx.Err()
}

// sign puts the stage's name on a rejection that has none yet.
func (s *step) sign(err error) {
	var r *pipeline.RejectError
	if errors.As(err, &r) && r.Stage == "" {
		r.Stage = s.kind
	}
}

// Event hands the event to the next stage.
func (s *step) Event(ev *pipeline.Event) error {
	s.ended++
	if err := s.chain.work.tx.Err(); err != nil { // of a write of this stage, not of the next
		return err
	}
	return s.chain.enter(s.chain.ctx, s.at+1, ev)
}

// Message keeps a message until the event is through.
func (s *step) Message(m pipeline.Message) { s.chain.messages = append(s.chain.messages, m) }

// Wake keeps the earliest time.
func (s *step) Wake(at time.Time) {
	if c := s.chain; c.wake.IsZero() || at.Before(c.wake) {
		c.wake = at
	}
}

// Drop ends the event.
func (s *step) Drop(reason string) {
	s.ended++
	s.chain.work.dropped.add(s.kind+"/"+reason, 1)
}

// take removes a fragment from every stage that keeps it.
func (c *chain) take(profile, primary pipeline.ID) (contents []pipeline.StageBytes, err error) {
	for i := range c.steps {
		s := &c.steps[i]
		keeper, ok := s.stage.(pipeline.FragmentKeeper)
		if !ok {
			continue
		}
		b, err := keeper.Take(s.tx, profile, primary)
		if err = errors.Join(err, c.work.tx.Err()); err != nil {
			return nil, fmt.Errorf("stage %s: take a fragment: %w", s.kind, err)
		}
		if b != nil {
			contents = append(contents, pipeline.StageBytes{Code: s.code, Bytes: b})
		}
	}
	return contents, nil
}

// put gives every stage what it had taken. What a stage that is no more had taken is dropped with it.
func (c *chain) put(profile pipeline.ID, f *pipeline.Fragment) error {
	for _, b := range f.Contents {
		for i := range c.steps {
			s := &c.steps[i]
			keeper, ok := s.stage.(pipeline.FragmentKeeper)
			if !ok || s.code != b.Code {
				continue
			}
			if err := errors.Join(keeper.Put(s.tx, profile, f.Primary, b.Bytes), c.work.tx.Err()); err != nil {
				return fmt.Errorf("stage %s: put a fragment: %w", s.kind, err)
			}
		}
	}
	return nil
}

// depart ends what stages have decided about ev.Canonical; what they say is in messages.
func (c *chain) depart(ctx context.Context, ev *pipeline.Event) (decisions []pipeline.StageBytes, err error) {
	c.ctx, c.messages, c.wake = ctx, c.messages[:0], time.Time{}
	for i := range c.steps {
		s := &c.steps[i]
		keeper, ok := s.stage.(pipeline.DecisionKeeper)
		if !ok {
			continue
		}
		b, err := keeper.Depart(s.tx, ev, s)
		if err = errors.Join(err, c.work.tx.Err()); err != nil {
			return nil, fmt.Errorf("stage %s: end the decisions about a profile: %w", s.kind, err)
		}
		if b != nil {
			decisions = append(decisions, pipeline.StageBytes{Code: s.code, Bytes: b})
		}
	}
	return decisions, nil
}

// inherit gives a stage what another profile brought.
func (c *chain) inherit(profile pipeline.ID, d pipeline.StageBytes) error {
	for i := range c.steps {
		s := &c.steps[i]
		keeper, ok := s.stage.(pipeline.DecisionKeeper)
		if !ok || s.code != d.Code {
			continue
		}
		if err := errors.Join(keeper.Inherit(s.tx, profile, d.Bytes), c.work.tx.Err()); err != nil {
			return fmt.Errorf("stage %s: inherit decisions: %w", s.kind, err)
		}
	}
	return nil
}
