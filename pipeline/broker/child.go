package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// ChildOptions says how to run the embedded broker as a child process.
type ChildOptions struct {
	// Binary and Args start a process that calls RunEmbedded on Dir with Parent: os.Stdin, and that ends cleanly on SIGTERM.
	Binary string
	Args   []string
	Dir    string
	// Stderr of the child. Default os.Stderr.
	Stderr io.Writer
	// Logger says when the broker is started again. Default slog.Default().
	Logger *slog.Logger
}

// Child is an embedded broker in another process: a crash of it is not a crash of the pipeline, and several pipeline
// processes on the same folder share one.
type Child struct {
	o      ChildOptions
	addr   string
	cancel context.CancelFunc
	done   chan struct{}
}

const (
	childStart = 30 * time.Second // until it answers; loading a large folder takes some
	childStop  = 15 * time.Second // until it has written everything; then it is killed
	childWatch = 250 * time.Millisecond
)

// StartEmbedded returns when a broker on Dir answers: one that runs already, or a child started for it. Until ctx ends or
// Close is called the broker is started again whenever it dies, by whichever process notices first, at the same address.
func StartEmbedded(ctx context.Context, o ChildOptions) (*Child, error) {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the embedded broker's folder: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Child{o: o, cancel: cancel, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(c.done)
		// The kernel sends the parent-death signal when the thread that started the child ends, so this goroutine keeps its
		// thread for as long as there is a child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		c.supervise(ctx, started)
	}()
	if err := <-started; err != nil {
		cancel()
		<-c.done
		return nil, fmt.Errorf("start the embedded broker: %w", err)
	}
	return c, nil
}

// Addr is the broker's address.
func (c *Child) Addr() string { return c.addr }

// Close ends the child, if it is ours, and waits until it has written everything.
func (c *Child) Close() error {
	c.cancel()
	<-c.done
	return nil
}

func (c *Child) supervise(ctx context.Context, started chan<- error) {
	for first := true; ; first = false {
		p, addr, err := c.ensure(ctx)
		switch {
		case first:
			c.addr = addr
			started <- err
			if err != nil {
				return
			}
		case ctx.Err() != nil:
		case err != nil:
			c.o.Logger.Error("start the embedded broker again", "error", err)
			if pipeline.Sleep(ctx, time.Second) != nil {
				return
			}
			continue
		case addr != c.addr:
			c.o.Logger.Error("the embedded broker came back at another address: restart the pipeline", "was", c.addr, "is", addr)
		}
		if p != nil {
			p.watch(ctx)
		} else {
			c.watchOther(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		c.o.Logger.Warn("the embedded broker has ended, it is started again")
	}
}

// ensure finds the folder's broker or starts one. The process is nil if it is not ours.
func (c *Child) ensure(ctx context.Context) (*process, string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, childStart, fmt.Errorf("no answer within %v", childStart))
	defer cancel()
	for {
		if addr := c.running(); addr != "" {
			return nil, addr, nil
		}
		p, err := c.start()
		if err != nil {
			return nil, "", err
		}
		for {
			if addr := c.running(); addr != "" && p.alive() {
				return p, addr, nil
			}
			if !p.alive() {
				break
			}
			if err := pipeline.Sleep(ctx, 20*time.Millisecond); err != nil {
				p.stop()
				return nil, "", err
			}
		}
		if c.free() && p.failed() { // it did not lose the folder to another process: it cannot start
			return nil, "", fmt.Errorf("%s ended: %w", filepath.Base(c.o.Binary), p.err)
		}
		if err := pipeline.Sleep(ctx, childWatch); err != nil {
			return nil, "", err
		}
	}
}

// running is the address of the broker that has the folder now and answers, "" if there is none.
func (c *Child) running() string {
	addr := readAddress(c.o.Dir, addressFile)
	if addr == "" || c.free() {
		return ""
	}
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return ""
	}
	_ = conn.Close()
	return addr
}

// free reports that no process holds the folder.
func (c *Child) free() bool {
	unlock, err := tryLock(filepath.Join(c.o.Dir, lockFile), false)
	if err != nil {
		return false
	}
	unlock()
	return true
}

// watchOther waits until the broker of another process is gone.
func (c *Child) watchOther(ctx context.Context) {
	for pipeline.Sleep(ctx, childWatch) == nil && !c.free() {
	}
}

// process is a child.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}
	err   error // after ended
	once  sync.Once
}

func (c *Child) start() (*process, error) {
	cmd := exec.Command(c.o.Binary, c.o.Args...)
	cmd.Stderr = c.o.Stderr
	cmd.SysProcAttr = childAttributes()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, stdin: stdin, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) failed() bool { return !p.alive() && p.err != nil }

// watch waits for the end of the child, and ends it with ctx.
func (p *process) watch(ctx context.Context) {
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.stop()
	}
}

// stop closes the child's stdin, which it takes as the order to end, and kills it only if it does not.
func (p *process) stop() {
	p.once.Do(func() { _ = p.stdin.Close() })
	timer := time.NewTimer(childStop)
	defer timer.Stop()
	select {
	case <-p.ended:
		return
	case <-timer.C:
	}
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-p.ended
}
