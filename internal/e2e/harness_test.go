// Package e2e runs the real program against real servers, one file per promise of docs/guarantees.md.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
)

// program is the path of the binary under test, built once.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue { // nobody has chosen
		if err := f.Value.Set(strconv.Itoa(sideBySide)); err != nil {
			panic(err)
		}
	}
	testenv.Main(m, func() (func(), error) {
		dir, err := os.MkdirTemp("", "millstream-e2e-")
		if err != nil {
			return nil, err
		}
		program = filepath.Join(dir, "millstream")
		out, err := exec.Command("go", "build", "-o", program, "../../cmd/millstream").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("build the program: %w\n%s", err, out)
		}
		return func() { os.RemoveAll(dir) }, nil
	})
}

// sideBySide is how many tests run at a time unless -parallel says so: more than processors, for most wait for servers, their ends
// and their time-outs, and no more than have room in memory with their ClickHouse.
const sideBySide = 6

// process is a running `millstream run`.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done

	mu    sync.Mutex
	lines []string // of standard error
	seen  *sync.Cond
}

// patience bounds every wait of these tests. A group that has lost several members with their folders waits for the session
// timeout and the rebalance timeout of each generation of them, so it is long.
const patience = 3 * time.Minute

// start runs the pipeline in file with the data folder and the variables "NAME=value".
func start(t *testing.T, file, data string, env ...string) *process {
	t.Helper()
	return launch(t, env, "run", file, "--data", data)
}

// launch runs the program.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, done: make(chan struct{}), cmd: exec.Command(program, args...)}
	p.seen = sync.NewCond(&p.mu)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s := bufio.NewScanner(stderr)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.seen.Broadcast()
			p.mu.Unlock()
		}
		p.err = p.cmd.Wait()
		close(p.done)
		p.seen.Broadcast()
	}()
	t.Cleanup(func() {
		if t.Failed() { // what is it waiting for?
			_ = p.cmd.Process.Signal(syscall.SIGQUIT)
			select {
			case <-p.done:
			case <-time.After(5 * time.Second):
			}
		}
		p.kill()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("standard error of the process:\n%s", strings.Join(p.lines[:min(len(p.lines), 400)], "\n"))
		}
	})
	return p
}

// line waits for a line of standard error that begins with prefix and returns the rest of it; "" if the process ended.
func (p *process) line(prefix string) string {
	deadline := time.AfterFunc(patience, p.seen.Broadcast)
	defer deadline.Stop()
	until := time.Now().Add(patience)
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := 0; ; {
		for ; at < len(p.lines); at++ {
			if rest, ok := strings.CutPrefix(p.lines[at], prefix); ok {
				return rest
			}
		}
		select {
		case <-p.done:
			return ""
		default:
		}
		if time.Now().After(until) {
			p.t.Fatalf("no line %q within %v", prefix, patience)
		}
		p.seen.Wait()
	}
}

// http is the address of the HTTP source, "" if the process ended before it listened.
func (p *process) http() string { return p.line("http ") }

// kill ends the process with SIGKILL and waits.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// died waits until the process has ended by itself.
func (p *process) died() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the process still runs after %v", patience)
	}
}

// stop ends a pipeline in good order and returns its exit status; another one than 130 is an error.
func (p *process) stop() int {
	p.t.Helper()
	s := p.terminate()
	if s != 130 {
		p.t.Errorf("exit status %d after SIGTERM, want 130", s)
	}
	return s
}

// terminate ends the process with SIGTERM and returns its exit status.
func (p *process) terminate() int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Errorf("the process did not end within %v of SIGTERM", patience)
		p.kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// post sends a body to the batch endpoint and returns the status, 0 if there was no answer.
func post(address, body string) int {
	status, _ := answer(address, body)
	return status
}

// answer is post with the answer's headers.
func answer(address, body string) (int, http.Header) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/v1/batch", bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, nil
	}
	req.SetBasicAuth("key", "")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header
}

// write writes a pipeline file and returns its path.
func write(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipeline.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually asks until ok returns no error.
func eventually(t *testing.T, ok func() error) {
	t.Helper()
	within(t, patience, ok)
}

// within is eventually with its own patience.
func within(t *testing.T, patience time.Duration, ok func() error) {
	t.Helper()
	var err error
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("after %v: %v", patience, err)
}

// fileLines are the complete lines of all files of a file sink.
func fileLines(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.ndjson"))
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, l := range strings.SplitAfter(string(b), "\n") {
			if strings.HasSuffix(l, "\n") {
				lines = append(lines, strings.TrimSuffix(l, "\n"))
			}
		}
	}
	return lines, nil
}
