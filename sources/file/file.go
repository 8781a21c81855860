package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/outlet"
)

// Limits of batches and waits.
const (
	maxBatchRecords = 4000
	maxBatchBytes   = 1 << 20
	pollEvery       = 2 * time.Second // looks for new files and lines
	settled         = 2               // polls without a change after which a last line without a line break is complete
)

// Source reads files. One message carries up to 4,000 rows, of one or more files, and the position after them. The next
// message comes after the acknowledgement, while the one after it is being read; a nacked batch comes again.
type Source struct {
	name string
	form *form
	deps pipeline.Deps
	poll time.Duration // pollEvery

	files map[string]*fileState // by name
	order []string              // of files, for the position

	outlet *outlet.Outlet

	mu     sync.Mutex
	err    error
	warned map[string]string // last problem of each file, so that it is said once

	rows, raw atomic.Uint64
	progress  *progress
}

var _ pipeline.Resumer = (*Source)(nil)

func newSource(name string, f *form, d pipeline.Deps) *Source {
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.Say == nil {
		d.Say = func(string) {}
	}
	return &Source{
		name: name, form: f, deps: d, poll: pollEvery, outlet: outlet.New(), progress: newProgress(name, d.Say), files: map[string]*fileState{}, warned: map[string]string{},
	}
}

// Counters returns what the source has counted since it was made: rows, and raw_rows, those that make no event.
func (s *Source) Counters() map[string]uint64 {
	return map[string]uint64{"rows": s.rows.Load(), "raw_rows": s.raw.Load()}
}

// Err is why files were left out, once the channel is closed: files that changed, that cannot be read or do not fit the
// mapping. Nil if there was no such file.
func (s *Source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Resume takes the position of an earlier run. A file that is there and is not the one that was read is an error.
func (s *Source) Resume(stored []byte) error {
	p, err := parsePosition(stored)
	if err != nil {
		return fmt.Errorf("source %s: %w", s.name, err)
	}
	for i := range p.Files {
		s.files[p.Files[i].Name] = &p.Files[i]
		s.order = append(s.order, p.Files[i].Name)
	}
	if len(p.Files) == 0 {
		return nil
	}
	files, _ := list(s.form.patterns) // problems of the list are told when it is read
	for _, f := range files {
		if st := s.files[f.name]; st != nil {
			if err := st.verify(f); err != nil {
				return fmt.Errorf("source %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// Subscribe starts to read. When ctx ends, the batch in flight is waited for, and the channel is closed; so it is at the
// end of the files if the source reads them once. It can be called once.
func (s *Source) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	return s.outlet.Start(ctx, s.look, s.run)
}

// look tells of files that are not there, and refuses to wait for them if they are to be read once.
func (s *Source) look() error {
	files, err := list(s.form.patterns)
	if err != nil && files == nil {
		return fmt.Errorf("source %s: %w", s.name, err)
	}
	if len(files) == 0 {
		if s.form.once {
			return fmt.Errorf("source %s: no file matches %s", s.name, strings.Join(s.form.patterns, ", "))
		}
		s.deps.Say(fmt.Sprintf("file %s: waiting for %s", s.name, strings.Join(s.form.patterns, ", ")))
	}
	return nil
}

// Close ends the source like the end of Subscribe's context and waits until nothing of it is running. It may be called
// again, and before Subscribe.
func (s *Source) Close() error {
	s.outlet.Close()
	return nil
}

// run reads in one goroutine and delivers in this one.
func (s *Source) run(parent context.Context) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	prepared := make(chan *pipeline.Batch)
	go func() {
		defer close(prepared)
		b := batcher{ctx: ctx, source: s, to: prepared}
		b.readAll()
	}()
	for b := range prepared {
		if !s.outlet.Send(ctx, b) {
			break
		}
	}
	cancel()
	for range prepared {
	}
}

// fail remembers why a file was left out and says it once.
func (s *Source) fail(name string, err error) {
	s.mu.Lock()
	again := s.warned[name] == err.Error()
	s.warned[name] = err.Error()
	if !again {
		s.err = errors.Join(s.err, err)
	}
	s.mu.Unlock()
	if !again {
		s.deps.Logger.Error("a file is left out", "source", s.name, "error", err)
	}
}
