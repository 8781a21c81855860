// Package sourcetest is the suite that every source passes: what an acknowledgement, its refusal and the end mean.
package sourcetest

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
)

// patience bounds every wait; only a hang comes near it.
const patience = 30 * time.Second

// Case is a fresh source of a test.
type Case struct {
	Source pipeline.Source
	// Feed brings the source events, all of them in one batch, and keeps on as a real client would until they are
	// acknowledged or the source has ended. It is called once, after Subscribe, and returns when that is so.
	Feed func()
}

// Run runs the suite; open makes a new case for each test.
func Run(t *testing.T, open func(t *testing.T) Case) {
	tests := []struct {
		name string
		run  func(t *testing.T, c Case)
	}{
		{"ack", ack},
		{"nack brings the same events again", nack},
		{"the end of the context closes the channel", end},
		{"the end waits for what is in flight", endInFlight},
		{"the end with a receiver that hangs", endStuck},
		{"close before subscribe", closeFirst},
		{"close twice", closeTwice},
		{"subscribe twice", subscribeTwice},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			c := open(t)
			test.run(t, c)
			nothingLeft(t, before)
		})
	}
}

// started is a source that runs and is being fed.
type started struct {
	Case
	t    *testing.T
	out  <-chan *message.Message
	stop context.CancelFunc
	fed  chan struct{}
}

func start(t *testing.T, c Case) *started {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, err := c.Source.Subscribe(ctx, "events")
	if err != nil {
		stop()
		t.Fatal(err)
	}
	return &started{Case: c, t: t, out: out, stop: stop, fed: make(chan struct{})}
}

func (s *started) feed() {
	go func() {
		defer close(s.fed)
		s.Feed()
	}()
}

// receive returns the next message and the ids of its events.
func (s *started) receive() (*message.Message, []string) {
	s.t.Helper()
	select {
	case m, ok := <-s.out:
		if !ok {
			s.t.Fatal("the channel is closed")
		}
		b, ok := pipeline.BatchOf(m)
		if !ok || len(b.Records) == 0 {
			s.t.Fatal("the message carries no batch of records")
		}
		var ids []string
		for i := range b.Records {
			var ev pipeline.Event
			if rej := pipeline.ParseEventRecord(&b.Records[i], &ev); rej != nil {
				s.t.Fatal(rej)
			}
			if b.Records[i].Topic != "events" || b.Records[i].Partition != -1 || len(b.Records[i].Key) == 0 {
				s.t.Fatalf("record %d goes to topic %q, partition %d, key %q", i, b.Records[i].Topic, b.Records[i].Partition, b.Records[i].Key)
			}
			ids = append(ids, ev.MessageID)
		}
		return m, ids
	case <-time.After(patience):
		s.t.Fatal("no message came")
	}
	return nil, nil
}

// finish ends the source and waits for the channel, acknowledging what still comes.
func (s *started) finish() {
	s.t.Helper()
	s.stop()
	s.closed()
	if err := s.Source.Close(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *started) closed() {
	s.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case m, ok := <-s.out:
			if !ok {
				return
			}
			m.Ack()
		case <-limit:
			s.t.Fatal("the channel was not closed")
		}
	}
}

func wait(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
	}
}

func ack(t *testing.T, c Case) {
	s := start(t, c)
	s.feed()
	m, _ := s.receive()
	m.Ack()
	wait(t, "the end of feeding", s.fed)
	s.finish()
}

func nack(t *testing.T, c Case) {
	s := start(t, c)
	s.feed()
	m, first := s.receive()
	m.Nack()
	m, again := s.receive()
	if !slices.Equal(first, again) {
		t.Errorf("after a nack came %q, before it %q", again, first)
	}
	m.Ack()
	wait(t, "the end of feeding", s.fed)
	s.finish()
}

func end(t *testing.T, c Case) {
	s := start(t, c)
	s.finish()
}

func endInFlight(t *testing.T, c Case) {
	s := start(t, c)
	s.feed()
	m, _ := s.receive()
	s.stop()
	select {
	case _, ok := <-s.out:
		t.Fatalf("before the acknowledgement the channel gave something (open: %v)", ok)
	case <-time.After(50 * time.Millisecond): // a source that does not wait is caught mostly, one that does never
	}
	if m.Context().Err() != nil {
		t.Error("the message in flight was cancelled")
	}
	m.Ack()
	s.closed()
	wait(t, "the end of feeding", s.fed)
	s.finish()
}

func endStuck(t *testing.T, c Case) {
	s := start(t, c)
	s.feed()
	s.receive() // and never answers
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Source.Close()
	}()
	wait(t, "the end of Close", ended)
	s.closed()
	s.stop()
	wait(t, "the end of feeding", s.fed)
}

func closeFirst(t *testing.T, c Case) {
	if err := c.Source.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Source.Subscribe(context.Background(), "events"); err == nil {
		t.Error("a closed source was subscribed")
	}
}

func closeTwice(t *testing.T, c Case) {
	s := start(t, c)
	for range 2 {
		if err := c.Source.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.finish()
}

func subscribeTwice(t *testing.T, c Case) {
	s := start(t, c)
	if _, err := c.Source.Subscribe(context.Background(), "events"); err == nil {
		t.Error("a source was subscribed twice")
	}
	s.finish()
}

// nothingLeft waits until no more goroutines run than before.
func nothingLeft(t *testing.T, before int) {
	t.Helper()
	for limit := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(limit) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Fatalf("goroutines are left:\n%s", strings.TrimSpace(string(stacks)))
		}
		time.Sleep(time.Millisecond)
	}
}
