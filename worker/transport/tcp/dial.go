// Dial: how a sender finds the receiver behind an offer.

package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

const (
	// stagger is how long one address is tried before the next one is tried as well (RFC 8305, section 5).
	stagger = 250 * time.Millisecond
	// connecting bounds each address's TCP and TLS handshakes.
	connecting = 10 * time.Second
	// maxAddresses bounds the addresses of an offer that are tried.
	maxAddresses = 32
)

// DialOptions are the sender's wishes for a connection.
type DialOptions struct {
	// Stall is how long the receiver may give no sign of life. Zero is DefaultStall. The receiver is told, and gives
	// signs of life at a third of it.
	Stall time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// Dial connects to the receiver that made the offer, shows the offer's secret and sends the header. The offer's
// addresses are tried in order, each a quarter of a second after the one before or as soon as that has failed, and the
// first that connects and accepts is used. It returns once the receiver has accepted. The error is a *protocol.Failure:
// the receiver's own if it refused for a reason that another try does not change, and otherwise a transient one that
// names what happened at each address.
func Dial(ctx context.Context, offer protocol.Offer, header protocol.StreamHeader, opts DialOptions) (*Outgoing, error) {
	if len(offer.Addresses) == 0 || len(offer.Secret) != secretSize || offer.TLS && len(offer.Fingerprint) == 0 {
		return nil, protocol.Failf(protocol.Permanent,
			"step %s: the receiver's offer lacks an address, a secret of %d bytes or a fingerprint", header.Ref, secretSize)
	}
	d := &dialer{offer: offer, stall: opts.Stall, logger: opts.Logger}
	if d.stall <= 0 {
		d.stall = DefaultStall
	}
	d.stall = min(max(d.stall, minStall), maxPromise)
	if d.logger == nil {
		d.logger = discard()
	}
	whole, err := messageFrame(frameHeader, header)
	if err != nil {
		return nil, fmt.Errorf("step %s: encoding the stream's header: %w", header.Ref, err)
	}
	h := hello{stall: d.stall}
	copy(h.secret[:], offer.Secret)
	d.opening = append(h.frame(), whole...)
	outgoing, err := d.dial(ctx)
	if err != nil {
		return nil, transient(fmt.Sprintf("step %s: connecting to the receiver", header.Ref), err)
	}
	return outgoing, nil
}

// dialer is one Dial.
type dialer struct {
	offer   protocol.Offer
	stall   time.Duration
	logger  *slog.Logger
	opening []byte // hello and header
}

// attempt is what became of one address.
type attempt struct {
	address string
	link    *link
	err     error
}

// dial connects to the addresses at once, staggered, and introduces itself on one connection after another, since the
// secret is good for only one.
func (d *dialer) dial(ctx context.Context) (*Outgoing, error) {
	addresses := d.offer.Addresses[:min(len(d.offer.Addresses), maxAddresses)]
	connected := make(chan attempt, len(addresses)) // nobody waits to send
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
	for next < len(addresses) || pending > 0 {
		var following <-chan time.Time
		if next < len(addresses) {
			following = timer.C
		}
		select {
		case <-ctx.Done():
			return nil, ended(ctx, failed)
		case <-following:
			address := addresses[next]
			next, pending = next+1, pending+1
			connectors.Go(func() {
				link, err := d.connect(dialing, address)
				connected <- attempt{address: address, link: link, err: err}
			})
			timer.Reset(stagger)
		case a := <-connected:
			pending--
			if a.err == nil {
				var outgoing *Outgoing
				if outgoing, a.err = d.introduce(ctx, a.link); a.err == nil {
					d.logger.DebugContext(ctx, "connected to the receiver", slog.String("address", a.address),
						slog.Bool("tls", d.offer.TLS))
					return outgoing, nil
				}
			}
			d.logger.DebugContext(ctx, "could not connect to the receiver", slog.String("address", a.address), slog.Any("error", a.err))
			failed = append(failed, fmt.Errorf("%s: %w", a.address, a.err))
			timer.Reset(0)
		}
	}
	if ctx.Err() != nil {
		return nil, ended(ctx, failed)
	}
	return nil, joined(failed)
}

// ended is the end of ctx, with what had failed before.
func ended(ctx context.Context, failed []error) error {
	if len(failed) == 0 {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w (%s)", context.Cause(ctx), joined(failed).Error())
}

// joined is all errors in one line. Among failures, one that is not transient decides the kind.
func joined(failed []error) error {
	texts := make([]string, 0, len(failed))
	kind := protocol.Transient
	for _, err := range failed {
		texts = append(texts, err.Error())
		var refusal *protocol.Failure
		if errors.As(err, &refusal) && refusal.Kind != protocol.Transient {
			kind = refusal.Kind
		}
	}
	return protocol.Failf(kind, "%s", strings.Join(texts, "; "))
}

// connect makes the TCP and TLS handshakes with one address.
func (d *dialer) connect(ctx context.Context, address string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, connecting)
	defer cancel()
	var network net.Dialer
	conn, err := network.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn}
	if !d.offer.TLS {
		return newLink(s, s), nil
	}
	secure := tls.Client(s, clientTLS(d.offer.Fingerprint))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error is what counts
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return newLink(s, secure), nil
}

// introduce says hello and waits to be accepted. It closes the link with an error.
func (d *dialer) introduce(ctx context.Context, l *link) (*Outgoing, error) {
	stop := context.AfterFunc(ctx, func() {
		l.socket.stopReading(context.Cause(ctx))
		l.socket.stopWriting()
	})
	l.socket.expectLife(introduction)
	l.socket.allowWriting(introduction)
	err := d.beAccepted(l)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = l.socket.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		_ = l.close() // the first error is what counts
		return nil, err
	}
	return newOutgoing(l, d.stall), nil //nolint:contextcheck // the connection outlives the dialing
}

func (d *dialer) beAccepted(l *link) error {
	writeErr := l.write(d.opening)
	// A receiver that refuses may have closed before everything was written, and says why.
	t, payload, err := readFrame(l)
	switch {
	case err != nil && writeErr != nil:
		return fmt.Errorf("saying hello: %w", writeErr)
	case err != nil:
		return fmt.Errorf("waiting to be accepted: %w", err)
	case t == frameAccept:
		return nil
	case t == frameRefuse:
		failure, err := decodeFailure(payload)
		if err != nil {
			return fmt.Errorf("the receiver's refusal: %w", err)
		}
		return fmt.Errorf("the receiver refused: %w", failure)
	default:
		return frameErrorf("frame of type 0x%02x instead of the receiver's answer: no zfleet worker listens there", byte(t))
	}
}
