package zfs

import "syscall"

// dieWithParent has the kernel kill the child when this process dies, however it dies.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

func setBlocking(fd uintptr) error { return syscall.SetNonblock(int(fd), false) }
