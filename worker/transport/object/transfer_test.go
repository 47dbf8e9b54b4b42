package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

func TestStreamsOfAllSizesArrive(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	sender, receiving := s.store(), s.store()
	for _, size := range []int{
		0, 1, testChunk - 1, testChunk, testChunk + 1, testSegment - 1, testSegment, testSegment + 1, 2 * testSegment,
		11*testSegment + 7,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := *s
			s.t = t
			sent := content(size)
			stream := s.send(sender, s.options(1))
			r := s.receiver(receiving, 0)
			results := r.taking(t.Context(), nil, transport.CopyOptions{})
			outgoing := s.call(stream, r)
			var counted atomic.Int64
			n, err := stream.CopyFrom(t.Context(), iotest.HalfReader(bytes.NewReader(sent)), transport.CopyOptions{Bytes: &counted})
			require.NoError(t, err)
			require.EqualValues(t, size, n)
			require.EqualValues(t, size, counted.Load())
			conf, err := outgoing.Confirmation(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, size, conf.Bytes)
			got := result(t, results)
			require.NoError(t, got.copied)
			require.NoError(t, got.confirmed)
			require.Equal(t, headerOf(0), got.header)
			sameBytes(t, sent, got.bytes)
			require.NoError(t, stream.Close())
			s.nothingLeft()
		})
	}
}

func TestOneStreamFeedsSeveralReceivers(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	sent := content(20*testSegment + 1)
	stream := s.send(s.store(), s.options(3))
	var results []<-chan *received
	var outgoing []*Outgoing
	for task := range 3 {
		r := s.receiver(s.store(), task)
		results = append(results, r.taking(t.Context(), nil, transport.CopyOptions{}))
		outgoing = append(outgoing, s.call(stream, r))
	}
	_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
	require.NoError(t, err)
	for task := range 3 {
		_, err := outgoing[task].Confirmation(t.Context())
		require.NoError(t, err)
		got := result(t, results[task])
		require.NoError(t, got.copied)
		require.NoError(t, got.confirmed)
		sameBytes(t, sent, got.bytes)
	}
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestTheReadersErrorReachesTheReceiver(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	broken := errors.New("pool tank is suspended")
	for name, sending := range map[string]struct {
		reader io.Reader
		finish func() error
	}{
		"Read":   {reader: io.MultiReader(bytes.NewReader(content(3*testSegment)), iotest.ErrReader(broken))},
		"Finish": {reader: bytes.NewReader(content(3 * testSegment)), finish: func() error { return broken }},
		"truncated": {
			reader: io.MultiReader(bytes.NewReader(content(3*testSegment)),
				iotest.ErrReader(fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, broken))),
		},
		"wrapped EOF": {
			reader: io.MultiReader(bytes.NewReader(content(3*testSegment)), iotest.ErrReader(fmt.Errorf("%w: %w", broken, io.EOF))),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := *s
			s.t = t
			stream := s.send(s.store(), s.options(1))
			r := s.receiver(s.store(), 0)
			results := r.taking(t.Context(), nil, transport.CopyOptions{})
			outgoing := s.call(stream, r)
			_, err := stream.CopyFrom(t.Context(), sending.reader, transport.CopyOptions{Finish: sending.finish})
			require.ErrorIs(t, err, broken)
			got := result(t, results)
			require.ErrorContains(t, got.copied, broken.Error())
			_, err = outgoing.Confirmation(t.Context())
			require.ErrorContains(t, err, broken.Error())
			require.NoError(t, stream.Close())
		})
	}
}

func TestTheReceiversFailureStopsTheSender(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	stream := s.send(s.store(), s.options(1))
	r := s.receiver(s.store(), 0)
	refused := make(chan error, 1)
	go func() {
		in, err := r.accept(t.Context())
		if err == nil {
			err = in.Confirm(t.Context(), protocol.Confirmation{Failure: protocol.Failf(protocol.Permanent, "no space")})
			err = errors.Join(err, in.Close(), r.sub.Unsubscribe())
		}
		refused <- err
	}()
	outgoing := s.call(stream, r)
	endless, _ := io.Pipe() // gives nothing and does not end
	_, err := stream.CopyFrom(t.Context(), endless, transport.CopyOptions{})
	require.ErrorContains(t, err, "no space")
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
	require.NoError(t, <-refused)
	conf, err := outgoing.Confirmation(t.Context())
	require.ErrorContains(t, err, "no space")
	require.NotNil(t, conf.Failure)
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestARefusedCallIsTheReceiversFailure(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	stream := s.send(s.store(), s.options(1))
	r := s.receiver(s.store(), 0)
	go func() {
		message := <-r.messages
		r.store.say(message.Reply, protocol.CallAnswer{Failure: protocol.Failf(protocol.Policy, "not allowed")}, loggerOr(nil))
	}()
	_, err := stream.Call(t.Context(), r.offer, headerOf(0))
	require.ErrorContains(t, err, "not allowed")
	require.Equal(t, protocol.Policy, protocol.KindOf(err, protocol.Transient))
	require.NoError(t, r.sub.Unsubscribe())

	options := s.options(1)
	options.Stall = 300 * time.Millisecond
	stream = s.send(s.store(), options)
	_, err = stream.Call(t.Context(), r.offer, headerOf(0))
	require.ErrorContains(t, err, "nobody listens")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
}

func TestCancellingTheSenderReachesTheReceiver(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	stream := s.send(s.store(), s.options(1))
	r := s.receiver(s.store(), 0)
	results := r.taking(t.Context(), nil, transport.CopyOptions{})
	s.call(stream, r)
	ctx, cancel := context.WithCancelCause(t.Context())
	var counted atomic.Int64
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(content(testSegment)) // until it is read
		cancel(errors.New("somebody pulled the plug"))
	}()
	_, err := stream.CopyFrom(ctx, reader, transport.CopyOptions{Bytes: &counted})
	require.ErrorContains(t, err, "somebody pulled the plug")
	require.ErrorContains(t, result(t, results).copied, "somebody pulled the plug")
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestAnUnfinishedStreamCannotBeConfirmed(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	stream := s.send(s.store(), s.options(1))
	r := s.receiver(s.store(), 0)
	accepted := make(chan *Incoming, 1)
	go func() {
		in, _ := r.accept(t.Context())
		accepted <- in
	}()
	outgoing := s.call(stream, r)
	in := <-accepted
	require.NotNil(t, in)
	require.ErrorContains(t, in.Confirm(t.Context(), protocol.Confirmation{}), "cannot be confirmed")
	require.NoError(t, in.Close())
	_, err := outgoing.Confirmation(t.Context())
	require.ErrorContains(t, err, "without a confirmation")
	require.NoError(t, r.sub.Unsubscribe())
}
