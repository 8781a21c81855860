package chdb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leftovers are the files in a cache folder, without the lock.
func leftovers(t *testing.T, cache string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(cache, "chdb", Version, "*"))
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := filepath.Glob(filepath.Join(cache, "chdb", Version, ".*"))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, f := range append(all, hidden...) {
		if filepath.Base(f) != "lock" {
			left = append(left, f)
		}
	}
	return left
}

func onSupported(t *testing.T) {
	t.Helper()
	if err := supported(runtime.GOOS, runtime.GOARCH); err != nil {
		t.Skipf("needs the ClickHouse engine: %v", err)
	}
}

// fetchFails wants an error that names the next action, and nothing left behind.
func fetchFails(t *testing.T, ctx context.Context, o FetchOptions, mentions ...string) error {
	t.Helper()
	_, err := Fetch(ctx, o)
	if err == nil {
		t.Fatal("no error")
	}
	for _, m := range mentions {
		if !strings.Contains(err.Error(), m) {
			t.Errorf("error does not mention %q: %v", m, err)
		}
	}
	if left := leftovers(t, o.CacheDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return err
}

func TestFetchWithoutNPM(t *testing.T) {
	onSupported(t)
	t.Setenv("PATH", t.TempDir())
	_ = fetchFails(t, t.Context(), FetchOptions{CacheDir: t.TempDir()}, "npm is not on PATH", "--from FILE", "clickhouse executable")
}

func TestFetchOffline(t *testing.T) {
	onSupported(t)
	needNPM(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // a port where nobody listens
		t.Fatal(err)
	}
	t.Setenv("npm_config_registry", "http://"+l.Addr().String()+"/")
	t.Setenv("npm_config_fetch_retries", "0")
	_ = fetchFails(t, t.Context(), FetchOptions{CacheDir: t.TempDir()}, "npm pack failed", "ECONNREFUSED", "check the network", "--from FILE")
}

func TestFetchInterrupted(t *testing.T) {
	onSupported(t)
	needNPM(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // a registry that never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	t.Setenv("npm_config_registry", "http://"+silent.Addr().String()+"/")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if c, err := silent.Accept(); err == nil {
			defer func() { _ = c.Close() }()
		}
		cancel() // in the middle
		<-t.Context().Done()
	}()
	err = fetchFails(t, ctx, FetchOptions{CacheDir: t.TempDir()}, "interrupted", "run it again")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("not a cancellation: %v", err)
	}
}

func TestFetchWrongFiles(t *testing.T) {
	onSupported(t)
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"package.tgz": {packageWith(t, packageMember, tar.TypeReg, "x"), "wrong SHA-256 digest"},
		"libchdb.so":  {[]byte("\x7fELF and more"), "wrong SHA-256 digest"},
		"readme.txt":  {[]byte("hello"), "is neither the package"},
		"empty.tgz":   {nil, "EOF"},
	} {
		from := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(from, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = fetchFails(t, t.Context(), FetchOptions{From: from, CacheDir: t.TempDir()}, c.want, name)
	}
	_ = fetchFails(t, t.Context(), FetchOptions{From: filepath.Join(t.TempDir(), "absent"), CacheDir: t.TempDir()}, "no such file")
	_ = fetchFails(t, t.Context(), FetchOptions{From: t.TempDir(), CacheDir: t.TempDir()}, "is a directory")
}

// packageWith is a package of one member.
func packageWith(t *testing.T, name string, kind byte, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	h := &tar.Header{Name: name, Typeflag: kind, Mode: 0o755, Linkname: "/etc/passwd"}
	if kind == tar.TypeReg {
		h.Linkname, h.Size = "", int64(len(content))
	}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A package whose digest were right could still not write anywhere but to the target.
func TestOnlyTheLibraryIsUnpacked(t *testing.T) {
	for _, c := range []struct {
		name string
		kind byte
	}{{"../libchdb.so", tar.TypeReg}, {"/package/libchdb.so", tar.TypeReg}, {packageMember, tar.TypeSymlink}, {packageMember, tar.TypeLink}} {
		if _, err := openMember(t.Context(), bytes.NewReader(packageWith(t, c.name, c.kind, ""))); err == nil {
			t.Errorf("member %s of type %c was taken", c.name, c.kind)
		}
	}
	if _, err := openMember(t.Context(), bytes.NewReader(packageWith(t, packageMember, tar.TypeReg, "x"))); err != nil {
		t.Error(err)
	}
}

func TestFetchFromFile(t *testing.T) {
	library, err := testLibrary()
	if err != nil {
		t.Skipf("needs the ClickHouse engine: %v", err)
	}
	if testing.Short() {
		t.Skip("needs a run without -short: it copies 570 MB")
	}
	cache := t.TempDir()
	stale := filepath.Join(cache, "chdb", Version, partialPrefix+"killed")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	// Two at a time do the work once.
	var finished atomic.Int32
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			_, err := Fetch(t.Context(), FetchOptions{From: library, CacheDir: cache, Progress: func(done, total int64) {
				if done == total {
					finished.Add(1)
				}
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := finished.Load(); n != 1 {
		t.Errorf("the library was unpacked %d times", n)
	}
	if left := leftovers(t, cache); len(left) != 1 || left[0] != libraryPath(cache) {
		t.Errorf("in the folder: %v", left)
	}
	// It is there: nothing is read any more.
	path, err := Fetch(t.Context(), FetchOptions{From: "/does/not/exist", CacheDir: cache})
	if err != nil || path != libraryPath(cache) {
		t.Errorf("second fetch: %q, %v", path, err)
	}
	// A damaged copy, of the right kind and size, is refused.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), libraryBytes/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_ = fetchFails(t, t.Context(), FetchOptions{From: path, CacheDir: t.TempDir()}, "wrong SHA-256 digest")
}

func TestFetchToFullDisk(t *testing.T) {
	onSupported(t)
	cache := t.TempDir()
	if err := unix.Mount("tmpfs", cache, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs the right to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(cache, 0); err != nil {
			t.Error(err)
		}
	})
	if err := fetchFails(t, t.Context(), FetchOptions{CacheDir: cache}, "make space", "MILLSTREAM_CACHE"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("not a full disk: %v", err)
	}
	from := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(from, append([]byte("\x7fELF"), make([]byte, 4<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fetchFails(t, t.Context(), FetchOptions{From: from, CacheDir: cache}, "make space"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("not a full disk: %v", err)
	}
}

func TestCacheFolder(t *testing.T) {
	t.Setenv("MILLSTREAM_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if _, err := Fetch(t.Context(), FetchOptions{}); err == nil || !strings.Contains(err.Error(), "set MILLSTREAM_CACHE") {
		t.Errorf("without HOME: %v", err)
	}
	cache := t.TempDir()
	t.Setenv("MILLSTREAM_CACHE", cache)
	if got, err := cacheFolder(""); err != nil || got != cache {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUnsupportedPlatform(t *testing.T) {
	for _, p := range [][2]string{{"linux", "arm64"}, {"darwin", "arm64"}, {"windows", "amd64"}} {
		err := supported(p[0], p[1])
		if err == nil || !strings.Contains(err.Error(), "url of a ClickHouse server") || !strings.Contains(err.Error(), p[0]+"/"+p[1]) {
			t.Errorf("%v: %v", p, err)
		}
	}
}

func TestLockWaits(t *testing.T) {
	folder := t.TempDir()
	unlock, err := lockFolder(t.Context(), folder, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if _, err := lockFolder(ctx, folder, t.Output()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock was given: %v", err)
	}
	unlock()
	second, err := lockFolder(t.Context(), folder, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	second()
}
