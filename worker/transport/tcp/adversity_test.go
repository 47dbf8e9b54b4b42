// What goes wrong between honest sides, and what strangers do.

package tcp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/tcp"
)

func requireKind(t *testing.T, kind protocol.FailureKind, err error) {
	t.Helper()
	require.Error(t, err)
	var failure *protocol.Failure
	require.ErrorAs(t, err, &failure, "%T is no failure: %v", err, err)
	require.Equal(t, kind, failure.Kind, "%v", err)
}

// meddler is a proxy that lets the bytes of who dials through its hands, and gives those of who was dialled back.
type meddler struct {
	listener net.Listener
	running  sync.WaitGroup
	mu       sync.Mutex
	open     []net.Conn
	target   string // where connections are passed on to
	back     func(to, from *net.TCPConn)
}

// pass copies without net's own splicing, which keeps pipes for later that would look like a leak.
func pass(to io.Writer, from io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
}

func passN(to io.Writer, from io.Reader, n int64) (int64, error) {
	return pass(to, io.LimitReader(from, n))
}

// meddle starts a meddler before the listener at the given address. For each connection, hands is given the dialler's
// bytes and where they are to go; when it returns, both connections are closed.
func meddle(t testing.TB, address string, hands func(to *net.TCPConn, from *net.TCPConn)) *meddler {
	t.Helper()
	return meddleBoth(t, address, hands, func(to, from *net.TCPConn) {
		_, _ = pass(to, from)
		_ = to.CloseWrite()
	})
}

// meddleBoth is meddle with hands for the listener's bytes as well.
func meddleBoth(t testing.TB, address string, hands, back func(to *net.TCPConn, from *net.TCPConn)) *meddler {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(testContext(t), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m := &meddler{listener: listener, target: address, back: back}
	m.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			from := conn.(*net.TCPConn) //nolint:forcetypeassert // it is a TCP listener
			m.running.Go(func() { m.serve(from, hands) })
		}
	})
	t.Cleanup(m.close)
	return m
}

func (m *meddler) serve(from *net.TCPConn, hands func(to, from *net.TCPConn)) {
	defer from.Close()
	m.mu.Lock()
	address := m.target
	m.mu.Unlock()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	to := conn.(*net.TCPConn) //nolint:forcetypeassert // it was dialled as TCP
	defer to.Close()
	m.mu.Lock()
	m.open = append(m.open, from, to)
	m.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() { m.back(from, to) })
	hands(to, from)
	_ = from.Close()
	_ = to.Close()
	back.Wait()
}

func (m *meddler) close() {
	_ = m.listener.Close()
	m.mu.Lock()
	for _, conn := range m.open {
		_ = conn.Close()
	}
	m.mu.Unlock()
	m.running.Wait()
}

func (m *meddler) offer(offer protocol.Offer) protocol.Offer {
	offer.Addresses = []string{m.listener.Addr().String()}
	return offer
}

// outcome is how a transfer ended for both sides.
type outcome struct {
	sendErr, recvErr error
	received         []byte
	confirmed        bool
}

// attempt makes one transfer by the given offer, and waits for both sides.
func attempt(t testing.TB, expectation *tcp.Expectation, offer protocol.Offer, r io.Reader, stall time.Duration) outcome {
	t.Helper()
	ctx := testContext(t)
	var result outcome
	var receiving sync.WaitGroup
	receiving.Go(func() {
		incoming, err := expectation.Accept(ctx)
		if err != nil {
			result.recvErr = err
			return
		}
		defer incoming.Close()
		var received bytes.Buffer
		_, result.recvErr = incoming.CopyTo(ctx, &received, transport.CopyOptions{Stall: stall})
		result.received = received.Bytes()
		_ = incoming.Confirm(ctx, protocol.Confirmation{ToGUID: 2, Failure: protocol.AsFailure(result.recvErr, protocol.Transient)})
	})
	result.sendErr = func() error {
		defer expectation.Close()
		outgoing, err := dial(ctx, offer, streamHeader(1), tcp.DialOptions{Stall: stall})
		if err != nil {
			return err
		}
		defer outgoing.Close()
		if _, err := outgoing.CopyFrom(ctx, r, transport.CopyOptions{}); err != nil {
			return err
		}
		_, err = outgoing.Confirmation(ctx)
		result.confirmed = err == nil
		return err
	}()
	receiving.Wait()
	return result
}

// TestCutAtEveryPoint cuts the sender's bytes after each of them in turn.
func TestCutAtEveryPoint(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener := listen(t, secure)
		sent := content(3, 200)
		stride := 1
		if secure {
			stride = 11
		}
		var mu sync.Mutex
		limit := 0
		proxy := meddle(t, listener.Addresses()[0], func(to, from *net.TCPConn) {
			mu.Lock()
			n := int64(limit)
			mu.Unlock()
			_, _ = passN(to, from, n)
		})
		for cut := 0; ; cut += stride {
			mu.Lock()
			limit = cut
			mu.Unlock()
			expectation := listener.Expect(stepRef(1))
			// Two frames of data.
			r := io.MultiReader(bytes.NewReader(sent[:150]), bytes.NewReader(sent[150:]))
			result := attempt(t, expectation, proxy.offer(expectation.Offer()), r, patience)
			if result.confirmed {
				require.NoError(t, result.recvErr, "cut after %d bytes: confirmed, but not received", cut)
				require.Equal(t, sent, result.received)
				require.Greater(t, cut, len(sent), "confirmed before everything was sent")
				return
			}
			requireKind(t, protocol.Transient, result.sendErr)
			require.True(t, bytes.HasPrefix(sent, result.received), "cut after %d bytes: what was received is not what was sent", cut)
			if result.recvErr == nil {
				require.Equal(t, sent, result.received, "cut after %d bytes", cut)
			} else {
				requireKind(t, protocol.Transient, result.recvErr)
			}
		}
	})
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener := listen(t, secure)
		expectation := listener.Expect(stepRef(1))
		proxy := meddle(t, listener.Addresses()[0], func(to, from *net.TCPConn) {
			_, _ = passN(to, from, 100_000)
			_ = to.CloseWrite()
			_, _ = io.Copy(io.Discard, from) // the sender goes on, until it hears
		})
		result := attempt(t, expectation, proxy.offer(expectation.Offer()), endless{}, patience)
		requireKind(t, protocol.Transient, result.recvErr)
		require.ErrorContains(t, result.recvErr, "before the stream was complete")
		requireKind(t, protocol.Transient, result.sendErr)
		require.ErrorContains(t, result.sendErr, "before the stream was complete", "the receiver's reason did not reach the sender")
	})
}

func TestStalledNetwork(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener := listen(t, secure)
		expectation := listener.Expect(stepRef(1))
		over := make(chan struct{})
		proxy := meddle(t, listener.Addresses()[0], func(to, from *net.TCPConn) {
			_, _ = passN(to, from, 1<<20)
			<-over
		})
		result := attempt(t, expectation, proxy.offer(expectation.Offer()), endless{}, 300*time.Millisecond)
		close(over)
		requireKind(t, protocol.Transient, result.recvErr)
		require.ErrorContains(t, result.recvErr, "no sign of life")
		requireKind(t, protocol.Transient, result.sendErr)
	})
}

func TestCorruption(t *testing.T) {
	t.Parallel()
	listener := listen(t, true)
	sent := content(4, 100_000)
	for _, position := range []int{20, 2_000, 50_000, 100_000} {
		t.Run(fmt.Sprint(position), func(t *testing.T) {
			t.Parallel()
			expectation := listener.Expect(stepRef(1))
			proxy := meddle(t, listener.Addresses()[0], func(to, from *net.TCPConn) {
				_, _ = passN(to, from, int64(position))
				one := make([]byte, 1)
				_, _ = io.ReadFull(from, one)
				one[0] ^= 0x10
				_, _ = to.Write(one)
				_, _ = pass(to, from)
				_ = to.CloseWrite()
			})
			result := attempt(t, expectation, proxy.offer(expectation.Offer()), bytes.NewReader(sent), 2*time.Second)
			require.Error(t, result.recvErr)
			require.False(t, result.confirmed)
			requireKind(t, protocol.Transient, result.sendErr)
			require.True(t, bytes.HasPrefix(sent, result.received), "bytes that were not sent were passed on")
		})
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		ctx := testContext(t)
		listener := listen(t, secure)

		t.Run("wrong", func(t *testing.T) {
			t.Parallel()
			expectation := listener.Expect(stepRef(1))
			defer expectation.Close()
			offer := expectation.Offer()
			offer.Secret[7] ^= 1
			_, err := dial(ctx, offer, streamHeader(1), tcp.DialOptions{})
			requireKind(t, protocol.Transient, err)
			require.ErrorContains(t, err, "the secret is not one that is expected here")
			// The right one is still good.
			pairFor(t, expectation, expectation.Offer(), time.Minute)
		})
		t.Run("reused", func(t *testing.T) {
			t.Parallel()
			expectation := listener.Expect(stepRef(1))
			pairFor(t, expectation, expectation.Offer(), time.Minute)
			_, err := dial(ctx, expectation.Offer(), streamHeader(1), tcp.DialOptions{})
			require.ErrorContains(t, err, "the secret is not one that is expected here")
			_, err = expectation.Accept(ctx)
			require.ErrorContains(t, err, "accepted already")
		})
		t.Run("expired", func(t *testing.T) {
			t.Parallel()
			expectation := listener.Expect(stepRef(1))
			expectation.Close()
			expectation.Close()
			_, err := dial(ctx, expectation.Offer(), streamHeader(1), tcp.DialOptions{})
			require.ErrorContains(t, err, "the secret is not one that is expected here")
			_, err = expectation.Accept(ctx)
			requireKind(t, protocol.Transient, err)
		})
		t.Run("of another step", func(t *testing.T) {
			t.Parallel()
			expectation := listener.Expect(stepRef(2))
			defer expectation.Close()
			_, err := dial(ctx, expectation.Offer(), streamHeader(1), tcp.DialOptions{})
			requireKind(t, protocol.Permanent, err)
			require.ErrorContains(t, err, "20261123t015322-x7k2q/2-0#1")
		})
		t.Run("nobody comes", func(t *testing.T) {
			t.Parallel()
			expectation := listener.Expect(stepRef(1))
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			_, err := expectation.Accept(short)
			requireKind(t, protocol.Transient, err)
			require.ErrorContains(t, err, "waiting for the sender to connect")
			_, err = dial(ctx, expectation.Offer(), streamHeader(1), tcp.DialOptions{})
			require.ErrorContains(t, err, "the secret is not one that is expected here")
		})
	})
}

func TestManyClaimOneSecret(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	expectation := listen(t, false).Expect(stepRef(1))
	defer expectation.Close()
	var dialing sync.WaitGroup
	accepted := make(chan *tcp.Outgoing, 16)
	for range cap(accepted) {
		dialing.Go(func() {
			if outgoing, err := dial(ctx, expectation.Offer(), streamHeader(1), tcp.DialOptions{}); err == nil {
				accepted <- outgoing
			}
		})
	}
	dialing.Wait()
	require.Len(t, accepted, 1)
	require.NoError(t, (<-accepted).Close())
	incoming, err := expectation.Accept(ctx)
	require.NoError(t, err)
	require.NoError(t, incoming.Close())
}

func TestWrongFingerprint(t *testing.T) {
	t.Parallel()
	expectation := listen(t, true).Expect(stepRef(1))
	defer expectation.Close()
	offer := expectation.Offer()
	offer.Fingerprint[0] ^= 1
	_, err := dial(testContext(t), offer, streamHeader(1), tcp.DialOptions{})
	requireKind(t, protocol.Transient, err)
	require.ErrorContains(t, err, "not that of the offer")
}

func TestPlainSenderAtTLSReceiverAndBack(t *testing.T) {
	t.Parallel()
	expectation := listen(t, true).Expect(stepRef(1))
	defer expectation.Close()
	offer := expectation.Offer()
	offer.TLS = false
	_, err := dial(testContext(t), offer, streamHeader(1), tcp.DialOptions{})
	requireKind(t, protocol.Transient, err)

	plain := listen(t, false).Expect(stepRef(1))
	defer plain.Close()
	offer = plain.Offer()
	offer.TLS, offer.Fingerprint = true, make([]byte, 32)
	_, err = dial(testContext(t), offer, streamHeader(1), tcp.DialOptions{})
	requireKind(t, protocol.Transient, err)
	require.ErrorContains(t, err, "TLS handshake")
}

func TestTLSWithoutOurProtocolOrVersionIsTurnedAway(t *testing.T) {
	t.Parallel()
	address := listen(t, true).Addresses()[0]
	for name, config := range map[string]*tls.Config{
		"another protocol": {NextProtos: []string{"h2"}, InsecureSkipVerify: true},
		"TLS 1.2":          {NextProtos: []string{"zfleet/1"}, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
		"no protocol":      {InsecureSkipVerify: true},
	} {
		dialer := tls.Dialer{Config: config}
		conn, err := dialer.DialContext(testContext(t), "tcp", address)
		if err != nil {
			continue
		}
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Read(make([]byte, 1))
		require.Error(t, err, name)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, name)
		_ = conn.Close() // the other side is gone
	}
}

// sealed is a frame with its checksum.
func sealed(frame string) string {
	return string(binary.BigEndian.AppendUint32([]byte(frame), crc32.Checksum([]byte(frame), crc32.MakeTable(crc32.Castagnoli))))
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	address := listen(t, false).Addresses()[0]
	for name, said := range map[string]string{
		"another program":       "GET / HTTP/1.1\r\n\r\n",
		"unknown frame type":    "\x7f\x00\x00\x00\x00",
		"oversized hello":       "\x01\xff\xff\xff\xff",
		"data before the hello": "\x03\x00\x00\x00\x01x",
		"another magic":         sealed("\x01\x00\x00\x00\x2aZFLOOT" + string(make([]byte, 36))),
		"another version":       sealed("\x01\x00\x00\x00\x2aZFLEET\x00\x09" + string(make([]byte, 34))),
		"the version before":    "\x01\x00\x00\x00\x2eZFLEET\x00\x01" + string(make([]byte, 38)),
		"unknown flags":         sealed("\x01\x00\x00\x00\x2aZFLEET\x00\x02\x80\x00" + string(make([]byte, 32))),
		"unknown secret":        sealed("\x01\x00\x00\x00\x2aZFLEET\x00\x02\x00\x00" + string(make([]byte, 32))),
		"damaged":               "\x01\x00\x00\x00\x2aZFLEET\x00\x02\x00\x00" + string(make([]byte, 36)),
		"nothing":               "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var dialer net.Dialer
			conn, err := dialer.DialContext(testContext(t), "tcp", address)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			_, err = conn.Write([]byte(said))
			require.NoError(t, err)
			require.NoError(t, conn.(*net.TCPConn).CloseWrite())
			answer, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.NotEmpty(t, answer)
			require.Equal(t, byte(0x82), answer[0], "not a refusal: %q", answer)
		})
	}
}

func TestHeaderAfterTheSecretIsBounded(t *testing.T) {
	t.Parallel()
	expectation := listen(t, false).Expect(stepRef(1))
	defer expectation.Close()
	offer := expectation.Offer()
	var dialer net.Dialer
	conn, err := dialer.DialContext(testContext(t), "tcp", offer.Addresses[0])
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	said := sealed("\x01\x00\x00\x00\x2aZFLEET\x00\x02\x00\x00"+string(offer.Secret)) + "\x02\x00\x01\x00\x05"
	_, err = conn.Write([]byte(said))
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "frame of type 0x02 with 65541 bytes")
	// The secret was not used up.
	pairFor(t, expectation, offer, time.Minute)
}

func TestDialTriesAllAddresses(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		// A port that nobody listens on, another worker, and the right one.
		closed := listen(t, secure)
		nobody := closed.Addresses()[0]
		require.NoError(t, closed.Close())
		other := listen(t, secure)
		expectation := listen(t, secure).Expect(stepRef(1))
		defer expectation.Close()
		offer := expectation.Offer()
		offer.Addresses = append([]string{nobody, other.Addresses()[0]}, offer.Addresses...)
		pairFor(t, expectation, offer, time.Minute)

		offer.Addresses = offer.Addresses[:2]
		_, err := dial(testContext(t), offer, streamHeader(1), tcp.DialOptions{})
		requireKind(t, protocol.Transient, err)
		require.ErrorContains(t, err, nobody)
		require.ErrorContains(t, err, other.Addresses()[0])
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	expectation := listen(t, false).Expect(stepRef(1))
	defer expectation.Close()
	ctx, cancel := context.WithCancel(context.Background())
	proxy := meddle(t, expectation.Offer().Addresses[0], func(_, from *net.TCPConn) {
		_, _ = io.ReadFull(from, make([]byte, 10)) // the hello is on its way, and never answered
		cancel()
		_, _ = io.Copy(io.Discard, from)
	})
	_, err := dial(ctx, proxy.offer(expectation.Offer()), streamHeader(1), tcp.DialOptions{})
	requireKind(t, protocol.Cancelled, err)
}

func TestCancelledSenderTellsTheReceiver(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		outgoing, incoming := pair(t, secure, time.Minute)
		ctx, cancel := context.WithCancel(testContext(t))
		r, w, err := os.Pipe() // zfs send that gives nothing
		require.NoError(t, err)
		defer r.Close()
		defer w.Close()
		var sending sync.WaitGroup
		var sendErr error
		sending.Go(func() { _, sendErr = outgoing.CopyFrom(ctx, r, transport.CopyOptions{}) })
		cancel()
		_, err = incoming.CopyTo(testContext(t), io.Discard, transport.CopyOptions{})
		requireKind(t, protocol.Cancelled, err)
		require.NoError(t, incoming.Close())
		sending.Wait()
		requireKind(t, protocol.Cancelled, sendErr)
	})
}

func TestCancelledReceiverTellsTheSender(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		outgoing, incoming := pair(t, secure, time.Minute)
		ctx, cancel := context.WithCancel(testContext(t))
		r, w, err := os.Pipe() // zfs recv that takes nothing
		require.NoError(t, err)
		defer r.Close()
		defer w.Close()
		var receiving sync.WaitGroup
		var recvErr, confirmErr error
		receiving.Go(func() {
			_, recvErr = incoming.CopyTo(ctx, w, transport.CopyOptions{})
			confirmErr = incoming.Confirm(testContext(t), protocol.Confirmation{Failure: protocol.AsFailure(recvErr, protocol.Transient)})
		})
		var once sync.Once
		_, err = outgoing.CopyFrom(testContext(t), readerFunc(func(p []byte) (int, error) {
			once.Do(cancel)
			return len(p), nil
		}), transport.CopyOptions{})
		requireKind(t, protocol.Cancelled, err)
		receiving.Wait()
		requireKind(t, protocol.Cancelled, recvErr)
		require.NoError(t, confirmErr)
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestReceiverThatDiesIsATransientFailure(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		outgoing, incoming := pair(t, secure, time.Minute)
		var once sync.Once
		_, err := outgoing.CopyFrom(testContext(t), readerFunc(func(p []byte) (int, error) {
			once.Do(func() { _ = incoming.Close() })
			return len(p), nil
		}), transport.CopyOptions{})
		requireKind(t, protocol.Transient, err)
	})
}

func TestIncompleteStreamCannotBeConfirmed(t *testing.T) {
	t.Parallel()
	outgoing, incoming := pair(t, true, time.Minute)
	require.NoError(t, outgoing.Close())
	_, err := incoming.CopyTo(testContext(t), io.Discard, transport.CopyOptions{})
	requireKind(t, protocol.Transient, err)
	require.ErrorContains(t, incoming.Confirm(testContext(t), protocol.Confirmation{ToGUID: 2}), "cannot be confirmed")
}

func TestRefusedTokenNeedsNoStream(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		outgoing, incoming := pair(t, secure, time.Minute)
		var receiving sync.WaitGroup
		var confirmErr error
		receiving.Go(func() {
			confirmErr = incoming.Confirm(testContext(t), protocol.Confirmation{Failure: protocol.Failf(protocol.Transient, "abandoned")})
		})
		confirmation, err := outgoing.Confirmation(testContext(t))
		require.EqualError(t, err, "abandoned")
		require.Equal(t, "abandoned", confirmation.Failure.Message)
		receiving.Wait()
		require.NoError(t, confirmErr)
	})
}

func TestAbortBeforeTheStream(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		outgoing, incoming := pair(t, secure, time.Minute)
		var aborting sync.WaitGroup
		aborting.Go(func() {
			outgoing.Abort(testContext(t), protocol.Failf(protocol.Policy, "this host does not send that"))
		})
		_, err := incoming.CopyTo(testContext(t), io.Discard, transport.CopyOptions{})
		requireKind(t, protocol.Policy, err)
		require.NoError(t, incoming.Close())
		aborting.Wait()
	})
}

func TestFinishDecidesWhetherTheStreamWasWhole(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		for name, reader := range map[string]func(t *testing.T) (io.Reader, transport.CopyOptions){
			"by option": func(*testing.T) (io.Reader, transport.CopyOptions) {
				return bytes.NewReader([]byte("half")), transport.CopyOptions{Finish: func() error { return errors.New("zfs send was killed") }}
			},
			"by the stream itself": func(t *testing.T) (io.Reader, transport.CopyOptions) {
				t.Helper()
				r, w, err := os.Pipe()
				require.NoError(t, err)
				t.Cleanup(func() { _ = r.Close() })
				_, err = w.WriteString("half")
				require.NoError(t, err)
				require.NoError(t, w.Close())
				return &handedStream{Reader: iotest.ErrReader(errors.New("read past the file")), file: r, end: errors.New("zfs send was killed")}, transport.CopyOptions{}
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				outgoing, incoming := pair(t, secure, time.Minute)
				r, opts := reader(t)
				var sending sync.WaitGroup
				var sendErr error
				sending.Go(func() { _, sendErr = outgoing.CopyFrom(testContext(t), r, opts) })
				var received bytes.Buffer
				_, err := incoming.CopyTo(testContext(t), &received, transport.CopyOptions{})
				require.ErrorContains(t, err, "zfs send was killed")
				require.Equal(t, "half", received.String())
				require.NoError(t, incoming.Close())
				sending.Wait()
				require.ErrorContains(t, sendErr, "zfs send was killed")
			})
		}
	})
}

// handedStream hands its file out, as zfs.SendStream does.
type handedStream struct {
	io.Reader
	file *os.File
	end  error
}

func (s *handedStream) File() *os.File { return s.file }
func (s *handedStream) Wait() error    { return s.end }

func TestManyTransfersAtOnce(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener := listen(t, secure)
		for n := range 32 {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				expectation := listener.Expect(stepRef(1))
				defer expectation.Close()
				outgoing, incoming := pairFor(t, expectation, expectation.Offer(), time.Minute)
				transfer(t, outgoing, incoming, pipeEnds(), content(uint64(n), 100_000+n))
			})
		}
	})
}

func TestCloseOfListenerEndsEverything(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		ctx := testContext(t)
		listener, err := tcp.Listen(ctx, tcp.Config{Listen: "127.0.0.1:0", TLS: secure})
		require.NoError(t, err)
		delivered := listener.Expect(stepRef(1))
		outgoing, err := dial(ctx, delivered.Offer(), streamHeader(1), tcp.DialOptions{})
		require.NoError(t, err)
		waiting := listener.Expect(stepRef(2))
		var accepting sync.WaitGroup
		var acceptErr error
		accepting.Go(func() { _, acceptErr = waiting.Accept(ctx) })
		var dialer net.Dialer
		stranger, err := dialer.DialContext(ctx, "tcp", listener.Addresses()[0])
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		require.NoError(t, listener.Close())
		accepting.Wait()
		require.ErrorContains(t, acceptErr, "the listener was closed")
		require.NoError(t, stranger.Close())
		_, err = listener.Expect(stepRef(3)).Accept(ctx)
		require.ErrorContains(t, err, "the listener was closed")
		delivered.Close()
		require.NoError(t, outgoing.Close())
		require.NoError(t, outgoing.Close())
	})
}
