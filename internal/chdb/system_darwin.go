package chdb

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes: a group of its own, so that Ctrl-C reaches the parent alone. The child ends with its stdin.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// machineMemory is what this process may use, in bytes.
func machineMemory() (uint64, error) {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0, fmt.Errorf("ask the size of the memory: %w", err)
	}
	return n, nil
}
