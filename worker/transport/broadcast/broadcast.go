// Broadcast: the window, and who is where in it.

package broadcast

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

var (
	// ErrLagged is in the chain of the failure that the Reader gives which held back the others for too long.
	ErrLagged = errors.New("too slow to share a stream")
	// ErrNoReaders is in the chain of Run's error when there is no Reader left to read for.
	ErrNoReaders = errors.New("no receiver of the stream is left")
)

// The window is divided into blocks: what is read at once, and what becomes free at once.
const (
	maxBlock     = 256 << 10
	windowBlocks = 8 // at least so many, unless the window is of fewer bytes
)

// Broadcast gives what it reads from one reader to several. Its readers are made first, and then Run is called, once.
type Broadcast struct {
	source io.Reader
	lag    time.Duration

	block  int64         // the length of a block
	blocks [][]byte      // position p of the stream is in block p/block, modulo their number; nil until first used
	room   chan struct{} // has an element when Run should look for room again

	mu      sync.Mutex
	readers []*Reader // those that have not been closed or dropped
	written int64     // how much of the stream was read
	full    bool      // Run waits for room
	begun   bool      // Run was called
	ended   bool      // the stream has ended, with err or, if that is nil, cleanly
	err     error
	abandon context.CancelCauseFunc // ends Run; nil before
}

// New makes a broadcast of what r gives. The fastest reader may be window bytes ahead of the slowest; lag is how long, in
// sum, one reader may hold back all others while it stays more than half a window behind, until it is dropped. Where lag
// is not positive none is dropped.
func New(r io.Reader, window int, lag time.Duration) *Broadcast {
	window = max(window, 2)
	block := max(min(maxBlock, window/windowBlocks), 1)
	return &Broadcast{
		source: r, lag: lag, block: int64(block), blocks: make([][]byte, window/block), room: make(chan struct{}, 1),
	}
}

// Reader makes a reader that begins at the stream's begin. One that is made after the call of Run has missed that, and
// gives an error only.
func (b *Broadcast) Reader() *Reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &Reader{broadcast: b, more: make(chan struct{}, 1)}
	if b.begun {
		r.err = protocol.Failf(protocol.Permanent, "the stream has begun already")
		return r
	}
	b.readers = append(b.readers, r)
	return r
}

// Run reads the stream to its end. It returns nil when that was a clean one, and then, and only then, every reader gets
// io.EOF after the last byte. Otherwise the error is the source's own, context.Cause(ctx) if ctx has ended, or
// ErrNoReaders if no reader is left; the readers get the same after what was read before.
//
// Run does not close the source, except to interrupt a Read of it when ctx ends or no reader is left, and only where the
// source has no SetReadDeadline. A source that has neither must not block for long.
func (b *Broadcast) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		transport.InterruptRead(b.source)
	})
	b.begin(cancel)
	err := b.copy(ctx)
	if !stop() {
		<-interrupted
	}
	return b.end(err)
}

func (b *Broadcast) begin(abandon context.CancelCauseFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun, b.abandon = true, abandon
	if len(b.readers) == 0 {
		abandon(ErrNoReaders)
	}
}

// copy reads the source into the window until its end.
func (b *Broadcast) copy(ctx context.Context) error {
	for ctx.Err() == nil {
		space, err := b.space(ctx)
		if err != nil {
			return err
		}
		n, err := b.source.Read(space)
		b.publish(n)
		switch {
		case ctx.Err() != nil:
			// Interrupted, whatever the source makes of that: it may look like its end.
			return context.Cause(ctx)
		case err == io.EOF: //nolint:errorlint // unwrapped, or it is no clean end
			return nil
		case err != nil:
			return err
		}
	}
	return context.Cause(ctx)
}

// publish lets the readers have the next n bytes.
func (b *Broadcast) publish(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.written += int64(n)
	b.wakeReaders()
}

// end lets the readers know that there will be no more, and why.
func (b *Broadcast) end(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.err = true, err
	b.wakeReaders()
	return err
}

func (b *Broadcast) wakeReaders() {
	for _, r := range b.readers {
		signal(r.more)
	}
}

// space waits until there is room in the window, and gives it: the rest of a block.
func (b *Broadcast) space(ctx context.Context) ([]byte, error) {
	for {
		space, holder, patience := b.look()
		if space != nil {
			return space, nil
		}
		if err := b.wait(ctx, holder, patience); err != nil {
			return nil, err
		}
	}
}

// wait waits until somebody has read or begun to wait, and keeps account of who holds back whom: holder, unless it is nil,
// which may for the time of its patience.
func (b *Broadcast) wait(ctx context.Context, holder *Reader, patience time.Duration) error {
	var late <-chan time.Time
	if holder != nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	since := time.Now()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.room:
	case <-late:
	}
	if holder != nil {
		b.blame(holder, time.Since(since))
	}
	return nil
}

// look gives the room that there is; or if there is none, the reader that alone holds back all others, if there is one,
// and how much longer it may.
func (b *Broadcast) look() (space []byte, holder *Reader, patience time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	slowest := b.written
	for _, r := range b.readers {
		slowest = min(slowest, r.at)
	}
	number, offset := b.written/b.block, b.written%b.block
	if b.full = number-slowest/b.block >= int64(len(b.blocks)); b.full {
		if holder = b.holder(); holder == nil {
			return nil, nil, 0
		}
		return nil, holder, b.lag - holder.held
	}
	at := number % int64(len(b.blocks))
	if b.blocks[at] == nil {
		b.blocks[at] = make([]byte, b.block)
	}
	return b.blocks[at][offset:], nil, 0
}

// holder is the one reader that still has something to read while all others wait for more. mu is held.
func (b *Broadcast) holder() *Reader {
	if b.lag <= 0 || len(b.readers) < 2 {
		return nil
	}
	var holder *Reader
	for _, r := range b.readers {
		if r.waiting && r.at == b.written {
			continue
		}
		if holder != nil {
			return nil
		}
		holder = r
	}
	return holder
}

// blame adds to the time for which a reader has held back the others, and drops it when that was too long.
func (b *Broadcast) blame(holder *Reader, held time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.caughtUp(holder) {
		return
	}
	holder.held += held
	if holder.held >= b.lag && len(b.readers) > 1 {
		b.drop(holder, protocol.Failf(protocol.Transient,
			"%w: this receiver held back the others for %s, so it goes on alone", ErrLagged, b.lag))
	}
}

// caughtUp tells whether the reader is less than half a window behind. mu is held.
func (b *Broadcast) caughtUp(r *Reader) bool {
	return 2*(b.written-r.at) < b.block*int64(len(b.blocks))
}

// drop has the reader fail with err, and forgets it as soon as it does not copy. mu is held.
func (b *Broadcast) drop(r *Reader, err error) {
	if r.err != nil {
		return
	}
	r.err = err
	if !r.copying {
		b.forget(r)
	}
	signal(r.more)
}

// forget goes on without the reader. mu is held.
func (b *Broadcast) forget(r *Reader) {
	b.readers = slices.DeleteFunc(b.readers, func(other *Reader) bool { return other == r })
	signal(b.room)
	if len(b.readers) == 0 && b.abandon != nil {
		b.abandon(ErrNoReaders)
	}
}

// signal puts an element into a channel that holds one, unless there is one already.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
