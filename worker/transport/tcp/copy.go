// Copying: what both directions of a copy share.

package tcp

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zfleet/zfleet/worker/transport"
)

// copyBuffer is how much of the stream is read and written at once where it is copied through the process.
const copyBuffer = 256 << 10

// limitedPiece is how much of the stream moves at once where there is a limit: little enough that the peer sees bytes move
// at least every idle time, unless the limit is below 200 bytes per second at the default stall time.
const limitedPiece = 64 << 10

func stallOr(o transport.CopyOptions, otherwise time.Duration) time.Duration {
	if o.Stall <= 0 {
		return otherwise
	}
	return max(o.Stall, transport.MinStall)
}

// meter counts the bytes of one copy, and makes them wait for its limit.
type meter struct {
	moved   atomic.Int64
	visible *atomic.Int64
	limit   transport.Limit // nil: none
	copying context.Context //nolint:containedctx // the copy's, for the limit
	held    atomic.Bool     // a limit is being waited for
}

func (m *meter) add(n int64) {
	m.moved.Add(n)
	if m.visible != nil {
		m.visible.Add(n)
	}
}

// limitBy makes each coming piece wait for limit, which is told that the copy is over by ctx.
func (m *meter) limitBy(ctx context.Context, limit transport.Limit) { m.copying, m.limit = ctx, limit }

func (m *meter) limited() bool { return m.limit != nil && m.limit.Limited() }

// piece is how many of n bytes are to be moved at once.
func (m *meter) piece(n int) int {
	if !m.limited() {
		return n
	}
	return min(n, limitedPiece)
}

// pace waits until a piece of n bytes may move.
func (m *meter) pace(n int) error {
	if !m.limited() {
		return nil
	}
	m.held.Store(true)
	defer m.held.Store(false)
	if err := m.limit.Wait(m.copying, n); err != nil {
		return &limitError{err: err}
	}
	return nil
}

// limitError is the error of a limit.
type limitError struct{ err error }

func (e *limitError) Error() string { return "waiting for bandwidth: " + e.err.Error() }
func (e *limitError) Unwrap() error { return e.err }

// watch ends a copy by calling interrupt, once, when ctx ends, when the link does, or when m stands still for the idle
// time. The returned context ends with the interruption. The returned function ends the watch, waits until nothing of it is
// running, and gives the cause of the interruption, or nil if there was none.
func watch(
	ctx, link context.Context, m *meter, idle time.Duration, interrupt func(cause error),
) (context.Context, func() error) {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	linked := make(chan struct{})
	stopLink := context.AfterFunc(link, func() {
		defer close(linked)
		cancel(context.Cause(link))
	})
	interrupted := make(chan struct{})
	stopInterrupt := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		interrupt(context.Cause(ctx))
	})
	var watching sync.WaitGroup
	watching.Go(func() {
		if standstill := transport.WatchIdle(ctx, idle, m.moved.Load, m.held.Load); standstill != nil {
			cancel(standstill)
		}
	})
	return ctx, func() error {
		var cause error
		if !stopInterrupt() {
			<-interrupted
			cause = context.Cause(ctx)
		}
		if !stopLink() {
			<-linked
		}
		cancel(nil)
		watching.Wait()
		if cause == nil && asked.Err() != nil {
			// What ended the copy may have been ended by ctx itself, a moment before we were told.
			cause = context.Cause(asked)
		}
		return cause
	}
}

// handing is a stream that can hand its file out, to be read past it, and then tells how the stream ended:
// zfs.SendStream is one.
type handing interface {
	// File is nil if the file cannot be handed out; otherwise Read is of no more use.
	File() *os.File
	// Wait says, once the file was read to its end, whether that was the whole stream.
	Wait() error
}

// source is what a stream is read from.
type source struct {
	io.Reader
	file   *os.File     // the reader, if it is a file
	finish func() error // says at the reader's end whether that was the whole stream; may be nil
}

func newSource(r io.Reader) source {
	switch r := r.(type) {
	case *os.File:
		return source{Reader: r, file: r}
	case handing:
		if file := r.File(); file != nil {
			return source{Reader: file, file: file, finish: r.Wait}
		}
	}
	return source{Reader: r}
}

// interrupt makes a blocked Read return.
func (s source) interrupt() { transport.InterruptRead(s.Reader) }
