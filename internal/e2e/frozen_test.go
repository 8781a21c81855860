package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const frozenPipeline = onTheWeb + `stages: [clean, dedup, profile: {orders: {count: events}}]
sinks:
  out: {file: {path: "${OUT}"}}
`

// TestStopWhileTheBrokerIsFrozen freezes a broker, which then takes connections and answers nothing, and stops the pipeline
// in the middle of a stream of events: it must end by itself, say that nothing is lost and what it gave up, and go on later
// with every event that was acknowledged, once.
func TestStopWhileTheBrokerIsFrozen(t *testing.T) {
	t.Parallel()
	b := launch(t, nil, "broker", "--listen", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "broker"))
	address, _, _ := strings.Cut(b.line("broker "), " ")
	out := filepath.Join(t.TempDir(), "out")
	_, env := on(t, []string{address}, "OUT="+out)
	p := start(t, write(t, frozenPipeline), t.TempDir(), env...)
	acknowledged := 0
	event := func(i int) string {
		return fmt.Sprintf(`{"messageId":"m%d","type":"track","event":"A","userId":"u%d"}`, i, i)
	}
	for try := 1; ; try++ {
		for range 50 {
			p.batch(t, event(acknowledged))
			acknowledged++
		}
		freeze(t, b)
		refused := make(chan int, 1)
		go func() { refused <- post(p.http(), batch(event(acknowledged))) }()
		p.stop()
		if s := <-refused; s == 200 {
			t.Error("an event was acknowledged that no broker has taken")
		}
		if p.said("the pipeline does not stop") > 0 {
			t.Error("the engine did not return")
		}
		if err := b.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if p.said("the grace is over", "nothing of it is lost", "profile") == 1 {
			break
		}
		if try == 5 {
			t.Fatal("the log does not say that and what was given up")
		}
		p = start(t, p.cmd.Args[2], p.cmd.Args[4], env...) // it had nothing in hand: all was done before the freeze
	}
	p = start(t, p.cmd.Args[2], p.cmd.Args[4], env...)
	p.batch(t, event(acknowledged))
	acknowledged++
	eventually(t, func() error {
		lines, err := fileLines(out)
		if err == nil && len(lines) != acknowledged {
			err = fmt.Errorf("%d messages for %d profiles", len(lines), acknowledged)
		}
		return err
	})
	p.stop()
	if p.said("the grace is over") > 0 {
		t.Error("something was given up although the broker answers")
	}
}

// freeze stops a broker with SIGSTOP until it is told to go on, at the latest when the test ends.
func freeze(t *testing.T, b *process) {
	t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.cmd.Process.Signal(syscall.SIGCONT) })
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(b.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the broker is not frozen: %v, %v", status, err)
	}
}
