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
