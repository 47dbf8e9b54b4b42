// Listener: where a worker receives data connections, and matches them with the steps that it expects.

package tcp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

const (
	// introduction bounds the time from a connection's acceptance until it has shown a secret that is expected.
	introduction = 5 * time.Second
	// maxStrangers bounds the connections that have not shown a secret yet. Further ones wait in the kernel's backlog.
	maxStrangers = 128
	// maxLingering bounds the connections that wait for another step. Further ones are closed.
	maxLingering = 1024
	// DefaultIdleTime is how long a connection waits for another step where nothing else is said.
	DefaultIdleTime = time.Minute
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
	// IdleTime is how long a connection may wait for the next step, a little more in fact, so that whoever dialled it closes
	// it first. Zero is DefaultIdleTime.
	IdleTime time.Duration
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
	idle        time.Duration

	serving context.Context //nolint:containedctx // the listener's own life; it ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
	err     error

	mu        sync.Mutex
	lingering int
	expected  map[[sha256.Size]byte]expected // by the hash of the secret, so that a look-up's time tells nothing of it
}

// Listen binds the address and begins to receive connections. With TLS it makes a certificate of its own, which lives as
// long as the listener and is never written anywhere. ctx bounds Listen itself; the listener lives until Close.
func Listen(ctx context.Context, cfg Config) (*Listener, error) {
	l := &Listener{logger: cfg.Logger, idle: cfg.IdleTime, expected: make(map[[sha256.Size]byte]expected)}
	if l.idle <= 0 {
		l.idle = DefaultIdleTime
	}
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

// Close stops listening, ends all expectations, the connections that no Accept has returned yet and those that wait for
// another step, and waits for the listener's goroutines. Connections that Accept has returned stay with their owners. It is
// idempotent.
func (l *Listener) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.stop() // under the lock, after which nothing more begins to run
		l.mu.Unlock()
		l.err = l.listener.Close()
		l.running.Wait()
		l.mu.Lock()
		open := make([]expected, 0, len(l.expected))
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
	guard := l.guard(conn)
	link, err := l.handshake(conn)
	if err == nil {
		err = l.introduce(link, link, guard)
	}
	if err != nil {
		l.turnAway(conn, link, guard, err)
	}
}

// guard closes a connection that has not found its step yet when the listener is closed. The returned function ends that, and
// says whether it was in time.
func (l *Listener) guard(conn net.Conn) func() bool {
	return context.AfterFunc(l.serving, func() { _ = conn.Close() })
}

// handshake gives a new connection its bounds, and TLS.
func (l *Listener) handshake(conn net.Conn) (*link, error) {
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
	link := newLink(s, over, conn.RemoteAddr().String())
	link.keep = l.linger
	return link, nil
}

// introduce reads a connection's hello and leaves it to the step whose secret it shows.
func (l *Listener) introduce(link *link, r io.Reader, guard func() bool) error {
	h, err := readHello(r)
	if err != nil {
		return helloError(err)
	}
	e := l.expecting(h.secret)
	switch {
	case e == nil:
		return errUnexpected()
	case h.flags&helloReverse != 0 != e.reverse():
		return protocol.Failf(protocol.Permanent, "the secret is that of a step whose stream goes the other way")
	case h.flags&helloAhead == 0:
		return e.meet(link, guard)
	}
	if err := link.write(frame(frameAccept, nil)); err != nil {
		return err
	}
	if !guard() {
		return errListenerClosed
	}
	link.handOver()
	return nil
}

// turnAway refuses a connection, if its peer can be told, and closes it.
func (l *Listener) turnAway(conn net.Conn, link *link, guard func() bool, err error) {
	defer guard()
	from := slog.String("from", conn.RemoteAddr().String())
	l.logger.WarnContext(l.serving, "refused a data connection", from, slog.Any("error", err))
	if link != nil {
		l.refuse(link, err)
	}
	if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		l.logger.DebugContext(l.serving, "closing a refused data connection failed", from, slog.Any("error", err))
	}
}

// refuse tells the peer why.
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

// linger waits for the next hello on a connection that has served a step, or was made ahead of it. It is the keep of the
// listener's links.
func (l *Listener) linger(before *link) {
	conn := before.socket.Conn
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serving.Err() != nil || l.lingering >= maxLingering {
		_ = conn.Close() // its peer dials anew
		return
	}
	l.lingering++
	l.running.Go(func() {
		guard := l.guard(conn)
		link, first, err := l.await(before)
		l.mu.Lock()
		l.lingering--
		l.mu.Unlock()
		if err != nil {
			l.logger.DebugContext(l.serving, "a free data connection ended", slog.String("from", before.peer.Address), slog.Any("error", err))
			guard()
			_ = conn.Close() // nobody waits for it
			return
		}
		if err := l.introduce(link, io.MultiReader(bytes.NewReader(first), link), guard); err != nil {
			l.turnAway(conn, link, guard, err)
		}
	})
}

// await waits for the first byte of the next hello. What follows has to come as fast as on a new connection.
func (l *Listener) await(before *link) (*link, []byte, error) {
	next, err := before.next()
	if err != nil {
		return nil, nil, err
	}
	if err := next.socket.SetReadDeadline(time.Now().Add(l.idle + lastWords)); err != nil {
		return nil, nil, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(next, first); err != nil {
		return nil, nil, err
	}
	return next, first, next.socket.SetDeadline(time.Now().Add(introduction))
}

// helloError is what the caller with a bad hello is told.
func helloError(err error) error {
	var version *versionError
	if errors.As(err, &version) {
		return protocol.Failf(protocol.Permanent, "%w", version)
	}
	return transport.Transient("reading the caller's hello", err)
}

func errUnexpected() error {
	return protocol.Failf(protocol.Transient, "the secret is not one that is expected here: the offer has been used already, "+
		"has expired, or is another worker's; the step needs a new offer")
}

// readHeader reads the sender's header frame, and its stall time.
func readHeader(r io.Reader) (protocol.StreamHeader, time.Duration, error) {
	t, payload, err := readFrame(r)
	if err != nil {
		return protocol.StreamHeader{}, 0, err
	}
	if t != frameHeader {
		return protocol.StreamHeader{}, 0, frameErrorf("frame of type 0x%02x instead of the header", byte(t))
	}
	return parseHeader(payload)
}

// expecting finds the expectation with the given secret.
func (l *Listener) expecting(secret [secretSize]byte) expected {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.expected[sha256.Sum256(secret[:])]
	if e == nil || !e.shown(secret) {
		return nil
	}
	return e
}

// discard is the logger of those who were given none.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
