// The cutter: stops a chosen zfs send half-way, counts what every zfs send gives, and slows them down.

package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/zfleet/zfleet/zfs"
)

// cutter is a Runner around another one.
type cutter struct {
	inner zfs.Runner
	pace  *rate.Limiter // nil: as fast as it goes

	mu      sync.Mutex
	next    *cut
	resumed uint64 // bytes of the latest resumed send; 0 where there was none
}

// cut is a send that is to stop half-way.
type cut struct {
	dataset string
	after   int64
	// reached is closed when so many bytes have been sent; nothing moves any more until the command is killed.
	reached chan struct{}
}

const chunk = 64 << 10

func newCutter(inner zfs.Runner, bytesPerSecond int) *cutter {
	c := &cutter{inner: inner}
	if bytesPerSecond > 0 {
		c.pace = rate.NewLimiter(rate.Limit(bytesPerSecond), chunk)
	}
	return c
}

// arm stops the next send of the dataset after so many bytes.
func (c *cutter) arm(dataset string, after int64) *cut {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = &cut{dataset: dataset, after: after, reached: make(chan struct{})}
	return c.next
}

// sentByResuming is how many bytes the latest send with a resume token has given.
func (c *cutter) sentByResuming() (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resumed, c.resumed > 0
}

// Run passes the command on; the output of a zfs send goes through the cutter.
func (c *cutter) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	if len(command.Args) < 3 || command.Args[1] != "send" || strings.HasPrefix(command.Args[2], "-n") || command.Stdout == nil {
		return c.inner.Run(ctx, command)
	}
	out := &cutWriter{ctx: ctx, out: command.Stdout, pace: c.pace, cut: c.take(command.Args)}
	// A runner owns a file that it writes to, and closes it when the command is done.
	if file, isFile := command.Stdout.(*os.File); isFile {
		defer func() { _ = file.Close() }() // the reader sees the end in any case
	}
	command.Stdout = out
	result, err := c.inner.Run(ctx, command)
	if slices.Contains(command.Args, "-t") {
		c.mu.Lock()
		c.resumed = out.sent
		c.mu.Unlock()
	}
	return result, err
}

// take gives the cut that is meant for this send, once.
func (c *cutter) take(args []string) *cut {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil || !strings.HasPrefix(args[len(args)-1], c.next.dataset+"@") {
		return nil
	}
	next := c.next
	c.next = nil
	return next
}

type cutWriter struct {
	ctx  context.Context //nolint:containedctx // a Writer cannot be given one
	out  io.Writer
	pace *rate.Limiter
	cut  *cut
	sent uint64
}

func (w *cutWriter) Write(data []byte) (int, error) {
	written := 0
	for written < len(data) {
		part := data[written:min(written+chunk, len(data))]
		if w.cut != nil && int64(w.sent) >= w.cut.after { //nolint:gosec // the sizes are the demo's own
			close(w.cut.reached)
			<-w.ctx.Done()
			return written, fmt.Errorf("cut: %w", context.Cause(w.ctx))
		}
		if w.pace != nil {
			if err := w.pace.WaitN(w.ctx, len(part)); err != nil {
				return written, fmt.Errorf("slowed down: %w", err)
			}
		}
		n, err := w.out.Write(part)
		written += n
		w.sent += uint64(n) //nolint:gosec // never negative
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
