package chdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Options says how to run an embedded ClickHouse. Dir is required, everything else has a default.
type Options struct {
	// Dir is the folder of data and password. One process can use it at a time.
	Dir string
	// Engine is what to run, from Find; the zero value asks Find.
	Engine Engine
	// Listen is a loopback address; if its port is in use, the next free one of the 100 above it is taken. Default 127.0.0.1:8123.
	Listen string
	// Password of User. Default: that in the file "password" of Dir, which is made at first start, mode 0600.
	Password string
	// MemoryLimit in bytes, of all statements and caches together; default half of the machine's memory, at most 4 GiB. An
	// answer in a format that cannot be streamed, as JSON, may go beyond it by its own size before it is refused.
	MemoryLimit uint64
	// Statements is how many run at once, others wait for their turn; default 16. Of the library only.
	Statements int
	// MaxBody is the largest request in bytes, decompressed; default 1 GiB. Of the library only.
	MaxBody int64
	// Command starts the child; default: this executable with the subcommand "engine-child". It must call ChildMain.
	Command []string
	// Env is added to the child's environment, which is that of this process.
	Env []string
	// Stderr receives what the engine prints; default os.Stderr.
	Stderr io.Writer
	// Log receives a line when the engine is restarted; default slog.Default().
	Log *slog.Logger
}

// Process is a running embedded ClickHouse. Its methods may be called concurrently.
type Process struct {
	address  string
	password string
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // valid after done
}

// Limits of starting, stopping and restarting.
const (
	startTimeout  = time.Minute      // the first start on a machine reads 570 MB from the disk
	stopTimeout   = 20 * time.Second // then the child is killed; a kill loses nothing that was acknowledged
	restartMin    = 100 * time.Millisecond
	restartMax    = 10 * time.Second
	restartTries  = 10 // in a row, each living less than restartSteady
	restartSteady = time.Minute
)

// Start runs an embedded ClickHouse and returns when it answers. It is restarted on the same address when it dies, until
// Close is called or ctx ends. Ten deaths in a row, each within a minute, end it for good: see Wait.
func Start(ctx context.Context, o Options) (*Process, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	listener, err := listen(o.Listen)
	if err != nil {
		return nil, err
	}
	held, err := hold(ctx, o.Dir)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	r, err := newRunner(o, listener)
	if err != nil {
		held.release()
		return nil, errors.Join(err, listener.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Process{address: listener.Addr().String(), password: o.Password, cancel: cancel, done: make(chan struct{})}
	first := make(chan error, 1)
	go func() {
		defer close(p.done)
		defer held.release()
		defer r.close()
		p.err = supervise(ctx, r, o.Log, first)
	}()
	err = <-first
	if err == nil {
		err = held.note(p.address)
	}
	if err != nil {
		cancel()
		<-p.done
		return nil, fmt.Errorf("start the embedded ClickHouse: %w", err)
	}
	return p, nil
}

// URL is the address with user, password and database: what a client needs, and a secret.
func (p *Process) URL() string { return urlOf(p.address, p.password) }

// Address is host and port.
func (p *Process) Address() string { return p.address }

// Password is that of User.
func (p *Process) Password() string { return p.password }

// Wait returns when the engine has ended: nil after Close or the end of Start's ctx, else why it could not be restarted.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Close ends the engine; running statements have 2 s. It may be called more than once.
func (p *Process) Close() error {
	p.cancel()
	return p.Wait()
}

// runner starts one kind of engine.
type runner interface {
	// start runs the engine and returns when it answers, or when ctx ends.
	start(ctx context.Context) (*instance, error)
	// close is called when no instance runs any more.
	close()
}

// supervise keeps one instance running. The outcome of the first start goes to first; if it is an error, that is all.
func supervise(ctx context.Context, r runner, log *slog.Logger, first chan<- error) error {
	pause := restartMin
	for tries := 0; ; {
		began := time.Now()
		in, err := r.start(ctx)
		if first != nil {
			first <- err
			first = nil
			if err != nil {
				return err
			}
		}
		if err == nil {
			select {
			case <-in.exited:
				err = in.err
			case <-ctx.Done():
				return in.stop()
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) >= restartSteady {
			tries, pause = 0, restartMin
		}
		if tries++; tries >= restartTries {
			return fmt.Errorf("restart the embedded ClickHouse %d times: %w", tries, err)
		}
		log.Warn("embedded clickhouse ended and is restarted", "cause", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, restartMax)
	}
}
