// Outgoing: the sender's side of a data connection.

package tcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

var (
	errEarlyConfirmation = errors.New("the receiver confirmed a stream that had not ended")
	errUnconfirmed       = errors.New("the receiver closed the connection without a confirmation")
)

// Outgoing is the sender's side of one connection, which the receiver has accepted. A goroutine of its own listens to the
// receiver for the whole time, so that the receiver's failure is known as soon as it is said, and not when a write fails.
// Its methods are to be called one after another, except Close, which may be called at any time.
type Outgoing struct {
	link  *link
	stall time.Duration

	// listening ends when the receiver has said its last, or will say nothing more; its cause says which, and is
	// errConfirmed for a confirmation.
	listening    context.Context //nolint:containedctx // the connection's own life, not a caller's
	stopped      chan struct{}   // closed when the listening goroutine has returned
	confirmation protocol.Confirmation
	ended        bool // the stream was completely sent
}

var errConfirmed = errors.New("the receiver has said how the step ended")

func newOutgoing(l *link, stall time.Duration) *Outgoing {
	widen(l.socket.Conn)
	l.socket.expectLife(stall)
	l.keepAlive(frameAlive, stall)
	listening, heard := context.WithCancelCause(context.Background())
	o := &Outgoing{link: l, stall: stall, listening: listening, stopped: make(chan struct{})}
	go func() {
		defer close(o.stopped)
		heard(o.listen())
	}()
	return o
}

// listen reads what the receiver says until its confirmation.
func (o *Outgoing) listen() error {
	for {
		t, payload, err := readFrame(o.link)
		switch {
		case errors.Is(err, io.EOF):
			return errUnconfirmed
		case err != nil:
			return fmt.Errorf("listening to the receiver: %w", err)
		}
		switch t {
		case framePeerAlive:
		case frameConfirm:
			if err := protocol.Decode(payload, &o.confirmation); err != nil {
				return fmt.Errorf("the receiver's confirmation: %w", err)
			}
			return errConfirmed
		default:
			return frameErrorf("frame of type 0x%02x from the receiver within the stream", byte(t))
		}
	}
}

// CopyFrom sends what r gives as the stream, and returns the number of bytes. When r is at its end and opts.Finish
// agrees, it tells the receiver that the stream is complete; Confirmation then waits for the receiver. Otherwise the
// error is
//
//   - the receiver's own *protocol.Failure, if the receiver gave up, however early;
//   - r's or Finish's error, wrapped: the receiver is told, and gets it as its failure;
//   - the error of opts.Limit, as a *protocol.Failure;
//   - a transient *protocol.Failure, if the connection broke, the receiver gave no sign of life for the stall time, or
//     no byte moved for the idle time;
//   - a *protocol.Failure for ctx's cause, if ctx ended: the receiver is told where that is still possible.
//
// After an error the connection is of no more use, but to be closed. CopyFrom does not close r, unless it has to
// interrupt a Read and r has no read deadlines.
//
// Where r has the methods File() *os.File and Wait() error, as zfs.SendStream does, the file is read in the place of r,
// and at its end Wait says whether it was the whole stream. Where r or that file is a pipe and the connection is plain
// TCP on Linux, the bytes are spliced.
func (o *Outgoing) CopyFrom(ctx context.Context, r io.Reader, opts transport.CopyOptions) (int64, error) {
	stall := stallOr(opts, o.stall)
	if stall != o.stall {
		o.link.socket.expectLife(stall)
	}
	from := newSource(r)
	m := &meter{visible: opts.Bytes}
	copying, stop := watch(ctx, o.listening, m, opts.IdleTime(stall), func(error) {
		o.link.socket.stopWriting()
		from.interrupt()
	})
	m.limitBy(copying, opts.Limit)
	err := o.send(from, m)
	for _, finish := range []func() error{from.finish, opts.Finish} {
		if err == nil && finish != nil {
			if failure := finish(); failure != nil {
				err = &readError{err: failure}
			}
		}
	}
	if err == nil {
		// The signs of life end with the stream: what the receiver has yet to do is its own.
		o.link.endAlive()
		err = o.link.write(endFrame(m.moved.Load()))
	}
	cause := stop()
	moved := m.moved.Load()
	if err == nil {
		o.ended = true
		return moved, nil
	}
	return moved, o.giveUp(ctx, err, cause)
}

// readError is an error of the reader that a stream is copied from.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// giveUp ends the connection of a stream that could not be sent, and finds the reason. What the receiver had said before
// goes first; then what failed on this side; and if it was the connection that broke, the receiver's reason may still be
// on its way.
func (o *Outgoing) giveUp(ctx context.Context, err, cause error) error {
	var failure error
	var inner *readError
	var limit *limitError
	switch {
	case cause != nil:
		failure = transport.Transient("sending the stream", cause)
	case errors.As(err, &inner):
		failure = fmt.Errorf("reading the stream to send: %w", inner.err)
	default:
		failure = transport.Transient("sending the stream", err)
	}
	ours := o.listening.Err() == nil && (cause != nil || inner != nil || errors.As(err, &limit))
	if !ours || o.abort(protocol.AsFailure(failure, protocol.Transient)) {
		o.awaitLast(ctx)
	}
	_ = o.Close()                                                     // the failure is what counts
	if ours || !errors.Is(context.Cause(o.listening), errConfirmed) { //nolint:contextcheck // of the connection
		return failure
	}
	if o.confirmation.Failure != nil {
		return o.confirmation.Failure
	}
	return transport.Transient("sending the stream", errEarlyConfirmation)
}

// Abort tells the receiver that there will be no stream, and why, and closes the connection. It is for a sender that
// fails between Dial and CopyFrom; CopyFrom itself tells the receiver of what fails within it.
func (o *Outgoing) Abort(ctx context.Context, failure *protocol.Failure) {
	if o.abort(failure) {
		o.awaitLast(ctx)
	}
	_ = o.Close() // nothing more was to be said
}

// awaitLast waits for the receiver's last words or its close, for a bounded time.
func (o *Outgoing) awaitLast(ctx context.Context) {
	// A copy that was cancelled has told the receiver so, and leaves it the time to hear it.
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.link.lastWords)
	defer cancel()
	select {
	case <-o.stopped:
	case <-patience.Done():
	}
}

// abort tells the receiver why the stream ends early. It says whether that was possible: within a frame it is not, and
// the receiver sees the connection end there, which is a failure too.
func (o *Outgoing) abort(failure *protocol.Failure) bool {
	o.link.socket.stopWriting()
	o.link.endAlive()
	o.link.socket.allowWriting(o.link.lastWords)
	whole, err := failureFrame(frameAbort, failure)
	if err != nil || o.link.write(whole) != nil {
		return false
	}
	o.link.closeWrite()
	return true
}

// send copies what is read into data frames until its end.
func (o *Outgoing) send(r source, m *meter) error {
	if spliced := newSplicer(o.link, r.file); spliced != nil {
		if err := spliced.send(m); err != nil {
			return err
		}
	}
	buffer := make([]byte, frameHeaderSize+copyBuffer)
	for {
		n, readErr := r.Read(buffer[frameHeaderSize : frameHeaderSize+m.piece(copyBuffer)])
		if n > 0 {
			if err := m.pace(n); err != nil {
				return err
			}
			putFrameHeader(buffer, frameData, n)
			if err := o.link.write(buffer[:frameHeaderSize+n]); err != nil {
				return err
			}
			m.add(int64(n))
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return &readError{err: readErr}
		}
	}
}

// Confirmation waits for the receiver to say how the step ended. If it ended well, the connection is of use for another
// step, and out of this one's hands; otherwise it is closed. The error is a transient *protocol.Failure if ctx ends first (its
// deadline is the bound for the receiver's work after the stream), the connection breaks, or the receiver gives no sign of
// life for the stall time. If the receiver says that it failed, its failure is both in the confirmation and the error.
func (o *Outgoing) Confirmation(ctx context.Context) (protocol.Confirmation, error) {
	select {
	case <-o.stopped:
	case <-ctx.Done():
		_ = o.Close() // the connection is given up
		return protocol.Confirmation{}, transport.Transient("waiting for the receiver's confirmation", context.Cause(ctx))
	}
	cause := context.Cause(o.listening) //nolint:contextcheck // of the connection
	if o.ended && errors.Is(cause, errConfirmed) && o.confirmation.Failure == nil {
		o.finish()
		return o.confirmation, nil
	}
	_ = o.Close() // the receiver waits for this as the sign that it was heard
	switch {
	case !errors.Is(cause, errConfirmed):
		return protocol.Confirmation{}, transport.Transient("waiting for the receiver's confirmation", cause)
	case o.confirmation.Failure != nil:
		return o.confirmation, o.confirmation.Failure
	default:
		return protocol.Confirmation{}, transport.Transient("waiting for the receiver's confirmation", errEarlyConfirmation)
	}
}

// finish tells the receiver that its confirmation was read, and leaves the connection to another step.
func (o *Outgoing) finish() {
	o.link.socket.allowWriting(o.link.lastWords)
	if err := o.link.write(frame(frameDone, nil)); err != nil {
		_ = o.Close() // the receiver has confirmed, and that is what counts
		return
	}
	o.link.handOver()
}

// Peer is the receiver's worker, as far as the connection knows it.
func (o *Outgoing) Peer() Peer { return o.link.peer }

// Close ends the connection, unless it is in the hands of another step by then, and waits for its goroutines. It is
// idempotent.
func (o *Outgoing) Close() error {
	err := o.link.close()
	<-o.stopped
	return err
}
