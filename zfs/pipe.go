// Pipe: zfs send and zfs recv of one host, joined by a pipe of the kernel's, so that no byte passes through this process.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// PipeOptions are what a [System.Pipe] may be asked for besides.
type PipeOptions struct {
	// Watch, unless it is nil, is called once, before zfs recv is started, with a function that answers how far zfs send is.
	// That may be called at any time, also after the Pipe has ended, and by any goroutine; see [SendStream.Progress].
	Watch func(progress func() Progress)
}

// PipeError says why a [System.Pipe] failed: how each of the two commands did. The error that tells more comes first, in
// the text and for errors.As: where one of them only failed because the other had, it is the other's.
type PipeError struct {
	// Send is why zfs send failed: nil if it succeeded, or if it had to be ended after zfs recv.
	Send error

	// Recv is why zfs recv failed, a [*RecvError] where it ran; nil if it succeeded.
	Recv error
}

// Error is the error of the command that failed by itself, or both where both may have.
func (e *PipeError) Error() string {
	causes, follows := e.causes()
	switch {
	case len(causes) == 0:
		return "zfs send into zfs recv failed"
	case len(causes) == 1, follows:
		return causes[0].Error()
	}
	return causes[0].Error() + "; " + causes[1].Error()
}

// Unwrap gives the errors, the one that tells more first.
func (e *PipeError) Unwrap() []error {
	causes, _ := e.causes()
	return causes
}

// causes puts the error that tells more first; follows says that the second is no more than its consequence.
func (e *PipeError) causes() (causes []error, follows bool) {
	switch {
	case e.Send == nil && e.Recv == nil:
		return nil, false
	case e.Send == nil:
		return []error{e.Recv}, false
	case e.Recv == nil:
		return []error{e.Send}, false
	}
	var sent *CommandError
	var received *RecvError
	sendRan, recvRan := errors.As(e.Send, &sent), errors.As(e.Recv, &received)
	switch {
	case sendRan && strings.Contains(sent.Stderr, "Broken pipe"):
		return []error{e.Recv, e.Send}, true
	case recvRan && received.Kind == RecvInterrupted:
		return []error{e.Send, e.Recv}, true // the stream broke off because zfs send did
	case recvRan && sendRan && sent.ExitCode < 0:
		return []error{e.Recv, e.Send}, true // SIGPIPE, as a rule
	}
	return []error{e.Recv, e.Send}, false
}

// sendGrace is how long a zfs send whose zfs recv has failed may take to notice it, or to say why it had failed before.
const sendGrace = 10 * time.Second

// Pipe sends straight into a receive on the same host: zfs recv is given the read end of the pipe that zfs send writes to.
// It returns when both have ended and were reaped, with the last that is known of the progress.
//
// Only if both have succeeded is there no error: a zfs send that fails is one also where zfs recv was content with what it
// had got. Where a side failed, the error is a [*PipeError]; with RecvArgs.Resumable, what had been received by then is kept.
// A zfs recv that fails ends zfs send, by SIGPIPE, or by being killed if it does not notice for 10 seconds. The context's
// end kills both; an error then wraps the context's.
func (s *System) Pipe(ctx context.Context, send ValidSend, recv RecvArgs, options PipeOptions) (Progress, error) {
	if _, err := recv.argv(); err != nil {
		return Progress{}, err
	}
	stream, err := s.Send(ctx, send)
	if err != nil {
		return Progress{}, err
	}
	// The file is asked for first, so that the progress is from the beginning that of a stream that nobody counts.
	file := stream.File()
	if file == nil {
		return Progress{}, errors.Join(fmt.Errorf("zfs send into zfs recv: %w", context.Cause(ctx)), stream.Close())
	}
	if options.Watch != nil {
		options.Watch(stream.Progress)
	}
	failed := &PipeError{Recv: s.Recv(ctx, recv, file)}
	if failed.Recv == nil {
		failed.Send = stream.Wait() // it has written all; what is left to it (releasing holds) takes a while
	} else {
		failed.Send = stream.waitFor(sendGrace)
	}
	closeErr := stream.Close()
	if failed.Send == nil && failed.Recv == nil {
		return stream.Progress(), closeErr
	}
	return stream.Progress(), failed
}
