//go:build unix

// Whether a directory can be written, without writing to it.

package main

import "golang.org/x/sys/unix"

func writable(dir string) error { return unix.Access(dir, unix.W_OK) }
