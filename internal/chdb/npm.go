package chdb

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// otherWays is what to do when npm cannot help.
const otherWays = `run "npm pack ` + packageName + "@" + Version + `" where it can and then "millstream fetch-engine --from FILE" here, ` +
	`or set the url of a ClickHouse server in the YAML, or put a clickhouse executable on PATH`

// npmPack lets the user's npm, with the user's registry, proxy and credentials, fetch the package into the folder, and
// returns the tarball. npm says nothing while it works, so progress is the size of what it has written.
func npmPack(ctx context.Context, folder string, p *progress, log io.Writer) (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("npm is not on PATH: install Node.js, or %s", otherWays)
	}
	_, _ = fmt.Fprintf(log, "npm pack %s@%s (%d MB)\n", packageName, Version, tarballBytes/1_000_000)
	cmd := exec.CommandContext(ctx, npm, "pack", packageName+"@"+Version, "--ignore-scripts", "--loglevel", "error", "--no-update-notifier",
		"--cache", filepath.Join(folder, "npm"), "--pack-destination", folder)
	cmd.Dir = folder
	cmd.SysProcAttr = childAttributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its helpers, too
	cmd.WaitDelay = 5 * time.Second
	var said tail
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start npm: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err = <-ended:
			running = false
		case <-tick.C:
			p.set(min(folderSize(folder), tarballBytes-1))
		}
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", npmError(said.lines())
	}
	p.set(tarballBytes)
	found, err := filepath.Glob(filepath.Join(folder, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("npm pack ended well but left %d packages instead of 1: try a newer npm, or %s", len(found), otherWays)
	}
	return found[0], nil
}

// npmError names the cause that npm printed.
func npmError(said string) error {
	switch {
	case strings.Contains(said, "ENOSPC"):
		return fmt.Errorf("npm: %w", syscall.ENOSPC)
	case strings.Contains(said, "E404"), strings.Contains(said, "ETARGET"):
		return fmt.Errorf("npm's registry does not have %s@%s: %s: choose another registry in npm's configuration, or %s", packageName, Version, said, otherWays)
	case said == "":
		said = "no reason given"
	}
	return fmt.Errorf("npm pack failed: %s: check the network and npm's registry and proxy, or %s", said, otherWays)
}

// folderSize adds up the files in the folder. Files come and go meanwhile, so errors mean nothing.
func folderSize(folder string) (sum int64) {
	_ = filepath.WalkDir(folder, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// tail keeps the beginning of what npm prints: its first lines say why.
type tail struct{ buf bytes.Buffer }

const tailBytes = 2048

func (t *tail) Write(p []byte) (int, error) {
	if room := tailBytes - t.buf.Len(); room > 0 {
		t.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// lines is the text in one line, at most three of npm's.
func (t *tail) lines() string {
	var kept []string
	for line := range strings.Lines(t.buf.String()) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(line, "npm error"), "npm ERR!"))
		if line != "" && len(kept) < 3 {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, ", ")
}
