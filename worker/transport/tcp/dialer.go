// Dialer: who dials other workers, and keeps connections for the steps to come.

package tcp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// defaultMaxIdle is how many free connections to one worker are kept where nothing else is said.
const defaultMaxIdle = 16

// DialerOptions describe a dialer.
type DialerOptions struct {
	// Logger may be nil.
	Logger *slog.Logger
	// IdleTime is how long a connection is kept for the next step. Zero is DefaultIdleTime.
	IdleTime time.Duration
	// MaxIdle is how many free connections to one worker are kept. Zero is 16; a negative number keeps none.
	MaxIdle int
}

// Dialer dials other workers' listeners, as the sender of a step or as its receiver, and keeps the connections of steps that
// went well for the next step with the same worker. With TLS a worker is known by its certificate, without by the address that
// was dialled. All its methods may be called concurrently.
type Dialer struct {
	logger   *slog.Logger
	idleTime time.Duration
	maxIdle  int

	mu     sync.Mutex
	closed bool
	idle   map[string][]*idleLink // by link.key; that which came last is at the end

	watching sync.WaitGroup
}

// NewDialer makes a dialer. The caller closes it.
func NewDialer(opts DialerOptions) *Dialer {
	d := &Dialer{logger: opts.Logger, idleTime: opts.IdleTime, maxIdle: opts.MaxIdle, idle: make(map[string][]*idleLink)}
	if d.logger == nil {
		d.logger = discard()
	}
	if d.idleTime <= 0 {
		d.idleTime = DefaultIdleTime
	}
	if d.maxIdle == 0 {
		d.maxIdle = defaultMaxIdle
	}
	return d
}

// Dial connects to the receiver that made the offer, shows the offer's secret and sends the header. A free connection to that
// worker is used if there is one; if it turns out to be dead, or not to be that worker's, a new one is made. For a new one
// the offer's addresses are tried in order, each a quarter of a second after the one before or as soon as that has failed,
// and the first that connects and accepts is used. It returns once the receiver has accepted; the caller closes the Outgoing.
//
// The error is a *protocol.Failure: the receiver's own if it refused for a reason that another try does not change, and
// otherwise a transient one that names what happened at each address. It is ErrUnreachable if no address led to a worker
// that answered.
func (d *Dialer) Dial(ctx context.Context, offer protocol.Offer, header protocol.StreamHeader, opts DialOptions) (*Outgoing, error) {
	stall := promisedStall(opts.Stall)
	whole, err := headerFrame(header, stall)
	if err != nil {
		return nil, fmt.Errorf("step %s: encoding the stream's header: %w", header.Ref, err)
	}
	doing := fmt.Sprintf("step %s: connecting to the receiver", header.Ref)
	a, err := d.toReceiver(offer, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	opening := append(hello{secret: [secretSize]byte(offer.Secret)}.frame(), whole...)
	a.introduce = func(l *link) error { return ask(l, opening) }
	link, err := d.find(ctx, a)
	if err != nil {
		return nil, transport.Transient(doing, err)
	}
	return newOutgoing(link, stall), nil //nolint:contextcheck // the connection outlives the dialing
}

// Prepare makes a connection to the receiver that made the offer, if there is no free one, and leaves it for a following Dial,
// so that its handshakes take their time while the sender is looking at its pool. The secret is shown, but not used up. A
// Dial that does not want to wait for it can be called meanwhile, and makes its own. The error is as Dial's; it need not be
// looked at.
func (d *Dialer) Prepare(ctx context.Context, offer protocol.Offer, opts DialOptions) error {
	a, err := d.toReceiver(offer, opts)
	if err != nil {
		return err
	}
	if d.maxIdle < 0 || d.hasIdle(a) {
		return nil
	}
	opening := hello{secret: [secretSize]byte(offer.Secret), flags: helloAhead}.frame()
	a.introduce = func(l *link) error { return ask(l, opening) }
	link, err := d.dialNew(ctx, a)
	if err != nil {
		return transport.Transient("connecting to the receiver", err)
	}
	link.handOver()
	return nil
}

func (d *Dialer) toReceiver(offer protocol.Offer, opts DialOptions) (*approach, error) {
	return d.approach(&approach{
		addresses: offer.Addresses, secure: offer.TLS, fingerprint: offer.Fingerprint, peer: "receiver",
	}, offer.Secret, opts)
}

// DialSender connects to the sender that called its receiver to dial back, shows the secret, and accepts the header that the
// sender says then, if it is of the given step. Otherwise, it is as Dial. Of the options, Stall is not used: the sender says
// its own. The caller closes the Incoming.
func (d *Dialer) DialSender(ctx context.Context, back protocol.DialBack, ref protocol.StepRef, opts DialOptions) (*Incoming, error) {
	doing := fmt.Sprintf("step %s: connecting to the sender", ref)
	a, err := d.approach(&approach{
		addresses: back.Addresses, secure: back.TLS, fingerprint: back.Fingerprint, peer: "sender",
	}, back.Secret, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	opening := hello{secret: [secretSize]byte(back.Secret), flags: helloReverse}.frame()
	var header protocol.StreamHeader
	var stall time.Duration
	a.introduce = func(l *link) error {
		var err error
		header, stall, err = askHeader(l, opening, ref)
		return err
	}
	link, err := d.find(ctx, a)
	if err != nil {
		return nil, transport.Transient(doing, err)
	}
	link.peer.Reverse = true
	return newIncoming(link, header, stall), nil //nolint:contextcheck // the connection outlives the dialing
}

// approach completes a with what all have in common.
func (d *Dialer) approach(a *approach, secret []byte, opts DialOptions) (*approach, error) {
	if len(a.addresses) == 0 || len(secret) != secretSize || a.secure && len(a.fingerprint) == 0 {
		return nil, protocol.Failf(protocol.Permanent, "the %s's offer lacks an address, a secret of %d bytes or a fingerprint",
			a.peer, secretSize)
	}
	a.addresses = a.addresses[:min(len(a.addresses), maxAddresses)]
	a.patience, a.logger = opts.Patience, opts.Logger
	if a.logger == nil {
		a.logger = d.logger
	}
	return a, nil
}

// find gives a link on which the approach was accepted: over a free connection, or a new one.
func (d *Dialer) find(ctx context.Context, a *approach) (*link, error) {
	link, err := d.reuse(ctx, a)
	if link != nil || err != nil {
		return link, err
	}
	return d.dialNew(ctx, a)
}

// reuse tries the free connections to where a wants to. It gives neither a link nor an error where none of them will do.
func (d *Dialer) reuse(ctx context.Context, a *approach) (*link, error) {
	limit := introduction
	if a.patience > 0 {
		limit = min(limit, a.patience/2)
	}
	for _, key := range a.keys() {
		link := d.take(key)
		if link == nil {
			continue
		}
		err := a.introduceWithin(ctx, link, limit)
		if err == nil {
			return link, nil
		}
		a.logger.DebugContext(ctx, "a kept connection was of no use", slog.String("address", link.peer.Address), slog.Any("error", err))
		var refused *refusalError
		if errors.As(err, &refused) && refused.failure.Kind != protocol.Transient {
			return nil, err
		}
		d.drop(key) // they are as old, or older
	}
	return nil, nil
}

// dialNew makes a new connection.
func (d *Dialer) dialNew(ctx context.Context, a *approach) (*link, error) {
	within := ctx
	if a.patience > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeoutCause(ctx, a.patience, fmt.Errorf("gave up after %s", a.patience))
		defer cancel()
	}
	link, failed := a.dial(within)
	switch {
	case link != nil:
		link.keep = d.put
		return link, nil
	case ctx.Err() != nil:
		return nil, ended(ctx, failed)
	case within.Err() != nil:
		failed = append(failed, context.Cause(within))
	}
	return nil, joined(failed)
}

// idleLink is a free connection. A goroutine sees to it that it is dropped when its peer closes it or the idle time is over.
type idleLink struct {
	*link
	watched chan struct{} // closed when the goroutine has returned
	dead    bool          // set by the goroutine
}

// put keeps a connection for another step. It is the keep of the dialer's links.
func (d *Dialer) put(before *link) {
	next, err := before.next()
	if err == nil {
		err = next.socket.SetReadDeadline(time.Now().Add(d.idleTime))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil || d.closed || len(d.idle[before.key]) >= d.maxIdle {
		_ = before.socket.Close() // it has done its work
		return
	}
	kept := &idleLink{link: next, watched: make(chan struct{})}
	d.idle[kept.key] = append(d.idle[kept.key], kept)
	d.watching.Go(func() { d.watch(kept) })
}

// watch waits for a free connection's end, below TLS: until the next hello its peer has nothing to say.
func (d *Dialer) watch(kept *idleLink) {
	n, err := kept.socket.Conn.Read(make([]byte, 1))
	kept.dead = n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
	close(kept.watched)
	if d.remove(kept) {
		_ = kept.close() // it has done its work
	}
}

// remove takes a connection out of those that are kept. It says whether it was among them.
func (d *Dialer) remove(kept *idleLink) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	links := d.idle[kept.key]
	i := slices.Index(links, kept)
	if i < 0 {
		return false
	}
	if links = slices.Delete(links, i, i+1); len(links) == 0 {
		delete(d.idle, kept.key)
	} else {
		d.idle[kept.key] = links
	}
	return true
}

// take gives the connection that was freed last and lives, or nil.
func (d *Dialer) take(key string) *link {
	for {
		d.mu.Lock()
		links := d.idle[key]
		if len(links) == 0 {
			d.mu.Unlock()
			return nil
		}
		kept := links[len(links)-1]
		d.mu.Unlock()
		if d.remove(kept) && kept.release() {
			return kept.link
		}
	}
}

// release ends the watch over a connection that is no longer among the kept ones, and says whether it lives. If not, it is
// closed.
func (kept *idleLink) release() bool {
	_ = kept.socket.Conn.SetReadDeadline(aLongTimeAgo) // a closed connection is dead already
	<-kept.watched
	if kept.dead || kept.socket.renew() != nil {
		_ = kept.close() // it is of no use
		return false
	}
	return true
}

// drop closes all free connections to a worker.
func (d *Dialer) drop(key string) {
	for link := d.take(key); link != nil; link = d.take(key) {
		_ = link.close() // it was not needed
	}
}

// hasIdle says whether there is a free connection to where a wants to.
func (d *Dialer) hasIdle(a *approach) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(a.keys(), func(key string) bool { return len(d.idle[key]) > 0 })
}

// Close closes the connections that are kept, and keeps none from now on. Those in use stay with their owners. It is
// idempotent.
func (d *Dialer) Close() {
	d.mu.Lock()
	d.closed = true
	keys := make([]string, 0, len(d.idle))
	for key := range d.idle {
		keys = append(keys, key)
	}
	d.mu.Unlock()
	for _, key := range keys {
		d.drop(key)
	}
	d.watching.Wait()
}

// keys are what the free connections to where a wants to may be found by.
func (a *approach) keys() []string {
	if a.secure {
		return []string{hex.EncodeToString(a.fingerprint)}
	}
	return a.addresses
}

// key is what a new connection to an address will be found by.
func (a *approach) key(address string) string {
	if a.secure {
		return hex.EncodeToString(a.fingerprint)
	}
	return address
}
