// Dialing: how a worker gets to another one by the addresses that it was given.

package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

const (
	// stagger is how long one address is tried before the next one is tried as well (RFC 8305, section 5).
	stagger = 250 * time.Millisecond
	// connecting bounds each address's TCP and TLS handshakes.
	connecting = 10 * time.Second
	// maxAddresses bounds the addresses of an offer that are tried.
	maxAddresses = 64
)

// ErrUnreachable says that there is no way to a worker by the addresses it has given: no route, nobody listening, no answer in
// time, or another machine's certificate. A worker that was reached and refused is another error.
var ErrUnreachable = errors.New("no connection could be made")

// DialOptions are the wishes of who dials.
type DialOptions struct {
	// Stall is how long the receiver may give no sign of life. Zero is DefaultStall. The receiver is told, and gives
	// signs of life at a third of it.
	Stall time.Duration
	// Patience bounds the search for a connection. Zero leaves it to each address's own bounds: 10 seconds for its handshakes
	// and 5 for an answer to the hello. A kept connection is given half of it for the answer, beforehand.
	Patience time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// promisedStall is a sender's stall time within its bounds.
func promisedStall(stall time.Duration) time.Duration {
	if stall <= 0 {
		stall = DefaultStall
	}
	return min(max(stall, transport.MinStall), maxPromise)
}

// approach is what one Dial, DialSender or Prepare wants.
type approach struct {
	addresses   []string
	secure      bool
	fingerprint []byte
	peer        string // who is dialled
	patience    time.Duration
	logger      *slog.Logger
	// introduce says hello on a connection, and returns when it was accepted.
	introduce func(l *link) error
}

// attempt is what became of one address.
type attempt struct {
	address string
	link    *link
	err     error
}

// dial connects to the addresses at once, staggered, and introduces itself on one connection after another, since the
// secret is good for only one. It gives the link, or what happened at each address.
func (a *approach) dial(ctx context.Context) (*link, []error) {
	connected := make(chan attempt, len(a.addresses)) // nobody waits to send
	dialing, cancel := context.WithCancel(ctx)
	var connectors sync.WaitGroup
	defer func() {
		cancel()
		connectors.Wait()
		close(connected)
		for late := range connected {
			if late.link != nil {
				_ = late.link.close() // it was not needed
			}
		}
	}()

	var failed []error
	next, pending := 0, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next < len(a.addresses) || pending > 0 {
		var following <-chan time.Time
		if next < len(a.addresses) {
			following = timer.C
		}
		select {
		case <-ctx.Done():
			return nil, failed
		case <-following:
			address := a.addresses[next]
			next, pending = next+1, pending+1
			connectors.Go(func() {
				link, err := a.connect(dialing, address)
				connected <- attempt{address: address, link: link, err: err}
			})
			timer.Reset(stagger)
		case one := <-connected:
			pending--
			if one.err == nil {
				if one.err = a.introduceWithin(ctx, one.link, introduction); one.err == nil {
					a.logger.DebugContext(ctx, "made a data connection", slog.String("to", a.peer),
						slog.String("address", one.address), slog.Bool("tls", a.secure))
					return one.link, nil
				}
			}
			a.logger.DebugContext(ctx, "could not make a data connection", slog.String("to", a.peer),
				slog.String("address", one.address), slog.Any("error", one.err))
			failed = append(failed, fmt.Errorf("%s: %w", one.address, one.err))
			timer.Reset(0)
		}
	}
	return nil, failed
}

// ended is the end of ctx, with what had failed before.
func ended(ctx context.Context, failed []error) error {
	if len(failed) == 0 {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w (%s)", context.Cause(ctx), texts(failed))
}

// joined is all errors in one line. A refusal that is not transient decides the kind; without any refusal, nobody was reached.
func joined(failed []error) error {
	kind, reached := protocol.Transient, false
	for _, err := range failed {
		var refused *refusalError
		if errors.As(err, &refused) {
			reached = true
			if refused.failure.Kind != protocol.Transient {
				kind = refused.failure.Kind
			}
		}
	}
	if !reached {
		return protocol.Failf(kind, "%w: %s", ErrUnreachable, texts(failed))
	}
	return protocol.Failf(kind, "%s", texts(failed))
}

func texts(failed []error) string {
	texts := make([]string, 0, len(failed))
	for _, err := range failed {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, "; ")
}

// connect makes the TCP and TLS handshakes with one address.
func (a *approach) connect(ctx context.Context, address string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connecting)
	defer cancel()
	var network net.Dialer
	conn, err := network.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn}
	var over net.Conn = s
	if a.secure {
		secure := tls.Client(s, clientTLS(a.fingerprint))
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close() // the handshake's error is what counts
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		over = secure
	}
	link := newLink(s, over, address)
	link.key = a.key(address)
	return link, nil
}

// introduceWithin introduces itself within a time limit. It closes the link with an error.
func (a *approach) introduceWithin(ctx context.Context, l *link, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the %s did not answer the hello for %s", a.peer, limit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		l.socket.stopReading(context.Cause(ctx))
		l.socket.stopWriting()
	})
	err := a.introduce(l)
	switch inTime := stop(); {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	case err == nil && !inTime:
		err = context.Cause(ctx)
	case err == nil:
		err = l.socket.renew()
	}
	if err != nil {
		_ = l.close() // the first error is what counts
	}
	return err
}

// refusalError is that of a worker that was reached, and refused.
type refusalError struct{ failure *protocol.Failure }

func (e *refusalError) Error() string { return "refused by the other side: " + e.failure.Error() }
func (e *refusalError) Unwrap() error { return e.failure }

// ask writes what opens a connection, and waits to be accepted.
func ask(l *link, opening []byte) error {
	writeErr := l.write(opening)
	// Who refuses may have closed before everything was written, and says why.
	err := readAccept(l)
	var refused *refusalError
	if writeErr != nil && err != nil && !errors.As(err, &refused) {
		return fmt.Errorf("saying hello: %w", writeErr)
	}
	return err
}

// readAccept waits to be accepted. Its error is a refusalError if the other side refused.
func readAccept(r io.Reader) error {
	t, payload, err := readFrame(r)
	switch {
	case err != nil:
		return fmt.Errorf("waiting to be accepted: %w", err)
	case t == frameAccept:
		return nil
	default:
		return unaccepted(t, payload)
	}
}

// unaccepted is what an answer means that is not the one that was asked for.
func unaccepted(t frameType, payload []byte) error {
	if t != frameRefuse {
		return frameErrorf("frame of type 0x%02x as the answer to the hello: no zfleet worker listens there", byte(t))
	}
	failure, err := decodeFailure(payload)
	if err != nil {
		return fmt.Errorf("the other side's refusal: %w", err)
	}
	return &refusalError{failure: failure}
}

// askHeader writes a receiver's hello, waits for the sender's header, and accepts it if it is of the given step.
func askHeader(l *link, opening []byte, ref protocol.StepRef) (protocol.StreamHeader, time.Duration, error) {
	var header protocol.StreamHeader
	writeErr := l.write(opening)
	t, payload, err := readFrame(l)
	switch {
	case err != nil && writeErr != nil:
		return header, 0, fmt.Errorf("saying hello: %w", writeErr)
	case err != nil:
		return header, 0, fmt.Errorf("waiting for the header: %w", err)
	case t != frameHeader:
		return header, 0, unaccepted(t, payload)
	}
	header, stall, err := parseHeader(payload)
	if err != nil {
		return header, 0, fmt.Errorf("the sender's header: %w", err)
	}
	if header.Ref != ref {
		failure := protocol.Failf(protocol.Permanent, "the receiver is that of step %s, and the header names step %s", ref, header.Ref)
		if refusal, err := failureFrame(frameRefuse, failure); err == nil {
			_ = l.write(refusal) // the sender is told if that is possible
		}
		return header, 0, &refusalError{failure: failure}
	}
	return header, stall, l.write(frame(frameAccept, nil))
}
