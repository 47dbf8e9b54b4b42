package zfs

import (
	"errors"
	"syscall"
)

// fillDescriptor writes to a non-blocking descriptor until it would block.
func fillDescriptor(fd int) error {
	block := make([]byte, 4096)
	for {
		_, err := syscall.Write(fd, block)
		if errors.Is(err, syscall.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
