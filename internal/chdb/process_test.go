package chdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// childrenOf asks the kernel: the API does not give the child away.
func childrenOf(t *testing.T, parent int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // gone meanwhile
		}
		_, after, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(after)
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) && fields[0] != "Z" {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, pid)
		}
	}
	return children
}

// onlyChild is the engine of a test that has one.
func onlyChild(t *testing.T) int {
	t.Helper()
	children := childrenOf(t, os.Getpid())
	if len(children) != 1 {
		t.Fatalf("children: %v", children)
	}
	return children[0]
}

func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(after, "Z")
}

func TestKilledEngineIsRestarted(t *testing.T) {
	var log syncBuffer
	o := testOptions(t)
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	p := startEngine(t, o)
	must(t, p, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	address := p.Address()
	for n := range 3 {
		must(t, p, "INSERT INTO t SELECT "+strconv.Itoa(n))
		if err := syscall.Kill(onlyChild(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// A client that connects in between waits; one whose connection was cut tries again.
		eventually(t, "the engine answers again", func() bool {
			_, body, err := post(t.Context(), p, strings.NewReader("SELECT count() FROM t"), "")
			return err == nil && body == strconv.Itoa(n+1)+"\n"
		})
	}
	if p.Address() != address {
		t.Errorf("address %s became %s", address, p.Address())
	}
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("%d lines for 3 restarts: %s", n, log.String())
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestDataAndPasswordStay(t *testing.T) {
	o := testOptions(t)
	first := startEngine(t, o)
	must(t, first, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	must(t, first, "INSERT INTO t VALUES (1)")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Close(), first.Wait()); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if children := childrenOf(t, os.Getpid()); len(children) != 0 {
		t.Errorf("left running: %v", children)
	}
	info, err := os.Stat(filepath.Join(o.Dir, "password"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info.Mode(), err)
	}
	second := startEngine(t, o)
	if second.Password() != first.Password() || len(second.Password()) < 20 {
		t.Errorf("passwords %d and %d characters long", len(first.Password()), len(second.Password()))
	}
	if got := must(t, second, "SELECT a FROM t"); got != "1\n" {
		t.Errorf("after a restart: %q", got)
	}
}

func TestPasswordIsNotPublic(t *testing.T) {
	p := startEngine(t, testOptions(t))
	child := strconv.Itoa(onlyChild(t))
	for _, f := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile("/proc/" + child + "/" + f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(p.Password())) {
			t.Errorf("the child's %s contains the password", f)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	o := testOptions(t)
	startEngine(t, o)
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"folder in use":   {func(*Options) {}, "in use by another process"},
		"no folder":       {func(o *Options) { o.Dir = "" }, "Options.Dir is empty"},
		"folder is file":  {func(o *Options) { o.Dir = filepath.Join(o.Dir, "password", "x") }, "create the data folder"},
		"all interfaces":  {func(o *Options) { o.Listen = "0.0.0.0:0" }, "loopback only"},
		"a name":          {func(o *Options) { o.Listen = "example.com:0" }, "loopback only"},
		"no port":         {func(o *Options) { o.Listen = "127.0.0.1" }, "listen address"},
		"no library":      {func(o *Options) { o.Dir = t.TempDir(); o.Engine.Library = filepath.Join(o.Dir, "absent.so") }, "load the ClickHouse library"},
		"another library": {func(o *Options) { o.Dir = t.TempDir(); o.Engine.Library = "libc.so.6" }, "want version " + Version},
		"no executable":   {func(o *Options) { o.Dir = t.TempDir(); o.Command = []string{filepath.Join(o.Dir, "absent")} }, "start the engine's process"},
		"a URL":           {func(o *Options) { o.Dir = t.TempDir(); o.Engine = Engine{URL: "http://x"} }, "nothing to start"},
	} {
		bad := o
		c.change(&bad)
		if p, err := Start(t.Context(), bad); err == nil {
			t.Errorf("%s: started", name)
			_ = p.Close()
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error does not say %q: %v", name, c.want, err)
		}
	}
	if children := childrenOf(t, os.Getpid()); len(children) != 1 {
		t.Errorf("children after failed starts: %v", children)
	}
}

func TestStartStopsWithContext(t *testing.T) {
	o := testOptions(t)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := Start(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("start after the end: %v", err)
	}
	if children := childrenOf(t, os.Getpid()); len(children) != 0 {
		t.Errorf("left running: %v", children)
	}
}

// Close while a statement runs cancels it, and does not wait for it for ever.
func TestCloseWithRunningStatement(t *testing.T) {
	p := startEngine(t, testOptions(t))
	go func() { _, _, _ = post(t.Context(), p, strings.NewReader("SELECT count() FROM system.numbers"), "") }()
	eventually(t, "the statement runs", func() bool {
		return must(t, p, "SELECT count() FROM system.processes WHERE query LIKE '%system.numbers%' AND query NOT LIKE '%processes%'") == "1\n"
	})
	began := time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took >= stopTimeout {
		t.Errorf("it took %s and a kill", took)
	}
}

// parentVariable makes the test binary a process that starts an engine and waits to be killed.
const parentVariable = "MILLSTREAM_TEST_ENGINE_PARENT"

func parentMain() error {
	var o Options
	if err := json.Unmarshal([]byte(os.Getenv(parentVariable)), &o); err != nil {
		return err
	}
	p, err := Start(context.Background(), o)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(p.Address()); err != nil {
		return err
	}
	return p.Wait()
}

func TestEngineEndsWithItsParent(t *testing.T) {
	o := testOptions(t)
	o.Stderr = nil
	config, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), o.Command[0])
	parent.Env = append(os.Environ(), parentVariable+"="+string(config))
	parent.Stderr = t.Output()
	parent.SysProcAttr = childAttributes()
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Wait() }() // it was killed
	var address string
	if err := json.NewDecoder(stdout).Decode(&address); err != nil {
		t.Fatal(err)
	}
	children := childrenOf(t, parent.Process.Pid)
	if len(children) != 1 {
		t.Fatalf("children: %v", children)
	}
	// Signals that a terminal or a service manager sends to a whole group do not end the engine before its parent.
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM} {
		if err := syscall.Kill(children[0], s); err != nil {
			t.Fatal(err)
		}
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	answer := make([]byte, 12)
	if _, err := c.Read(answer); err != nil || string(answer) != "HTTP/1.1 200" {
		t.Errorf("after the signals: %q, %v", answer, err)
	}
	_ = c.Close()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine is gone", func() bool { return !alive(children[0]) })
	// It has let go of the data.
	o.Stderr = t.Output()
	startEngine(t, o)
}

func TestNextFreePort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	next, err := listen(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = next.Close() }()
	port := func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
	if got := port(next) - port(taken); got < 1 || got > portsTried {
		t.Errorf("port %d beside %d", port(next), port(taken))
	}
}

// The library logs to a terminal, and to nothing else. "Fatal: current_thread contains invalid address", for one, says nothing
// about the user's data, and there are hundreds of it.
func TestEngineDoesNotSeeTheTerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs a pseudo terminal: " + err.Error())
	}
	defer terminal.Close()
	o := testOptions(t)
	o.Stderr = terminal
	startEngine(t, o)
	if to, err := os.Readlink("/proc/" + strconv.Itoa(onlyChild(t)) + "/fd/2"); err != nil || !strings.HasPrefix(to, "pipe:") {
		t.Errorf("the engine's errors go to %q, %v", to, err)
	}
}
