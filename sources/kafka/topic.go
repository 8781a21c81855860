package kafka

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// readTopic reads the topic until ctx ends. One that is deleted is waited for, and one that is made again is read from its
// start: its offsets mean other records.
func (s *Source) readTopic(ctx context.Context) {
	at := s.stored
	for fresh := at == nil; ctx.Err() == nil; fresh = false {
		id, n, waited := s.find(ctx)
		if ctx.Err() != nil {
			return
		}
		start := map[int32]int64{}
		switch {
		case at != nil && at.TopicID == id:
			start = at.Next
		case at != nil:
			s.deps.Logger.Warn("the topic was made again since it was read, or is that of another cluster; reading it from its start", "before", at.TopicID, "now", id)
		case fresh && s.form.newest && !waited:
			if start = s.skip(ctx, id, n); start == nil {
				return
			}
		}
		at = &position{TopicID: id, Next: s.readPartitions(ctx, id, n, start)}
	}
}

// find waits for the topic and returns its id and number of partitions, and whether it was not there at first.
func (s *Source) find(ctx context.Context) (id pipeline.ID, n int32, waited bool) {
	t := trouble{source: s}
	for ctx.Err() == nil {
		n, err := s.client.Partitions(ctx, s.form.topic)
		if err == nil && n > 0 {
			if id, err = s.client.TopicID(ctx, s.form.topic, 0); err == nil {
				return id, n, waited
			}
		}
		if err != nil {
			t.about(ctx, "the topic cannot be asked for; trying again", err)
			continue
		}
		if !waited {
			s.deps.Say(fmt.Sprintf("kafka %s: waiting for topic %s, which does not exist %s", s.name, s.form.topic, s.where()))
			waited = true
		}
		_ = pipeline.Sleep(ctx, s.look)
	}
	return id, 0, waited
}

func (s *Source) where() string {
	if s.form.address == nil {
		return "on the pipeline's cluster"
	}
	return "at " + strings.Join(s.form.address.Brokers, ",")
}

// skip makes the ends of all partitions the position, before anything is read: so whatever comes from now on is read, also if
// the process dies before the first record. It returns nil if ctx ends.
func (s *Source) skip(ctx context.Context, id pipeline.ID, n int32) map[int32]int64 {
	next := map[int32]int64{}
	t := trouble{source: s}
	for part := int32(0); part < n && ctx.Err() == nil; {
		_, end, err := s.client.Bounds(ctx, s.form.topic, part)
		if err != nil {
			t.about(ctx, "the end of the topic cannot be asked for; trying again", err)
			continue
		}
		next[part] = end
		part++
	}
	if ctx.Err() != nil || !s.hand(ctx, &piece{id: id, next: maps.Clone(next)}) {
		return nil
	}
	return next
}

// readPartitions reads all partitions, also those that are added, until ctx ends or the topic is gone or another one. It
// returns how far each has come.
func (s *Source) readPartitions(parent context.Context, id pipeline.ID, n int32, start map[int32]int64) map[int32]int64 {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	var parts []*partition
	var running sync.WaitGroup
	for {
		for number := int32(len(parts)); number < n; number++ {
			p := &partition{source: s, id: id, number: number, next: -1, events: s.converter(id)}
			if next, ok := start[number]; ok {
				p.next = next
			}
			parts = append(parts, p)
			running.Go(func() {
				p.run(ctx)
				cancel() // nothing but the end of ctx, or of the topic, ends it
			})
		}
		if pipeline.Sleep(ctx, s.look) != nil {
			break
		}
		have, err := s.client.Partitions(ctx, s.form.topic)
		if err != nil { // the readers say so too
			continue
		}
		if have == 0 {
			break
		}
		if now, err := s.client.TopicID(ctx, s.form.topic, 0); err == nil && now != id {
			break
		}
		if have > n {
			s.deps.Logger.Info("the topic has more partitions", "before", n, "now", have)
			n = have
		}
	}
	cancel()
	running.Wait()
	reached := map[int32]int64{}
	for _, p := range parts {
		if p.next >= 0 {
			reached[p.number] = p.next
		}
	}
	return reached
}

// trouble is an error that lasts: it is logged at most every sayGap, with growing pauses between the tries.
type trouble struct {
	source *Source
	pause  time.Duration
	said   time.Time
}

const (
	troublePause    = 500 * time.Millisecond
	troublePauseMax = 30 * time.Second
)

// about logs the error if that is due, and waits.
func (t *trouble) about(ctx context.Context, what string, err error, args ...any) {
	if ctx.Err() != nil {
		return
	}
	if now := time.Now(); now.Sub(t.said) >= sayGap {
		t.said = now
		t.source.deps.Logger.Error(what, append(args, "error", err)...)
	}
	t.pause = min(max(2*t.pause, troublePause), troublePauseMax)
	_ = pipeline.Sleep(ctx, t.pause)
}
