// Stalls, with synthetic time: connections are net.Pipe, and nothing waits in earnest.

package tcp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

var pipeHeader = protocol.StreamHeader{
	Ref: protocol.StepRef{Plan: "20261123t015322-x7k2q", Attempt: 1}, JobID: "prod-dr.bravo", ToGUID: 2,
}

func pipeIncoming(conn net.Conn, stall time.Duration) *Incoming {
	s := &socket{Conn: conn}
	return newIncoming(newLink(s, s, ""), pipeHeader, stall)
}

func pipeOutgoing(conn net.Conn, stall time.Duration) *Outgoing {
	s := &socket{Conn: conn}
	return newOutgoing(newLink(s, s, ""), stall)
}

// mute is a peer that takes everything and says nothing.
func mute(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

func requireTransient(t *testing.T, err error, text string) {
	t.Helper()
	require.ErrorContains(t, err, text)
	var failure *protocol.Failure
	require.ErrorAs(t, err, &failure, "%T is no failure", err)
	require.Equal(t, protocol.Transient, failure.Kind)
}

func TestReceiverNoticesSilentSender(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		go mute(there)
		incoming := pipeIncoming(here, time.Minute)
		start := time.Now()
		_, err := incoming.CopyTo(t.Context(), io.Discard, transport.CopyOptions{Stall: time.Minute})
		requireTransient(t, err, "no sign of life for 1m0s")
		require.Equal(t, time.Minute, time.Since(start))
		require.NoError(t, incoming.Close())
		require.NoError(t, there.Close())
	})
}

func TestReceiverNoticesSilenceWithinFrame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		go mute(there)
		incoming := pipeIncoming(here, time.Minute)
		go func() { _, _ = there.Write(dataFrame([]byte("half of it"))[:frameHeaderSize+4]) }()
		var received bytes.Buffer
		n, err := incoming.CopyTo(t.Context(), &received, transport.CopyOptions{Stall: time.Minute})
		requireTransient(t, err, "no sign of life for 1m0s")
		require.Equal(t, "half", received.String(), "what arrived is kept for a resumption")
		require.EqualValues(t, 4, n)
		require.NoError(t, incoming.Close())
		require.NoError(t, there.Close())
	})
}

func TestSenderNoticesSilentReceiver(t *testing.T) {
	t.Parallel()
	for name, reader := range map[string]func() (io.Reader, func()){
		"while zfs send gives nothing": func() (io.Reader, func()) {
			r, w := io.Pipe()
			return r, func() { _ = w.Close() }
		},
		"while sending": func() (io.Reader, func()) { return neverEnding{}, func() {} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe() // nobody reads: the send buffer is full at once
				outgoing := pipeOutgoing(here, time.Minute)
				start := time.Now()
				r, done := reader()
				_, err := outgoing.CopyFrom(t.Context(), r, transport.CopyOptions{})
				requireTransient(t, err, "no sign of life for 1m0s")
				require.Equal(t, time.Minute, time.Since(start))
				require.NoError(t, outgoing.Close())
				require.NoError(t, there.Close())
				done()
			})
		})
	}
}

// neverEnding is a stream without an end.
type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

func TestSenderNoticesSilenceWhileWaitingForConfirmation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		go mute(there)
		outgoing := pipeOutgoing(here, time.Minute)
		_, err := outgoing.CopyFrom(t.Context(), bytes.NewReader([]byte("stream")), transport.CopyOptions{})
		require.NoError(t, err)
		_, err = outgoing.Confirmation(t.Context())
		requireTransient(t, err, "no sign of life for 1m0s")
		require.NoError(t, there.Close())
	})
}

// sides runs both sides of a transfer over a net.Pipe and gives both errors.
func sides(t *testing.T, r io.Reader, w io.Writer, opts transport.CopyOptions) (sendErr, recvErr error) {
	t.Helper()
	here, there := net.Pipe()
	outgoing, incoming := pipeOutgoing(here, opts.Stall), pipeIncoming(there, opts.Stall)
	var receiving sync.WaitGroup
	receiving.Go(func() {
		_, recvErr = incoming.CopyTo(t.Context(), w, opts)
		if recvErr != nil {
			_ = incoming.Confirm(t.Context(), protocol.Confirmation{Failure: protocol.AsFailure(recvErr, protocol.Transient)})
		}
	})
	_, sendErr = outgoing.CopyFrom(t.Context(), r, opts)
	receiving.Wait()
	require.NoError(t, outgoing.Close())
	require.NoError(t, incoming.Close())
	return sendErr, recvErr
}

// slowWriter takes each write after a while.
type slowWriter struct {
	bytes.Buffer
	pause time.Duration
}

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(w.pause) // synthetic time
	return w.Buffer.Write(p)
}

// slowReader gives one byte after a while.
type slowReader struct {
	io.Reader
	pause time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	time.Sleep(r.pause) // synthetic time
	return r.Reader.Read(p[:1])
}

func TestSlowSidesAreNotKilled(t *testing.T) {
	t.Parallel()
	const stream = "a stream of a few bytes"
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{pause: 9 * time.Minute}
		sendErr, recvErr := sides(t, bytes.NewReader([]byte(stream)), w, transport.CopyOptions{Stall: time.Minute})
		require.NoError(t, sendErr, "slow zfs recv")
		require.NoError(t, recvErr, "slow zfs recv")
		require.Equal(t, stream, w.String())
	})
	synctest.Test(t, func(t *testing.T) {
		var w bytes.Buffer
		r := &slowReader{Reader: bytes.NewReader([]byte(stream)), pause: 9 * time.Minute}
		sendErr, recvErr := sides(t, r, &w, transport.CopyOptions{Stall: time.Minute})
		require.NoError(t, sendErr, "slow zfs send")
		require.NoError(t, recvErr, "slow zfs send")
		require.Equal(t, stream, w.String())
	})
}

// requireStandstill wants both sides to have failed, and the one that gave up first, whichever it was, to say why.
func requireStandstill(t *testing.T, sendErr, recvErr error, text string) {
	t.Helper()
	requireTransient(t, sendErr, "stream")
	requireTransient(t, recvErr, "stream")
	require.ErrorContains(t, errors.Join(sendErr, recvErr), text)
}

func TestStandstillIsNoticedThoughBothLive(t *testing.T) {
	t.Parallel()
	t.Run("zfs send gives nothing", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			sendErr, recvErr := sides(t, r, io.Discard, transport.CopyOptions{Stall: time.Minute, Idle: time.Hour})
			requireStandstill(t, sendErr, recvErr, "no byte of the stream moved for 1h0m0s")
			_, err := w.Write([]byte("x"))
			require.ErrorIs(t, err, io.ErrClosedPipe, "the reader was not closed")
		})
	})
	t.Run("zfs recv takes nothing", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			_, w := io.Pipe()
			sendErr, recvErr := sides(t, neverEnding{}, w, transport.CopyOptions{Stall: time.Minute})
			requireStandstill(t, sendErr, recvErr, "no byte of the stream moved for 10m0s")
		})
	})
}

func TestConfirmationMayTakeLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		outgoing, incoming := pipeOutgoing(here, time.Minute), pipeIncoming(there, time.Minute)
		var receiving sync.WaitGroup
		receiving.Go(func() {
			_, err := incoming.CopyTo(t.Context(), io.Discard, transport.CopyOptions{Stall: time.Minute})
			if err == nil {
				time.Sleep(5 * time.Hour) // synthetic time
				err = incoming.Confirm(t.Context(), protocol.Confirmation{ToGUID: 2})
			}
			if err != nil {
				t.Error(err)
			}
		})
		_, err := outgoing.CopyFrom(t.Context(), bytes.NewReader([]byte("stream")), transport.CopyOptions{})
		require.NoError(t, err)
		confirmation, err := outgoing.Confirmation(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, confirmation.ToGUID)
		receiving.Wait()
		require.NoError(t, incoming.Close())
	})
}

func TestConfirmationHasADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		outgoing, incoming := pipeOutgoing(here, time.Minute), pipeIncoming(there, time.Minute)
		var receiving sync.WaitGroup
		receiving.Go(func() { _, _ = incoming.CopyTo(t.Context(), io.Discard, transport.CopyOptions{}) })
		_, err := outgoing.CopyFrom(t.Context(), bytes.NewReader([]byte("stream")), transport.CopyOptions{})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err = outgoing.Confirmation(ctx)
		requireTransient(t, err, "waiting for the receiver's confirmation")
		receiving.Wait()
		require.NoError(t, incoming.Close())
	})
}

func TestStrangerIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := &Listener{serving: t.Context(), expected: map[[32]byte]expected{}, logger: discard()}
		here, there := net.Pipe()
		go mute(there)
		start := time.Now()
		listener.welcome(here)
		require.LessOrEqual(t, time.Since(start), introduction+lastWords)
		_, err := here.Write([]byte("x"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.NoError(t, there.Close())
	})
}
