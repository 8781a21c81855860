package file

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	sayEvery  = 10 * time.Second       // a line, without a terminal
	drawEvery = 200 * time.Millisecond // a bar, on a terminal
	barWidth  = 30
)

// progress tells the operator how far a pass over the files is: as a bar if standard error is a terminal, else in a line
// every 10 s. It belongs to the reading goroutine.
type progress struct {
	name  string
	say   func(line string)
	bar   io.Writer // nil: no terminal
	every time.Duration

	rows, files int64
	total, read int64 // bytes of this pass, on the disk
	since, said time.Time
	drawn       bool
}

func newProgress(name string, say func(string)) *progress {
	p := &progress{name: name, say: say, every: sayEvery}
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.bar, p.every = os.Stderr, drawEvery
	}
	return p
}

// begin starts a pass.
func (p *progress) begin(files []found, states map[string]*fileState) {
	p.rows, p.files, p.total, p.read = 0, 0, 0, 0
	p.since = time.Now()
	p.said = p.since
	for _, f := range files {
		left := f.size
		if st := states[f.name]; st != nil && st.Done && st.Size == f.size {
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

// count takes bytes that were read, and shows how far that is.
func (p *progress) count(n int) {
	p.read += int64(n)
	now := time.Now()
	if p.total == 0 || p.read == 0 || now.Sub(p.said) < p.every {
		return
	}
	p.said = now
	share := min(float64(p.read)/float64(p.total), 1)
	left := time.Duration(float64(now.Sub(p.since)) * (1 - share) / share).Round(time.Second)
	line := fmt.Sprintf("%.0f%%, %s rows, about %s left", 100*share, grouped(p.rows), left)
	if p.bar == nil {
		p.say("file " + p.name + ": " + line)
		return
	}
	full := int(share * barWidth)
	fmt.Fprintf(p.bar, "\r\x1b[Kfile %s [%s%s] %s", p.name, strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), line)
	p.drawn = true
}

// end ends a pass; one that found rows is told of.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.bar, "\r\x1b[K")
		p.drawn = false
	}
	if p.rows > 0 {
		p.say(fmt.Sprintf("file %s: read %s rows of %s files", p.name, grouped(p.rows), grouped(p.files)))
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
