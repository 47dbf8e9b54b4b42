// Splicing: plain TCP and a pipe, joined in the kernel (splice(2)).

package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipeSize is what pipes are asked to hold, the most that an unprivileged process may have (/proc/sys/fs/pipe-max-size).
const pipeSize = 1 << 20

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// splicer moves the payload of data frames between a plain TCP connection and a pipe without copying it through the
// process. It waits in the runtime's poller, so that deadlines and closes of both work as ever, and never holds the pipe
// while it waits for the connection, so that the pipe's owner can always close it.
type splicer struct {
	link *link
	sock syscall.RawConn
	file *os.File
	pipe syscall.RawConn
}

// newSplicer is nil where the connection or the file are not of the kind that can be spliced. A pipe is enlarged in any
// case, since fewer and larger reads and writes help copying as well.
func newSplicer(l *link, file *os.File) *splicer {
	if file == nil {
		return nil
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return nil
	}
	pipe, err := file.SyscallConn()
	if err != nil {
		return nil
	}
	_ = pipe.Control(func(fd uintptr) {
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) // a smaller pipe works too
	})
	if l.conn != net.Conn(l.socket) {
		return nil
	}
	tcp, ok := l.socket.Conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	sock, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return &splicer{link: l, sock: sock, file: file, pipe: pipe}
}

// send frames what comes out of the pipe until there is no more, or until the pipe is interrupted or closed, or cannot be
// spliced: all of which the caller finds out by reading it. An error is one of the connection.
func (s *splicer) send(m *meter) error {
	for {
		waiting := s.await()
		if waiting == 0 {
			return nil
		}
		length := m.piece(min(waiting, maxData))
		if err := m.pace(length); err != nil {
			return err
		}
		again, err := s.sendFrame(length, m)
		if err != nil || !again {
			return err
		}
	}
}

// await waits until the pipe holds bytes, and says how many. At the pipe's end, or when it is interrupted, that is zero.
func (s *splicer) await() int {
	waiting := 0
	err := s.pipe.Read(func(fd uintptr) bool {
		var err error
		if waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ); err != nil || waiting > 0 {
			return true
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
		if _, err = unix.Poll(poll, 0); err != nil || poll[0].Revents == 0 {
			return err != nil && !errors.Is(err, unix.EINTR)
		}
		// Between both calls the last writer may have written and closed.
		waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		return err != nil || waiting > 0 || poll[0].Revents&unix.POLLIN == 0
	})
	if err != nil {
		return 0
	}
	return waiting
}

// sendFrame sends a data frame of length bytes that are in the pipe. It says whether splicing goes on.
func (s *splicer) sendFrame(length int, m *meter) (bool, error) {
	l := s.link
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.broken {
		return false, errBroken
	}
	l.broken = true
	header := make([]byte, frameHeaderSize)
	putFrameHeader(header, frameData, length)
	if err := s.sendHeader(header); err != nil {
		return false, err
	}
	for left := length; left > 0; {
		var moved int64
		var spliceErr, pipeErr error
		err := s.sock.Write(func(sock uintptr) bool {
			pipeErr = s.pipe.Control(func(pipe uintptr) {
				moved, spliceErr = unix.Splice(int(pipe), nil, int(sock), nil, left, spliceFlags)
			})
			// The pipe holds bytes, so it is the connection that is full.
			return pipeErr != nil || !errors.Is(spliceErr, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return false, err
		case pipeErr != nil:
			return false, &readError{err: pipeErr}
		case errors.Is(spliceErr, unix.EINTR):
			continue
		case errors.Is(spliceErr, unix.EINVAL), errors.Is(spliceErr, unix.ENOSYS):
			if err := s.copyRest(left, m); err != nil {
				return false, err
			}
			l.broken = false
			return false, nil
		case spliceErr != nil:
			return false, os.NewSyscallError("splice", spliceErr)
		case moved == 0:
			return false, &readError{err: io.ErrUnexpectedEOF}
		}
		left -= int(moved)
		m.add(moved)
	}
	l.broken = false
	return true, nil
}

// sendHeader sends the frame's header in one segment with what follows it.
func (s *splicer) sendHeader(header []byte) error {
	for len(header) > 0 {
		var n int
		var sendErr error
		err := s.sock.Write(func(sock uintptr) bool {
			n, sendErr = unix.SendmsgN(int(sock), header, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			return !errors.Is(sendErr, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return err
		case errors.Is(sendErr, unix.EINTR):
			continue
		case sendErr != nil:
			return os.NewSyscallError("sendmsg", sendErr)
		}
		header = header[n:]
	}
	return nil
}

// copyRest sends the rest of a frame where splicing turned out to be impossible.
func (s *splicer) copyRest(left int, m *meter) error {
	buffer := make([]byte, min(left, copyBuffer))
	for left > 0 {
		n, err := io.ReadFull(s.file, buffer[:min(left, len(buffer))])
		if err != nil {
			return &readError{err: err}
		}
		if _, err := s.link.conn.Write(buffer[:n]); err != nil {
			return err
		}
		left -= n
		m.add(int64(n))
	}
	return nil
}

// receive moves a frame's payload of length bytes into the pipe, and gives what is left of it where splicing turned out
// to be impossible.
func (s *splicer) receive(length int, m *meter) (int, error) {
	for length > 0 {
		piece := m.piece(length)
		if err := m.pace(piece); err != nil {
			return length, err
		}
		for piece > 0 {
			moved, err := s.receiveSome(piece)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
				return length, nil
			}
			if err != nil {
				return length, err
			}
			piece -= moved
			length -= moved
			m.add(int64(moved))
		}
	}
	return 0, nil
}

// receiveSome moves at least one byte. Whether a splice that would block waits for the connection or the pipe is seen
// from whether there are bytes in the connection; it is tried again each time a wait begins, so that no readiness is
// missed.
func (s *splicer) receiveSome(length int) (int, error) {
	var moved int64
	var spliceErr, otherErr error
	attempt := func(sock, pipe uintptr) (full, empty bool) {
		moved, spliceErr = unix.Splice(int(sock), nil, int(pipe), nil, length, spliceFlags)
		if !errors.Is(spliceErr, unix.EAGAIN) {
			return false, false
		}
		waiting, err := unix.IoctlGetInt(int(sock), unix.TIOCINQ)
		if err != nil {
			spliceErr = err
			return false, false
		}
		return waiting > 0, waiting == 0
	}
	for {
		if err := s.link.socket.arm(); err != nil {
			return 0, err
		}
		var full, empty bool
		err := s.sock.Read(func(sock uintptr) bool {
			otherErr = s.pipe.Control(func(pipe uintptr) { full, empty = attempt(sock, pipe) })
			return otherErr != nil || !empty
		})
		if err != nil {
			return 0, s.link.socket.readError(err)
		}
		if otherErr != nil {
			return 0, &writeError{err: otherErr}
		}
		if full {
			err := s.pipe.Write(func(pipe uintptr) bool {
				otherErr = s.sock.Control(func(sock uintptr) { full, empty = attempt(sock, pipe) })
				return otherErr != nil || !full
			})
			if err != nil {
				return 0, &writeError{err: err}
			}
			if otherErr != nil {
				return 0, otherErr
			}
			if empty {
				continue
			}
		}
		switch {
		case errors.Is(spliceErr, unix.EINTR):
			continue
		case errors.Is(spliceErr, unix.EPIPE):
			return 0, &writeError{err: os.NewSyscallError("splice", spliceErr)}
		case errors.Is(spliceErr, unix.EINVAL), errors.Is(spliceErr, unix.ENOSYS):
			return 0, spliceErr
		case spliceErr != nil:
			return 0, os.NewSyscallError("splice", spliceErr)
		case moved == 0:
			return 0, io.ErrUnexpectedEOF
		}
		return int(moved), nil
	}
}
