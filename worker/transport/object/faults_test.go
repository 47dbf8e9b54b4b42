package object

// Damage, death, silence and slowness: what is noticed, and what goes on all the same.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// bucket is the stream behind the object store.
func (s *stand) bucket() jetstream.Stream {
	s.t.Helper()
	stream, err := s.js.Stream(s.t.Context(), protocol.StreamsStream)
	require.NoError(s.t, err)
	return stream
}

// chunksOf are the messages of a segment's first try.
func (s *stand) chunksOf(stream *Stream, number uint64) (subject string, chunks [][]byte) {
	s.t.Helper()
	subject = protocol.ObjectChunksSubject(
		protocol.ChunksName{Segment: protocol.SegmentName{Stream: stream.name, Number: number}}.String())
	bucket := s.bucket()
	for sequence := uint64(1); ; {
		message, err := bucket.GetMsg(s.t.Context(), sequence, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return subject, chunks
		}
		require.NoError(s.t, err)
		chunks, sequence = append(chunks, message.Data), message.Sequence+1
	}
}

// restore puts other chunks in the place of a segment's.
func (s *stand) restore(subject string, chunks [][]byte) {
	s.t.Helper()
	require.NoError(s.t, s.bucket().Purge(s.t.Context(), jetstream.WithPurgeSubject(subject)))
	for _, chunk := range chunks {
		_, err := s.js.Publish(s.t.Context(), subject, chunk)
		require.NoError(s.t, err)
	}
}

func TestDamageInTheObjectStoreIsNoticed(t *testing.T) {
	t.Parallel()
	const damaged = 2 // the segment
	for name, damage := range map[string]func(s *stand, stream *Stream){
		"a flipped bit": func(s *stand, stream *Stream) {
			subject, chunks := s.chunksOf(stream, damaged)
			chunks[3][5] ^= 1
			s.restore(subject, chunks)
		},
		"a missing chunk": func(s *stand, stream *Stream) {
			subject, chunks := s.chunksOf(stream, damaged)
			s.restore(subject, append(chunks[:2:2], chunks[3:]...))
		},
		"a missing end": func(s *stand, stream *Stream) {
			subject, chunks := s.chunksOf(stream, damaged)
			s.restore(subject, chunks[:len(chunks)-1])
		},
		"a shorter last chunk": func(s *stand, stream *Stream) {
			subject, chunks := s.chunksOf(stream, damaged)
			last := len(chunks) - 1
			chunks[last] = chunks[last][1:]
			s.restore(subject, chunks)
		},
		"a chunk twice": func(s *stand, stream *Stream) {
			subject, chunks := s.chunksOf(stream, damaged)
			s.restore(subject, append(chunks[:1:1], chunks...))
		},
		"swapped chunks": func(s *stand, stream *Stream) {
			subject, chunks := s.chunksOf(stream, damaged)
			chunks[0], chunks[1] = chunks[1], chunks[0]
			s.restore(subject, chunks)
		},
		"another segment": func(s *stand, stream *Stream) {
			subject, _ := s.chunksOf(stream, damaged)
			_, chunks := s.chunksOf(stream, damaged+1)
			s.restore(subject, chunks)
		},
		"an absent segment": func(s *stand, stream *Stream) {
			require.NoError(s.t, protocol.RemoveSegment(s.t.Context(), s.bucket(),
				protocol.ChunksName{Segment: protocol.SegmentName{Stream: stream.name, Number: damaged}}))
		},
		"an absent object": func(s *stand, stream *Stream) {
			subject := protocol.ObjectMetaSubject(protocol.SegmentName{Stream: stream.name, Number: damaged}.String())
			require.NoError(s.t, s.bucket().Purge(s.t.Context(), jetstream.WithPurgeSubject(subject)))
		},
		"another object": func(s *stand, stream *Stream) {
			name := protocol.ChunksName{Segment: protocol.SegmentName{Stream: stream.name, Number: damaged}}
			message, err := protocol.ObjectMetaMessage(jetstream.ObjectInfo{
				ObjectMeta: jetstream.ObjectMeta{Name: name.Segment.String()}, NUID: name.String(), Size: testSegment,
				Chunks: 7, Digest: digestText(make([]byte, 32)),
			})
			require.NoError(s.t, err)
			_, err = s.js.PublishMsg(s.t.Context(), message)
			require.NoError(s.t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, protocol.ResourceOptions{})
			options := s.options(1)
			stream := s.send(s.store(), options)
			r := s.receiver(s.store(), 0)
			accepted := make(chan *Incoming, 1)
			go func() {
				in, _ := r.accept(t.Context())
				accepted <- in
			}()
			outgoing := s.call(stream, r)
			in := <-accepted
			require.NotNil(t, in)
			sent := content(20 * testSegment)
			copied := make(chan error, 1)
			go func() {
				_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
				copied <- err
			}()
			full, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			require.NoError(t, stream.until(full, func() bool { return len(stream.stored) == 4 }), "the window is full")
			damage(s, stream)

			var got bytes.Buffer
			n, err := in.CopyTo(t.Context(), &got, transport.CopyOptions{Stall: 300 * time.Millisecond})
			require.Error(t, err)
			require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
			require.ErrorContains(t, err, protocol.SegmentName{Stream: stream.name, Number: damaged}.String(), "it says where")
			require.EqualValues(t, damaged*testSegment, n, "what was intact up to there, and nothing else")
			sameBytes(t, sent[:damaged*testSegment], got.Bytes())
			require.Error(t, in.Confirm(t.Context(), protocol.Confirmation{}), "it was not completely received")
			require.NoError(t, in.Confirm(t.Context(), protocol.Confirmation{Failure: protocol.AsFailure(err, protocol.Transient)}))
			require.ErrorContains(t, <-copied, err.Error())
			_, confirmed := outgoing.Confirmation(t.Context())
			require.ErrorContains(t, confirmed, err.Error())
			require.NoError(t, in.Close())
			require.NoError(t, r.sub.Unsubscribe())
			require.NoError(t, stream.Close())
			s.nothingLeft()
		})
	}
}

// gate is a writer that lets through what it is allowed to, and tells when it is asked for more.
type gate struct {
	bytes.Buffer
	mu      sync.Mutex
	allowed chan int // bytes
	asked   chan struct{}
	once    sync.Once
	closed  chan struct{}
	left    int
}

func newGate() *gate {
	return &gate{allowed: make(chan int, 1024), asked: make(chan struct{}), closed: make(chan struct{})}
}

func (g *gate) Write(p []byte) (int, error) {
	for g.left < len(p) {
		select {
		case n := <-g.allowed:
			g.left += n
			continue
		default:
		}
		g.once.Do(func() { close(g.asked) })
		select {
		case n := <-g.allowed:
			g.left += n
		case <-g.closed:
			return 0, io.ErrClosedPipe
		}
	}
	g.left -= len(p)
	return g.Buffer.Write(p)
}

func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.closed:
	default:
		close(g.closed)
	}
	return nil
}

const everything = 1 << 40

func TestARestartOfNATSIsPassedOver(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	options := s.options(2)
	options.Stall = time.Minute
	sending := s.store()
	stream := s.send(sending, options)
	sent := content(40 * testSegment)
	first, second := newGate(), newGate()
	var results []<-chan *received
	var outgoing []*Outgoing
	for task, w := range []*gate{first, second} {
		r := s.receiver(s.store(), task)
		results = append(results, r.taking(t.Context(), w, transport.CopyOptions{}))
		outgoing = append(outgoing, s.call(stream, r))
	}
	copied := make(chan error, 1)
	go func() {
		_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
		copied <- err
	}()
	for range 3 {
		<-first.asked // there is a stream under way
		natstest.Restart(t, s.server)
		first.allowed <- 5 * testSegment
		second.allowed <- 5 * testSegment
	}
	first.allowed <- everything
	second.allowed <- everything
	select {
	case err := <-copied:
		require.NoError(t, err)
	case <-time.After(3 * patience):
		t.Fatal("the sender did not end")
	}
	for task, w := range []*gate{first, second} {
		_, err := outgoing[task].Confirmation(t.Context())
		require.NoError(t, err)
		got := result(t, results[task])
		require.NoError(t, got.copied)
		require.NoError(t, got.confirmed)
		sameBytes(t, sent, w.Bytes())
	}
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestADeadReceiverIsDroppedAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	options := s.options(2)
	options.Stall = testStall
	stream := s.send(s.store(), options)
	sent := content(20 * testSegment)
	dying, living := s.receiver(s.store(), 0), s.receiver(s.store(), 1)
	stuck := newGate()
	dead := dying.taking(t.Context(), stuck, transport.CopyOptions{})
	alive := living.taking(t.Context(), nil, transport.CopyOptions{})
	deadOutgoing, aliveOutgoing := s.call(stream, dying), s.call(stream, living)
	go func() {
		<-stuck.asked
		dying.store.conn.Close()
	}()
	_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
	require.NoError(t, err)
	<-deadOutgoing.Done()
	_, err = deadOutgoing.Confirmation(t.Context())
	require.ErrorContains(t, err, "no sign of life")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
	_, err = aliveOutgoing.Confirmation(t.Context())
	require.NoError(t, err)
	got := result(t, alive)
	require.NoError(t, got.copied)
	sameBytes(t, sent, got.bytes)
	require.NoError(t, stuck.Close())
	require.Error(t, (<-dead).copied)
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestADeadSenderIsNoticed(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	options := s.options(1)
	options.Stall = testStall
	sending := s.store()
	stream := s.send(sending, options)
	r := s.receiver(s.store(), 0)
	results := r.taking(t.Context(), nil, transport.CopyOptions{})
	s.call(stream, r)
	reader, writer := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		_, err := stream.CopyFrom(t.Context(), reader, transport.CopyOptions{})
		copied <- err
	}()
	_, err := writer.Write(content(2 * testSegment))
	require.NoError(t, err)
	sending.conn.Close()
	got := result(t, results)
	require.ErrorContains(t, got.copied, "no sign of life")
	require.Error(t, got.confirmed)
	require.Equal(t, protocol.Transient, protocol.KindOf(<-copied, protocol.Permanent), "the sender hears nothing either")
	require.Error(t, stream.Close(), "what is left could not be removed")

	streams, _, err := protocol.StoredStreams(t.Context(), s.js)
	require.NoError(t, err)
	require.Len(t, streams, 1)
	require.Equal(t, options.Refs, streams[0].Refs)
	require.NoError(t, streams[0].Remove(t.Context(), s.js))
	s.nothingLeft()
}

func TestWithoutNATSBothSidesGiveUp(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	options := s.options(1)
	options.Stall = testStall
	stream := s.send(s.store(), options)
	r := s.receiver(s.store(), 0)
	stuck := newGate()
	results := r.taking(t.Context(), stuck, transport.CopyOptions{})
	outgoing := s.call(stream, r)
	copied := make(chan error, 1)
	go func() {
		_, err := stream.CopyFrom(t.Context(), bytes.NewReader(content(20*testSegment)), transport.CopyOptions{})
		copied <- err
	}()
	<-stuck.asked
	s.server.Shutdown()
	stuck.allowed <- everything
	require.Equal(t, protocol.Transient, protocol.KindOf(<-copied, protocol.Permanent))
	_, err := outgoing.Confirmation(t.Context())
	require.Error(t, err)
	require.Error(t, result(t, results).copied)
	require.Error(t, stream.Close())
}

func TestAReceiverThatHoldsBackTheOthersIsDropped(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	options := s.options(3)
	options.Lag = 100 * time.Millisecond
	stream := s.send(s.store(), options)
	sent := content(20 * testSegment)
	slow := newGate()
	var results []<-chan *received
	var outgoing []*Outgoing
	for task := range 3 {
		r := s.receiver(s.store(), task)
		var w io.Writer
		if task == 1 {
			w = slow
		}
		results = append(results, r.taking(t.Context(), w, transport.CopyOptions{}))
		outgoing = append(outgoing, s.call(stream, r))
	}
	_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
	require.NoError(t, err)
	_, err = outgoing[1].Confirmation(t.Context())
	require.ErrorContains(t, err, "held back all other receivers")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
	slow.allowed <- everything
	got := result(t, results[1])
	require.ErrorContains(t, got.copied, "held back all other receivers")
	for _, task := range []int{0, 2} {
		_, err := outgoing[task].Confirmation(t.Context())
		require.NoError(t, err)
		got := result(t, results[task])
		require.NoError(t, got.copied)
		sameBytes(t, sent, got.bytes)
	}
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestASlowReceiverSlowsTheSender(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	options := s.options(1)
	stream := s.send(s.store(), options)
	sent := content(30 * testSegment)
	slow := newGate()
	r := s.receiver(s.store(), 0)
	results := r.taking(t.Context(), slow, transport.CopyOptions{})
	outgoing := s.call(stream, r)
	var read atomic.Int64
	copied := make(chan error, 1)
	go func() {
		_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{Bytes: &read})
		copied <- err
	}()
	for range 30 {
		slow.allowed <- testSegment
		state, err := s.bucket().Info(t.Context())
		require.NoError(t, err)
		const room = 64 << 10 // for what is not the stream's: subjects, headers, the objects' own messages
		require.LessOrEqual(t, state.State.Bytes, uint64(options.Window)+room, "bytes in the bucket")
	}
	require.NoError(t, <-copied)
	_, err := outgoing.Confirmation(t.Context())
	require.NoError(t, err)
	require.NoError(t, result(t, results).copied)
	sameBytes(t, sent, slow.Bytes())
	require.EqualValues(t, len(sent), read.Load())
	require.NoError(t, stream.Close())
}

func TestAStandstillEndsTheCopy(t *testing.T) {
	t.Parallel()
	for name, who := range map[string]struct{ sender, receiver transport.CopyOptions }{
		"the sender's":   {sender: transport.CopyOptions{Idle: 200 * time.Millisecond}},
		"the receiver's": {receiver: transport.CopyOptions{Idle: 200 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, protocol.ResourceOptions{})
			stream := s.send(s.store(), s.options(1))
			r := s.receiver(s.store(), 0)
			stuck := newGate()
			results := r.taking(t.Context(), stuck, who.receiver)
			s.call(stream, r)
			copied := make(chan error, 1)
			go func() {
				_, err := stream.CopyFrom(t.Context(), bytes.NewReader(content(20*testSegment)), who.sender)
				copied <- err
			}()
			require.ErrorContains(t, <-copied, "no byte of the stream moved")
			require.NoError(t, stuck.Close())
			require.Error(t, result(t, results).copied)
			require.NoError(t, stream.Close())
			s.nothingLeft()
		})
	}
}

func TestAFullBucketFailsTheStreamWithWhatToDo(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{StreamsMaxBytes: 4 * testSegment})
	options := s.options(1)
	options.Window, options.Stall = 20*testSegment, 500*time.Millisecond
	stream := s.send(s.store(), options)
	r := s.receiver(s.store(), 0)
	stuck := newGate()
	results := r.taking(t.Context(), stuck, transport.CopyOptions{})
	outgoing := s.call(stream, r)
	_, err := stream.CopyFrom(t.Context(), bytes.NewReader(content(20*testSegment)), transport.CopyOptions{})
	require.ErrorContains(t, err, "coordinator.streams.max_bytes")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
	require.NoError(t, stuck.Close())
	require.Error(t, result(t, results).copied)
	_, err = outgoing.Confirmation(t.Context())
	require.Error(t, err)
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestAFullBucketIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{StreamsMaxBytes: 6 * testSegment})
	other := protocol.ObjectChunksSubject("other")
	for {
		_, err := s.js.Publish(t.Context(), other, content(testSegment/4))
		if protocol.StreamsFull(err) {
			break
		}
		require.NoError(t, err)
	}
	// Leave room for the object that stands for the stream.
	first, err := s.bucket().GetMsg(t.Context(), 1, jetstream.WithGetMsgSubject(other))
	require.NoError(t, err)
	require.NoError(t, s.bucket().DeleteMsg(t.Context(), first.Sequence))
	options := s.options(1)
	options.Stall = time.Minute
	stream := s.send(s.store(), options)
	sent := content(10 * testSegment)
	r := s.receiver(s.store(), 0)
	results := r.taking(t.Context(), nil, transport.CopyOptions{})
	outgoing := s.call(stream, r)
	copied := make(chan error, 1)
	go func() {
		_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
		copied <- err
	}()
	require.Eventually(t, func() bool {
		stream.mu.Lock()
		defer stream.mu.Unlock()
		for name := range stream.tries {
			if name.Try > 0 {
				return true
			}
		}
		return false
	}, patience, 5*time.Millisecond, "no segment was refused")
	require.NoError(t, s.bucket().Purge(t.Context(), jetstream.WithPurgeSubject(other)))
	require.NoError(t, <-copied)
	_, err = outgoing.Confirmation(t.Context())
	require.NoError(t, err)
	sameBytes(t, sent, result(t, results).bytes)
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestLimitsAreAskedForEveryByte(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{})
	stream := s.send(s.store(), s.options(1))
	sent := content(5*testSegment + 3)
	var out, in atomic.Int64
	counting := func(of *atomic.Int64) func(context.Context, int) error {
		return func(_ context.Context, n int) error {
			of.Add(int64(n))
			return nil
		}
	}
	r := s.receiver(s.store(), 0)
	results := r.taking(t.Context(), nil, transport.CopyOptions{Limit: transport.LimitFunc(counting(&in))})
	outgoing := s.call(stream, r)
	_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{Limit: transport.LimitFunc(counting(&out))})
	require.NoError(t, err)
	_, err = outgoing.Confirmation(t.Context())
	require.NoError(t, err)
	got := result(t, results)
	require.NoError(t, got.copied)
	sameBytes(t, sent, got.bytes)
	require.EqualValues(t, len(sent), out.Load())
	require.EqualValues(t, len(sent), in.Load())

	stream = s.send(s.store(), s.options(1))
	r = s.receiver(s.store(), 0)
	results = r.taking(t.Context(), nil, transport.CopyOptions{})
	s.call(stream, r)
	ctx, cancel := context.WithCancel(t.Context())
	forever := func(ctx context.Context, _ int) error {
		time.AfterFunc(100*time.Millisecond, cancel) // many idle times later
		<-ctx.Done()
		return context.Cause(ctx)
	}
	_, err = stream.CopyFrom(ctx, bytes.NewReader(sent), transport.CopyOptions{Idle: time.Millisecond, Limit: transport.LimitFunc(forever)})
	require.Error(t, err)
	require.Equal(t, protocol.Cancelled, protocol.KindOf(err, protocol.Transient), "the wait for a limit is no standstill: %v", err)
	require.Error(t, result(t, results).copied)
}
