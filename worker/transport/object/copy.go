// Copying: what both directions of a copy share.

package object

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zfleet/zfleet/worker/transport"
)

// meter sees whether a copy moves.
type meter struct {
	moved   atomic.Int64 // bytes of the stream
	stirred atomic.Int64 // counts whatever is a sign of progress
	waiting atomic.Bool  // for a limit, which is no standstill
	visible *atomic.Int64
}

func (m *meter) add(n int) {
	m.moved.Add(int64(n))
	m.stirred.Add(1)
	if m.visible != nil {
		m.visible.Add(int64(n))
	}
}

// limit waits until n bytes may be moved.
func (m *meter) limit(ctx context.Context, limit transport.Limit, n int) error {
	if limit == nil || !limit.Limited() {
		return nil
	}
	m.waiting.Store(true)
	defer m.waiting.Store(false)
	if err := limit.Wait(ctx, n); err != nil {
		return fmt.Errorf("waiting for the bandwidth limit: %w", err)
	}
	m.stirred.Add(1)
	return nil
}

// watch ends ctx when nothing has stirred for the idle time. The returned function ends the watch and waits for it.
func (m *meter) watch(ctx context.Context, idle time.Duration, cancel context.CancelCauseFunc) (stop func()) {
	ctx, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		if standstill := transport.WatchIdle(ctx, idle, m.stirred.Load, m.waiting.Load); standstill != nil {
			cancel(standstill)
		}
	})
	return func() {
		end()
		watching.Wait()
	}
}

// onEnd calls interrupt when ctx ends. The returned function makes sure that it is not called any more, nor running.
func onEnd(ctx context.Context, interrupt func()) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		interrupt()
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// readFull fills buffer from r. At r's end the error is io.EOF, whether or not there were bytes before it. Any other error is
// a *readError or ctx's cause.
func readFull(ctx context.Context, r io.Reader, buffer []byte) (int, error) {
	filled := 0
	for filled < len(buffer) {
		n, err := r.Read(buffer[filled:])
		filled += n
		if err == io.EOF { // an error that wraps io.EOF is no end, but a stream that was cut
			return filled, io.EOF
		}
		if err != nil {
			return filled, &readError{err: err}
		}
		if ctx.Err() != nil {
			return filled, context.Cause(ctx)
		}
	}
	return filled, nil
}
