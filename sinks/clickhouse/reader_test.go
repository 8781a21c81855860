package clickhouse

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// TestReaderRefuses reads what is not there: the errors say so, and repeat neither secrets nor what ClickHouse quotes.
func TestReaderRefuses(t *testing.T) {
	engine := sharedEngine(t)
	embeddedAt := func(context.Context) (string, error) { return engine.URL(), nil }
	open := func(c Config, database string) (*Reader, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return OpenReader(ctx, c, database, embeddedAt)
	}
	own := Config{URL: pipeline.NewSecret(embedded)}
	if _, err := open(own, "never_made"); err == nil || !strings.Contains(err.Error(), "has not run there") {
		t.Errorf("a database that is not there: %v", err)
	}
	away := Config{URL: pipeline.NewSecret("http://someone:hunter2@127.0.0.1:1")}
	if _, err := open(away, "shop"); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a server that is not there: %v", err)
	}
	r, err := open(own, "default")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var rows []struct {
		X string `ch:"x"`
	}
	if err := r.Select(t.Context(), "read the profile", &rows, "SELECT toString(toUUID(?)) AS x", "hunter2"); err == nil ||
		!strings.Contains(err.Error(), "read the profile") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a value that ClickHouse quotes: %v", err)
	}
	if err := r.Select(t.Context(), "read the profile", &rows, "SELECT x FROM absent"); err == nil || !strings.Contains(err.Error(), "with this version") {
		t.Errorf("a table that is not there: %v", err)
	}
	if err := r.Select(t.Context(), "read a text", &rows, "SELECT ? AS x", `'; DROP TABLE x -- \`); err != nil || len(rows) != 1 || rows[0].X != `'; DROP TABLE x -- \` {
		t.Errorf("a text with quotes came back as %q, %v", rows, err)
	}
}
