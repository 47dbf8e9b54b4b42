package object

// What the tests have in common: a server with the bucket, a sender and receivers with connections of their own.

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

const (
	testSegment = 64 << 10
	testChunk   = 10_000
	testStall   = 2 * time.Second
	patience    = 20 * time.Second // for what is to happen at once
)

// stand is a server with the fleet's resources.
type stand struct {
	t      testing.TB
	server *natsserver.Server
	js     jetstream.JetStream
}

func newStand(t testing.TB, options protocol.ResourceOptions) *stand {
	t.Helper()
	server, _, js := natstest.Run(t)
	if options.StreamsMaxBytes == 0 {
		options.StreamsMaxBytes = 16 << 20
	}
	_, err := protocol.EnsureResources(t.Context(), js, options)
	require.NoError(t, err)
	return &stand{t: t, server: server, js: js}
}

// store is the object store as a worker with a connection of its own has it.
func (s *stand) store() *Store {
	s.t.Helper()
	conn, js := natstest.Connect(s.t, s.server)
	objects, err := js.ObjectStore(s.t.Context(), protocol.BucketStreams)
	require.NoError(s.t, err)
	store := Open(conn, js, objects)
	store.chunk, store.answer = testChunk, 200*time.Millisecond
	return store
}

func refOf(task int) protocol.StepRef {
	return protocol.StepRef{Plan: "20261123t015322-x7k2q", Task: task, Step: 1, Attempt: 1}
}

func headerOf(task int) protocol.StreamHeader {
	return protocol.StreamHeader{Ref: refOf(task), JobID: "prod.bravo", ToGUID: 0xbb}
}

func (s *stand) options(receivers int) StreamOptions {
	options := StreamOptions{Host: "alpha", Segment: testSegment, Window: 4 * testSegment, Stall: testStall}
	for task := range receivers {
		options.Refs = append(options.Refs, refOf(task))
	}
	return options
}

func (s *stand) send(store *Store, options StreamOptions) *Stream {
	s.t.Helper()
	stream, err := store.Send(s.t.Context(), options)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = stream.Close() }) // a test that cares has closed it
	return stream
}

// receiver stands for a receiver's worker: it answers the first call and has the Incoming.
type receiver struct {
	store    *Store
	offer    protocol.Offer
	messages chan *nats.Msg
	sub      *nats.Subscription
	task     int
}

func (s *stand) receiver(store *Store, task int) *receiver {
	s.t.Helper()
	r := &receiver{
		store: store, task: task, messages: make(chan *nats.Msg, 64),
		offer: protocol.Offer{
			Secret:  []byte("0123456789abcdef0123456789abcdef"),
			Subject: protocol.StreamSubject("bravo", strings.ToLower(rand.Text())),
		},
	}
	var err error
	r.sub, err = store.conn.ChanSubscribe(r.offer.Subject, r.messages)
	require.NoError(s.t, err)
	require.NoError(s.t, store.conn.Flush())
	return r
}

// accept waits for the call and begins to receive.
func (r *receiver) accept(ctx context.Context) (*Incoming, error) {
	for {
		var message *nats.Msg
		select {
		case message = <-r.messages:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if message.Reply == "" {
			continue
		}
		var call protocol.Call
		if err := protocol.ReadMessage(message.Header, message.Data, &call); err != nil {
			return nil, err
		}
		in, err := r.store.Receive(ctx, call, r.messages, ReceiveOptions{})
		if err != nil {
			return nil, err
		}
		r.store.say(message.Reply, protocol.CallAnswer{}, in.logger)
		return in, nil
	}
}

// received is what came of a receiver.
type received struct {
	bytes      []byte
	copied     error
	confirmed  error
	header     protocol.StreamHeader
	unexpected error
}

// take receives one stream as a worker does, into w.
func (r *receiver) take(ctx context.Context, w io.Writer, opts transport.CopyOptions) *received {
	result := &received{}
	defer func() { _ = r.sub.Unsubscribe() }()
	in, err := r.accept(ctx)
	if err != nil {
		result.unexpected = err
		return result
	}
	defer func() { result.unexpected = in.Close() }()
	result.header = in.Header()
	var into bytes.Buffer
	if w == nil {
		w = &into
	}
	n, err := in.CopyTo(ctx, w, opts)
	result.copied, result.bytes = err, into.Bytes()
	conf := protocol.Confirmation{ToGUID: result.header.ToGUID, Bytes: uint64(max(n, 0))}
	if err != nil {
		conf.Failure = protocol.AsFailure(err, protocol.Transient)
	}
	result.confirmed = in.Confirm(ctx, conf)
	return result
}

// taking is take in the background.
func (r *receiver) taking(ctx context.Context, w io.Writer, opts transport.CopyOptions) <-chan *received {
	results := make(chan *received, 1)
	go func() { results <- r.take(ctx, w, opts) }()
	return results
}

// result waits for what came of a receiver.
func result(t testing.TB, results <-chan *received) *received {
	t.Helper()
	select {
	case r := <-results:
		require.NoError(t, r.unexpected)
		return r
	case <-time.After(patience):
		t.Fatal("the receiver did not end")
		return nil
	}
}

// call calls a receiver for the task.
func (s *stand) call(stream *Stream, r *receiver) *Outgoing {
	s.t.Helper()
	outgoing, err := stream.Call(s.t.Context(), r.offer, headerOf(r.task))
	require.NoError(s.t, err)
	return outgoing
}

// nothingLeft checks that the bucket is empty.
func (s *stand) nothingLeft() {
	s.t.Helper()
	stream, err := s.js.Stream(s.t.Context(), protocol.StreamsStream)
	require.NoError(s.t, err)
	info, err := stream.Info(s.t.Context(), jetstream.WithSubjectFilter(">"))
	require.NoError(s.t, err)
	require.Empty(s.t, info.State.Subjects, "subjects that still have messages in the bucket")
}

// content is n bytes that are nowhere alike.
func content(n int) []byte {
	bytes := make([]byte, n)
	seed := uint64(88172645463325252)
	for i := range bytes {
		seed ^= seed << 13
		seed ^= seed >> 7
		seed ^= seed << 17
		bytes[i] = byte(seed)
	}
	return bytes
}

func sameBytes(t testing.TB, want, got []byte) {
	t.Helper()
	if !bytes.Equal(want, got) {
		require.Failf(t, "the bytes differ", "%d bytes were sent, %d received", len(want), len(got))
	}
}
