package zfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is the size of the pipes that streams pass through: what Linux allows users other than root
// (/proc/sys/fs/pipe-max-size). With the default of 64 KiB, sender and receiver wait for each other at every record.
const pipeSize = 1 << 20

// enlargePipe makes a pipe larger where the kernel allows it; a smaller one works as well.
func enlargePipe(pipe *os.File) {
	connection, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = connection.Control(func(fd uintptr) {
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize)
	})
}
