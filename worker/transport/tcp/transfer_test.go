// Whole transfers between a real listener and a real dialer.

package tcp_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/tcp"
)

// patience bounds what must happen, where how fast is not what is tested.
const patience = 30 * time.Second

func stepRef(n int) protocol.StepRef {
	return protocol.StepRef{Plan: "20261123t015322-x7k2q", Task: n, Step: 0, Attempt: 1}
}

func streamHeader(n int) protocol.StreamHeader {
	return protocol.StreamHeader{Ref: stepRef(n), JobID: "prod-dr.bravo", FromGUID: 1, ToGUID: 2, Expected: 3}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func listen(t testing.TB, secure bool) *tcp.Listener {
	t.Helper()
	listener, err := tcp.Listen(testContext(t), tcp.Config{Listen: "127.0.0.1:0", TLS: secure})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	return listener
}

// pair is both ends of an accepted connection.
func pair(t testing.TB, secure bool, stall time.Duration) (*tcp.Outgoing, *tcp.Incoming) {
	t.Helper()
	expectation := listen(t, secure).Expect(stepRef(1))
	t.Cleanup(expectation.Close)
	return pairFor(t, expectation, expectation.Offer(), stall)
}

func pairFor(t testing.TB, expectation *tcp.Expectation, offer protocol.Offer, stall time.Duration) (*tcp.Outgoing, *tcp.Incoming) {
	t.Helper()
	ctx := testContext(t)
	outgoing, err := dial(ctx, offer, streamHeader(1), tcp.DialOptions{Stall: stall})
	require.NoError(t, err)
	t.Cleanup(func() { _ = outgoing.Close() })
	incoming, err := expectation.Accept(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { _ = incoming.Close() })
	return outgoing, incoming
}

// bothModes runs a test with TLS and without.
func bothModes(t *testing.T, test func(t *testing.T, secure bool)) {
	t.Helper()
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			t.Parallel()
			test(t, secure)
		})
	}
}

func content(seed uint64, size int) []byte {
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	bytes := make([]byte, size)
	_, _ = source.Read(bytes)
	return bytes
}

// ends are what a transfer reads from and writes to.
type ends struct {
	reader func(t testing.TB, sent []byte) io.Reader
	writer func(t testing.TB) (io.Writer, func() []byte)
}

func memoryEnds() ends {
	return ends{
		reader: func(_ testing.TB, sent []byte) io.Reader { return iotest.HalfReader(bytes.NewReader(sent)) },
		writer: func(testing.TB) (io.Writer, func() []byte) {
			var received bytes.Buffer
			return &received, received.Bytes
		},
	}
}

// pipeEnds are operating system pipes, as those of zfs send and zfs recv.
func pipeEnds() ends {
	return ends{
		reader: func(t testing.TB, sent []byte) io.Reader {
			t.Helper()
			r, w, err := os.Pipe()
			require.NoError(t, err)
			var writing sync.WaitGroup
			writing.Go(func() {
				_, _ = io.Copy(w, iotest.HalfReader(bytes.NewReader(sent))) // fails when the test ends the reader early
				_ = w.Close()
			})
			t.Cleanup(func() {
				_ = r.Close()
				writing.Wait()
			})
			return r
		},
		writer: func(t testing.TB) (io.Writer, func() []byte) {
			t.Helper()
			r, w, err := os.Pipe()
			require.NoError(t, err)
			var received []byte
			var reading sync.WaitGroup
			reading.Go(func() { received, _ = io.ReadAll(r) })
			finish := func() []byte {
				_ = w.Close()
				reading.Wait()
				return received
			}
			t.Cleanup(func() {
				finish()
				_ = r.Close()
			})
			return w, finish
		},
	}
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		for name, over := range map[string]ends{"memory": memoryEnds(), "pipes": pipeEnds()} {
			for _, size := range []int{0, 1, 4096, 1 << 20, 5<<20 + 17} {
				t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
					t.Parallel()
					outgoing, incoming := pair(t, secure, time.Minute)
					require.Equal(t, streamHeader(1), incoming.Header())
					transfer(t, outgoing, incoming, over, content(uint64(size), size))
				})
			}
		}
	})
}

// transfer sends a whole stream, confirms it and compares.
func transfer(t testing.TB, outgoing *tcp.Outgoing, incoming *tcp.Incoming, over ends, sent []byte) {
	t.Helper()
	ctx := testContext(t)
	want := protocol.Confirmation{ToGUID: 2, Bytes: uint64(len(sent)), Elapsed: time.Second}
	writer, finish := over.writer(t)
	reader := over.reader(t, sent)
	var receivedCount, sentCount atomic.Int64
	var receiving sync.WaitGroup
	var receiveErr, confirmErr error
	var received []byte
	receiving.Go(func() {
		_, receiveErr = incoming.CopyTo(ctx, writer, transport.CopyOptions{Bytes: &receivedCount})
		received = finish()
		confirmErr = incoming.Confirm(ctx, want)
	})
	n, err := outgoing.CopyFrom(ctx, reader, transport.CopyOptions{Bytes: &sentCount})
	require.NoError(t, err)
	require.EqualValues(t, len(sent), n)
	got, err := outgoing.Confirmation(ctx)
	require.NoError(t, err)
	require.Equal(t, want, got)
	receiving.Wait()
	require.NoError(t, receiveErr)
	require.NoError(t, confirmErr)
	require.Equal(t, sha256.Sum256(sent), sha256.Sum256(received), "received %d bytes", len(received))
	require.EqualValues(t, len(sent), receivedCount.Load())
	require.EqualValues(t, len(sent), sentCount.Load())
}

func TestReceiverFailsEarly(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		outgoing, incoming := pair(t, secure, time.Minute)
		ctx := testContext(t)
		// zfs recv reads a little and exits.
		r, w, err := os.Pipe()
		require.NoError(t, err)
		var receiving sync.WaitGroup
		var copyErr, confirmErr error
		receiving.Go(func() {
			_, _ = io.ReadFull(r, make([]byte, 100))
			_ = r.Close()
		})
		receiving.Go(func() {
			_, copyErr = incoming.CopyTo(ctx, w, transport.CopyOptions{})
			confirmErr = incoming.Confirm(ctx, protocol.Confirmation{
				Failure: protocol.Failf(protocol.Conflict, "destination has been modified"),
			})
			_ = incoming.Close()
		})
		_, err = outgoing.CopyFrom(ctx, endless{}, transport.CopyOptions{})
		receiving.Wait()
		require.NoError(t, w.Close())
		require.EqualError(t, err, "destination has been modified")
		require.Equal(t, protocol.Conflict, protocol.KindOf(err, protocol.Transient))
		require.ErrorContains(t, copyErr, "broken pipe")
		require.NoError(t, confirmErr)
	})
}

// endless never stops sending.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestSenderAborts(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		outgoing, incoming := pair(t, secure, time.Minute)
		ctx := testContext(t)
		broken := io.MultiReader(bytes.NewReader(content(1, 100)), iotest.ErrReader(protocol.Failf(protocol.Permanent, "zfs send died")))
		var sending sync.WaitGroup
		var sendErr error
		sending.Go(func() { _, sendErr = outgoing.CopyFrom(ctx, broken, transport.CopyOptions{}) })
		var received bytes.Buffer
		n, err := incoming.CopyTo(ctx, &received, transport.CopyOptions{})
		require.EqualValues(t, 100, n)
		var failure *protocol.Failure
		require.ErrorAs(t, err, &failure, "%v", err)
		require.Equal(t, protocol.Permanent, failure.Kind)
		require.Contains(t, failure.Message, "zfs send died")
		require.NoError(t, incoming.Close())
		sending.Wait()
		require.ErrorContains(t, sendErr, "zfs send died")
	})
}
