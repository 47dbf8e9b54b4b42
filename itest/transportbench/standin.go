//go:build linux

// The stand-ins for zfs send and zfs recv: processes that do nothing but write or read a stream.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// emitSpec says what the stand-in for zfs send writes. The fake's own stream is its standard input.
type emitSpec struct {
	Content content `json:"content"`
	Size    int64   `json:"size"`
}

// consumeSpec says what the stand-in for zfs recv expects. It says on its standard output what arrived.
type consumeSpec struct {
	Content content `json:"content"`
	// Own is where it leaves the fake's own stream; empty leaves it out.
	Own string `json:"own,omitempty"`
}

func runEmit(spec emitSpec) error {
	own, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fmt.Errorf("read the fake's stream: %w", err)
	}
	enlarge(os.Stdout)
	return emit(os.Stdout, own, spec.Content, spec.Size)
}

func runConsume(spec consumeSpec) error {
	enlarge(os.Stdin)
	own, arrived, err := consume(os.Stdin, spec.Content)
	if err != nil {
		return err
	}
	if spec.Own != "" {
		if err := os.WriteFile(spec.Own, own, 0o600); err != nil {
			return fmt.Errorf("leave the fake's stream: %w", err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(arrived)
}

// enlarge makes a pipe as large as it may be, as libzfs_core does with the pipes that zfs send and zfs recv are given. What
// does not work leaves the pipe as it is, there and here.
func enlarge(pipe *os.File) {
	text, err := os.ReadFile("/proc/sys/fs/pipe-max-size")
	if err != nil {
		return
	}
	size, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return
	}
	_, _ = unix.FcntlInt(pipe.Fd(), unix.F_SETPIPE_SZ, size)
}
