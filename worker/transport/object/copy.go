// Copying: what both directions of a copy share.

package object

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zfleet/zfleet/protocol"
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
		ticker := time.NewTicker(max(idle/4, time.Millisecond))
		defer ticker.Stop()
		for before, still := m.stirred.Load(), 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if now := m.stirred.Load(); now != before || m.waiting.Load() {
				before, still = now, 0
				continue
			}
			if still++; still > 4 {
				cancel(protocol.Failf(protocol.Transient, "no byte of the stream moved for %s though the peer is alive", idle))
				return
			}
		}
	})
	return func() {
		end()
		watching.Wait()
	}
}

func idleOf(o transport.CopyOptions, stall time.Duration) time.Duration {
	if o.Idle <= 0 {
		return transport.IdleFactor * stall
	}
	return max(o.Idle, minStall)
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

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// interruptRead makes a blocked Read return: by a read deadline where there are any, otherwise by closing the reader.
func interruptRead(r io.Reader) {
	if limited, ok := r.(interface{ SetReadDeadline(t time.Time) error }); ok && limited.SetReadDeadline(aLongTimeAgo) == nil {
		return
	}
	closeAfterAll(r)
}

// interruptWrite makes a blocked Write return, as interruptRead does for a Read.
func interruptWrite(w io.Writer) {
	if filed, ok := w.(interface{ File() *os.File }); ok {
		if file := filed.File(); file != nil && file.SetWriteDeadline(aLongTimeAgo) == nil {
			return
		}
	}
	if limited, ok := w.(interface{ SetWriteDeadline(t time.Time) error }); ok && limited.SetWriteDeadline(aLongTimeAgo) == nil {
		return
	}
	closeAfterAll(w)
}

func closeAfterAll(end any) {
	if closer, ok := end.(io.Closer); ok {
		_ = closer.Close() // the copy has failed already, for a better reason
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

// transient is err with what was being done when it came up, as a failure that is worth another try unless err says
// otherwise.
func transient(doing string, err error) *protocol.Failure {
	return protocol.AsFailure(fmt.Errorf("%s: %w", doing, err), protocol.Transient)
}

func cutFailure(failure *protocol.Failure) *protocol.Failure {
	if failure == nil || len(failure.Message) <= maxReason {
		return failure
	}
	short := *failure
	short.Message = failure.Message[:maxReason] + " …"
	return &short
}
