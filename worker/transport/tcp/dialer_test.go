// Dialers: the reverse direction, and connections that serve one step after another.

package tcp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

func newDialer(t testing.TB) *tcp.Dialer {
	t.Helper()
	dialer := tcp.NewDialer(tcp.DialerOptions{})
	t.Cleanup(dialer.Close)
	return dialer
}

// way makes both ends of the connection for a step between a dialer and the listener behind an address.
type way struct {
	dialer   *tcp.Dialer
	listener *tcp.Listener
	address  string // where the listener is dialled; empty: its own
	options  tcp.DialOptions
}

func (w way) addresses() []string {
	if w.address == "" {
		return w.listener.Addresses()
	}
	return []string{w.address}
}

// forward is a connection that the sender dials.
func (w way) forward(ctx context.Context, n int) (*tcp.Outgoing, *tcp.Incoming, error) {
	expectation := w.listener.Expect(stepRef(n))
	defer expectation.Close()
	offer := expectation.Offer()
	offer.Addresses = w.addresses()
	outgoing, err := w.dialer.Dial(ctx, offer, streamHeader(n), w.options)
	if err != nil {
		return nil, nil, err
	}
	incoming, err := expectation.Accept(ctx)
	return outgoing, incoming, err
}

// reverse is a connection that the receiver dials.
func (w way) reverse(ctx context.Context, n int) (*tcp.Outgoing, *tcp.Incoming, error) {
	expectation := w.listener.ExpectReceiver(streamHeader(n), w.options.Stall)
	defer expectation.Close()
	back := expectation.DialBack()
	back.Addresses = w.addresses()
	var outgoing *tcp.Outgoing
	var acceptErr error
	var accepting sync.WaitGroup
	accepting.Go(func() { outgoing, acceptErr = expectation.Accept(ctx) })
	incoming, err := w.dialer.DialSender(ctx, back, stepRef(n), w.options)
	if err != nil {
		expectation.Close()
	}
	accepting.Wait()
	return outgoing, incoming, errors.Join(err, acceptErr)
}

// connector is one of the ways' methods.
type connector func(w way, ctx context.Context, n int) (*tcp.Outgoing, *tcp.Incoming, error)

// directions are both, by name.
func directions() map[string]connector {
	return map[string]connector{
		"forward": way.forward, "reverse": way.reverse,
	}
}

// bothDirections runs a test with TLS and without, and with each side dialling.
func bothDirections(t *testing.T, test func(t *testing.T, secure, reverse bool, connect connector)) {
	t.Helper()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		for name, connect := range directions() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, secure, name == "reverse", connect)
			})
		}
	})
}

func closeBoth(t testing.TB, outgoing *tcp.Outgoing, incoming *tcp.Incoming) {
	t.Helper()
	require.NoError(t, outgoing.Close())
	require.NoError(t, incoming.Close())
}

func TestTransferOverDialer(t *testing.T) {
	t.Parallel()
	bothDirections(t, func(t *testing.T, secure, reverse bool, connect connector) {
		t.Helper()
		for name, over := range map[string]ends{"memory": memoryEnds(), "pipes": pipeEnds()} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := way{dialer: newDialer(t), listener: listen(t, secure)}
				for n, size := range []int{1, 0, 5<<20 + 17, 4096} {
					outgoing, incoming, err := connect(w, testContext(t), n)
					require.NoError(t, err)
					require.Equal(t, streamHeader(n), incoming.Header())
					for _, peer := range []tcp.Peer{outgoing.Peer(), incoming.Peer()} {
						require.Equal(t, tcp.Peer{Address: peer.Address, TLS: secure, Reused: n > 0, Reverse: reverse}, peer)
					}
					transfer(t, outgoing, incoming, over, content(uint64(size), size))
					closeBoth(t, outgoing, incoming)
				}
			})
		}
	})
}

// counter counts the connections that pass through a meddler.
func counter(t testing.TB, listener *tcp.Listener) (*meddler, *atomic.Int64) {
	t.Helper()
	var count atomic.Int64
	return meddle(t, listener.Addresses()[0], func(to, from *net.TCPConn) {
		count.Add(1)
		_, _ = pass(to, from)
		_ = to.CloseWrite()
	}), &count
}

func TestConsecutiveStepsShareOneConnection(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener := listen(t, secure)
		proxy, count := counter(t, listener)
		w := way{dialer: newDialer(t), listener: listener, address: proxy.listener.Addr().String()}
		for n := range 20 {
			// Both directions in turn.
			connect := connector(way.forward)
			if n%3 == 1 {
				connect = way.reverse
			}
			outgoing, incoming, err := connect(w, testContext(t), n)
			require.NoError(t, err)
			require.Equal(t, n > 0, outgoing.Peer().Reused)
			transfer(t, outgoing, incoming, memoryEnds(), content(uint64(n), 1000))
			closeBoth(t, outgoing, incoming)
		}
		require.EqualValues(t, 1, count.Load())
		w.dialer.Close()
		outgoing, incoming, err := w.forward(testContext(t), 1)
		require.NoError(t, err, "a closed dialer keeps nothing, but dials")
		require.False(t, outgoing.Peer().Reused)
		transfer(t, outgoing, incoming, memoryEnds(), content(1, 1000))
		closeBoth(t, outgoing, incoming)
		require.EqualValues(t, 2, count.Load())
	})
}

func TestConcurrentStepsShareConnections(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		const width, steps = 4, 25
		listener := listen(t, secure)
		proxy, count := counter(t, listener)
		w := way{dialer: newDialer(t), listener: listener, address: proxy.listener.Addr().String()}
		var running sync.WaitGroup
		for lane := range width {
			running.Go(func() {
				connect := connector(way.forward)
				if lane%2 == 0 {
					connect = way.reverse
				}
				for n := range steps {
					outgoing, incoming, err := connect(w, testContext(t), n)
					if err != nil {
						t.Errorf("step %d of lane %d: %v", n, lane, err)
						return
					}
					transfer(t, outgoing, incoming, memoryEnds(), content(uint64(n), 1000))
				}
			})
		}
		running.Wait()
		require.LessOrEqual(t, count.Load(), int64(width))
	})
}

// TestOnlyGoodConnectionsAreReused ends a step in every way but the good one.
func TestOnlyGoodConnectionsAreReused(t *testing.T) {
	t.Parallel()
	failure := protocol.Failf(protocol.Conflict, "destination has been modified")
	for name, end := range map[string]func(t *testing.T, outgoing *tcp.Outgoing, incoming *tcp.Incoming){
		"sender closes": func(t *testing.T, outgoing *tcp.Outgoing, incoming *tcp.Incoming) {
			t.Helper()
			closeBoth(t, outgoing, incoming)
		},
		"sender aborts": func(t *testing.T, outgoing *tcp.Outgoing, incoming *tcp.Incoming) {
			t.Helper()
			var aborting sync.WaitGroup
			aborting.Go(func() { outgoing.Abort(testContext(t), failure) })
			_, err := incoming.CopyTo(testContext(t), io.Discard, transport.CopyOptions{})
			requireKind(t, protocol.Conflict, err)
			require.NoError(t, incoming.Close())
			aborting.Wait()
		},
		"zfs send dies": func(t *testing.T, outgoing *tcp.Outgoing, incoming *tcp.Incoming) {
			t.Helper()
			var receiving sync.WaitGroup
			receiving.Go(func() {
				_, err := incoming.CopyTo(testContext(t), io.Discard, transport.CopyOptions{})
				_ = incoming.Confirm(testContext(t), protocol.Confirmation{Failure: protocol.AsFailure(err, protocol.Transient)})
			})
			_, err := outgoing.CopyFrom(testContext(t), iotest.ErrReader(errors.New("zfs send died")), transport.CopyOptions{})
			require.ErrorContains(t, err, "zfs send died")
			receiving.Wait()
		},
		"receiver fails": func(t *testing.T, outgoing *tcp.Outgoing, incoming *tcp.Incoming) {
			t.Helper()
			var receiving sync.WaitGroup
			receiving.Go(func() {
				_, err := incoming.CopyTo(testContext(t), io.Discard, transport.CopyOptions{})
				if err == nil {
					err = failure
				}
				_ = incoming.Confirm(testContext(t), protocol.Confirmation{Failure: protocol.AsFailure(err, protocol.Transient)})
			})
			_, err := outgoing.CopyFrom(testContext(t), bytes.NewReader([]byte("stream")), transport.CopyOptions{})
			require.NoError(t, err)
			_, err = outgoing.Confirmation(testContext(t))
			requireKind(t, protocol.Conflict, err)
			receiving.Wait()
		},
		"receiver reads nothing": func(t *testing.T, outgoing *tcp.Outgoing, incoming *tcp.Incoming) {
			t.Helper()
			_, err := outgoing.CopyFrom(testContext(t), bytes.NewReader([]byte("stream")), transport.CopyOptions{})
			require.NoError(t, err)
			require.NoError(t, incoming.Close())
			_, err = outgoing.Confirmation(testContext(t))
			requireKind(t, protocol.Transient, err)
		},
		"sender does not wait": func(t *testing.T, outgoing *tcp.Outgoing, incoming *tcp.Incoming) {
			t.Helper()
			_, err := outgoing.CopyFrom(testContext(t), bytes.NewReader([]byte("stream")), transport.CopyOptions{})
			require.NoError(t, err)
			_, err = incoming.CopyTo(testContext(t), io.Discard, transport.CopyOptions{})
			require.NoError(t, err)
			require.NoError(t, outgoing.Close())
			_ = incoming.Confirm(testContext(t), protocol.Confirmation{ToGUID: 2}) // may not notice
			require.NoError(t, incoming.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bothDirections(t, func(t *testing.T, secure, _ bool, connect connector) {
				t.Helper()
				w := way{dialer: newDialer(t), listener: listen(t, secure)}
				outgoing, incoming, err := connect(w, testContext(t), 1)
				require.NoError(t, err)
				end(t, outgoing, incoming)
				_ = outgoing.Close() // whatever became of it
				_ = incoming.Close()
				outgoing, incoming, err = connect(w, testContext(t), 2)
				require.NoError(t, err)
				require.False(t, outgoing.Peer().Reused)
				transfer(t, outgoing, incoming, memoryEnds(), content(1, 1000))
			})
		})
	}
}

// step makes a whole step over a way.
func step(t testing.TB, w way, connect connector, n int) tcp.Peer {
	t.Helper()
	outgoing, incoming, err := connect(w, testContext(t), n)
	require.NoError(t, err)
	transfer(t, outgoing, incoming, memoryEnds(), content(uint64(n), 1000))
	return outgoing.Peer()
}

func TestDeadKeptConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	bothDirections(t, func(t *testing.T, secure, _ bool, connect connector) {
		t.Helper()
		for name, fate := range map[string]func(to, from *net.TCPConn){
			// As a firewall that has forgotten the connection.
			"silent":       func(_, from *net.TCPConn) { _, _ = io.Copy(io.Discard, from) },
			"closed":       func(_, _ *net.TCPConn) {},
			"cut at hello": func(_, from *net.TCPConn) { _, _ = io.ReadFull(from, make([]byte, 1)) },
			"half a hello": func(to, from *net.TCPConn) { _, _ = passN(to, from, 20) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				listener := listen(t, secure)
				var count atomic.Int64
				doomed, switched := make(chan struct{}), make(chan struct{})
				proxy := meddle(t, listener.Addresses()[0], func(to, from *net.TCPConn) {
					if count.Add(1) > 1 {
						_, _ = pass(to, from)
						return
					}
					passing := make(chan struct{})
					go func() {
						defer close(passing)
						_, _ = pass(to, from)
					}()
					<-doomed
					_ = from.SetReadDeadline(time.Unix(1, 0))
					<-passing
					_ = from.SetReadDeadline(time.Time{})
					close(switched)
					fate(to, from)
				})
				w := way{dialer: newDialer(t), listener: listener, address: proxy.listener.Addr().String(), options: tcp.DialOptions{Patience: time.Second}}
				require.False(t, step(t, w, connect, 1).Reused)
				close(doomed)
				<-switched
				require.False(t, step(t, w, connect, 2).Reused)
			})
		}
	})
}

// TestAnotherWorkerAtTheSameAddress has a port change hands, which only the secret tells where there is no TLS.
func TestAnotherWorkerAtTheSameAddress(t *testing.T) {
	t.Parallel()
	for name, connect := range directions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := listen(t, false), listen(t, false)
			var count atomic.Int64
			proxy := meddle(t, second.Addresses()[0], func(to, from *net.TCPConn) {
				count.Add(1)
				_, _ = pass(to, from)
			})
			before := meddle(t, first.Addresses()[0], func(to, from *net.TCPConn) { _, _ = pass(to, from) })
			w := way{dialer: newDialer(t), listener: first, address: before.listener.Addr().String()}
			step(t, w, connect, 1)
			// The kept connection still leads to the first.
			before.mu.Lock()
			before.target = proxy.listener.Addr().String()
			before.mu.Unlock()
			w.listener = second
			require.False(t, step(t, w, connect, 2).Reused)
			require.EqualValues(t, 1, count.Load())
		})
	}
}

func TestListenerClosesItsFreeConnections(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener, err := tcp.Listen(testContext(t), tcp.Config{Listen: "127.0.0.1:0", TLS: secure})
		require.NoError(t, err)
		w := way{dialer: newDialer(t), listener: listener}
		step(t, w, way.forward, 1)
		require.NoError(t, listener.Close())
	})
}

func TestIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener := listen(t, secure)
		closed := make(chan struct{})
		proxy := meddle(t, listener.Addresses()[0], func(to, from *net.TCPConn) {
			_, _ = pass(to, from)
			close(closed)
		})
		dialer := tcp.NewDialer(tcp.DialerOptions{IdleTime: 10 * time.Millisecond})
		defer dialer.Close()
		step(t, way{dialer: dialer, listener: listener, address: proxy.listener.Addr().String()}, way.forward, 1)
		select {
		case <-closed:
		case <-testContext(t).Done():
			t.Fatal("the connection was kept")
		}
	})
}

func TestPreparedConnectionIsUsed(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		ctx := testContext(t)
		listener, dialer := listen(t, secure), newDialer(t)
		expectation := listener.Expect(stepRef(1))
		defer expectation.Close()
		require.NoError(t, dialer.Prepare(ctx, expectation.Offer(), tcp.DialOptions{}))
		require.NoError(t, dialer.Prepare(ctx, expectation.Offer(), tcp.DialOptions{}), "there is one already")
		outgoing, err := dialer.Dial(ctx, expectation.Offer(), streamHeader(1), tcp.DialOptions{})
		require.NoError(t, err)
		require.True(t, outgoing.Peer().Reused)
		incoming, err := expectation.Accept(ctx)
		require.NoError(t, err)
		transfer(t, outgoing, incoming, memoryEnds(), content(1, 1000))

		fresh := newDialer(t)
		offer := listener.Expect(stepRef(2)).Offer()
		offer.Secret[0] ^= 1
		requireKind(t, protocol.Transient, fresh.Prepare(ctx, offer, tcp.DialOptions{}))
		require.False(t, step(t, way{dialer: fresh, listener: listener}, way.forward, 3).Reused)
	})
}

func TestUnreachableIsToldFromRefused(t *testing.T) {
	t.Parallel()
	closed := listen(t, false)
	nobody := closed.Addresses()[0]
	require.NoError(t, closed.Close())
	var config net.ListenConfig
	silent, err := config.Listen(testContext(t), "tcp", "127.0.0.1:0") // connects, and never says anything
	require.NoError(t, err)
	defer silent.Close()

	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		listener, other := listen(t, secure), listen(t, true)
		for name, test := range map[string]struct {
			addresses   []string
			meddle      func(offer *protocol.Offer)
			unreachable bool
			text        string
		}{
			"nobody listens":         {addresses: []string{nobody}, unreachable: true, text: "connection refused"},
			"nobody answers":         {addresses: []string{silent.Addr().String()}, unreachable: true},
			"nobody of many answers": {addresses: []string{nobody, silent.Addr().String(), nobody}, unreachable: true, text: "connection refused"},
			"another machine": {
				addresses: other.Addresses(), unreachable: true, text: "not that of the offer",
				meddle: func(offer *protocol.Offer) { offer.TLS, offer.Fingerprint = true, make([]byte, 32) },
			},
			"wrong secret": {
				addresses: listener.Addresses(), text: "the secret is not one that is expected here",
				meddle: func(offer *protocol.Offer) { offer.Secret[3] ^= 1 },
			},
			"wrong secret, and nobody": {
				addresses: append([]string{nobody}, listener.Addresses()...), text: "the secret is not one that is expected here",
				meddle: func(offer *protocol.Offer) { offer.Secret[3] ^= 1 },
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				expectation := listener.Expect(stepRef(1))
				defer expectation.Close()
				offer := expectation.Offer()
				offer.Addresses = test.addresses
				if test.meddle != nil {
					test.meddle(&offer)
				}
				_, err := newDialer(t).Dial(testContext(t), offer, streamHeader(1), tcp.DialOptions{Patience: time.Second})
				requireKind(t, protocol.Transient, err)
				require.Equal(t, test.unreachable, errors.Is(err, tcp.ErrUnreachable), "%v", err)
				require.ErrorContains(t, err, test.text)
				if test.unreachable {
					_, err = newDialer(t).DialSender(testContext(t), protocol.DialBack{
						Addresses: offer.Addresses, TLS: offer.TLS, Fingerprint: offer.Fingerprint, Secret: offer.Secret,
					}, stepRef(1), tcp.DialOptions{Patience: time.Second})
					require.ErrorIs(t, err, tcp.ErrUnreachable)
				}
			})
		}
	})
}

func TestReceiverRefusesHeaderOfAnotherStep(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		ctx := testContext(t)
		expectation := listen(t, secure).ExpectReceiver(streamHeader(1), 0)
		_, err := newDialer(t).DialSender(ctx, expectation.DialBack(), stepRef(2), tcp.DialOptions{})
		requireKind(t, protocol.Permanent, err)
		require.NotErrorIs(t, err, tcp.ErrUnreachable)
		_, err = expectation.Accept(ctx)
		requireKind(t, protocol.Permanent, err)
		require.ErrorContains(t, err, "the header names step "+stepRef(1).String())
	})
}

func TestSecretsHaveADirection(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	listener, dialer := listen(t, false), newDialer(t)
	receiver, sender := listener.ExpectReceiver(streamHeader(1), 0), listener.Expect(stepRef(1))
	defer receiver.Close()
	defer sender.Close()
	offer, back := sender.Offer(), receiver.DialBack()
	offer.Secret, back.Secret = back.Secret, offer.Secret
	_, err := dialer.Dial(ctx, offer, streamHeader(1), tcp.DialOptions{})
	requireKind(t, protocol.Permanent, err)
	_, err = dialer.DialSender(ctx, back, stepRef(1), tcp.DialOptions{})
	requireKind(t, protocol.Permanent, err)
}

func TestReceiverExpectationEnds(t *testing.T) {
	t.Parallel()
	listener := listen(t, false)
	for name, end := range map[string]func(e *tcp.ReceiverExpectation) context.Context{
		"closed": func(e *tcp.ReceiverExpectation) context.Context {
			e.Close()
			return testContext(t)
		},
		"nobody comes": func(*tcp.ReceiverExpectation) context.Context {
			ctx, cancel := context.WithTimeout(testContext(t), time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		},
	} {
		t.Run(name, func(t *testing.T) {
			expectation := listener.ExpectReceiver(streamHeader(1), 0)
			_, err := expectation.Accept(end(expectation))
			requireKind(t, protocol.Transient, err)
			require.ErrorContains(t, err, "waiting for the receiver to connect")
			_, err = newDialer(t).DialSender(testContext(t), expectation.DialBack(), stepRef(1), tcp.DialOptions{})
			require.ErrorContains(t, err, "the secret is not one that is expected here")
		})
	}
}

// TestLimitIsAskedForEachPiece counts what the limits were asked for, spliced and copied.
func TestLimitIsAskedForEachPiece(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		for name, over := range map[string]ends{"memory": memoryEnds(), "pipes": pipeEnds()} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				outgoing, incoming := pair(t, secure, time.Minute)
				sent := content(7, 3<<20+5)
				reader := over.reader(t, sent)
				writer, finish := over.writer(t)
				var asked [2]atomic.Int64
				limit := func(side int) func(ctx context.Context, bytes int) error {
					return func(_ context.Context, bytes int) error {
						if bytes < 1 || bytes > 256<<10 {
							return fmt.Errorf("a piece of %d bytes", bytes)
						}
						asked[side].Add(int64(bytes))
						return nil
					}
				}
				var receiving sync.WaitGroup
				receiving.Go(func() {
					if _, err := incoming.CopyTo(testContext(t), writer, transport.CopyOptions{Limit: transport.LimitFunc(limit(1))}); err != nil {
						t.Error(err)
					}
				})
				_, err := outgoing.CopyFrom(testContext(t), reader, transport.CopyOptions{Limit: transport.LimitFunc(limit(0))})
				require.NoError(t, err)
				receiving.Wait()
				require.True(t, bytes.Equal(sent, finish()))
				require.EqualValues(t, len(sent), asked[0].Load(), "the sender's limit")
				require.EqualValues(t, len(sent), asked[1].Load(), "the receiver's limit")
			})
		}
	})
}

func TestLimitsErrorEndsTheCopy(t *testing.T) {
	t.Parallel()
	gone := protocol.Failf(protocol.Permanent, "the limit is gone")
	failing := transport.CopyOptions{Limit: transport.LimitFunc(func(context.Context, int) error { return gone })}
	bothModes(t, func(t *testing.T, secure bool) {
		t.Helper()
		for name, opts := range map[string][2]transport.CopyOptions{"sender": {failing, {}}, "receiver": {{}, failing}} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				outgoing, incoming := pair(t, secure, time.Minute)
				var receiving sync.WaitGroup
				var recvErr error
				receiving.Go(func() {
					_, recvErr = incoming.CopyTo(testContext(t), io.Discard, opts[1])
					_ = incoming.Confirm(testContext(t), protocol.Confirmation{Failure: protocol.AsFailure(recvErr, protocol.Transient)})
				})
				_, err := outgoing.CopyFrom(testContext(t), endless{}, opts[0])
				receiving.Wait()
				for _, err := range []error{err, recvErr} {
					requireKind(t, protocol.Permanent, err)
					require.ErrorContains(t, err, "waiting for bandwidth: the limit is gone")
				}
			})
		}
	})
}
