package file

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/state"
	"github.com/millstream-io/millstream/sinks/sinktest"
)

func TestContract(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Subject {
		folder := filepath.Join(t.TempDir(), "out")
		return sinktest.Subject{
			Open:        func(t *testing.T) pipeline.Sink { return openSink(t, folder, "crm") },
			Received:    func(t *testing.T) []pipeline.ID { return received(t, folder) },
			ExactlyOnce: true,
		}
	})
}

func openSink(t *testing.T, folder, name string) pipeline.Sink {
	t.Helper()
	s, err := tryOpen(t, folder, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryOpen(t *testing.T, folder, name string) (pipeline.Sink, error) {
	t.Helper()
	config := Kind.Config().(*Config)
	config.Path = folder
	open, problems := Kind.Build(name, config, &pipeline.Env{Pipeline: "shop"})
	if problems != nil {
		t.Fatal(problems)
	}
	s, err := open(t.Context(), pipeline.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return s.(pipeline.Sink), nil
}

// received reads all files as any program would: each line a JSON object.
func received(t *testing.T, folder string) (ids []pipeline.ID) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "changes-*.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var m map[string]json.RawMessage
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatalf("%s: line %q: %v", path, lines.Text(), err)
			}
			if _, ok := m["meta"]; ok {
				t.Errorf("%s: a line has meta, which is for the tables alone", path)
			}
			var id pipeline.ID
			if err := json.Unmarshal(m["id"], &id); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
	}
	return ids
}

// harness is one partition of the sink, whose transactions the test commits or loses.
type harness struct {
	part   *state.Partition
	number uint64
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	store, err := state.Open(filepath.Join(t.TempDir(), "state"), state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	part, err := store.Partition("changes", 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { part.Close() })
	return &harness{part: part}
}

func (h *harness) write(t *testing.T, s pipeline.Sink, first, n int) error {
	t.Helper()
	records := sinktest.Records(0, first, n)
	attempts := make([]pipeline.Attempt, n)
	for i := range records {
		attempts[i] = pipeline.Attempt{Record: &records[i], Number: 1}
	}
	tx := h.part.Begin()
	defer tx.Discard()
	if _, err := s.Write(t.Context(), tx.Stage(1), attempts); err != nil {
		return err
	}
	h.number++
	return tx.Commit(state.Position{Number: h.number})
}

func TestCutsOffWhatWasNotCommitted(t *testing.T) {
	folder, h := t.TempDir(), newHarness(t)
	s := openSink(t, folder, "crm")
	if err := h.write(t, s, 0, 5); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "changes-0.ndjson")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// whole lines, more of them than the next write has, and one that a crash tore
	if _, err := f.WriteString(strings.Repeat(`{"type":"lost"}`+"\n", 1000) + `{"type":"segment.ent`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := h.write(t, s, 5, 5); err != nil {
		t.Fatal(err)
	}
	if got := received(t, folder); len(got) != 10 {
		t.Errorf("the file has %d messages, want 10", len(got))
	}
}

func TestRefusesToGoOn(t *testing.T) {
	for _, test := range []struct {
		name   string
		spoil  func(t *testing.T, path string)
		first  bool // before the first write
		wanted string
	}{
		{name: "shorter than committed", spoil: func(t *testing.T, path string) { must(t, os.Truncate(path, 10)) }, wanted: "has 10 bytes, but "},
		{name: "removed", spoil: func(t *testing.T, path string) { must(t, os.Remove(path)) }, wanted: "has 0 bytes, but "},
		{name: "somebody's file", first: true, spoil: func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte("precious\n"), 0o600))
		}, wanted: "exists with 9 bytes that this sink has not written"},
		{name: "a folder in its place", first: true, spoil: func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, wanted: "is a directory"},
		{name: "no folder", first: true, spoil: func(t *testing.T, path string) { must(t, os.RemoveAll(filepath.Dir(path))) }, wanted: "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder, h := filepath.Join(t.TempDir(), "out"), newHarness(t)
			s := openSink(t, folder, "crm")
			path := filepath.Join(folder, "changes-0.ndjson")
			if !test.first {
				must(t, h.write(t, s, 0, 5))
			}
			test.spoil(t, path)
			before, _ := os.ReadFile(path)
			err := h.write(t, s, 5, 5)
			if err == nil || !strings.Contains(err.Error(), test.wanted) || !strings.Contains(err.Error(), path) {
				t.Errorf("write gave %v, want an error with %q and the path", err, test.wanted)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Errorf("the file was changed from %q to %q", before, after)
			}
		})
	}
}

// TestErrorThenAgain: after an error the same records come again.
func TestErrorThenAgain(t *testing.T) {
	folder, h := t.TempDir(), newHarness(t)
	s, path := openSink(t, folder, "crm"), filepath.Join(folder, "changes-0.ndjson")
	must(t, os.Symlink("/dev/null", path))
	if err := h.write(t, s, 0, 1); err == nil || !strings.Contains(err.Error(), "not a plain file") {
		t.Errorf("a write to a device gave %v", err)
	}
	must(t, os.Remove(path))
	must(t, h.write(t, s, 0, 1))
	if got := received(t, folder); len(got) != 1 {
		t.Errorf("the file has %d messages, want 1", len(got))
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	folder, h := t.TempDir(), newHarness(t)
	s := openSink(t, folder, "crm")
	tx := h.part.Begin()
	tx.Stage(1).Set(lengthKey, []byte{2, 0, 0, 0, 0, 0, 0, 0, 0})
	h.number++
	must(t, tx.Commit(state.Position{Number: h.number}))
	if err := h.write(t, s, 0, 1); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("write gave %v, want an error that names format 2", err)
	}
}

func TestPermissions(t *testing.T) {
	folder, h := filepath.Join(t.TempDir(), "a", "b"), newHarness(t)
	must(t, h.write(t, openSink(t, folder, "crm"), 0, 1))
	for path, want := range map[string]os.FileMode{folder: 0o700, filepath.Join(folder, "changes-0.ndjson"): 0o600} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
}

func TestOneSinkPerFolder(t *testing.T) {
	folder := t.TempDir()
	openSink(t, folder, "crm")
	openSink(t, folder, "crm") // a restart
	if _, err := tryOpen(t, folder, "other"); err == nil || !strings.Contains(err.Error(), `"shop/crm"`) || !strings.Contains(err.Error(), `"shop/other"`) {
		t.Errorf("open gave %v, want an error that names both sinks", err)
	}
	must(t, os.Truncate(filepath.Join(folder, ownerFile), 0)) // a crash before the name was written
	openSink(t, folder, "crm")
	if _, err := tryOpen(t, folder, "other"); err == nil {
		t.Error("the folder was not marked again")
	}
}

func TestProblems(t *testing.T) {
	_, problems := Kind.Build("out", &Config{Format: "csv"}, &pipeline.Env{})
	if len(problems) != 2 || problems[0].Path[0] != "path" || problems[1].Path[0] != "format" {
		t.Errorf("problems are %+v, want path and format", problems)
	}
}

func TestMixedPartitionsAreAnError(t *testing.T) {
	a, b := sinktest.Records(0, 0, 1), sinktest.Records(1, 0, 1)
	s := openSink(t, t.TempDir(), "crm")
	_, err := s.Write(context.Background(), nil, []pipeline.Attempt{{Record: &a[0]}, {Record: &b[0]}})
	if err == nil {
		t.Error("one write with two partitions gave no error")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
