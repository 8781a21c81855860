package chdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"
)

// instance is one life of the engine's process.
type instance struct {
	cmd    *exec.Cmd
	quit   func() error // asks the process to end
	exited chan struct{}
	err    error // how it ended, never nil; valid after exited
}

// newInstance starts cmd and waits for its end in the background.
func newInstance(cmd *exec.Cmd, quit func() error) (*instance, error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the engine's process: %w", err)
	}
	in := &instance{cmd: cmd, quit: quit, exited: make(chan struct{})}
	go func() {
		defer close(in.exited)
		if in.err = cmd.Wait(); in.err == nil {
			in.err = errors.New("exit status 0")
		}
	}()
	return in, nil
}

// stop ends the process and returns when it is gone.
func (in *instance) stop() error {
	select {
	case <-in.exited:
		return nil
	default:
	}
	asked := in.quit()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-in.exited:
		if !in.cmd.ProcessState.Success() {
			return errors.Join(asked, fmt.Errorf("stop the engine: %w", in.err))
		}
		return asked
	case <-timeout.C:
	}
	killed := in.cmd.Process.Kill()
	<-in.exited
	return errors.Join(asked, killed)
}

// libraryRunner runs ChildMain in a process of its own. The listening socket stays open between two lives of the child:
// clients that connect in between wait.
type libraryRunner struct {
	options  Options
	listener *os.File
}

func newLibraryRunner(o Options, listener net.Listener) (*libraryRunner, error) {
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("hand over a listener of type %T: want TCP", listener)
	}
	file, err := tcp.File() // a copy
	if err != nil {
		return nil, fmt.Errorf("hand over the listening socket: %w", err)
	}
	return &libraryRunner{options: o, listener: file}, listener.Close()
}

func (r *libraryRunner) close() { _ = r.listener.Close() }

func (r *libraryRunner) start(ctx context.Context) (*instance, error) {
	o := r.options
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stderr = struct{ io.Writer }{o.Stderr} // a pipe: on a terminal the library logs what is none of the user's business
	cmd.SysProcAttr = childAttributes()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open the child's stdin: %w", err)
	}
	status, statusWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open the child's status: %w", err)
	}
	cmd.ExtraFiles = []*os.File{r.listener, statusWrite} // fdListener, fdStatus
	in, err := newInstance(cmd, stdin.Close)
	_ = statusWrite.Close() // the child has its own
	if err != nil {
		return nil, errors.Join(err, status.Close())
	}
	ready := make(chan error, 1)
	go func() { ready <- r.greet(stdin, status) }()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = fmt.Errorf("the engine does not answer within %s", startTimeout)
	}
	if err != nil {
		return nil, errors.Join(err, in.stop())
	}
	return in, nil
}

// greet sends the configuration and waits for the answer.
func (r *libraryRunner) greet(stdin io.Writer, status io.ReadCloser) error {
	defer func() { _ = status.Close() }()
	o := r.options
	err := json.NewEncoder(stdin).Encode(childConfig{
		Library: o.Engine.Library, Dir: o.Dir, Database: DefaultDatabase, Password: o.Password,
		MemoryLimit: o.MemoryLimit, Statements: o.Statements, MaxBody: o.MaxBody,
	})
	if err != nil {
		return fmt.Errorf("configure the child: %w", err)
	}
	var s childStatus
	if err := json.NewDecoder(bufio.NewReader(status)).Decode(&s); err != nil {
		return fmt.Errorf("the child ended before it was ready, see what it printed: %w", err)
	}
	if s.Error != "" {
		return errors.New(s.Error)
	}
	return nil
}
