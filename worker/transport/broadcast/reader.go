// Reader: one receiver's view of the stream.

package broadcast

import (
	"io"
	"os"
	"time"
)

// Reader reads the stream from its begin to its end, at its own pace. Read is for one goroutine at a time; Close may be
// called at any time, and interrupts it.
type Reader struct {
	broadcast *Broadcast
	more      chan struct{} // has an element when Read should look again

	// Of the broadcast's mutex:
	at      int64         // where in the stream
	held    time.Duration // for how long it held back all others since it was last less than half a window behind
	waiting bool          // Read waits for more
	copying bool          // Read copies out of the window, so that what is at at must stay
	err     error         // it was closed or dropped
}

// Read gives what there is of the stream, and waits where there is nothing. Its error is io.EOF after a clean end, and
// otherwise that of Run; os.ErrClosed after Close; and a transient failure that is ErrLagged, for a reader that was
// dropped, which gives no more bytes after it.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	total := 0
	for total < len(p) {
		window, err := r.look(total == 0)
		if err != nil {
			return total, err
		}
		if len(window) > 0 {
			n := copy(p[total:], window)
			if err := r.advance(n); err != nil {
				return 0, err
			}
			total += n
			continue
		}
		if total > 0 {
			break
		}
		<-r.more
	}
	return total, nil
}

// look gives what can be read now, which stays until advance is called. Nothing means to wait. Where there has been
// something before, the stream's end is left for the next Read.
func (r *Reader) look(first bool) ([]byte, error) {
	b := r.broadcast
	b.mu.Lock()
	defer b.mu.Unlock()
	r.waiting = false
	switch {
	case r.err != nil:
		return nil, r.err
	case r.at < b.written:
		number, offset := r.at/b.block, r.at%b.block
		end := min(b.block, offset+b.written-r.at)
		r.copying = true
		return b.blocks[number%int64(len(b.blocks))][offset:end], nil
	case !first:
		return nil, nil
	case b.ended && b.err != nil:
		return nil, b.err
	case b.ended:
		return nil, io.EOF
	}
	r.waiting = true
	if b.full {
		signal(b.room) // the account of who waits for whom has changed
	}
	return nil, nil
}

// advance says that n bytes of what look gave were copied. If the reader was closed or dropped meanwhile, they may not be
// used.
func (r *Reader) advance(n int) error {
	b := r.broadcast
	b.mu.Lock()
	defer b.mu.Unlock()
	r.copying = false
	if r.err != nil {
		b.forget(r)
		return r.err
	}
	r.at += int64(n)
	if b.caughtUp(r) {
		r.held = 0
	}
	if b.full {
		signal(b.room)
	}
	return nil
}

// Close lets the broadcast go on without this reader. It never blocks, and its error is always nil.
func (r *Reader) Close() error {
	r.broadcast.mu.Lock()
	defer r.broadcast.mu.Unlock()
	r.broadcast.drop(r, os.ErrClosed)
	return nil
}
