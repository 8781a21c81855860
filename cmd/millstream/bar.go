package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// bar shows progress on one line of a terminal; elsewhere it says where it stands every ten seconds.
type bar struct {
	mu       sync.Mutex
	w        io.Writer
	what     string
	terminal bool
	now      func() time.Time
	begun    time.Time
	shown    time.Time
	any      bool

	first time.Time // when the first piece was there, and how much that was: what came before says nothing about the speed
	had   int64
}

func newBar(w io.Writer, what string) *bar {
	b := &bar{w: w, what: what, now: time.Now, begun: time.Now()}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			b.terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return b
}

func (b *bar) set(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.first.IsZero() && done > 0 {
		b.first, b.had = now, done
	}
	gap := 10 * time.Second
	if b.terminal {
		gap = 100 * time.Millisecond
	}
	if total <= 0 || done < total && now.Sub(b.shown) < gap || !b.terminal && !b.any && done < total && now.Sub(b.begun) < gap {
		return
	}
	b.shown, b.any = now, true
	left := ""
	if took, came := now.Sub(b.first), done-b.had; took >= time.Second && came >= total/100 && came > 0 && done < total {
		eta := time.Duration(float64(took) * float64(total-done) / float64(came))
		left = ", " + eta.Round(time.Second).String() + " left"
	}
	const width = 30
	full := int(done * width / total)
	line := fmt.Sprintf("%s [%s%s] %d%%%s", b.what, strings.Repeat("#", full), strings.Repeat(".", width-full), done*100/total, left)
	if b.terminal {
		fmt.Fprintf(b.w, "\r%-90s", line)
		return
	}
	fmt.Fprintln(b.w, line)
}

func (b *bar) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.terminal && b.any {
		fmt.Fprintln(b.w)
	}
}
