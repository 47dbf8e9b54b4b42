// Interrupting: what makes a blocked copy return.

package transport

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// InterruptRead makes a Read that is blocked return: by a read deadline where r has any, otherwise by closing r.
func InterruptRead(r io.Reader) {
	if limited, ok := r.(interface{ SetReadDeadline(t time.Time) error }); ok && limited.SetReadDeadline(longAgo()) == nil {
		return
	}
	closeAfterAll(r)
}

// InterruptWrite makes a Write that is blocked return: by a write deadline where w, or the file behind it, has any,
// otherwise by closing w.
func InterruptWrite(w io.Writer) {
	if file := FileOf(w); file != nil && file.SetWriteDeadline(longAgo()) == nil {
		return
	}
	if limited, ok := w.(interface{ SetWriteDeadline(t time.Time) error }); ok && limited.SetWriteDeadline(longAgo()) == nil {
		return
	}
	closeAfterAll(w)
}

// FileOf is w, if it is a file, or the file behind it, if it has a method File; otherwise nil.
func FileOf(w io.Writer) *os.File {
	switch w := w.(type) {
	case *os.File:
		return w
	case interface{ File() *os.File }:
		return w.File()
	default:
		return nil
	}
}

// longAgo is a deadline that has passed.
func longAgo() time.Time { return time.Unix(1, 0) }

func closeAfterAll(end any) {
	if closer, ok := end.(io.Closer); ok {
		_ = closer.Close() // the copy has failed already, for a better reason
	}
}

// WatchIdle returns when ctx ends, or when stirred has given the same number for the idle time while held was false; then it
// gives the transient *protocol.Failure of a copy that stands still. It may overrun the time by a quarter.
func WatchIdle(ctx context.Context, idle time.Duration, stirred func() int64, held func() bool) error {
	ticker := time.NewTicker(max(idle/4, time.Millisecond))
	defer ticker.Stop()
	for before, still := stirred(), 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if now := stirred(); now != before || held() {
			before, still = now, 0
			continue
		}
		if still++; still > 4 {
			return protocol.Failf(protocol.Transient, "no byte of the stream moved for %s though the peer is alive", idle)
		}
	}
}
