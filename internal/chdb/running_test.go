package chdb

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRunning asks for the engine of a folder before, while and after one runs, and after a kill has left its address behind.
func TestRunning(t *testing.T) {
	o := testOptions(t)
	is := func(when, want string) {
		t.Helper()
		got, err := Running(o.Dir)
		if err != nil || got != want {
			t.Errorf("%s: an engine found: %v, want one: %v (%v)", when, got != "", want != "", err)
		}
	}
	is("before", "")
	p := startEngine(t, o)
	is("while it runs", p.URL())
	path := filepath.Join(o.Dir, addressFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("address file: %v, %v", info, err)
	}
	left, err := os.ReadFile(path)
	if err != nil || string(left) != p.Address() {
		t.Errorf("the address file says %q, %v", left, err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	is("after", "")
	if err := os.WriteFile(path, left, 0o600); err != nil {
		t.Fatal(err)
	}
	is("after a kill", "")
}
