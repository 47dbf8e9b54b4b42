package testfleet

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/zfleet/zfleet/zfs"
)

// Stopper is a Runner that stops a command at a chosen point until the process that runs it is killed. It works around
// fake and real pools alike.
type Stopper struct {
	inner zfs.Runner

	mu    sync.Mutex
	armed *Point
}

// Point is where a command is stopped, once.
type Point struct {
	// Match chooses the command.
	Match func(args []string) bool
	// After lets the command have its effect first.
	After bool
	// Bytes, where it is more than 0, stops the command once it has written so many bytes.
	Bytes int64

	reached chan struct{}
}

// NewStopper makes a Stopper around another Runner.
func NewStopper(inner zfs.Runner) *Stopper { return &Stopper{inner: inner} }

// Stop arms the point; the channel is closed when a command has been stopped there.
func (s *Stopper) Stop(point Point) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	point.reached = make(chan struct{})
	s.armed = &point
	return point.reached
}

func (s *Stopper) take(args []string) *Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed == nil || !s.armed.Match(args) {
		return nil
	}
	point := s.armed
	s.armed = nil
	return point
}

// Run runs the command, or stops it.
func (s *Stopper) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	point := s.take(command.Args)
	switch {
	case point == nil:
		return s.inner.Run(ctx, command)
	case point.Bytes > 0:
		if file, isFile := command.Stdout.(*os.File); isFile {
			defer func() { _ = file.Close() }() // a Runner closes the files that it is given
		}
		command.Stdout = &stoppedWriter{ctx: ctx, inner: command.Stdout, point: point}
		return s.inner.Run(ctx, command)
	case point.After:
		result, err := s.inner.Run(ctx, command)
		if err != nil || result.ExitCode != 0 {
			return result, err
		}
	default:
		for _, end := range []any{command.Stdin, command.Stdout} {
			if file, isFile := end.(*os.File); isFile && file != nil {
				_ = file.Close() // as above
			}
		}
	}
	close(point.reached)
	<-ctx.Done()
	return zfs.Result{ExitCode: -1}, fmt.Errorf("stopped by the test: %w", ctx.Err())
}

// stoppedWriter passes on what is written until the point.
type stoppedWriter struct {
	ctx     context.Context //nolint:containedctx // a Writer cannot be given one
	inner   io.Writer
	point   *Point
	written int64
}

func (w *stoppedWriter) Write(data []byte) (int, error) {
	room := w.point.Bytes - w.written
	if int64(len(data)) < room {
		n, err := w.inner.Write(data)
		w.written += int64(n)
		return n, err
	}
	n, err := w.inner.Write(data[:room])
	w.written += int64(n)
	if err != nil {
		return n, err
	}
	close(w.point.reached)
	<-w.ctx.Done()
	return n, fmt.Errorf("stopped by the test: %w", w.ctx.Err())
}
