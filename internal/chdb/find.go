package chdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// Engine says which ClickHouse a pipeline uses. One field is set.
type Engine struct {
	URL     string // a server that someone else runs
	Server  string // path of a clickhouse executable
	Library string // path of libchdb
}

// minServerVersion is the oldest clickhouse on PATH that is used: the tables need its settings (24.8 is an LTS release).
const minServerVersion = 2408

// ErrNoEngine is the error of Find when there is no ClickHouse at all.
var ErrNoEngine = errors.New(`there is no ClickHouse: run "millstream fetch-engine" once to get the embedded one, ` +
	`or set the url of a ClickHouse server in the YAML, or put a clickhouse executable on PATH`)

// Find chooses the ClickHouse: the configured URL, else clickhouse on PATH, else the library in the cache folder, else
// ErrNoEngine. An executable older than 24.8 is passed over.
func Find(url string) (Engine, error) {
	if url != "" {
		return Engine{URL: url}, nil
	}
	if path, err := exec.LookPath("clickhouse"); err == nil && serverVersion(path) >= minServerVersion {
		return Engine{Server: path}, nil
	}
	path, err := findLibrary()
	if err != nil {
		return Engine{}, err
	}
	return Engine{Library: path}, nil
}

// findFor is Find for a data folder: data stays with the kind of engine that wrote it.
func findFor(dir string) (Engine, error) {
	if exists(filepath.Join(dir, "data")) {
		path, err := findLibrary()
		if err != nil {
			return Engine{}, fmt.Errorf("open the data folder %s of the embedded library: %w", dir, err)
		}
		return Engine{Library: path}, nil
	}
	e, err := Find("")
	if err == nil && e.Server == "" && exists(filepath.Join(dir, "server")) {
		return Engine{}, fmt.Errorf("the data folder %s was written by a clickhouse executable, which is not on PATH any more: put it there, or use another folder", dir)
	}
	return e, err
}

func findLibrary() (string, error) {
	cache, err := cacheFolder("")
	if err != nil {
		return "", err
	}
	path := libraryPath(cache)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNoEngine
	}
	if err != nil {
		return "", fmt.Errorf("look for the ClickHouse library: %w", err)
	}
	if info.Size() != libraryBytes {
		return "", fmt.Errorf(`the ClickHouse library %s has %d bytes instead of %d: remove it and run "millstream fetch-engine"`, path, info.Size(), int64(libraryBytes))
	}
	return path, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

var versionText = regexp.MustCompile(`version (\d+)\.(\d+)\.`)

// versionTimeout bounds a program that is called clickhouse but is something else.
const versionTimeout = 10 * time.Second

// serverVersion is year and month of a clickhouse executable, 2408 for 24.8; 0 if it does not say.
func serverVersion(path string) int {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "server", "--version").Output()
	if err != nil {
		return 0
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0
	}
	year, _ := strconv.Atoi(string(m[1]))
	month, _ := strconv.Atoi(string(m[2]))
	return year*100 + month
}
