package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestEndWithin runs something that ends by itself, something that ends when it is told to, and something that hangs.
func TestEndWithin(t *testing.T) {
	broken := errors.New("broken")
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if err := endWithin(t.Context(), time.Nanosecond, logger, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("by itself: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := endWithin(ctx, time.Hour, logger, func() error { <-ctx.Done(); return broken }); !errors.Is(err, broken) {
		t.Errorf("when told to: %v", err)
	}
	if log.Len() > 0 {
		t.Errorf("said %s", &log)
	}
	hang := make(chan struct{})
	defer close(hang)
	if err := endWithin(ctx, time.Millisecond, logger, func() error { <-hang; return broken }); err != nil {
		t.Errorf("hanging: %v", err)
	}
	if !strings.Contains(log.String(), "Nothing is lost") {
		t.Errorf("said %q of what hangs", &log)
	}
}

// TestClockFrom reads the clock of tests about time.
func TestClockFrom(t *testing.T) {
	if now, err := clockFrom(""); now != nil || err != nil {
		t.Errorf("without a time there is a clock, or %v", err)
	}
	if _, err := clockFrom("tomorrow"); err == nil {
		t.Error("tomorrow is a time")
	}
	now, err := clockFrom("2026-02-02T12:00:00Z")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 2, 2, 12, 0, 0, 0, time.UTC)
	if first := now(); first.Before(at) || now().Before(first) || first.After(at.Add(time.Hour)) {
		t.Errorf("the clock shows %v, want some moments after %v", first, at)
	}
}
