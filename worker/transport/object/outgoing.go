// Outgoing: one receiver of a stream, as the sender sees it.

package object

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// Outgoing is one receiver of a stream. Its methods can be used concurrently with each other and the stream's.
type Outgoing struct {
	stream  *Stream
	ref     protocol.StepRef
	subject string
	done    chan struct{} // closed when over
	known   chan struct{} // closed when the receiver knows that the sender has given up

	// Guarded by the stream's lock.
	called       bool // it has answered, and gives signs of life
	over         bool
	ended        time.Time
	taken        uint64 // segments
	life         time.Time
	heldBack     time.Duration // the others, since it had everything
	heard        bool          // confirmation is the receiver's
	confirmation protocol.Confirmation
	failure      *protocol.Failure // why it is over, without a confirmation
	told         bool              // known is closed
}

// Call asks a receiver, by the subject of its offer, to take the stream, and waits for its answer, for the stall time at
// most. The error is the receiver's own *protocol.Failure if it refuses, and a transient one if it does not answer. It is
// to be called before CopyFrom, for several receivers at once if one likes.
func (st *Stream) Call(ctx context.Context, offer protocol.Offer, header protocol.StreamHeader) (*Outgoing, error) {
	doing := fmt.Sprintf("calling the receiver of step %s", header.Ref)
	if offer.Subject == "" {
		return nil, protocol.Failf(protocol.Permanent, "%s: it takes no calls", doing)
	}
	call := protocol.Call{Secret: offer.Secret, Header: header, Objects: &protocol.ObjectsStream{
		Name: st.name.String(), Subject: st.subject, Stall: st.stallTime(),
	}}
	if err := call.Validate(); err != nil {
		return nil, err
	}
	o := &Outgoing{
		stream: st, ref: header.Ref, subject: offer.Subject, done: make(chan struct{}), known: make(chan struct{}),
	}
	st.mu.Lock()
	for _, other := range st.receivers {
		if other.ref == o.ref {
			st.mu.Unlock()
			return nil, protocol.Usagef("%s: it has been called already", doing)
		}
	}
	st.receivers = append(st.receivers, o)
	st.mu.Unlock()
	if err := o.ask(ctx, call); err != nil {
		err := transport.Transient(doing, err)
		st.mu.Lock()
		defer st.mu.Unlock()
		o.over, o.failure = true, transport.CutFailure(err)
		o.tell() //nolint:contextcheck // it may have answered, and the answer got lost
		for i := range st.receivers {
			if st.receivers[i] == o {
				st.receivers = append(st.receivers[:i], st.receivers[i+1:]...)
				break
			}
		}
		st.change()
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	o.called, o.life = true, time.Now()
	return o, nil
}

// ask makes the call, again and again until it is answered.
func (o *Outgoing) ask(ctx context.Context, call protocol.Call) error {
	stall := o.stream.stallTime()
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	nobody := false
	for try := 0; ; try++ {
		message, err := protocol.NewMessage(ctx, o.subject, call)
		if err != nil {
			return err
		}
		asking, cancel := context.WithTimeout(ctx, o.stream.store.patience(try, stall))
		answer, err := protocol.RequestStream(asking, o.stream.store.conn, message)
		cancel()
		if err == nil {
			var said protocol.CallAnswer
			if err := protocol.ReadMessage(answer.Header, answer.Data, &said); err != nil {
				return err
			}
			if said.Failure != nil {
				return said.Failure
			}
			return nil
		}
		nobody = errors.Is(err, nats.ErrNoResponders) || (nobody && ctx.Err() != nil)
		if !pause(ctx, backoff(try)) {
			if nobody {
				return protocol.Failf(protocol.Transient, "nobody listens there: the receiver's worker has ended, or its connection to NATS")
			}
			return protocol.Failf(protocol.Transient, "it gave no answer within %s: %w", stall, err)
		}
	}
}

// Done is closed when this receiver's part of the stream has ended, for good or ill: Confirmation then returns at once.
func (o *Outgoing) Done() <-chan struct{} { return o.done }

// Confirmation waits for the receiver to say how the step ended. The error is a transient *protocol.Failure if ctx ends
// first (its deadline is the bound for the receiver's work after the stream), or the receiver was dropped: it gave no sign
// of life for the stall time, or held back the others. If the receiver says that it failed, its failure is both in the
// confirmation and the error.
func (o *Outgoing) Confirmation(ctx context.Context) (protocol.Confirmation, error) {
	select {
	case <-o.done:
	case <-ctx.Done():
		err := transport.Transient("waiting for the receiver's confirmation", context.Cause(ctx))
		o.finish(err)
		return protocol.Confirmation{}, err
	}
	o.stream.mu.Lock()
	defer o.stream.mu.Unlock()
	if !o.heard {
		return protocol.Confirmation{}, o.outcome()
	}
	return o.confirmation, o.outcome()
}

// outcome is why the receiver's part has failed; nil if it has not. The stream is locked.
func (o *Outgoing) outcome() error {
	switch {
	case o.failure != nil:
		return transport.Transient("waiting for the receiver's confirmation", o.failure)
	case o.confirmation.Failure != nil:
		return o.confirmation.Failure
	}
	return nil
}

// Abort tells the receiver that there will be no (more) stream, and why, and waits until it knows, for 5 seconds at most,
// the stall time if that is less, or until ctx ends. It does nothing if the receiver's part has ended.
func (o *Outgoing) Abort(ctx context.Context, failure *protocol.Failure) {
	if !o.finish(failure) {
		return
	}
	patience := time.NewTimer(min(lastWords, o.stream.stallTime()))
	defer patience.Stop()
	select {
	case <-o.known:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// Close gives the receiver up, if its part has not ended: it sees a transient failure. It is idempotent.
func (o *Outgoing) Close() error {
	if o.finish(protocol.Failf(protocol.Transient, "%w before its end", errClosed)) {
		o.stream.mu.Lock()
		o.tell()
		o.stream.mu.Unlock()
	}
	return nil
}

// finish ends the receiver's part with a failure; it says whether it had not ended.
func (o *Outgoing) finish(failure *protocol.Failure) bool {
	o.stream.mu.Lock()
	defer o.stream.mu.Unlock()
	if o.over {
		return false
	}
	o.failure = transport.CutFailure(failure)
	o.conclude()
	return true
}

// conclude marks the receiver's part as ended. The stream is locked.
func (o *Outgoing) conclude() {
	o.over, o.ended = true, time.Now()
	close(o.done)
	o.stream.weigh(o.ended)
	o.stream.change()
	poke(o.stream.news)
}

// tell says to the receiver all that it may not know. The stream is locked.
func (o *Outgoing) tell() {
	st := o.stream
	message := protocol.SegmentsStored{Stream: st.name.String(), Failure: o.failure, Confirmed: o.heard}
	if !o.over {
		message.First, message.End = max(o.taken, st.first), st.end
		news := st.stored[min(message.First-st.first, uint64(len(st.stored))):]
		message.Segments = news[:min(len(news), protocol.MaxAnnounced)]
	}
	st.store.say(o.subject, message, st.logger)
}
