package chdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The file "address" of a data folder holds host and port of the engine that runs on it, without the password. Its owner
// has it locked: the kernel ends the lock with the process, so an address that a kill has left behind is never believed.
const addressFile = "address"

const (
	holdTimeout = 5 * time.Second // a command that looks at a folder for a moment has left it by then
	holdPause   = 20 * time.Millisecond
)

// ErrInUse is the error of Start when another process has the data folder, longer than a look at it takes.
var ErrInUse = errors.New("is in use by another process")

// Running is the address of the engine that runs on a data folder, as Process.URL has it, and a secret; "" if none runs.
func Running(dir string) (string, error) {
	f, err := os.Open(filepath.Join(dir, addressFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for a running ClickHouse: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return "", nil
	} else if !errors.Is(err, syscall.EWOULDBLOCK) {
		return "", fmt.Errorf("look whether ClickHouse runs: %w", err)
	}
	address, err := os.ReadFile(f.Name())
	if err != nil {
		return "", fmt.Errorf("read the address of the running ClickHouse: %w", err)
	}
	if len(address) == 0 { // it is starting, or ending
		return "", nil
	}
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	if err != nil {
		return "", fmt.Errorf("read the password of the running ClickHouse: %w", err)
	}
	return urlOf(string(address), strings.TrimSpace(string(password))), nil
}

// urlOf is the address with user, password and database.
func urlOf(address, password string) string {
	u := url.URL{Scheme: "http", User: url.UserPassword(User, password), Host: address, Path: "/", RawQuery: "database=" + DefaultDatabase}
	return u.String()
}

// claim is the lock of a data folder.
type claim struct{ file *os.File }

// hold takes the lock of a data folder, and waits a moment for another process that has it.
func hold(ctx context.Context, dir string) (*claim, error) {
	f, err := os.OpenFile(filepath.Join(dir, addressFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder of the embedded ClickHouse: %w", err)
	}
	patience := time.NewTimer(holdTimeout)
	defer patience.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			select {
			case <-time.After(holdPause):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			case <-patience.C:
				err = fmt.Errorf("%s %w", dir, ErrInUse)
			}
		}
		return nil, errors.Join(fmt.Errorf("lock the data folder of the embedded ClickHouse: %w", err), f.Close())
	}
	if err := f.Truncate(0); err != nil { // what a kill has left
		return nil, errors.Join(fmt.Errorf("clear the address of the embedded ClickHouse: %w", err), f.Close())
	}
	return &claim{f}, nil
}

// note writes where the engine answers, for Running.
func (c *claim) note(address string) error {
	if _, err := c.file.WriteAt([]byte(address), 0); err != nil {
		return fmt.Errorf("note the address of the embedded ClickHouse: %w", err)
	}
	return nil
}

// release ends the lock. The address goes first, so that who waits for the folder finds none.
func (c *claim) release() {
	_ = c.file.Truncate(0) // a rest is not believed without the lock
	_ = c.file.Close()
}
