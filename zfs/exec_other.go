//go:build !linux

package zfs

import "syscall"

// dieWithParent does nothing: only Linux can be asked to.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func setBlocking(fd uintptr) error { return syscall.SetNonblock(int(fd), false) }
