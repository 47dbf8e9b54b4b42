// Incoming: the receiver's side of a data connection.

package tcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// Incoming is the receiver's side of one connection, authenticated and with its header read. From its making until
// Confirm or Close it gives the sender signs of life, whatever its user is doing. Its methods are to be called one after
// another, except Close, which may be called at any time.
type Incoming struct {
	link     *link
	header   protocol.StreamHeader
	complete atomic.Bool
}

// newIncoming starts the signs of life, at a third of the stall time that the sender's header asked for.
func newIncoming(l *link, header protocol.StreamHeader, stall time.Duration) *Incoming {
	l.keepAlive(framePeerAlive, stall)
	return &Incoming{link: l, header: header}
}

// Header is what the sender said before the stream.
func (c *Incoming) Header() protocol.StreamHeader { return c.header }

// Peer is the sender's worker, as far as the connection knows it.
func (c *Incoming) Peer() Peer { return c.link.peer }

// CopyTo writes the stream into w and returns the number of bytes that w took. The error is nil only if the sender said
// that the stream was complete, and its length was that of what arrived. Otherwise it is
//
//   - the sender's own *protocol.Failure, if the sender gave up;
//   - a transient *protocol.Failure, if the connection ended early, the sender gave no sign of life for the stall time,
//     or no byte moved for the idle time;
//   - w's error, wrapped, if w failed: zfs recv has ended, and its own exit says why;
//   - the error of opts.Limit, as a *protocol.Failure;
//   - a *protocol.Failure for ctx's cause, if ctx ended.
//
// After any of them the connection is good for a Confirm with a failure. CopyTo does not close w, unless it has to
// interrupt a Write and w has no write deadlines. Where w is a pipe, or has a method File() *os.File that gives one,
// and the connection is plain TCP on Linux, the bytes are spliced.
func (c *Incoming) CopyTo(ctx context.Context, w io.Writer, opts transport.CopyOptions) (int64, error) {
	stall := stallOr(opts, DefaultStall)
	c.link.socket.expectLife(stall)
	m := &meter{visible: opts.Bytes}
	file := transport.FileOf(w)
	copying, stop := watch(ctx, context.Background(), m, opts.IdleTime(stall), func(cause error) {
		c.link.socket.stopReading(cause)
		transport.InterruptWrite(w)
	})
	m.limitBy(copying, opts.Limit)
	err := c.receive(w, file, m)
	cause := stop()
	moved := m.moved.Load()
	if err == nil {
		c.complete.Store(true)
		return moved, nil
	}
	if cause != nil {
		return moved, transport.Transient("receiving the stream", cause)
	}
	var inner *writeError
	var said *abortError
	switch {
	case errors.As(err, &inner):
		return moved, fmt.Errorf("writing the received stream: %w", inner.err)
	case errors.As(err, &said):
		return moved, said.failure
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return moved, protocol.Failf(protocol.Transient,
			"receiving the stream: the sender's connection ended after %d bytes, before the stream was complete: %w", moved, err)
	default:
		return moved, transport.Transient("receiving the stream", err)
	}
}

// writeError is an error of the writer that a stream is copied to.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// abortError is the sender's failure.
type abortError struct{ failure *protocol.Failure }

func (e *abortError) Error() string { return e.failure.Error() }

// receive copies frames into w until the stream's end.
func (c *Incoming) receive(w io.Writer, file *os.File, m *meter) error {
	spliced := newSplicer(c.link, file)
	var buffer []byte
	for {
		t, length, err := readFrameHeader(c.link)
		if err != nil {
			return err
		}
		switch t {
		case frameData:
			if spliced != nil {
				left, err := spliced.receive(length, m)
				if err != nil {
					return err
				}
				if left == 0 {
					continue
				}
				spliced, length = nil, left
			}
			if buffer == nil {
				buffer = make([]byte, copyBuffer)
			}
			if err := c.copyData(w, length, buffer, m); err != nil {
				return err
			}
		case frameAlive:
			if _, err := readPayload(c.link, t, length); err != nil {
				return err
			}
		case frameEnd:
			payload, err := readPayload(c.link, t, length)
			if err != nil {
				return err
			}
			if total, moved := parseEnd(payload), m.moved.Load(); total != uint64(moved) { //nolint:gosec // counted up from zero
				return frameErrorf("the sender sent %d bytes, and %d arrived", total, moved)
			}
			return nil
		case frameAbort:
			payload, err := readPayload(c.link, t, length)
			if err != nil {
				return err
			}
			failure, err := decodeFailure(payload)
			if err != nil {
				return fmt.Errorf("the sender's failure: %w", err)
			}
			return &abortError{failure: failure}
		default:
			return frameErrorf("frame of type 0x%02x within the stream", byte(t))
		}
	}
}

// copyData copies a data frame's payload through the process. What has arrived of a payload that is cut short is written
// too, since zfs recv keeps it for a resumption.
func (c *Incoming) copyData(w io.Writer, length int, buffer []byte, m *meter) error {
	for length > 0 {
		piece := m.piece(min(length, len(buffer)))
		if err := m.pace(piece); err != nil {
			return err
		}
		n, readErr := io.ReadFull(c.link, buffer[:piece])
		if n > 0 {
			written, err := w.Write(buffer[:n])
			m.add(int64(written))
			if err == nil && written < n {
				err = io.ErrShortWrite
			}
			if err != nil {
				return &writeError{err: err}
			}
		}
		if errors.Is(readErr, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if readErr != nil {
			return readErr
		}
		length -= n
	}
	return nil
}

// Confirm tells the sender how the step ended for the receiver: that To is there and protected, or the failure. It can
// be called once, at any time after Accept, also while the sender is still sending. It returns when the sender has said that
// it read the confirmation, or a few seconds after it was written. A confirmation without a failure is refused unless
// CopyTo has received the whole stream; after it, the connection is of use for another step, and out of this one's hands.
func (c *Incoming) Confirm(ctx context.Context, conf protocol.Confirmation) error {
	if conf.Failure == nil && !c.complete.Load() {
		return protocol.Failf(protocol.Permanent, "step %s: a stream that was not completely received cannot be confirmed", c.header.Ref)
	}
	good := conf.Failure == nil
	conf.Failure = transport.CutFailure(conf.Failure)
	whole, err := messageFrame(frameConfirm, conf)
	if err != nil {
		return fmt.Errorf("step %s: confirming: %w", c.header.Ref, err)
	}
	done := false
	if good {
		done, err = c.link.askDone(ctx, whole)
	} else {
		err = c.link.sayLast(ctx, whole)
	}
	if err != nil {
		return transport.Transient("confirming step "+c.header.Ref.String(), err)
	}
	if done {
		c.link.handOver()
	}
	return nil
}

// Close ends the connection, unless it is in the hands of another step by then, and waits for its goroutine. Without a
// Confirm before, the sender sees a transient failure. It is idempotent.
func (c *Incoming) Close() error { return c.link.close() }
