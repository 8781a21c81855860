package engine

import (
	"fmt"
	"slices"

	"github.com/millstream-io/millstream/pipeline"
)

// The links of a batch are written before its events are looked up, in one step: that is what makes new logins cheap. One
// kind of event would suffer: what a device sent without a login, before somebody else logged in at it in the same batch. The
// second login makes the device ambiguous, and from then on it says nothing; but the earlier event was of the first person.
//
// So the batch is divided before such a login. The first part is committed before the login's link is written, hence the
// answer is the same after a crash. Batches without such an event are not looked through.

// dividedError says that a batch is to be processed in parts, which begin at these offsets; the first begins with the batch.
type dividedError struct{ at []int64 }

func (e *dividedError) Error() string { return fmt.Sprintf("to be processed in %d parts", len(e.at)+1) }

// parts divides the batch.
func (e *dividedError) parts(b *pipeline.Batch) (parts []*pipeline.Batch) {
	rest := b.Records
	for _, at := range e.at {
		n := slices.IndexFunc(rest, func(r pipeline.Record) bool { return r.Offset >= at })
		parts = append(parts, &pipeline.Batch{Topic: b.Topic, Partition: b.Partition, Records: rest[:n], Next: at})
		rest = rest[n:]
	}
	return append(parts, &pipeline.Batch{Topic: b.Topic, Partition: b.Partition, Records: rest, Next: b.Next, Position: b.Position})
}

// divide returns a dividedError if a link that is about to be written may make an identifier ambiguous of which an earlier
// event of the batch is. by are the indexes of the events that state the links.
func (j *resolveJob) divide(statements []pipeline.Statement, by []int) error {
	ambiguous, err := j.doubtful(statements, by)
	if len(ambiguous) == 0 || err != nil {
		return err
	}
	doubts := make(map[int][]pipeline.ID, len(ambiguous)) // by event
	for id, i := range ambiguous {
		doubts[i] = append(doubts[i], id)
	}
	var at []int64
	bare := map[pipeline.ID]bool{} // identifiers of which there is an event in this part
	for i, ev := range j.passed {
		if slices.ContainsFunc(doubts[i], func(id pipeline.ID) bool { return bare[id] }) {
			at = append(at, ev.Offset)
			clear(bare)
		}
		if len(ev.Identifiers) == 0 {
			continue
		}
		r, err := j.links.Resolve(ev.Identifiers)
		if err != nil {
			return fmt.Errorf("divide a batch of partition %d at offset %d: %w", ev.Partition, ev.Offset, err)
		}
		bare[r.Primary] = true
	}
	if at == nil {
		return nil
	}
	return &dividedError{at}
}

// doubtful are the identifiers that belong to somebody, now or by an earlier link of the batch, and get a link to another one;
// with the index of the event that states it.
func (j *resolveJob) doubtful(statements []pipeline.Statement, by []int) (map[pipeline.ID]int, error) {
	doubtful := map[pipeline.ID]int{}
	first := make(map[pipeline.ID]pipeline.ID, len(statements)) // whom it is linked to
	for n := range statements {
		s := &statements[n]
		owner, linked := first[s.Weak]
		if _, known := doubtful[s.Weak]; known || linked && owner == s.Strong {
			continue
		}
		if !linked {
			r, err := j.links.Resolve([]pipeline.Identifier{{ID: s.Weak}})
			if err != nil {
				return nil, fmt.Errorf("look up a link of partition %d: %w", j.work.batch.Partition, err)
			}
			first[s.Weak] = s.Strong
			linked = r.Primary == s.Weak && r.Canonical != s.Weak
		}
		if linked {
			doubtful[s.Weak] = by[n]
		}
	}
	return doubtful, nil
}
