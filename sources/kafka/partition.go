package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// partition reads one partition. It is one goroutine.
type partition struct {
	source *Source
	id     pipeline.ID // of the topic
	number int32
	next   int64 // the first offset that is not stored yet; -1: where the partition starts
	events *converter
}

var errMadeAgain = errors.New("the topic was made again")

// run reads until ctx ends or the topic is another one.
func (p *partition) run(ctx context.Context) {
	t := trouble{source: p.source}
	for ctx.Err() == nil {
		before := p.next
		err := p.read(ctx)
		if ctx.Err() != nil || errors.Is(err, errMadeAgain) {
			return
		}
		if p.next > before {
			t = trouble{source: p.source}
		}
		if errors.Is(err, pipeline.ErrOutOfRange) {
			switch e := p.mend(ctx); {
			case e == nil:
				continue
			case errors.Is(e, errMadeAgain):
				return
			}
		}
		t.about(ctx, "the partition cannot be read; trying again", err, "partition", p.number, "offset", p.next)
	}
}

// read hands on what one reader gives, until that cannot go on.
func (p *partition) read(ctx context.Context) (err error) {
	s := p.source
	if p.next < 0 {
		if p.next, _, err = s.client.Bounds(ctx, s.form.topic, p.number); err != nil {
			p.next = -1
			return err
		}
	}
	reader := s.client.Reader(s.form.topic, p.number, p.next, pieceRecords)
	defer func() { err = errors.Join(err, reader.Close()) }()
	messages, err := reader.Subscribe(ctx, s.form.topic)
	if err != nil {
		return err
	}
	for m := range messages {
		b, ok := pipeline.BatchOf(m)
		if !ok {
			return fmt.Errorf("read partition %d: a message without a batch", p.number)
		}
		// Asked after the reading: were it another topic, these offsets would be of that one.
		now, err := s.client.TopicID(ctx, s.form.topic, p.number)
		if err != nil {
			return err
		}
		if now != p.id {
			return errMadeAgain
		}
		if !s.hand(ctx, p.piece(b)) {
			return ctx.Err()
		}
		p.next = b.Next
		m.Ack()
	}
	return reader.Err()
}

// piece makes the events of a batch.
func (p *partition) piece(b *pipeline.Batch) *piece {
	out := &piece{id: p.id, next: map[int32]int64{p.number: b.Next}, records: make([]pipeline.Record, 0, len(b.Records))}
	at := p.source.deps.Now().UTC().Truncate(time.Millisecond)
	var arena []byte
	bad := 0
	for i := range b.Records {
		var r pipeline.Record
		var ok bool
		r, arena, ok = p.events.record(&b.Records[i], at, arena)
		if !ok {
			bad++
		}
		out.records = append(out.records, r)
		out.bytes += len(r.Key) + len(r.Value)
	}
	if n := p.source.refused.add(bad, at); n > 0 {
		p.source.deps.Logger.Warn("records that make no event become dead letters", "records", n, "partition", p.number, "before_offset", b.Next)
	}
	return out
}

// mend moves a position that the topic does not hold.
func (p *partition) mend(ctx context.Context) error {
	first, end, err := p.source.client.Bounds(ctx, p.source.form.topic, p.number)
	if err != nil {
		return err
	}
	switch now, err := p.source.client.TopicID(ctx, p.source.form.topic, p.number); {
	case err != nil:
		return err
	case now != p.id:
		return errMadeAgain
	}
	log := p.source.deps.Logger.With("partition", p.number, "offset", p.next)
	switch {
	case p.next < first:
		log.Error("records were deleted by the topic's retention before they were read; going on at the oldest. Give the topic a longer retention if they are missed", "lost", first-p.next, "from", first)
		p.next = first
	case p.next > end:
		log.Error("the topic ends before the offset up to which it was read: the cluster has lost records; going on at its end", "from", end)
		p.next = end
	}
	return nil
}
