// Package testenv gives tests real servers: Apache Kafka, the embedded broker, and a proxy that loses answers.
//
// A package that uses it has one line in its tests:
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
// A test whose server cannot be had on this machine is skipped with a reason that starts with "needs ", for example
// "needs Apache Kafka: no java on the PATH", so that the caller of the tests can count what did not run:
//
//	go test -v ./... | grep -c 'needs [^:]*: '
package testenv

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
)

// processes are what this test process has started and must end; shared servers live until Main ends.
var processes struct {
	sync.Mutex
	main    bool
	cleanup []func()
}

// Main calls setup, runs the tests, ends the servers that they share and what setup returned, and exits.
func Main(m *testing.M, setup ...func() (cleanup func(), err error)) {
	processes.Lock()
	processes.main = true
	processes.Unlock()
	code := 0
	for _, f := range setup {
		cleanup, err := f()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
			break
		}
		_ = AtEnd(cleanup) // there is a Main
	}
	if code == 0 {
		code = m.Run()
	}
	processes.Lock()
	cleanup := processes.cleanup
	processes.Unlock()
	for _, f := range slices.Backward(cleanup) {
		f()
	}
	os.Exit(code)
}

// AtEnd keeps f for the end of Main, in the reverse order of the calls. It is an error if the package does not use Main.
func AtEnd(f func()) error {
	processes.Lock()
	defer processes.Unlock()
	if !processes.main {
		return fmt.Errorf("the package has no TestMain that calls testenv.Main: its servers would outlive the tests")
	}
	processes.cleanup = append(processes.cleanup, f)
	return nil
}

// need skips the test, or fails it if the reason is not one of the machine.
func need(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if m, ok := errors.AsType[missing](err); ok {
		t.Skipf("needs %s: %s", what, m.reason)
	} else {
		t.Fatalf("start %s: %v", what, err)
	}
}

// missing is an error of the machine: a program or the network is not there.
type missing struct{ reason string }

func (m missing) Error() string { return m.reason }
