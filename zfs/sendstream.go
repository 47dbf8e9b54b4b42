// SendStream: the output of a running zfs send.

package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// SendStream is the output of a running zfs send.
//
// It is in one of four states:
//
//	streaming --Read: end of output, child reaped--> ended   (every further Read repeats io.EOF or the child's failure)
//	streaming --File-------------------------------> handed  (Read is refused; Wait tells how zfs send ended)
//	any       --Close------------------------------> closed  (Read, Close, File: os.ErrClosed)
//
// Read may be called by one goroutine at a time; Close, Wait and File by any, at any time, also while a Read is blocked.
// The caller must call Close, also after the end.
type SendStream struct {
	reader *os.File
	cancel context.CancelFunc

	// cause says why the caller's context ended, if it has.
	cause func() error

	// stopWatching ends the watch for the end of the caller's context.
	stopWatching func() bool

	// ended is closed when zfs send has been reaped; failure says how it ended and is not changed after that.
	ended   chan struct{}
	failure error

	report sendReport   // what zfs send tells of itself
	read   atomic.Int64 // how many bytes Read has given

	mu     sync.Mutex
	state  sendState
	handed bool // File was called, which Close does not undo
}

type sendState int

const (
	sendStreaming sendState = iota
	sendEnded
	sendHanded
	sendClosed
)

// startSend starts the command; args is the whole argument vector.
func startSend(ctx context.Context, runner Runner, args []string) (*SendStream, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: make a pipe: %w", summary(args), err)
	}
	enlargePipe(writer)
	runContext, cancel := context.WithCancel(ctx)
	stream := &SendStream{
		reader: reader, cancel: cancel, ended: make(chan struct{}),
		cause: func() error { return context.Cause(ctx) },
	}
	go func() {
		defer close(stream.ended)
		result, err := runner.Run(runContext, Command{Args: args, Stdout: writer, Stderr: &stream.report})
		if err != nil {
			stream.failure = fmt.Errorf("%s: %w", summary(args), err)
			return
		}
		stream.failure = commandFailure(args, result)
		if stream.failure == nil {
			stream.report.finish()
		}
	}()
	// The end of the context kills zfs send by itself, but not one that is blocked on a full pipe: see Close.
	stream.stopWatching = context.AfterFunc(ctx, func() { closeFile(reader) })
	return stream, nil
}

// Read reads the stream. It returns io.EOF only after zfs send has succeeded and was reaped; if it failed, its failure (a
// [*CommandError] with what it wrote to standard error) comes in the place of io.EOF. After Close it returns
// os.ErrClosed, and after the context's end an error that wraps the context's.
func (s *SendStream) Read(p []byte) (int, error) {
	switch s.current() {
	case sendClosed:
		return 0, os.ErrClosed
	case sendHanded:
		return 0, errHanded
	case sendEnded:
		return 0, s.end()
	case sendStreaming:
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := s.reader.Read(p)
	s.read.Add(int64(n))
	if err == nil {
		return n, nil
	}
	// The end of the output, or the read end was closed by Close or by the context's end: in all cases zfs send is about
	// to end.
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == sendClosed {
		return n, os.ErrClosed
	}
	s.state = sendEnded
	if s.failure == nil && !errors.Is(err, io.EOF) {
		s.failure = fmt.Errorf("read the output of zfs send: %w", cmp.Or(s.cause(), err))
	}
	return n, s.end()
}

var errHanded = errors.New("the stream's file has been handed out, and is read by somebody else")

// end is what Read reports at the end.
func (s *SendStream) end() error {
	if s.failure != nil {
		return s.failure
	}
	return io.EOF
}

func (s *SendStream) current() sendState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// File hands out the read end of the pipe, to be given to zfs recv or to be spliced without a copy through this process;
// Read is refused from then on, and Wait says how zfs send ended. Giving the file to [System.Recv] gives it away. It is
// nil once the stream has ended, was handed out, or is closed, and once the context has ended.
//
// From then on the context's end kills zfs send, but does not close the file, which may be on its way to another process at
// that moment. Who reads the file must be stopped before Close is called: as long as it is open anywhere, a zfs send that is
// blocked on the full pipe can not end.
func (s *SendStream) File() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != sendStreaming {
		return nil
	}
	if !s.stopWatching() {
		return nil // it is being closed
	}
	s.state, s.handed = sendHanded, true
	return s.reader
}

// Progress is how far the stream is. It may be called at any time, by any goroutine, and costs next to nothing.
func (s *SendStream) Progress() Progress {
	expected, reported := s.report.progress()
	read := uint64(s.read.Load()) //nolint:gosec // it only grows
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handed {
		return Progress{Expected: expected, Sent: max(read, reported)}
	}
	return Progress{Expected: expected, Sent: read, Exact: true}
}

// Wait waits until zfs send has ended and was reaped: nil if it succeeded, else its failure, or os.ErrClosed if it was
// ended by Close. It does not read: what zfs send writes must be read by Read or through File, or it never ends.
func (s *SendStream) Wait() error {
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// waitFor is Wait for at most so long: a zfs send that has not ended by then has no failure.
func (s *SendStream) waitFor(grace time.Duration) error {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-s.ended:
		return s.Wait()
	case <-timer.C:
		return nil
	}
}

// Close ends zfs send if it is still running, waits until it is reaped, and frees the pipe. It returns nil if zfs send
// succeeded or was ended by this Close, the failure if it had failed before, and os.ErrClosed if it was called before.
//
// It kills zfs send and closes the read end of the pipe, and needs both. Since OpenZFS 2.0 the kernel writes the stream
// from a taskq thread that signals do not reach: a zfs send that is blocked because the pipe is full stays so when it is
// killed, until its write fails with EPIPE (openzfs/zfs#12500).
func (s *SendStream) Close() error {
	s.mu.Lock()
	if s.state == sendClosed {
		s.mu.Unlock()
		<-s.ended
		return os.ErrClosed
	}
	s.state = sendClosed
	endedBefore := false
	select {
	case <-s.ended:
		endedBefore = true
	default:
	}
	s.mu.Unlock()

	s.stopWatching()
	s.cancel()
	closeFile(s.reader)
	<-s.ended

	s.mu.Lock()
	defer s.mu.Unlock()
	if endedBefore {
		return s.failure
	}
	if s.failure != nil {
		s.failure = os.ErrClosed
	}
	return nil
}
