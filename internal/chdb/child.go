package chdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// childConfig is the first line that the parent writes to the child's stdin. The password travels here because a command
// line is public.
type childConfig struct {
	Library     string `json:"library"`
	Dir         string `json:"dir"`
	Database    string `json:"database"`
	Password    string `json:"password"`
	MemoryLimit uint64 `json:"memory_limit"`
	Statements  int    `json:"statements"`
	MaxBody     int64  `json:"max_body"`
}

// childStatus is the one line that the child writes back: ready, or why not.
type childStatus struct {
	Error string `json:"error,omitempty"`
}

// Files that the child inherits beside the standard ones.
const (
	fdListener = 3
	fdStatus   = 4
)

const (
	maxConnections = 256
	drainTimeout   = 2 * time.Second  // running statements have this long before they are cancelled
	exitTimeout    = 15 * time.Second // then the process ends, whatever the library does; its data survives that
)

// ChildMain is the child process of Start: what the hidden subcommand of Options.Command calls, with the process's stdin.
// It serves until stdin ends, so also when the parent was killed, or until ctx ends. It loads the library into the process
// and ignores SIGINT, SIGTERM and SIGHUP while the parent lives: who stops a whole group of processes wants the parent to
// write what it has before.
func ChildMain(ctx context.Context, stdin io.Reader) error {
	status := os.NewFile(fdStatus, "status")
	listener, err := net.FileListener(os.NewFile(fdListener, "listener"))
	if err != nil {
		return fmt.Errorf("take over the listening socket: %w (this command is started by millstream itself)", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer ignoreSignals(cancel)()

	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the configuration from stdin: %w", err)
	}
	var config childConfig
	if err := json.Unmarshal(line, &config); err != nil {
		return fmt.Errorf("read the configuration from stdin: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, in) // an end and an error mean the same: the parent is gone
		cancel()
	}()

	d, err := openDoor(config)
	s := childStatus{}
	if err != nil {
		s.Error = err.Error()
	}
	if err := errors.Join(json.NewEncoder(status).Encode(s), status.Close()); err != nil {
		return fmt.Errorf("report to the parent: %w", err)
	}
	if err != nil {
		return err
	}
	return serve(ctx, d, netutil.LimitListener(listener, maxConnections))
}

// ignoreSignals keeps the child alive until its parent has gone. The kernel sends SIGTERM then (Pdeathsig).
func ignoreSignals(parentGone func()) (stop func()) {
	parent := os.Getppid()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-signals:
				if os.Getppid() != parent {
					parentGone()
				}
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

// openDoor opens the engine. Its working directory is an empty folder, because the library shows files there as tables.
func openDoor(c childConfig) (*door, error) {
	empty := filepath.Join(c.Dir, "empty")
	if err := os.MkdirAll(empty, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder of the embedded ClickHouse: %w", err)
	}
	if err := os.Chdir(empty); err != nil {
		return nil, fmt.Errorf("enter the data folder of the embedded ClickHouse: %w", err)
	}
	lib, err := loadLibrary(c.Library)
	if err != nil {
		return nil, err
	}
	e, err := openEngine(lib, filepath.Join(c.Dir, "data"), c.Database, c.MemoryLimit)
	if err != nil {
		return nil, err
	}
	return newDoor(e, doorConfig{
		database: c.Database, password: c.Password, memoryLimit: c.MemoryLimit, statements: c.Statements, maxBody: c.MaxBody,
	}, slog.Default()), nil
}

// serve answers requests until ctx ends, then drains and closes the engine.
func serve(ctx context.Context, d *door, listener net.Listener) error {
	requests, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	server := &http.Server{
		Handler:           d,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20, // a statement may stand in the address
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo), // what clients do wrong is their business
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	time.AfterFunc(exitTimeout, func() { os.Exit(1) })
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if server.Shutdown(drain) != nil {
		cancelRequests() // kills the statements
		_ = server.Close()
	}
	if e := d.close(context.WithoutCancel(ctx)); e != nil {
		return errors.Join(err, e)
	}
	d.engine.close()
	return err
}
