package broker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millstream-io/millstream/pipeline/broker"
)

func TestEmbeddedBrokerKeepsData(t *testing.T) {
	dir := t.TempDir()
	addr := ""
	for i := range 3 {
		ctx, cancel := context.WithCancel(testContext(t))
		ready, done := make(chan string, 1), make(chan error, 1)
		go func() {
			done <- broker.RunEmbedded(ctx, broker.EmbeddedOptions{Listen: "127.0.0.1:0", NextFree: true, Dir: dir, Ready: func(a string) { ready <- a }})
		}()
		now := <-ready
		if addr != "" && now != addr {
			t.Fatalf("was at %s, came back at %s", addr, now)
		}
		addr = now
		if err := broker.RunEmbedded(ctx, broker.EmbeddedOptions{Listen: "127.0.0.1:0", Dir: dir}); !errors.Is(err, broker.ErrInUse) {
			t.Fatalf("a second broker on the folder: %v", err)
		}
		c := dial(t, []string{addr})
		makeTopic(t, c, "topic", 1)
		produce(t, c, record("topic", 0, fmt.Sprint(i)))
		if got, _ := values(t, c, "topic", 0, 0); len(got) != i+1 {
			t.Fatalf("run %d: %q", i, got)
		}
		cancel()
		check(t, <-done)
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Fatal("the port is open after the end")
		}
	}
}

func TestEmbeddedBrokerAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	ctx := testContext(t)
	addr := taken.Addr().String()
	if err := broker.RunEmbedded(ctx, broker.EmbeddedOptions{Listen: addr, Dir: t.TempDir()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a taken port: %v", err)
	}
	for _, bad := range []string{"0.0.0.0:0", "192.0.2.1:9092", "127.0.0.1", "127.0.0.1:kafka", ":9092"} {
		if err := broker.RunEmbedded(ctx, broker.EmbeddedOptions{Listen: bad, Dir: t.TempDir()}); err == nil {
			t.Fatalf("listens on %q", bad)
		}
	}
	ends, parent := io.Pipe()
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- broker.RunEmbedded(ctx, broker.EmbeddedOptions{Listen: addr, NextFree: true, Dir: t.TempDir(), Parent: ends, Ready: func(a string) { ready <- a }})
	}()
	if got := <-ready; got == addr || !strings.HasPrefix(got, "127.0.0.1:") {
		t.Fatalf("next free port: %s", got)
	}
	check(t, parent.Close())
	check(t, <-done) // by the end of its parent
}

func TestChildIsSharedAndComesBack(t *testing.T) {
	dir := t.TempDir()
	first, err := broker.StartEmbedded(testContext(t), childOptions(dir))
	check(t, err)
	defer first.Close()
	second, err := broker.StartEmbedded(testContext(t), childOptions(dir))
	check(t, err)
	defer second.Close()
	if first.Addr() != second.Addr() {
		t.Fatalf("two brokers on one folder: %s and %s", first.Addr(), second.Addr())
	}
	c := dial(t, []string{first.Addr()})
	makeTopic(t, c, "topic", 1)
	produce(t, c, record("topic", 0, "before"))
	check(t, first.Close()) // the owner leaves: the other takes over, on the same data at the same address
	produce(t, c, record("topic", 0, "after"))
	if got, _ := values(t, c, "topic", 0, 0); fmt.Sprint(got) != "[before after]" {
		t.Fatalf("after the takeover: %q", got)
	}
	check(t, second.Close())
	until(t, "the end of the child", func() bool { return !listening(second.Addr()) })
}

func TestChildThatCannotStart(t *testing.T) {
	o := childOptions(t.TempDir())
	o.Binary, o.Args = "/bin/false", nil
	if _, err := broker.StartEmbedded(testContext(t), o); err == nil || !strings.Contains(err.Error(), "false ended") {
		t.Fatalf("a child that ends at once: %v", err)
	}
	o.Binary = filepath.Join(o.Dir, "nothing")
	if _, err := broker.StartEmbedded(testContext(t), o); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a child that is not there: %v", err)
	}
}

func TestChildDiesWithItsParent(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = role("parent")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	check(t, err)
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	addr := strings.TrimSpace(line)
	if !listening(addr) {
		t.Fatalf("nothing listens on %q", addr)
	}
	check(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	until(t, "the end of the child", func() bool { return !listening(addr) })
	until(t, "its clean end", func() bool { _, err := os.Stat(filepath.Join(dir, "address")); return errors.Is(err, os.ErrNotExist) })
}

func listening(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
