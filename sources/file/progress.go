package file

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const progressEvery = 10 * time.Second

// progress tells the operator how far a pass over the files is. Its fields belong to the reading goroutine.
type progress struct {
	source *Source
	rows   atomic.Int64
	files  int
	total  int64 // bytes of this pass on the disk
	read   int64
	since  time.Time
	said   time.Time
}

// begin starts a pass.
func (p *progress) begin(s *Source, files []found) {
	p.source, p.files, p.total, p.read = s, 0, 0, 0
	p.rows.Store(0)
	p.since = time.Now()
	p.said = p.since
	for _, f := range files {
		left := f.size
		if st := s.files[f.name]; st != nil && (st.Done && st.Size == f.size) {
			left = 0
		} else if st != nil && !strings.HasSuffix(f.path, ".gz") {
			left -= st.Offset
		}
		if left > 0 {
			p.files++
			p.total += left
		}
	}
}

// count takes bytes that were read, and speaks every 10 s.
func (p *progress) count(n int) {
	p.read += int64(n)
	now := time.Now()
	if p.total == 0 || now.Sub(p.said) < progressEvery {
		return
	}
	p.said = now
	share := min(float64(p.read)/float64(p.total), 1)
	left := time.Duration(float64(now.Sub(p.since)) * (1 - share) / share).Round(time.Second)
	p.source.deps.Say(fmt.Sprintf("file %s: %.0f%%, %s rows, about %s left", p.source.name, 100*share, grouped(p.rows.Load()), left))
}

// end ends a pass; one that found rows is told of.
func (p *progress) end(s *Source) {
	if n := p.rows.Load(); n > 0 {
		s.deps.Say(fmt.Sprintf("file %s: read %s rows of %d files", s.name, grouped(n), p.files))
	}
}

// grouped writes 1234567 as 1,234,567.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
