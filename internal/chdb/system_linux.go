package chdb

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes: a group of its own, so that Ctrl-C reaches the parent alone; and SIGTERM when the parent is gone.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// machineMemory is what this process may use, in bytes: the machine's memory or the limit of its container (cgroup v2).
func machineMemory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("ask the size of the memory: %w", err)
	}
	total := info.Totalram * uint64(info.Unit)
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if limit, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil { // "max": no limit
			total = min(total, limit)
		}
	}
	return total, nil
}
