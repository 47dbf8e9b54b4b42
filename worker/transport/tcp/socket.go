// socket: a network connection whose reads wait for signs of life, not for a point in time.

package tcp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// aLongTimeAgo is a deadline that makes blocked and coming calls return at once.
var aLongTimeAgo = time.Unix(1, 0)

// maxPending is how many bytes a coalescing socket gathers before it writes them without being asked to.
const maxPending = 1 << 19

// silenceError is a peer that gave no sign of life for the stall time.
type silenceError struct{ stall time.Duration }

func (e *silenceError) Error() string { return fmt.Sprintf("stalled: no sign of life for %s", e.stall) }

// socket is a connection below TLS, or the plain connection itself.
//
// Each Read may wait for the stall time, counted from its own beginning, so that any byte that arrives is progress
// however slow the connection is. Writes have no deadline: a full send buffer is the receiver's back-pressure, and
// whether the receiver lives is seen from what it sends.
//
// A TLS connection writes each record of 16 KiB by itself. When it coalesces, a socket gathers them until flush, which
// makes one system call of a whole frame.
type socket struct {
	net.Conn

	reading sync.Mutex // guards stall and stopped, and that no deadline is moved once reads were stopped
	stall   time.Duration
	stopped error

	coalesce  bool // set before the connection is shared
	gathering sync.Mutex
	pending   []byte
}

// expectLife makes each following Read wait for at most stall, and a waiting one from now on.
func (s *socket) expectLife(stall time.Duration) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.stall = stall
	if s.stopped == nil {
		_ = s.SetReadDeadline(time.Now().Add(stall)) // a closed connection says so when it is read
	}
}

// arm gives the coming read its deadline.
func (s *socket) arm() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.stopped != nil {
		return s.stopped
	}
	if s.stall == 0 {
		return nil
	}
	return s.SetReadDeadline(time.Now().Add(s.stall))
}

// stopReading ends a waiting Read, and all that follow, with cause.
func (s *socket) stopReading(cause error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.stopped == nil {
		s.stopped = cause
	}
	_ = s.SetReadDeadline(aLongTimeAgo) // a closed connection needs none
}

// readError tells what a deadline that a read ran into meant.
func (s *socket) readError(err error) error {
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	switch {
	case s.stopped != nil:
		return s.stopped
	case s.stall != 0:
		return &silenceError{stall: s.stall}
	default:
		return err
	}
}

// Read reads what has arrived, and waits for it for the stall time.
func (s *socket) Read(p []byte) (int, error) {
	if err := s.arm(); err != nil {
		return 0, err
	}
	n, err := s.Conn.Read(p)
	return n, s.readError(err)
}

// Write writes p, or keeps it for the next flush.
func (s *socket) Write(p []byte) (int, error) {
	if !s.coalesce {
		return s.Conn.Write(p)
	}
	s.gathering.Lock()
	defer s.gathering.Unlock()
	s.pending = append(s.pending, p...)
	if len(s.pending) < maxPending {
		return len(p), nil
	}
	return len(p), s.flushLocked()
}

// flush writes what a coalescing socket has gathered.
func (s *socket) flush() error {
	if !s.coalesce {
		return nil
	}
	s.gathering.Lock()
	defer s.gathering.Unlock()
	return s.flushLocked()
}

func (s *socket) flushLocked() error {
	if len(s.pending) == 0 {
		return nil
	}
	_, err := s.Conn.Write(s.pending)
	s.pending = s.pending[:0]
	return err
}

// renew makes the socket as it was when it was new, for the next step over the same connection. Nobody else may be using it.
func (s *socket) renew() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.stall, s.stopped = 0, nil
	return s.SetDeadline(time.Time{})
}

// stopWriting ends a waiting Write, and makes those that follow fail until allowWriting.
func (s *socket) stopWriting() { _ = s.SetWriteDeadline(aLongTimeAgo) }

// allowWriting lets writes wait for at most the given time, until stopWriting.
func (s *socket) allowWriting(limit time.Duration) { _ = s.SetWriteDeadline(time.Now().Add(limit)) }
