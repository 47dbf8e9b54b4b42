// Routes: how the sender finds a way to a receiver.
//
// There are three: a connection to the receiver's data port, one from it to the sender's, for which the sender asks through
// NATS, and the object store. Transport tcp tries the first two, auto all three, in this order. What did not work is
// remembered for a while, so that not each of a thousand small steps waits for it.

package worker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/object"
	"github.com/zfleet/zfleet/worker/transport/tcp"
)

const (
	// patience is how long one direction is tried where another way is left, and lastPatience where it is the last.
	patience     = 5 * time.Second
	lastPatience = 15 * time.Second
	// unreachableFor is how long a direction that did not work is not tried again while another does.
	unreachableFor = 5 * time.Minute
)

// way is the sender's side of a way to one receiver.
type way interface {
	// Confirmation waits for the receiver to say how the step ended.
	Confirmation(ctx context.Context) (protocol.Confirmation, error)
	// Abort tells the receiver that there will be no whole stream, and why, and ends the way.
	Abort(ctx context.Context, failure *protocol.Failure)
	Close() error
}

// sink is what a stream is copied into. A connection is one for its own receiver; that of the object store is one for all
// receivers that take the stream from there.
type sink interface {
	CopyFrom(ctx context.Context, r io.Reader, opts transport.CopyOptions) (int64, error)
}

// route is a way that was found.
type route struct {
	way  way
	sink sink
	path protocol.Path
	// over is closed when the receiver's part has ended before the sink's: it failed, or was too slow for the others. It is
	// nil where sink and way are one.
	over <-chan struct{}
}

// connect finds a way to the try's receiver.
func (t *try) connect(ctx context.Context, header protocol.StreamHeader, objects *sharedObjects) (*route, error) {
	var reasons []string
	var failed error
	for _, direction := range t.directions() {
		if reason, found := t.worker.unreachable.recall(direction.key); found && direction.key != "" {
			reasons = append(reasons, reason)
			continue
		}
		found, err := direction.find(ctx, header, objects)
		if err == nil {
			found.path.Reason = strings.Join(reasons, "; ")
			return found, nil
		}
		if failed = err; !errors.Is(err, tcp.ErrUnreachable) || ctx.Err() != nil {
			break
		}
		reasons = append(reasons, err.Error())
		t.worker.unreachable.remember(direction.key, err.Error())
	}
	for _, direction := range t.directions() {
		t.worker.unreachable.forget(direction.key) // with no way left, each is worth another look the next time
	}
	if failed == nil {
		failed = errors.New(strings.Join(reasons, "; "))
	} else if len(reasons) > 1 {
		failed = fmt.Errorf("%s; %w", strings.Join(reasons[:len(reasons)-1], "; "), failed)
	}
	return nil, protocol.AsFailure(fmt.Errorf("no way to %s: %w", t.item.Target, failed), protocol.Transient)
}

// direction is one of the ways to try.
type direction struct {
	// key is under which it is remembered that it does not work; empty is never.
	key  string
	find func(ctx context.Context, header protocol.StreamHeader, objects *sharedObjects) (*route, error)
}

// directions are the ways that the item's transport allows, in order.
func (t *try) directions() []direction {
	offer := t.item.Offer
	peer := string(t.item.Target) + " " + hex.EncodeToString(offer.Fingerprint) + " " + strings.Join(offer.Addresses, " ")
	forward := direction{"to " + peer, t.dial}
	reverse := direction{"from " + peer, t.beDialled}
	objects := direction{"", t.throughObjects}
	switch {
	case t.item.Transport == protocol.TransportObject:
		return []direction{objects}
	case offer.Subject == "":
		return []direction{{"", t.dial}}
	case t.item.Transport == protocol.TransportTCP:
		return []direction{forward, reverse}
	}
	return []direction{forward, reverse, objects}
}

func (t *try) dialOptions() tcp.DialOptions {
	options := tcp.DialOptions{Stall: t.item.Deadlines.Stall.Std(), Patience: lastPatience, Logger: t.logger}
	if t.item.Transport == protocol.TransportAuto {
		options.Patience = patience
	}
	return options
}

// headStart is a connection to the receiver that is being made while the sender still looks at its pool.
type headStart struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// dialAhead begins to connect to the receiver's data port, if that is to be tried. The caller calls end.
func (t *try) dialAhead(ctx context.Context) *headStart {
	ctx, cancel := context.WithCancel(ctx)
	h := &headStart{cancel: cancel, done: make(chan struct{})}
	_, known := t.worker.unreachable.recall(t.directions()[0].key)
	if known || t.item.Transport == protocol.TransportObject {
		close(h.done)
		return h
	}
	go func() {
		defer close(h.done)
		h.err = t.worker.dialer.Prepare(ctx, *t.item.Offer, t.dialOptions())
	}()
	return h
}

// end waits until nothing is going on any more. A connection that was made is kept for the next step.
func (h *headStart) end() {
	h.cancel()
	<-h.done
}

// dial connects to the receiver's data port.
func (t *try) dial(ctx context.Context, header protocol.StreamHeader, _ *sharedObjects) (*route, error) {
	select {
	case <-t.ahead.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if errors.Is(t.ahead.err, tcp.ErrUnreachable) {
		return nil, t.ahead.err
	}
	connection, err := t.worker.dialer.Dial(ctx, *t.item.Offer, header, t.dialOptions())
	if err != nil {
		return nil, err
	}
	return routeOf(connection), nil
}

// beDialled asks the receiver to connect to the sender's data port.
func (t *try) beDialled(ctx context.Context, header protocol.StreamHeader, _ *sharedObjects) (*route, error) {
	options := t.dialOptions()
	expectation := t.worker.listener.ExpectReceiver(header, options.Stall)
	defer expectation.Close()
	back := expectation.DialBack()
	call := protocol.Call{Secret: t.item.Offer.Secret, Header: header, Dial: &back}
	callContext, cancel := context.WithTimeout(ctx, options.Patience+callGrace)
	defer cancel()
	if err := protocol.PlaceCall(callContext, t.worker.config.Conn, t.item.Offer.Subject, call); err != nil {
		return nil, &unreachableError{fmt.Errorf("asking the receiver to connect to %s: %w", strings.Join(back.Addresses, ", "), err)}
	}
	connection, err := expectation.Accept(callContext)
	if err != nil {
		return nil, err
	}
	return routeOf(connection), nil
}

// unreachableError is why the receiver does not reach the sender. It is tcp.ErrUnreachable, as what the sender finds itself.
type unreachableError struct{ reason error }

func (e *unreachableError) Error() string        { return e.reason.Error() }
func (e *unreachableError) Unwrap() error        { return e.reason }
func (e *unreachableError) Is(target error) bool { return target == tcp.ErrUnreachable }

func routeOf(connection *tcp.Outgoing) *route {
	peer := connection.Peer()
	return &route{way: connection, sink: connection, path: protocol.Path{
		Transport: protocol.TransportTCP, Address: peer.Address, TLS: peer.TLS, Reused: peer.Reused, Reverse: peer.Reverse,
	}}
}

// throughObjects asks the receiver to take the stream from the object store.
func (t *try) throughObjects(ctx context.Context, header protocol.StreamHeader, objects *sharedObjects) (*route, error) {
	stream, err := objects.open(ctx)
	if err != nil {
		return nil, err
	}
	callContext, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	outgoing, err := stream.Call(callContext, *t.item.Offer, header)
	if err != nil {
		return nil, err
	}
	return &route{way: outgoing, sink: stream, over: outgoing.Done(), path: protocol.Path{Transport: protocol.TransportObject}}, nil
}

// sharedObjects is the stream in the object store that the receivers of one claim share. It is made when the first needs it.
type sharedObjects struct {
	claim *claim

	mu     sync.Mutex
	stream *object.Stream
}

func (o *sharedObjects) open(ctx context.Context) (*object.Stream, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stream != nil {
		return o.stream, nil
	}
	item := o.claim.item
	var refs []protocol.StepRef
	for _, one := range item.Each() {
		refs = append(refs, one.Ref)
	}
	stream, err := o.claim.worker.objects.Send(ctx, object.StreamOptions{
		Host: item.Source, Refs: refs,
		Segment: int64(item.Delivery.Objects.Segment), Window: int64(item.Delivery.Objects.Window), //nolint:gosec // bounded
		Lag: item.Delivery.FanOut.Lag.Std(), Stall: item.Deadlines.Stall.Std(), Logger: o.claim.logger,
	})
	if err != nil {
		return nil, protocol.AsFailure(fmt.Errorf("opening a stream in the object store: %w", err), protocol.Transient)
	}
	o.stream = stream
	return stream, nil
}

// close removes what is left of the stream.
func (o *sharedObjects) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stream == nil {
		return nil
	}
	return o.stream.Close()
}

// tellPath tells which way the stream takes, in an event that is not waited for (the event of the step's end has it too), and
// in the span.
func (t *try) tellPath(ctx context.Context, path protocol.Path) {
	trace.SpanFromContext(ctx).AddEvent("connected", trace.WithAttributes(
		attribute.String("zfleet.target", string(t.item.Target)), attribute.String("zfleet.transport", string(path.Transport)),
		attribute.Bool("zfleet.reverse", path.Reverse), attribute.Bool("zfleet.reused", path.Reused),
		attribute.Int("zfleet.receivers", path.Receivers), attribute.String("zfleet.reason", path.Reason)))
	t.logger.InfoContext(ctx, "connected", slog.String("path", path.String()))
	event := t.reporter.event(protocol.EventConnected)
	event.Path = &path
	t.reporter.mention(ctx, event)
}

// unreachable remembers what does not work, and why.
type unreachable struct {
	mu     sync.Mutex
	failed map[string]failedDirection
}

type failedDirection struct {
	reason string
	until  time.Time
}

func newUnreachable() *unreachable { return &unreachable{failed: map[string]failedDirection{}} }

func (u *unreachable) remember(key, reason string) {
	if key == "" {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	for old, failed := range u.failed {
		if now.After(failed.until) {
			delete(u.failed, old)
		}
	}
	u.failed[key] = failedDirection{
		reason: fmt.Sprintf("%s (found at %s)", reason, now.UTC().Format(time.TimeOnly)), until: now.Add(unreachableFor),
	}
}

func (u *unreachable) recall(key string) (reason string, found bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	failed, found := u.failed[key]
	return failed.reason, found && time.Now().Before(failed.until)
}

func (u *unreachable) forget(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.failed, key)
}
