package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// batcher reads the files one after the other and gathers their events.
type batcher struct {
	ctx    context.Context
	source *Source
	to     chan<- *pipeline.Batch

	records []pipeline.Record
	bytes   int
	at      time.Time // of the batch
	arena   []byte    // events that were built; the records point into it
}

// readAll reads what there is, again and again, until ctx ends or, if the files are read once, to their end.
func (b *batcher) readAll() {
	s := b.source
	seen := map[string]int64{} // size of each file that was read to its end
	quiet := map[string]int{}  // polls for which a file with an unfinished last line did not change
	for {
		files, err := list(s.form.patterns)
		if err != nil {
			s.fail("", err)
		}
		s.progress.begin(files, s.files)
		for _, f := range files {
			if size, ok := seen[f.name]; ok && size == f.size && quiet[f.name] == 0 {
				continue
			}
			final := s.form.once || quiet[f.name] >= settled && seen[f.name] == f.size
			err := b.read(f, final)
			if b.ctx.Err() != nil {
				return
			}
			if size, ok := seen[f.name]; !ok || size != f.size || !errors.Is(err, errPartial) {
				quiet[f.name] = 0
			}
			seen[f.name] = f.size
			switch {
			case errors.Is(err, errPartial) && !final:
				quiet[f.name]++
			case err != nil && !errors.Is(err, errEmpty):
				delete(seen, f.name) // it is tried again, and told of once
				s.fail(f.name, err)
			}
		}
		if !b.flush() {
			return
		}
		s.progress.end()
		if s.form.once || pipeline.Sleep(b.ctx, s.poll) != nil {
			return
		}
	}
}

// read reads one file from where it was left to its end.
func (b *batcher) read(f found, final bool) error {
	s := b.source
	st := s.files[f.name]
	if st == nil {
		st = &fileState{Name: f.name}
	}
	if st.Done && st.Size == f.size && strings.HasSuffix(f.path, ".gz") {
		return nil // checked by Resume, or read by this process
	}
	now := *st
	r, err := open(b.ctx, s.name, s.form, f, &now, final, s.progress.count)
	if err != nil {
		return err
	}
	defer r.close()
	if s.files[f.name] == nil {
		s.files[f.name] = st
		s.order = append(s.order, f.name)
	}
	now.Done = false
	*st = now
	for {
		row, err := r.rows.next(final)
		if err != nil {
			st.moved(r.rows)
			s.report(r)
			if st.Done = errors.Is(err, io.EOF); st.Done {
				return nil
			}
			if errors.Is(err, io.ErrUnexpectedEOF) && !final {
				return errPartial // a gzip file that is still being written
			}
			if !errors.Is(err, errPartial) {
				err = fmt.Errorf("read %s after line %d: %w", f.path, r.rows.line, unwrapPath(err))
			}
			return err
		}
		if len(b.records) == 0 {
			b.at = s.deps.Now().UTC().Truncate(time.Millisecond)
		}
		var ev pipeline.Event
		ev, b.arena = r.event(row, b.at, b.arena)
		b.records = append(b.records, pipeline.EventRecord(&ev))
		b.bytes += len(ev.Raw) + len(ev.MessageID)
		s.progress.rows++
		if len(b.records) >= maxBatchRecords || b.bytes >= maxBatchBytes {
			st.moved(r.rows)
			if !b.flush() {
				return b.ctx.Err()
			}
		}
	}
}

// flush hands the batch on; false if ctx ended first.
func (b *batcher) flush() bool {
	if len(b.records) == 0 {
		return true
	}
	batch := &pipeline.Batch{Records: b.records, Position: b.source.position()}
	select {
	case b.to <- batch:
	case <-b.ctx.Done():
		return false
	}
	b.records, b.arena, b.bytes = make([]pipeline.Record, 0, len(batch.Records)), make([]byte, 0, len(b.arena)), 0
	return true
}

// position is the state of all files as it is stored.
func (s *Source) position() []byte {
	p := position{Version: positionVersion}
	for _, name := range s.order {
		p.Files = append(p.Files, *s.files[name])
	}
	out, err := json.Marshal(p)
	if err != nil { // strings and numbers only
		panic(err)
	}
	return out
}

// report counts a file's rows and tells of those that make no event.
func (s *Source) report(r *reader) {
	s.rows.Add(uint64(r.events + r.raw))
	s.raw.Add(uint64(r.raw))
	if r.raw > 0 {
		s.deps.Logger.Warn("rows that make no event become dead letters", "source", s.name, "file", r.file.Name(), "rows", r.raw, "first_line", r.firstRaw)
	}
}
