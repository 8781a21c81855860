package broker

import "syscall"

// childAttributes: a process group of its own, so that Ctrl-C in the terminal ends the pipeline first and the broker after
// it; and SIGTERM, not SIGKILL, when the parent dies, so that the child still writes what it has.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
