package clickhouse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/pipeline"
)

// The test binary is its own engine child.
const childVariable = "MILLSTREAM_TEST_ENGINE_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := chdb.ChildMain(context.Background(), os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "engine child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if target := os.Getenv(openVariable); target != "" {
		if err := openInChild(target); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if shared.process != nil {
		if err := shared.process.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the engine:", err)
			code = 1
		}
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// shared is the engine of all tests that do not need one of their own; each test has its own database.
var shared struct {
	once    sync.Once
	process *chdb.Process
	dir     string
	err     error
	number  atomic.Int64
}

func sharedEngine(t testing.TB) *chdb.Process {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "millstream-clickhouse-"); shared.err == nil {
			shared.process, shared.err = startEngine(context.Background(), shared.dir)
		}
	})
	if errors.Is(shared.err, errNotFetched) {
		t.Skipf("needs the ClickHouse engine: %v", shared.err)
	}
	if shared.err != nil {
		t.Fatalf("start the ClickHouse engine: %v", shared.err)
	}
	return shared.process
}

// errNotFetched says that the engine is not on this machine and cannot be fetched; one that does not start is a failure.
var errNotFetched = errors.New("not fetched")

func startEngine(ctx context.Context, dir string) (*chdb.Process, error) {
	library, err := chdb.Fetch(ctx, chdb.FetchOptions{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotFetched, err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return chdb.Start(ctx, chdb.Options{
		Dir: dir, Engine: chdb.Engine{Library: library}, Listen: "127.0.0.1:0", MemoryLimit: 2 << 30,
		Command: []string{self}, Env: []string{childVariable + "=1"}, Log: slog.New(slog.DiscardHandler),
	})
}

// db is one database of an engine, with a sink open on it.
type db struct {
	t    testing.TB
	url  string // of the engine
	name string
	sink *Sink
	log  *logLines
}

// newDB opens a sink on a new database of the shared engine.
func newDB(t testing.TB) *db {
	t.Helper()
	return openDB(t, sharedEngine(t).URL(), newName())
}

func newName() string { return fmt.Sprintf("shop_%d", shared.number.Add(1)) }

func openDB(t testing.TB, url, name string) *db {
	t.Helper()
	d := &db{t: t, url: url, name: name, log: new(logLines)}
	s, err := d.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.sink = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *db) open(ctx context.Context) (*Sink, error) { return d.openAt(ctx, d.url) }

func (d *db) openAt(ctx context.Context, url string) (*Sink, error) {
	open, problems := Kind.Build("analytics", &Config{URL: pipeline.NewSecret(stripQuery(url)), Database: d.name}, &pipeline.Env{Pipeline: "shop"})
	if len(problems) > 0 {
		return nil, fmt.Errorf("problems: %v", problems)
	}
	s, err := open(ctx, pipeline.Deps{Logger: slog.New(slog.NewTextHandler(d.log, nil)), Say: func(line string) { d.log.add("say " + line) }})
	if err != nil {
		return nil, err
	}
	return s.(*Sink), nil
}

func stripQuery(url string) string {
	url, _, _ = strings.Cut(url, "?")
	return url
}

// write writes one range with offsets as the records have them, and wants no error.
func (d *db) write(topic string, records ...pipeline.Record) []pipeline.Outcome {
	d.t.Helper()
	return d.writeRange(rangeOf(topic, records), records)
}

func (d *db) writeRange(r pipeline.Range, records []pipeline.Record) []pipeline.Outcome {
	d.t.Helper()
	out, err := d.sink.WriteRange(d.t.Context(), r, records)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

func rangeOf(topic string, records []pipeline.Record) pipeline.Range {
	last := records[len(records)-1]
	return pipeline.Range{Topic: topic, Partition: last.Partition, First: records[0].Offset, Last: last.Offset, Watermark: last.Time}
}

// query runs a statement in the database and returns its answer as TabSeparated text without the last line feed.
func (d *db) query(sql string) string {
	d.t.Helper()
	text, err := ask(d.url, d.name, sql)
	if err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// want compares the answer to a statement. Lines of an answer that begins on a line of its own are indented by two tabs.
func (d *db) want(sql, want string) {
	d.t.Helper()
	if lines, ok := strings.CutPrefix(want, "\n"); ok {
		want = strings.ReplaceAll(strings.TrimPrefix(lines, "\t\t"), "\n\t\t", "\n")
	}
	if got := d.query(sql); got != want {
		d.t.Errorf("%s\ngot:\n%s\nwant:\n%s", sql, got, want)
	}
}

func ask(url, database, sql string) (string, error) {
	r, err := http.Post(stripQuery(url)+"?database="+database, "text/plain", strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = errors.New(string(text))
	}
	return strings.TrimSuffix(string(text), "\n"), err
}

// logLines collects what the sink logs and says.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) add(line string) { _, _ = l.Write([]byte(line + "\n")) }

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logLines) count(text string) int { return strings.Count(l.String(), text) }

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 60 s: %s", what)
		}
	}
}
