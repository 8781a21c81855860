//go:build !linux

package broker

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
