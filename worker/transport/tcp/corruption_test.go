// Damage on the way: flipped, lost, repeated and exchanged bytes, all along a step's conversation.

package tcp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/tcp"
)

// damage is done once, to what passes in one direction.
type damage struct {
	name   string
	back   bool // to what the listener says
	at     int  // the byte, counted from when the damage is armed
	length int
	do     func(piece []byte) [][]byte
	end    func(to, from *net.TCPConn) // in the place of do: what becomes of the connection after the byte
}

// damages are what can be done to a piece.
func damages() []damage {
	return []damage{
		{name: "flipped", length: 1, do: func(piece []byte) [][]byte { return [][]byte{{piece[0] ^ 0x04}} }},
		{name: "lost", length: 3, do: func([]byte) [][]byte { return nil }},
		{name: "repeated", length: 5, do: func(piece []byte) [][]byte { return [][]byte{piece, piece} }},
		{name: "exchanged", length: 8, do: func(piece []byte) [][]byte {
			half := len(piece) / 2
			return [][]byte{piece[half:], piece[:half]}
		}},
		{name: "cut", end: func(to, from *net.TCPConn) {
			_ = to.Close() // both ends see it
			_ = from.Close()
		}},
		{name: "half closed", end: func(to, from *net.TCPConn) {
			_ = to.CloseWrite() // one end sees it
			_, _ = io.Copy(io.Discard, from)
		}},
		{name: "stalled", end: func(_, from *net.TCPConn) { _, _ = io.Copy(io.Discard, from) }},
	}
}

// tamperer does damage to the connections that pass through its meddler.
type tamperer struct {
	mu    sync.Mutex
	armed *damage
	seen  [2]int // bytes in each direction since it was armed
}

func (p *tamperer) arm(d *damage) (seen [2]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen, p.seen, p.armed = p.seen, [2]int{}, d
	return seen
}

// touch gives what becomes of a chunk, and of the connection after it, if that is not to go on.
func (p *tamperer) touch(back bool, chunk []byte) ([]byte, func(to, from *net.TCPConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	direction := 0
	if back {
		direction = 1
	}
	before := p.seen[direction]
	p.seen[direction] += len(chunk)
	d := p.armed
	if d == nil || d.back != back || d.at < before || d.at >= before+len(chunk) {
		return chunk, nil
	}
	p.armed = nil
	start := d.at - before
	if d.end != nil {
		return chunk[:start], d.end
	}
	end := min(start+d.length, len(chunk))
	whole := [][]byte{chunk[:start]}
	whole = append(whole, d.do(chunk[start:end])...)
	return bytes.Join(append(whole, chunk[end:]), nil), nil
}

func (p *tamperer) hands(back bool) func(to, from *net.TCPConn) {
	return func(to, from *net.TCPConn) {
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if n > 0 {
				chunk, end := p.touch(back, buffer[:n])
				if _, err := to.Write(chunk); err != nil {
					return
				}
				if end != nil {
					end(to, from)
					return
				}
			}
			if err != nil {
				_ = to.CloseWrite() // as the other side did
				return
			}
		}
	}
}

// zfsRecv takes a stream and looks at it, as zfs recv does by the checksums of its records.
type zfsRecv struct {
	want     []byte
	received int
}

var errChecksum = errors.New("invalid stream (checksum mismatch)")

func (r *zfsRecv) Write(p []byte) (int, error) {
	rest := r.want[r.received:]
	if len(p) > len(rest) || !bytes.Equal(p, rest[:len(p)]) {
		return 0, errChecksum
	}
	r.received += len(p)
	return len(p), nil
}

// damagedStep makes a step of which anything may fail, but nothing may be taken for what it is not.
func damagedStep(t *testing.T, w way, connect connector, n int, stall time.Duration) (confirmed bool) {
	t.Helper()
	w.options = tcp.DialOptions{Patience: stall, Stall: stall}
	ctx, cancel := context.WithTimeout(testContext(t), 3*stall)
	defer cancel()
	outgoing, incoming, err := connect(w, ctx, n)
	defer func() {
		if outgoing != nil {
			_ = outgoing.Close() // whatever became of it
		}
		if incoming != nil {
			_ = incoming.Close()
		}
	}()
	if err != nil {
		return false
	}
	require.Equal(t, streamHeader(n), incoming.Header())
	sent := content(uint64(n), 90)
	want := protocol.Confirmation{ToGUID: 2, Bytes: uint64(len(sent)), Elapsed: time.Second}
	recv := &zfsRecv{want: sent}
	var receiving sync.WaitGroup
	receiving.Go(func() {
		_, err := incoming.CopyTo(ctx, recv, transport.CopyOptions{Stall: stall})
		if err != nil {
			_ = incoming.Confirm(ctx, protocol.Confirmation{Failure: protocol.AsFailure(err, protocol.Transient)})
			return
		}
		if recv.received != len(sent) {
			t.Errorf("%d bytes of %d were taken for the whole stream", recv.received, len(sent))
		}
		_ = incoming.Confirm(ctx, want)
	})
	_, sendErr := outgoing.CopyFrom(ctx, bytes.NewReader(sent), transport.CopyOptions{})
	if sendErr == nil {
		var got protocol.Confirmation
		got, sendErr = outgoing.Confirmation(ctx)
		if sendErr == nil {
			require.Equal(t, want, got)
			confirmed = true
		}
	}
	_ = outgoing.Close()
	receiving.Wait()
	if confirmed {
		require.Equal(t, len(sent), recv.received, "confirmed, but not received")
	}
	return confirmed
}

// TestDamageAtEveryPoint does each kind of damage all along a step's conversation, in both
// directions, of a sender and of a receiver that dials, on new connections and on reused ones. The step may fail, but it
// must not be taken for what it is not, and the one after it must go well.
func TestDamageAtEveryPoint(t *testing.T) {
	t.Parallel()
	bothDirections(t, func(t *testing.T, secure, _ bool, connect connector) {
		t.Helper()
		for _, reused := range []bool{false, true} {
			t.Run(fmt.Sprintf("reused=%v", reused), func(t *testing.T) {
				t.Parallel()
				// Most of the time is spent on waiting for what does not come, so much of it is done at once.
				lanes := make([]*damagedLane, 48)
				for i := range lanes {
					lanes[i] = newDamagedLane(t, secure, reused, connect)
				}
				confirmed, seen := lanes[0].try(t, nil)
				require.True(t, confirmed, "without damage")
				all := make(chan damage)
				var running sync.WaitGroup
				for _, lane := range lanes {
					running.Go(func() {
						for d := range all {
							if lane.try(t, &d); t.Failed() {
								t.Errorf("byte %d, back %v, %s", d.at, d.back, d.name)
								break
							}
						}
						for range all { // what failed has been said
						}
					})
				}
				for _, d := range damages() {
					stride := 1
					switch {
					case secure && d.length != 1:
						stride = 211
					case secure:
						stride = 61
					case d.length != 1:
						stride = 23
					case reused:
						stride = 3
					}
					for direction, length := range seen {
						for at := 0; at < length; at += stride {
							d.at, d.back = at, direction == 1
							all <- d
						}
					}
				}
				close(all)
				running.Wait()
			})
		}
	})
}

// damagedLane is a listener behind a meddler that does damage.
type damagedLane struct {
	listener *tcp.Listener
	proxy    *meddler
	tamperer *tamperer
	reused   bool
	connect  connector
}

func newDamagedLane(
	t *testing.T, secure, reused bool, connect connector,
) *damagedLane {
	t.Helper()
	lane := &damagedLane{listener: listen(t, secure), tamperer: new(tamperer), reused: reused, connect: connect}
	lane.proxy = meddleBoth(t, lane.listener.Addresses()[0], func(to, from *net.TCPConn) {
		lane.tamperer.hands(false)(to, from)
		_, _ = io.Copy(io.Discard, from) // until its owner closes it
	}, lane.tamperer.hands(true))
	return lane
}

// try makes a step with damage, and a good one after it.
func (l *damagedLane) try(t *testing.T, d *damage) (confirmed bool, seen [2]int) {
	t.Helper()
	dialer := tcp.NewDialer(tcp.DialerOptions{})
	defer dialer.Close()
	w := way{dialer: dialer, listener: l.listener, address: l.proxy.listener.Addr().String()}
	if l.reused {
		step(t, w, l.connect, 1)
	}
	l.tamperer.arm(d)
	stall := patience / 3
	if d != nil {
		stall = 150 * time.Millisecond // what is damaged mostly shows by what does not come
	}
	confirmed = damagedStep(t, w, l.connect, 2, stall)
	seen = l.tamperer.arm(nil)
	w.options.Patience = patience / 3
	outgoing, incoming, err := l.connect(w, testContext(t), 3)
	if err != nil {
		// A kept connection may have been damaged in what comes after a confirmation, and may take the secret with it. That
		// is a failure for another try, with another offer.
		require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent), "%v", err)
		outgoing, incoming, err = l.connect(w, testContext(t), 4)
	}
	require.NoError(t, err)
	transfer(t, outgoing, incoming, memoryEnds(), content(3, 1000))
	return confirmed, seen
}
