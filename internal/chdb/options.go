package chdb

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	defaultListen      = "127.0.0.1:8123"
	defaultStatements  = 16
	defaultMaxBody     = 1 << 30
	defaultMemoryLimit = 4 << 30
	minMemoryLimit     = 512 << 20 // the engine alone needs 200 MB
	portsTried         = 100
)

// complete fills in the defaults and makes the folder.
func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("start the embedded ClickHouse: Options.Dir is empty")
	}
	dir, err := filepath.Abs(o.Dir) // the child works in another folder
	if err != nil {
		return fmt.Errorf("find the data folder of the embedded ClickHouse: %w", err)
	}
	o.Dir = dir
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("create the data folder of the embedded ClickHouse: %w", err)
	}
	if o.Engine == (Engine{}) {
		if o.Engine, err = findFor(o.Dir); err != nil {
			return err
		}
	}
	if o.Password == "" {
		if o.Password, err = loadPassword(filepath.Join(o.Dir, "password")); err != nil {
			return err
		}
	}
	if o.MemoryLimit == 0 {
		total, err := machineMemory()
		if err != nil {
			return err
		}
		o.MemoryLimit = max(minMemoryLimit, min(defaultMemoryLimit, total/2))
	}
	if len(o.Command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the own executable: %w", err)
		}
		o.Command = []string{self, "engine-child"}
	}
	if o.Listen == "" {
		o.Listen = defaultListen
	}
	if o.Statements <= 0 {
		o.Statements = defaultStatements
	}
	if o.MaxBody <= 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return nil
}

func newRunner(o Options, listener net.Listener) (runner, error) {
	switch {
	case o.Engine.Library != "":
		return newLibraryRunner(o, listener)
	case o.Engine.Server != "":
		return newServerRunner(o, listener)
	}
	return nil, errors.New("start the embedded ClickHouse: the engine is a configured URL, there is nothing to start")
}

// listen opens the address, or one of the next ports if it is in use.
func listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("parse the listen address of the embedded ClickHouse: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("listen on %q: the embedded ClickHouse listens on loopback only, use 127.0.0.1 or [::1]", host)
	}
	first, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("parse the listen port of the embedded ClickHouse: %w", err)
	}
	for n := first; ; n++ {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.FormatUint(n, 10)))
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || n-first >= portsTried || n >= 65535 {
			return nil, fmt.Errorf("open a port for the embedded ClickHouse: %w", err)
		}
	}
}

// loadPassword reads the password, and makes one if there is none.
func loadPassword(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makePassword(path); err != nil {
			return "", err
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("read the password of the embedded ClickHouse: %w", err)
	}
	password := strings.TrimSpace(string(b))
	if password == "" {
		return "", fmt.Errorf("read the password of the embedded ClickHouse: %s is empty, remove it to get a new one", path)
	}
	return password, nil
}

// makePassword writes a new password, whole or not at all. A file that another process makes meanwhile stays.
func makePassword(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".password-*") // mode 0600
	if err != nil {
		return fmt.Errorf("create the password of the embedded ClickHouse: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(rand.Text() + "\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create the password of the embedded ClickHouse: %w", err)
	}
	return nil
}
