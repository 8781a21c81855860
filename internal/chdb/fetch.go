package chdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FetchOptions says where the library comes from and goes to. The zero value fetches it with npm to the user's cache folder.
type FetchOptions struct {
	// From is a file instead of npm: the package (.tgz, from "npm pack" on another machine) or the library in it.
	From string
	// CacheDir is the folder to put it in; default MILLSTREAM_CACHE, else "millstream" in the user's cache folder.
	CacheDir string
	// Progress is called about five times a second from one goroutine, with bytes fetched and unpacked; may be nil.
	Progress func(done, total int64)
	// Log receives lines for the user; may be nil.
	Log io.Writer
}

// Fetch brings the ClickHouse library to the cache folder and returns its path. It is there only once it is complete and its
// digest is right. If it is there already, Fetch returns at once; two at a time do the work once. A failed or interrupted
// Fetch leaves nothing behind, a killed one leaves a folder that the next one removes.
func Fetch(ctx context.Context, o FetchOptions) (string, error) {
	cache, err := cacheFolder(o.CacheDir)
	if err != nil {
		return "", err
	}
	path := libraryPath(cache)
	if complete(path) {
		return path, nil
	}
	if err := supported(runtime.GOOS, runtime.GOARCH); err != nil {
		return "", err
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", explain(cache, fmt.Errorf("create the cache folder: %w", err))
	}
	unlock, err := lockFolder(ctx, filepath.Dir(path), o.Log)
	if err != nil {
		return "", err
	}
	defer unlock()
	if complete(path) { // by the one that held the lock
		return path, nil
	}
	if err := fetchInto(ctx, path, o); err != nil {
		return "", explain(cache, err)
	}
	return path, nil
}

// partialPrefix names the folders of unfinished work.
const partialPrefix = ".fetch-"

// fetchInto does the work in a folder beside path, on the same file system, under the lock.
func fetchInto(ctx context.Context, path string, o FetchOptions) (err error) {
	folder := filepath.Dir(path)
	if err := removePartial(folder); err != nil {
		return err
	}
	work, err := os.MkdirTemp(folder, partialPrefix)
	if err != nil {
		return fmt.Errorf("create a folder to fetch into: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	source, fromNPM := o.From, o.From == ""
	var p progress
	p.report = o.Progress
	if fromNPM {
		if err := checkSpace(folder, 2*tarballBytes+libraryBytes); err != nil { // npm keeps a copy until it has finished
			return err
		}
		p.total = tarballBytes + libraryBytes
		if source, err = npmPack(ctx, work, &p, o.Log); err != nil {
			return err
		}
	} else {
		p.total = libraryBytes
	}
	unpacked := filepath.Join(work, "libchdb.so")
	if err := unpack(ctx, source, unpacked, &p); err != nil {
		return err
	}
	if err := os.Rename(unpacked, path); err != nil {
		return fmt.Errorf("move the ClickHouse library to its place: %w", err)
	}
	return nil
}

// complete reports whether the library is there. It got its name when its digest had been checked, so its size is enough.
func complete(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == libraryBytes
}

func supported(goos, arch string) error {
	if goos == packageOS && arch == packageArch {
		return nil
	}
	return fmt.Errorf("the embedded ClickHouse exists for %s/%s only, this is %s/%s: set the url of a ClickHouse server in the YAML, or put a clickhouse executable on PATH",
		packageOS, packageArch, goos, arch)
}

// lockFolder waits until no other process fetches. The lock ends with the process that holds it.
func lockFolder(ctx context.Context, folder string, log io.Writer) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the cache folder: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // also unlocks
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the cache folder %s: %w", folder, err), f.Close())
		}
		if !told {
			_, _ = fmt.Fprintln(log, "another process fetches the ClickHouse engine, waiting for it")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another process that fetches: %w", ctx.Err()), f.Close())
		}
	}
}

func removePartial(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("look for unfinished work: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), partialPrefix) {
			if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
				return fmt.Errorf("remove unfinished work: %w", err)
			}
		}
	}
	return nil
}

// checkSpace refuses at once what would fail after minutes.
func checkSpace(folder string, need int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return fmt.Errorf("ask the free space of %s: %w", folder, err)
	}
	if free := int64(s.Bavail) * int64(s.Bsize); free < need { //nolint:unconvert // other systems have other types
		return fmt.Errorf("%d MB are free, %d MB are needed: %w", free>>20, need>>20, syscall.ENOSPC)
	}
	return nil
}

// explain adds the next action to errors that the user can do something about.
func explain(cache string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("fetch the ClickHouse engine to %s: %w: make space, or set MILLSTREAM_CACHE to a folder on another disk", cache, err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("fetch the ClickHouse engine to %s: %w: set MILLSTREAM_CACHE to a folder that can be written", cache, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("fetch the ClickHouse engine: interrupted, nothing was kept, run it again: %w", err)
	}
	return fmt.Errorf("fetch the ClickHouse engine: %w", err)
}

// progress adds up bytes and reports them, a few times a second.
type progress struct {
	report      func(done, total int64)
	done, total int64
	last        time.Time
}

const progressInterval = 200 * time.Millisecond

// set reports that done bytes are there; the last ones are always reported.
func (p *progress) set(done int64) {
	p.done = min(done, p.total)
	if p.report == nil || time.Since(p.last) < progressInterval && p.done < p.total {
		return
	}
	p.last = time.Now()
	p.report(p.done, p.total)
}
