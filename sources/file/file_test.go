package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/sources/sourcetest"
)

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Case {
		dir := t.TempDir()
		s := open1(t, Config{Path: Paths{filepath.Join(dir, "*.csv")}, Set: map[string]any{"type": "track"}})
		s.poll = time.Millisecond
		if strings.Contains(t.Name(), "hangs") {
			s.drain = 100 * time.Millisecond
		}
		return sourcetest.Case{Source: s, Feed: func() {
			write(t, filepath.Join(dir, "a.csv"), "user,x\n1,2\n3,4\n")
		}}
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
