// link: one data connection, as either side holds it after the handshake.

package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// DefaultStall is the stall time where none is given.
	DefaultStall = time.Minute
	// lastWords bounds how long a side that gives up tries to tell the peer why, and how long one that has said its last
	// waits for the peer to have read it. Where the stall time is less, it is that.
	lastWords = 5 * time.Second
)

var errBroken = errors.New("the connection ended within a frame")

// Peer is the other worker, as far as a connection knows it.
type Peer struct {
	// Address is the host:port that was dialled; for the side that was dialled, the other's own.
	Address string
	// TLS says that the connection is TLS 1.3, and not plain TCP.
	TLS bool
	// Reused says that the connection was there before: it has served another step, or was prepared.
	Reused bool
	// Reverse says that the receiver has dialled the sender.
	Reverse bool
}

// link is one step's use of a connection. It writes whole frames, gives signs of life, and ends without losing what was said
// last: by closing the connection, or by handing it over for the next step.
type link struct {
	socket *socket
	conn   net.Conn // the socket, or TLS over it
	peer   Peer
	key    string      // what a dialer keeps it by
	keep   func(*link) // takes over a connection that is free for the next step; nil: it is closed

	writing sync.Mutex
	broken  bool // a frame was written in part, so that no other can follow; guarded by writing

	lastWords time.Duration
	stopAlive context.CancelFunc // nil before keepAlive
	alive     sync.WaitGroup

	parting  sync.Once // the connection is closed, or handed over
	closeErr error
}

// newLink takes over a connection after its TLS handshake, if there is one.
func newLink(s *socket, conn net.Conn, address string) *link {
	_, secure := conn.(*tls.Conn)
	s.coalesce = secure
	return &link{socket: s, conn: conn, lastWords: lastWords, peer: Peer{Address: address, TLS: secure}}
}

// next is a link for the next step over the connection of a link that has ended well.
func (l *link) next() (*link, error) {
	if err := l.socket.renew(); err != nil {
		return nil, err
	}
	return &link{
		socket: l.socket, conn: l.conn, lastWords: lastWords, key: l.key, keep: l.keep,
		peer: Peer{Address: l.peer.Address, TLS: l.peer.TLS, Reused: true},
	}, nil
}

// Read reads from the connection as the socket does.
func (l *link) Read(p []byte) (int, error) { return l.conn.Read(p) }

// write writes one or more whole frames.
func (l *link) write(frames []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.writeLocked(frames)
}

func (l *link) writeLocked(frames []byte) error {
	if l.broken {
		return errBroken
	}
	l.broken = true
	if _, err := l.conn.Write(frames); err != nil {
		return err
	}
	if err := l.socket.flush(); err != nil {
		return err
	}
	l.broken = false
	return nil
}

// keepAlive gives a sign of life at a third of the peer's stall time, until endAlive or close. While somebody else is
// writing, what they write is the sign.
func (l *link) keepAlive(sign frameType, stall time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	l.stopAlive = cancel
	l.lastWords = min(lastWords, stall)
	whole := frame(sign, nil)
	l.alive.Go(func() {
		ticker := time.NewTicker(stall / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if !l.writing.TryLock() {
				continue
			}
			err := l.writeLocked(whole)
			l.writing.Unlock()
			if err != nil {
				return // whoever reads or writes next sees it too
			}
		}
	})
}

// endAlive ends the signs of life, and waits for one that is being written.
func (l *link) endAlive() {
	if l.stopAlive != nil {
		l.stopAlive()
	}
	l.alive.Wait()
}

// sayLast writes the last frame, closes the write side and waits until the peer has closed its own, so that no reset
// overtakes the frame: a connection that is closed while it holds unread bytes is reset (RFC 1122, 4.2.2.13), and a reset
// may take away from the peer what it has not yet read. What arrives meanwhile is thrown away. The wait is bounded by ctx
// and by lastWords, and its end is no error. Nobody else may be reading.
func (l *link) sayLast(ctx context.Context, last []byte) error {
	stop := context.AfterFunc(ctx, l.socket.stopWriting)
	defer stop()
	l.endAlive()
	if err := l.write(last); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	l.closeWrite()
	l.drain(ctx)
	return nil
}

// closeWrite tells the peer that nothing more follows.
func (l *link) closeWrite() {
	if secure, ok := l.conn.(*tls.Conn); ok {
		_ = secure.CloseWrite() // a connection that cannot say so is closed soon anyway
		_ = l.socket.flush()
	}
	if half, ok := l.socket.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// drain reads what arrives below TLS, and throws it away, until the peer closes, or ctx or lastWords end.
func (l *link) drain(ctx context.Context) {
	l.socket.stopReading(net.ErrClosed)
	below := l.socket.Conn
	if err := below.SetReadDeadline(time.Now().Add(l.lastWords)); err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = below.SetReadDeadline(aLongTimeAgo) })
	defer stop()
	_, _ = io.Copy(io.Discard, below) // whatever ends it, the connection is closed next
}

// askDone writes the receiver's last frame of a step that went well, and waits for the sender to say that it has read it, for
// lastWords at most. It says whether it did: the connection is free then. If not, it ends as after sayLast. Nobody else may be
// reading.
func (l *link) askDone(ctx context.Context, last []byte) (bool, error) {
	stop := context.AfterFunc(ctx, func() {
		l.socket.stopWriting()
		l.socket.stopReading(context.Cause(ctx))
	})
	l.endAlive()
	if err := l.write(last); err != nil {
		if !stop() {
			return false, context.Cause(ctx)
		}
		return false, err
	}
	l.socket.expectLife(l.lastWords)
	t, _, err := readFrame(l)
	if stop() && err == nil && t == frameDone {
		return true, nil
	}
	l.closeWrite()
	var silence *silenceError
	if !errors.As(err, &silence) {
		l.drain(ctx)
	}
	return false, nil
}

// close closes the connection and waits for the signs of life to end, unless it was handed over.
func (l *link) close() error {
	l.parting.Do(func() {
		if l.stopAlive != nil {
			l.stopAlive()
		}
		// TLS's own goodbye is not needed: what the peer has to know was said in frames.
		l.closeErr = l.socket.Close()
		l.alive.Wait()
	})
	return l.closeErr
}

// handOver gives the connection to who keeps it for the next step, or closes it if nobody does. Everything of this step
// has been said on it and read from it, and nobody is using it.
func (l *link) handOver() {
	if l.keep == nil {
		_ = l.close() // nothing more was to be said
		return
	}
	l.parting.Do(func() {
		l.endAlive()
		l.keep(l)
	})
}
