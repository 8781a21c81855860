package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// How long it will take is said once that can be known: neither the wait for the first piece nor a few bytes tell.
func TestBarEstimatesWhatItHasSeen(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	b := newBar(&out, "Fetching")
	b.terminal, b.begun, b.now = true, now, func() time.Time { return now }
	for _, c := range []struct {
		after time.Duration
		done  int64
		want  string // of the estimate
	}{
		{20 * time.Second, 4_096, ""}, // connecting took long
		{200 * time.Millisecond, 5_000_000, ""},
		{800 * time.Millisecond, 10_004_096, ", 17s left"}, // 10 MB in the second since the first piece
		{8 * time.Second, 90_004_096, ", 9s left"},
		{9 * time.Second, 180_000_000, ""},
	} {
		now = now.Add(c.after)
		out.Reset()
		b.set(c.done, 180_000_000)
		_, got, _ := strings.Cut(strings.TrimSpace(out.String()), "%")
		if got != c.want {
			t.Errorf("%d bytes after %s: %q, want %q", c.done, c.after, got, c.want)
		}
	}
}

// A slow link has no estimate until there is one percent.
func TestBarWaitsForAPercent(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	b := newBar(&out, "Fetching")
	b.terminal, b.now = true, func() time.Time { return now }
	for done := int64(1); done < 10_000; done++ {
		now = now.Add(time.Second)
		out.Reset()
		b.set(done, 1_000_000)
		if strings.Contains(out.String(), "left") {
			t.Fatalf("an estimate after %d of a million bytes: %q", done, out.String())
		}
	}
}
