// The seam between this package and the operating system: one command in, one result out. Everything else in
// package zfs is typed on top of Runner.

package zfs

import (
	"context"
	"io"
	"os"
)

// Command is one zfs or zpool invocation.
type Command struct {
	// Args is the whole argument vector; Args[0] is "zfs" or "zpool".
	Args []string

	// Stdin is the command's standard input; nil is an empty input. The Runner owns it from the call of Run on and
	// closes it as soon as the child has inherited it, so that a writer at the pipe's other end sees EPIPE when the
	// child goes away.
	Stdin *os.File

	// Stdout receives the command's standard output; nil discards it. An *os.File is handed to the child itself (no
	// copy through this process), is owned by the Runner from the call of Run on, and closed as soon as the child has
	// inherited it, so that a reader at the pipe's other end sees EOF when the child is done. When any other writer
	// fails, the child's output is closed, and Run returns the writer's error.
	Stdout io.Writer

	// Stderr, unless it is nil, receives standard error as it comes, besides the tail that the Result has. One goroutine at
	// a time writes to it, and none once Run has returned. Write must not block, since the command would wait for it, and
	// must not call the Runner; what it returns is ignored.
	Stderr io.Writer
}

// Result is how a command ended.
type Result struct {
	// ExitCode is the exit status, or -1 when the command was ended by a signal.
	ExitCode int

	// Stderr is the command's standard error, at most the last 64 KiB of it.
	Stderr []byte
}

// Runner runs zfs and zpool commands.
//
// Run starts the command and returns when it has ended and has been reaped. A command that ran and failed is no error
// of Run: the result says how it ended. An error means that it could not be started, that ctx ended (the child is
// then killed, reaped, and the error wraps ctx.Err()), or that a Stdout writer failed. Implementations are safe for
// concurrent use.
type Runner interface {
	Run(ctx context.Context, command Command) (Result, error)
}
