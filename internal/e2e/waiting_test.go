package e2e

import (
	"net"
	"os"
	"strings"
	"testing"
)

const waitingPipeline = `
pipeline: waiting
kafka: {brokers: "${BROKERS}", partitions: 1}
sources:
  web: {http: {listen: "${LISTEN}", write_keys: {site: key}}}
stages: [clean, dedup]
sinks:
  out: {file: {path: "${OUT}"}}
`

// TestWaitingForKafkaEnds starts pipelines whose broker never comes, and ends the wait in the three ways that there are.
func TestWaitingForKafkaEnds(t *testing.T) {
	t.Parallel()
	kafka := newDoor(t, "").address // nobody opens it
	begin := func(t *testing.T, listen string, args ...string) *process {
		t.Helper()
		env := []string{"BROKERS=" + kafka, "LISTEN=" + listen, "OUT=" + t.TempDir()}
		return launch(t, env, append([]string{"run", write(t, waitingPipeline), "--data", t.TempDir()}, args...)...)
	}
	ends := func(t *testing.T, p *process, status int, words ...string) {
		t.Helper()
		p.died()
		if s := p.cmd.ProcessState.ExitCode(); s != status {
			t.Errorf("exit status %d, want %d", s, status)
		}
		if p.said(words...) == 0 {
			t.Errorf("no line with %q: %s", words, strings.Join(p.lines, "\n"))
		}
	}
	t.Run("time is up", func(t *testing.T) {
		ends(t, begin(t, "127.0.0.1:0", "--wait", "1s"), 3, "connect to Kafka at "+kafka)
	})
	t.Run("interrupted with a request in hand", func(t *testing.T) {
		p := begin(t, "127.0.0.1:0")
		address := p.http()
		status := make(chan int)
		go func() { status <- post(address, `{"batch":[{"type":"track","event":"X","userId":"u1"}]}`) }()
		p.says("waiting for Kafka at " + kafka)
		_ = p.cmd.Process.Signal(os.Interrupt)
		if s := <-status; s != 503 {
			t.Errorf("the request was answered with %d, want 503", s)
		}
		ends(t, p, 130, "waiting for Kafka")
	})
	t.Run("a port is taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ends(t, begin(t, l.Addr().String()), 1, "source web", l.Addr().String()+" is in use")
	})
}
