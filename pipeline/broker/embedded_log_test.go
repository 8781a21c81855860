package broker

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestEmbeddedLog(t *testing.T) {
	var out bytes.Buffer
	log := embeddedLog{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	log.Logf(kfake.LogLevelWarn, slowEnd+"pid=%d elapsed=%dms", 7, 8)
	log.Logf(kfake.LogLevelWarn, "persist batch %s: %v", "t", "disk full")
	log.Logf(kfake.LogLevelError, "broken")
	log.Logf(kfake.LogLevelInfo, "chatter")
	var levels []string
	for line := range strings.Lines(out.String()) {
		_, rest, _ := strings.Cut(line, "level=")
		level, _, _ := strings.Cut(rest, " ")
		levels = append(levels, level)
	}
	if got := strings.Join(levels, " "); got != "DEBUG WARN ERROR" {
		t.Errorf("levels %s of\n%s", got, &out)
	}
}
