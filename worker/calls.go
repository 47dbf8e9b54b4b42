// Calls: how a receiver waits for its sender, whichever way the sender finds.

package worker

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/object"
	"github.com/zfleet/zfleet/worker/transport/tcp"
)

const (
	// callGrace is how much longer than its own attempt a sender waits for the receiver's answer to a call.
	callGrace = 2 * time.Second
	// callsPending bounds the messages for one stream that wait to be read.
	callsPending = 256
)

// incoming is the receiver's side of a way from the sender.
type incoming interface {
	Header() protocol.StreamHeader
	CopyTo(ctx context.Context, w io.Writer, opts transport.CopyOptions) (int64, error)
	Confirm(ctx context.Context, confirmation protocol.Confirmation) error
	Close() error
}

// doorbell is where a receiver waits for the sender of one try: at the data port, and at a subject for calls.
type doorbell struct {
	try         *try
	expectation *tcp.Expectation
	offer       protocol.Offer
	calls       *nats.Subscription
	messages    chan *nats.Msg
}

// listen begins to listen. The caller sends the offer, calls answer once, and close in any case.
func (t *try) listen() (*doorbell, error) {
	w := t.worker
	d := &doorbell{try: t, expectation: w.listener.Expect(t.item.Ref), messages: make(chan *nats.Msg, callsPending)}
	d.offer = d.expectation.Offer()
	d.offer.Subject = protocol.StreamSubject(w.config.Host, strings.ToLower(rand.Text()))
	d.offer.Compressions = []protocol.Compression{protocol.CompressionZstd}
	var err error
	if d.calls, err = w.config.Conn.ChanSubscribe(d.offer.Subject, d.messages); err != nil {
		d.expectation.Close()
		return nil, protocol.Failf(protocol.Transient, "listen for the sender's calls: %w", err)
	}
	return d, nil
}

func (d *doorbell) close(ctx context.Context) {
	d.expectation.Close()
	if err := d.calls.Unsubscribe(); !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
		d.try.closed(ctx, "subscription for calls", err)
	}
}

// answer waits for the sender, until ctx ends. Calls for ways that cannot be are answered so, and the next is waited for.
func (d *doorbell) answer(ctx context.Context) (incoming, error) {
	acceptContext, stop := context.WithCancel(ctx)
	defer stop()
	accepted := make(chan incoming, 1)
	var acceptError error
	var accepting sync.WaitGroup
	accepting.Go(func() {
		defer close(accepted)
		connection, err := d.expectation.Accept(acceptContext)
		if err != nil {
			acceptError = err
			return
		}
		accepted <- connection
	})
	defer func() {
		stop()
		accepting.Wait()
		for late := range accepted {
			d.try.closed(ctx, "connection that was not needed", late.Close())
		}
	}()
	for {
		select {
		case connection, ok := <-accepted:
			if !ok {
				return nil, acceptError
			}
			return connection, nil
		case message := <-d.messages:
			way, err := d.take(ctx, message)
			if way != nil {
				return way, nil
			}
			d.try.logger.DebugContext(ctx, "a call of the sender's led to nothing", slog.Any("error", err))
		}
	}
}

// take does what a call asks for, and answers it.
func (d *doorbell) take(ctx context.Context, message *nats.Msg) (incoming, error) {
	var call protocol.Call
	if err := protocol.ReadMessage(message.Header, message.Data, &call); err != nil {
		return nil, fmt.Errorf("a call that cannot be read: %w", err)
	}
	if subtle.ConstantTimeCompare(call.Secret, d.offer.Secret) != 1 || call.Header.Ref != d.try.item.Ref {
		return nil, errors.New("a call from somebody who has not got the offer")
	}
	way, err := d.follow(ctx, call)
	answer := protocol.CallAnswer{}
	if err != nil {
		answer.Failure = d.try.worker.failureOf(protocol.AsFailure(err, protocol.Transient))
	}
	reply, replyError := protocol.NewMessage(ctx, message.Reply, answer)
	if replyError == nil {
		replyError = message.RespondMsg(reply)
	}
	if replyError != nil && way != nil {
		d.try.closed(ctx, "way that cannot be answered for", way.Close())
		return nil, replyError
	}
	return way, err
}

func (d *doorbell) follow(ctx context.Context, call protocol.Call) (incoming, error) {
	t := d.try
	switch {
	case call.Dial != nil && t.item.Transport != protocol.TransportObject:
		connection, err := t.worker.dialer.DialSender(ctx, *call.Dial, call.Header.Ref, t.dialOptions())
		if err != nil {
			return nil, err
		}
		return connection, nil
	case call.Objects != nil && t.item.Transport != protocol.TransportTCP:
		stream, err := t.worker.objects.Receive(ctx, call, d.messages, object.ReceiveOptions{Logger: t.logger})
		if err != nil {
			return nil, err
		}
		return stream, nil
	}
	return nil, protocol.Failf(protocol.Usage, "the step's transport is %s, which has no such way", t.item.Transport)
}
