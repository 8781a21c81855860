package chdb

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cacheWithLibrary is a cache folder in which a file of the right size stands for the library; sparse, so it takes no space.
func cacheWithLibrary(t *testing.T) string {
	t.Helper()
	cache := t.TempDir()
	path := libraryPath(cache)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, libraryBytes); err != nil {
		t.Fatal(err)
	}
	return cache
}

// pathWithServer is a PATH with an executable that says it is this version of clickhouse.
func pathWithServer(t *testing.T, version string) string {
	t.Helper()
	folder := t.TempDir()
	script := "#!/bin/sh\necho 'ClickHouse server version " + version + " (official build).'\n"
	if err := os.WriteFile(filepath.Join(folder, "clickhouse"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestFindOrder(t *testing.T) {
	cache, server, old := cacheWithLibrary(t), pathWithServer(t, "25.8.3.66"), pathWithServer(t, "18.16.1")
	for name, c := range map[string]struct {
		url, path, cache string
		want             Engine
	}{
		"all":          {"http://ch:8123", server, cache, Engine{URL: "http://ch:8123"}},
		"server":       {"", server, cache, Engine{Server: filepath.Join(server, "clickhouse")}},
		"old server":   {"", old, cache, Engine{Library: libraryPath(cache)}},
		"library":      {"", t.TempDir(), cache, Engine{Library: libraryPath(cache)}},
		"nothing":      {"", t.TempDir(), t.TempDir(), Engine{}},
		"only too old": {"", old, t.TempDir(), Engine{}},
	} {
		t.Setenv("PATH", c.path)
		t.Setenv("MILLSTREAM_CACHE", c.cache)
		got, err := Find(c.url)
		if got != c.want || (err != nil) != (c.want == Engine{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && (!errors.Is(err, ErrNoEngine) || !strings.Contains(err.Error(), "millstream fetch-engine")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Truncate(libraryPath(cache), 1000); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "")
	t.Setenv("MILLSTREAM_CACHE", cache)
	if _, err := Find(""); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("damaged library: %v", err)
	}
}

// Another kind of engine would show an empty database.
func TestDataStaysWithItsEngine(t *testing.T) {
	cache, server := cacheWithLibrary(t), pathWithServer(t, "25.8.3.66")
	folder := func(name string) string {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	t.Setenv("PATH", server)
	t.Setenv("MILLSTREAM_CACHE", cache)
	if e, err := findFor(folder("data")); err != nil || e.Library == "" {
		t.Errorf("written by the library: %+v, %v", e, err)
	}
	if e, err := findFor(t.TempDir()); err != nil || e.Server == "" {
		t.Errorf("new: %+v, %v", e, err)
	}
	t.Setenv("PATH", t.TempDir())
	if e, err := findFor(folder("server")); err == nil {
		t.Errorf("written by a server that is gone: %+v", e)
	}
	t.Setenv("MILLSTREAM_CACHE", t.TempDir())
	if e, err := findFor(folder("data")); !errors.Is(err, ErrNoEngine) {
		t.Errorf("written by a library that is gone: %+v, %v", e, err)
	}
}

func TestServerConfigIsXML(t *testing.T) {
	b, err := serverConfig(Options{Dir: "/tmp/a <b> & c", Password: "secret", MemoryLimit: 1 << 30}, "127.0.0.1:8123")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for d, in := xml.NewDecoder(strings.NewReader(string(b))), ""; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			in = token.Name.Local
		case xml.CharData:
			if in == "path" {
				paths = append(paths, strings.TrimSpace(string(token)))
				in = ""
			}
		}
	}
	if len(paths) != 1 || paths[0] != "/tmp/a <b> & c/server/" {
		t.Errorf("path: %q", paths)
	}
	if strings.Contains(string(b), "secret") {
		t.Error("the configuration contains the password")
	}
}

func TestServerFromPath(t *testing.T) {
	path, err := exec.LookPath("clickhouse")
	if err != nil || serverVersion(path) < minServerVersion {
		t.Skip("needs a clickhouse executable of 24.8 or later on PATH")
	}
	o := Options{Dir: t.TempDir(), Engine: Engine{Server: path}, Listen: "127.0.0.1:0", MemoryLimit: 1 << 30, Stderr: t.Output()}
	p := startEngine(t, o)
	must(t, p, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	must(t, p, "INSERT INTO t VALUES (1)")
	if got := must(t, p, "SELECT a, currentUser() FROM t"); got != "1\tmillstream\n" {
		t.Errorf("got %q", got)
	}
}
