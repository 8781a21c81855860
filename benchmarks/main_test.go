package benchmarks

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/config"
	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
	"github.com/millstream-io/millstream/sinks"
	"github.com/millstream-io/millstream/sources"
	"github.com/millstream-io/millstream/stages"
)

// program is the path of the binary, built once: it runs the embedded broker apart from the process that is measured.
var program string

func TestMain(m *testing.M) {
	testenv.Main(m, func() (func(), error) {
		dir, err := os.MkdirTemp("", "millstream-benchmarks-")
		if err != nil {
			return nil, err
		}
		program = filepath.Join(dir, "millstream")
		out, err := exec.Command("go", "build", "-o", program, "../cmd/millstream").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("build the program: %w\n%s", err, out)
		}
		return func() { os.RemoveAll(dir) }, nil
	})
}

// patience bounds every wait. It is generous: a timing decides nothing.
const patience = 5 * time.Minute

// logger shows what a reader of the figures should know: warnings, no progress.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// addresses are those of the Kafka in KAFKA_BROKERS, else of an embedded broker in a process of its own.
func addresses(b *testing.B) []string {
	b.Helper()
	if a := os.Getenv("KAFKA_BROKERS"); a != "" {
		return strings.Split(a, ",")
	}
	dir := b.TempDir()
	child, err := broker.StartEmbedded(context.Background(), broker.ChildOptions{Binary: program,
		Args: []string{"broker", "--attached", "--next-free", "--listen", "127.0.0.1:29092", "--data", dir}, Dir: dir, Logger: logger()})
	check(b, err)
	b.Cleanup(func() { child.Close() })
	return []string{child.Addr()}
}

func dial(ctx context.Context, b *testing.B, addrs []string) *broker.Cluster {
	b.Helper()
	c, err := broker.Dial(ctx, broker.Config{Brokers: addrs, Logger: logger()})
	check(b, err)
	b.Cleanup(func() { c.Close() })
	return c
}

// load compiles the pipeline of testdata under the given name, with more segments at its end.
func load(b *testing.B, name, file string, segments ...string) *pipeline.Plan {
	b.Helper()
	yaml, err := os.ReadFile("testdata/" + file + ".yaml")
	check(b, err)
	for _, s := range segments {
		yaml = append(yaml, "      "+s+"\n"...)
	}
	path := filepath.Join(b.TempDir(), file+".yaml")
	check(b, os.WriteFile(path, yaml, 0o600))
	plan, mistakes := config.Load(path, config.Kinds{Sources: sources.Kinds, Stages: stages.Kinds, Sinks: sinks.Kinds},
		config.Options{LookupEnv: func(string) (string, bool) { return name, true }})
	if len(mistakes) > 0 {
		b.Fatal(mistakes)
	}
	return plan
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
