// Listener: where a worker receives data connections, and matches them with the steps that it expects.

package tcp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

const (
	// introduction bounds the time from a connection's acceptance until it has shown a secret that is expected.
	introduction = 5 * time.Second
	// maxStrangers bounds the connections that have not shown a secret yet. Further ones wait in the kernel's backlog.
	maxStrangers = 128
)

// Config describes a listener.
type Config struct {
	// Listen is the address to bind: "host:port", ":8410", "127.0.0.1:0".
	Listen string
	// Advertise are the host:port pairs that senders are told; port 0 is the port that was bound. Empty: the bound
	// address, or, where that is unspecified, the machine's global unicast addresses, and its loopback addresses last.
	Advertise []string
	// TLS asks for TLS 1.3. Without it, the secrets and the streams are readable on the network, and a sender that
	// reaches the wrong machine gives its secret away.
	TLS bool
	// Logger may be nil.
	Logger *slog.Logger
}

// Listener receives data connections. All its methods may be called concurrently.
type Listener struct {
	listener    net.Listener
	addresses   []string
	tls         *tls.Config // nil without TLS
	fingerprint []byte
	logger      *slog.Logger

	serving context.Context //nolint:containedctx // the listener's own life; it ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
	err     error

	mu       sync.Mutex
	expected map[[sha256.Size]byte]*Expectation // by the hash of the secret, so that a look-up's time tells nothing of it
}

// Listen binds the address and begins to receive connections. With TLS it makes a certificate of its own, which lives as
// long as the listener and is never written anywhere. ctx bounds Listen itself; the listener lives until Close.
func Listen(ctx context.Context, cfg Config) (*Listener, error) {
	l := &Listener{logger: cfg.Logger, expected: make(map[[sha256.Size]byte]*Expectation)}
	if l.logger == nil {
		l.logger = discard()
	}
	if cfg.TLS {
		certificate, fingerprint, err := newCertificate()
		if err != nil {
			return nil, err
		}
		l.tls, l.fingerprint = serverTLS(certificate), fingerprint
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, protocol.Failf(protocol.Permanent, "listening for data connections on %q (worker.data.listen): %w", cfg.Listen, err)
	}
	l.listener = listener
	if err := l.advertise(cfg.Advertise); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	l.serving, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.running.Go(l.serve)
	return l, nil
}

func (l *Listener) advertise(configured []string) error {
	bound, ok := l.listener.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("listening for data connections: %s is no TCP address", l.listener.Addr())
	}
	var machine []net.Addr
	if len(configured) == 0 && bound.IP.IsUnspecified() {
		var err error
		if machine, err = net.InterfaceAddrs(); err != nil {
			return fmt.Errorf("finding this machine's addresses (name them in worker.data.advertise): %w", err)
		}
	}
	var err error
	l.addresses, err = advertisedAddresses(bound, configured, machine)
	return err
}

// Addresses are the host:port pairs that senders are told, best first.
func (l *Listener) Addresses() []string { return slices.Clone(l.addresses) }

// Fingerprint is the SHA-256 of the certificate in DER form; nil without TLS.
func (l *Listener) Fingerprint() []byte { return slices.Clone(l.fingerprint) }

// TLS says whether connections are TLS 1.3.
func (l *Listener) TLS() bool { return l.tls != nil }

// Close stops listening, ends all expectations and the connections that no Accept has returned yet, and waits for the
// listener's goroutines. Connections that Accept has returned stay with their owners. It is idempotent.
func (l *Listener) Close() error {
	l.closing.Do(func() {
		l.stop()
		l.err = l.listener.Close()
		l.running.Wait()
		l.mu.Lock()
		open := make([]*Expectation, 0, len(l.expected))
		for _, e := range l.expected {
			open = append(open, e)
		}
		l.mu.Unlock()
		for _, e := range open {
			e.end(errListenerClosed)
		}
	})
	return l.err
}

// serve accepts connections until Close.
func (l *Listener) serve() {
	strangers := make(chan struct{}, maxStrangers)
	pause := time.Duration(0)
	for {
		select {
		case strangers <- struct{}{}:
		case <-l.serving.Done():
			return
		}
		conn, err := l.listener.Accept()
		if err != nil {
			if l.serving.Err() != nil {
				return
			}
			// Too many open files, or a connection that was gone before it was accepted.
			<-strangers
			pause = min(max(2*pause, 10*time.Millisecond), time.Second)
			l.logger.Warn("accepting a data connection failed; trying again", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-l.serving.Done():
				return
			}
			continue
		}
		pause = 0
		l.running.Go(func() {
			defer func() { <-strangers }()
			l.welcome(conn)
		})
	}
}

// welcome hands a connection to the expectation whose secret it shows, or refuses it.
func (l *Listener) welcome(conn net.Conn) {
	stop := context.AfterFunc(l.serving, func() { _ = conn.SetDeadline(aLongTimeAgo) })
	link, err := l.introduce(conn)
	if err == nil {
		stop()
		return
	}
	from := slog.String("from", conn.RemoteAddr().String())
	l.logger.WarnContext(l.serving, "refused a data connection", from, slog.Any("error", err))
	if link != nil {
		l.refuse(link, err)
	}
	stop()
	if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		l.logger.DebugContext(l.serving, "closing a refused data connection failed", from, slog.Any("error", err))
	}
}

// refuse tells the sender why.
func (l *Listener) refuse(link *link, err error) {
	whole, err := failureFrame(frameRefuse, protocol.AsFailure(err, protocol.Transient))
	if err != nil {
		l.logger.Error("a refusal could not be encoded", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(l.serving, introduction)
	defer cancel()
	if err := link.sayLast(ctx, whole); err != nil {
		l.logger.Debug("a refusal could not be sent", "error", err)
	}
}

// introduce reads a connection's hello and header, and delivers it. With an error, the link is not nil if the peer can be
// told.
func (l *Listener) introduce(conn net.Conn) (*link, error) {
	if err := conn.SetDeadline(time.Now().Add(introduction)); err != nil {
		return nil, err
	}
	s := &socket{Conn: conn}
	var over net.Conn = s
	if l.tls != nil {
		secure := tls.Server(s, l.tls)
		if err := secure.HandshakeContext(l.serving); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		over = secure
	}
	link := newLink(s, over)
	h, err := readHello(link)
	if err != nil {
		return link, helloError(err)
	}
	e := l.expecting(h.secret)
	if e == nil {
		return link, errUnexpected()
	}
	header, err := readHeader(link)
	if err != nil {
		return link, transient("reading the stream's header", err)
	}
	if header.Ref != e.ref {
		return link, protocol.Failf(protocol.Permanent, "the secret is that of step %s, and the header names step %s", e.ref, header.Ref)
	}
	if !l.claim(e) {
		return link, errUnexpected()
	}
	if err := link.write(frame(frameAccept, nil)); err != nil {
		err = transient("accepting the sender of step "+e.ref.String(), err)
		e.end(err)
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		e.end(err)
		return nil, err
	}
	e.deliver(newIncoming(link, header, h.stall))
	return link, nil
}

// helloError is what the sender of a bad hello is told.
func helloError(err error) error {
	var version *versionError
	if errors.As(err, &version) {
		return protocol.Failf(protocol.Permanent, "%w", version)
	}
	return transient("reading the sender's hello", err)
}

func errUnexpected() error {
	return protocol.Failf(protocol.Transient, "the secret is not one that is expected here: the offer has been used already, "+
		"has expired, or is another worker's; the step needs a new offer")
}

// readHeader reads the sender's header frame.
func readHeader(l *link) (protocol.StreamHeader, error) {
	var header protocol.StreamHeader
	t, payload, err := readFrame(l)
	if err != nil {
		return header, err
	}
	if t != frameHeader {
		return header, frameErrorf("frame of type 0x%02x instead of the header", byte(t))
	}
	if err := protocol.Decode(payload, &header); err != nil {
		return header, err
	}
	return header, header.Ref.Validate()
}

// expecting finds the expectation with the given secret.
func (l *Listener) expecting(secret [secretSize]byte) *Expectation {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.expected[sha256.Sum256(secret[:])]
	if e == nil || subtle.ConstantTimeCompare(e.secret[:], secret[:]) != 1 {
		return nil
	}
	return e
}

// claim uses the expectation's secret up. It says whether this call did.
func (l *Listener) claim(e *Expectation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := sha256.Sum256(e.secret[:])
	if l.expected[key] != e {
		return false
	}
	delete(l.expected, key)
	return true
}

var (
	errListenerClosed    = errors.New("the listener was closed")
	errExpectationClosed = errors.New("the expectation was closed")
)

// Expectation is a step that the listener expects the sender of. Its methods may be called concurrently.
type Expectation struct {
	listener *Listener
	ref      protocol.StepRef
	secret   [secretSize]byte

	mu       sync.Mutex
	incoming *Incoming // delivered, and not yet taken by Accept
	err      error     // why the expectation ended; nil while it is open
	taken    bool
	changed  chan struct{} // closed at the delivery or the end
}

// Expect registers a fresh one-time secret for the sender of one try of a step. The expectation ends when Accept returns,
// with Close, or with the listener's Close.
func (l *Listener) Expect(ref protocol.StepRef) *Expectation {
	e := &Expectation{listener: l, ref: ref, changed: make(chan struct{})}
	_, _ = rand.Read(e.secret[:]) // never fails (crypto/rand)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serving.Err() != nil {
		e.err = errListenerClosed
		close(e.changed)
		return e
	}
	l.expected[sha256.Sum256(e.secret[:])] = e
	return e
}

// Offer is what the sender needs to know. The caller adds its resume token.
func (e *Expectation) Offer() protocol.Offer {
	return protocol.Offer{
		Addresses:   e.listener.Addresses(),
		TLS:         e.listener.TLS(),
		Fingerprint: e.listener.Fingerprint(),
		Secret:      slices.Clone(e.secret[:]),
	}
}

// Accept waits for the sender that has the secret. With an error the expectation has ended; the error is a transient
// *protocol.Failure, or a cancelled one if ctx was cancelled. The caller closes the Incoming.
func (e *Expectation) Accept(ctx context.Context) (*Incoming, error) {
	select {
	case <-e.changed:
	case <-ctx.Done():
		e.end(context.Cause(ctx))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.incoming != nil {
		incoming := e.incoming
		e.incoming, e.taken = nil, true
		return incoming, nil
	}
	if e.taken {
		return nil, protocol.Failf(protocol.Permanent, "step %s: the sender's connection was accepted already", e.ref)
	}
	return nil, transient(fmt.Sprintf("step %s: waiting for the sender to connect to %v", e.ref, e.listener.addresses), e.err)
}

// Close ends the expectation: its secret is good for nothing from now on, and a connection that Accept has not returned
// is closed. It is idempotent.
func (e *Expectation) Close() { e.end(errExpectationClosed) }

// end ends the expectation with a reason, unless it has ended before.
func (e *Expectation) end(reason error) {
	e.listener.claim(e)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil || e.taken {
		return
	}
	e.err = reason
	if e.incoming != nil {
		_ = e.incoming.Close() // nobody has begun to use it
		e.incoming = nil
		return
	}
	close(e.changed)
}

// deliver hands a connection over, or closes it if the expectation has ended since its secret was claimed.
func (e *Expectation) deliver(incoming *Incoming) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		_ = incoming.Close() // nobody waits for it
		return
	}
	e.incoming = incoming
	close(e.changed)
}

// discard is the logger of those who were given none.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
