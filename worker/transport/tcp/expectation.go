// Expectations: the steps that a listener expects the other side of.

package tcp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

var (
	errListenerClosed    = errors.New("the listener was closed")
	errExpectationClosed = errors.New("the expectation was closed")
)

// expected is an expectation as its listener knows it.
type expected interface {
	// shown compares a secret with the expectation's, in constant time.
	shown(secret [secretSize]byte) bool
	// reverse says that who dials will receive.
	reverse() bool
	// meet does what follows the hello, and delivers the connection to who waits for it. guard ends the listener's guard.
	// With an error the peer can be told, and the expectation is as it was, unless it has ended.
	meet(link *link, guard func() bool) error
	// end ends the expectation with a reason, unless it has ended before.
	end(reason error)
}

// meeting is where the owner of an expectation waits for its side S of the connection.
type meeting[S interface {
	comparable
	io.Closer
}] struct {
	listener *Listener
	ref      protocol.StepRef
	secret   [secretSize]byte
	peer     string // who is waited for

	mu      sync.Mutex
	side    S     // delivered, and not yet taken by Accept
	err     error // why the expectation ended; nil while it is open
	taken   bool
	changed chan struct{} // closed at the delivery or the end
}

// register makes the listener expect e, whose meeting m is, with a fresh one-time secret.
func (m *meeting[S]) register(e expected) {
	_, _ = rand.Read(m.secret[:]) // never fails (crypto/rand)
	l := m.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serving.Err() != nil {
		m.err = errListenerClosed
		close(m.changed)
		return
	}
	l.expected[sha256.Sum256(m.secret[:])] = e
}

// claim uses the secret up. It says whether this call did.
func (m *meeting[S]) claim() bool {
	l := m.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	key := sha256.Sum256(m.secret[:])
	_, found := l.expected[key]
	delete(l.expected, key)
	return found
}

func (m *meeting[S]) shown(secret [secretSize]byte) bool {
	return subtle.ConstantTimeCompare(m.secret[:], secret[:]) == 1
}

// accept waits for the delivery, or the end.
func (m *meeting[S]) accept(ctx context.Context) (S, error) {
	select {
	case <-m.changed:
	case <-ctx.Done():
		m.end(context.Cause(ctx))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var none S
	if m.side != none {
		side := m.side
		m.side, m.taken = none, true
		return side, nil
	}
	if m.taken {
		return none, protocol.Failf(protocol.Permanent, "step %s: the %s's connection was accepted already", m.ref, m.peer)
	}
	return none, transport.Transient(fmt.Sprintf("step %s: waiting for the %s to connect to %v", m.ref, m.peer, m.listener.addresses), m.err)
}

func (m *meeting[S]) end(reason error) {
	m.claim()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil || m.taken {
		return
	}
	m.err = reason
	var none S
	if m.side != none {
		_ = m.side.Close() // nobody has begun to use it
		m.side = none
		return
	}
	close(m.changed)
}

// deliver hands a connection over, or closes it if the expectation has ended since its secret was claimed.
func (m *meeting[S]) deliver(side S) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		_ = side.Close() // nobody waits for it
		return
	}
	m.side = side
	close(m.changed)
}

// settled ends the introduction of an accepted connection: from now on it is in the hands of the expectation's owner. With an
// error the expectation has ended.
func (m *meeting[S]) settled(link *link, guard func() bool) error {
	err := errListenerClosed
	if guard() {
		err = link.socket.SetDeadline(time.Time{})
	}
	if err != nil {
		m.end(err)
	}
	return err
}

// Expectation is a step that the listener expects the sender of. Its methods may be called concurrently.
type Expectation struct{ meeting meeting[*Incoming] }

// Expect registers a fresh one-time secret for the sender of one try of a step. The expectation ends when Accept returns,
// with Close, or with the listener's Close.
func (l *Listener) Expect(ref protocol.StepRef) *Expectation {
	e := &Expectation{meeting[*Incoming]{listener: l, ref: ref, peer: "sender", changed: make(chan struct{})}}
	e.meeting.register(e)
	return e
}

// Offer is what the sender needs to know. The caller adds its resume token.
func (e *Expectation) Offer() protocol.Offer {
	l := e.meeting.listener
	return protocol.Offer{
		Addresses: l.Addresses(), TLS: l.TLS(), Fingerprint: l.Fingerprint(), Secret: slices.Clone(e.meeting.secret[:]),
	}
}

// Accept waits for the sender that has the secret. With an error the expectation has ended; the error is a transient
// *protocol.Failure, or a cancelled one if ctx was cancelled. The caller closes the Incoming.
func (e *Expectation) Accept(ctx context.Context) (*Incoming, error) { return e.meeting.accept(ctx) }

// Close ends the expectation: its secret is good for nothing from now on, and a connection that Accept has not returned
// is closed. It is idempotent.
func (e *Expectation) Close() { e.end(errExpectationClosed) }

func (e *Expectation) end(reason error) { e.meeting.end(reason) }

func (e *Expectation) shown(secret [secretSize]byte) bool { return e.meeting.shown(secret) }

func (*Expectation) reverse() bool { return false }

// meet reads the sender's header and accepts it.
func (e *Expectation) meet(link *link, guard func() bool) error {
	m := &e.meeting
	header, stall, err := readHeader(link)
	if err != nil {
		return transport.Transient("reading the stream's header", err)
	}
	if header.Ref != m.ref {
		return protocol.Failf(protocol.Permanent, "the secret is that of step %s, and the header names step %s", m.ref, header.Ref)
	}
	if !m.claim() {
		return errUnexpected()
	}
	if err := link.write(frame(frameAccept, nil)); err != nil {
		err = transport.Transient("accepting the sender of step "+m.ref.String(), err)
		m.end(err)
		return err
	}
	if err := m.settled(link, guard); err != nil {
		return err
	}
	m.deliver(newIncoming(link, header, stall))
	return nil
}

// ReceiverExpectation is a step that the listener expects the receiver of, which has been called to dial the sender. Its
// methods may be called concurrently.
type ReceiverExpectation struct {
	meeting meeting[*Outgoing]
	stall   time.Duration
	header  []byte // as a frame
}

// ExpectReceiver registers a fresh one-time secret for the receiver of one try of a step, which gets the header once it has
// shown the secret. stall is the sender's stall time, as in DialOptions; zero is DefaultStall. The expectation ends when
// Accept returns, with Close, or with the listener's Close.
func (l *Listener) ExpectReceiver(header protocol.StreamHeader, stall time.Duration) *ReceiverExpectation {
	e := &ReceiverExpectation{
		meeting: meeting[*Outgoing]{listener: l, ref: header.Ref, peer: "receiver", changed: make(chan struct{})},
		stall:   promisedStall(stall),
	}
	var err error
	if e.header, err = headerFrame(header, e.stall); err != nil {
		e.meeting.end(fmt.Errorf("encoding the stream's header: %w", err))
		return e
	}
	e.meeting.register(e)
	return e
}

// DialBack is what the receiver needs to know.
func (e *ReceiverExpectation) DialBack() protocol.DialBack {
	l := e.meeting.listener
	return protocol.DialBack{
		Addresses: l.Addresses(), TLS: l.TLS(), Fingerprint: l.Fingerprint(), Secret: slices.Clone(e.meeting.secret[:]),
	}
}

// Accept waits for the receiver that has the secret. With an error the expectation has ended; the error is the receiver's
// own *protocol.Failure if it refused the header, and otherwise a transient one, or a cancelled one if ctx was cancelled.
// The caller closes the Outgoing.
func (e *ReceiverExpectation) Accept(ctx context.Context) (*Outgoing, error) {
	return e.meeting.accept(ctx)
}

// Close ends the expectation: its secret is good for nothing from now on, and a connection that Accept has not returned
// is closed. It is idempotent.
func (e *ReceiverExpectation) Close() { e.end(errExpectationClosed) }

func (e *ReceiverExpectation) end(reason error) { e.meeting.end(reason) }

func (e *ReceiverExpectation) shown(secret [secretSize]byte) bool { return e.meeting.shown(secret) }

func (*ReceiverExpectation) reverse() bool { return true }

// meet says the header and waits for the receiver to accept it.
func (e *ReceiverExpectation) meet(link *link, guard func() bool) error {
	m := &e.meeting
	link.peer.Reverse = true
	if err := link.write(e.header); err != nil {
		return err
	}
	if err := readAccept(link); err != nil {
		var refused *refusalError
		if errors.As(err, &refused) {
			m.end(err)
		}
		return err
	}
	if !m.claim() {
		return errUnexpected()
	}
	if err := m.settled(link, guard); err != nil {
		return err
	}
	m.deliver(newOutgoing(link, e.stall))
	return nil
}
