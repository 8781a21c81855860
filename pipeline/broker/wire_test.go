package broker_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// brokerProcess is an embedded broker that a test can stop in mid-step and let go on.
type brokerProcess struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
}

func startBrokerProcess(t *testing.T) *brokerProcess {
	t.Helper()
	b := &brokerProcess{t: t, cmd: exec.Command(os.Args[0]), dir: t.TempDir()}
	b.cmd.Args = append(b.cmd.Args, b.dir)
	b.cmd.Env, b.cmd.Stderr = role("broker"), os.Stderr
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := b.cmd.StdinPipe()
	check(t, err)
	check(t, b.cmd.Start())
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill() // a stopped process too
		_ = b.cmd.Wait()
		_ = stdin.Close()
	})
	until(t, "the broker's address", func() bool { return b.addr() != "" && listening(b.addr()) })
	return b
}

func (b *brokerProcess) addr() string {
	f, err := os.Open(filepath.Join(b.dir, "address"))
	if err != nil {
		return ""
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	return strings.TrimSpace(line)
}

// freeze returns when the broker stands still.
func (b *brokerProcess) freeze() {
	b.t.Helper()
	check(b.t, b.cmd.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(b.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
	check(b.t, err)
	if !status.Stopped() {
		b.t.Fatalf("the broker has status %v, not stopped", status)
	}
}

func (b *brokerProcess) thaw() {
	b.t.Helper()
	check(b.t, b.cmd.Process.Signal(syscall.SIGCONT))
}

// TestCut stops a broker, which then takes connections and answers nothing, under one of everything that waits for it. Cut
// must end them all; afterwards another cluster finds nothing that the cut one had not committed.
func TestCut(t *testing.T) {
	b := startBrokerProcess(t)
	c := dial(t, []string{b.addr()})
	ctx := testContext(t)
	makeTopic(t, c, "in", 2)
	makeTopic(t, c, "out", 1)
	tx, err := c.OpenTransactions(ctx, "cut")
	check(t, err)
	p, err := c.OpenProducer()
	check(t, err)
	check(t, p.Produce(ctx, []pipeline.Record{*record("in", 0, "before")}))
	m := join(t, c, "group", "in")
	until(t, "both partitions", func() bool { return m.count() == 2 })
	check(t, tx.Begin())
	check(t, tx.Send(record("out", 0, "lost")))

	b.freeze()
	var waiting sync.WaitGroup
	failed := make(chan string, 16)
	wait := func(what string, f func() error) {
		waiting.Go(func() {
			if f() == nil {
				failed <- what + " succeeded"
			}
		})
	}
	wait("a commit", func() error { return tx.CommitWithoutOffsets(ctx) })
	wait("another transaction", func() error { _, err := c.OpenTransactions(ctx, "other"); return err })
	wait("produce", func() error { return p.Produce(ctx, []pipeline.Record{*record("in", 0, "x")}) })
	wait("offsets", func() error { _, err := c.Ends(ctx, "in", []int32{0}, true); return err })
	wait("committed", func() error { _, err := c.Committed(ctx, "group", "in", 0); return err })
	wait("topics", func() error { return c.EnsureTopics(ctx, []broker.Topic{{Name: "new", Partitions: 1}}) })
	wait("another member", func() error {
		return c.Join(ctx, "group", []string{"in"}, func(ctx context.Context, _ broker.Assignment) error { <-ctx.Done(); return nil })
	})
	wait("read", func() error {
		_, err := c.ReadToEnd(ctx, "in", 0, 0, func(*pipeline.Record) error { return nil })
		return err
	})
	leaving := make(chan error, 1)
	go func() { leaving <- m.stop() }()

	select { // everything waits now
	case what := <-failed:
		t.Fatal(what)
	case err := <-leaving:
		t.Fatalf("the member left a broker that does not answer: %v", err)
	case <-time.After(time.Second):
	}
	c.Cut()
	c.Cut()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		waiting.Wait()
		<-leaving
		_ = tx.Close()
		_ = p.Close()
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second): // less than one of the library's waits for a member, and many retries of each
		panic("something still waits 20 s after the cut") // shows where
	}
	select {
	case what := <-failed:
		t.Error(what)
	default:
	}
	if err := c.Ping(); err == nil {
		t.Error("a cut cluster has asked the broker")
	}
	if _, err := c.Ends(ctx, "in", []int32{0}, true); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("after the cut: %v", err)
	}

	b.thaw()
	again := dial(t, []string{b.addr()})
	successor, err := again.OpenTransactions(ctx, "cut")
	check(t, err)
	defer successor.Close()
	check(t, successor.Begin())
	check(t, successor.Send(record("out", 0, "kept")))
	check(t, successor.CommitWithoutOffsets(ctx))
	settle(t, again, "out")
	// The commit that was under way may have arrived: then nothing is lost of it either.
	if got, _ := values(t, again, "out", 0, 0); len(got) == 0 || got[len(got)-1] != "kept" {
		t.Errorf("after the cut the topic holds %q", got)
	}
}
