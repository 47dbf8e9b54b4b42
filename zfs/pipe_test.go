package zfs

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// shellPair runs a shell command for zfs send, and another one for zfs recv.
type shellPair struct {
	send, recv string
	recvStderr io.Writer
}

func (p shellPair) Run(ctx context.Context, command Command) (Result, error) {
	script := p.send
	if command.Args[1] == "recv" {
		script, command.Stderr = p.recv, p.recvStderr
	}
	command.Args = []string{"zfs", "-c", script}
	return shellRunner().Run(ctx, command)
}

func validSend(t testing.TB) ValidSend {
	t.Helper()
	send, err := ValidateSend(matchingArgs(), sendDataset(), nil, currentFeatures)
	require.NoError(t, err)
	return send
}

// pipe runs the pair, which must fail.
func (p shellPair) fails(t *testing.T) (Progress, *PipeError) {
	t.Helper()
	progress, err := New(p).Pipe(deadline(t), validSend(t), RecvArgs{Dataset: "pool/x", Resumable: true}, PipeOptions{})
	var failed *PipeError
	require.ErrorAs(t, err, &failed)
	return progress, failed
}

const (
	reportScript = "printf 'incremental\\ta\\ttank/fs@b\\t5000\\nsize\\t5000\\n' >&2; "
	interrupted  = "echo 'cannot receive new filesystem stream: checksum mismatch or incomplete stream.' >&2; exit 1"
)

func TestPipeSucceedsIfBothDo(t *testing.T) {
	t.Parallel()
	pair := shellPair{send: reportScript + "head -c 3000000 /dev/zero", recv: "test $(wc -c) = 3000000"}
	var watched func() Progress
	progress, err := New(pair).Pipe(deadline(t), validSend(t), RecvArgs{Dataset: "pool/x"}, PipeOptions{
		Watch: func(progress func() Progress) { watched = progress },
	})
	require.NoError(t, err)
	require.Equal(t, Progress{Expected: 5000, Sent: 5000}, progress)
	require.Equal(t, progress, watched())
}

func TestPipeReceiveFails(t *testing.T) {
	t.Parallel()
	for _, send := range []string{"exec yes", "trap '' PIPE; while echo x; do :; done 2>/dev/null; echo 'Broken pipe' >&2; exit 1"} {
		_, failed := shellPair{send: send, recv: "echo \"destination 'pool/x' exists, must specify -F to overwrite it\" >&2; exit 1"}.fails(t)
		var received *RecvError
		require.ErrorAs(t, failed, &received)
		require.Equal(t, RecvDestinationExists, received.Kind)
		require.Same(t, received, failed.Recv)
		require.Error(t, failed.Send)
		require.Equal(t, received.Error(), failed.Error(), "that zfs send had to end tells nothing")
		var command *CommandError
		require.ErrorAs(t, failed, &command)
		require.Same(t, received.Command, command, "what tells more is found first")
	}
}

// A zfs send that fails is never a success, whatever zfs recv makes of what it got.
func TestPipeSendFails(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"kill -9 $$", "echo 'cannot send: Input/output error' >&2; exit 1"} {
		send := reportScript + "head -c 300000 /dev/zero; " + end
		_, failed := shellPair{send: send, recv: "cat >/dev/null"}.fails(t)
		require.NoError(t, failed.Recv)
		require.Equal(t, failed.Send.Error(), failed.Error())
		require.NotContains(t, failed.Error(), "5000", "progress is no part of an error")

		progress, failed := shellPair{send: send, recv: "cat >/dev/null; " + interrupted}.fails(t)
		require.Equal(t, failed.Send.Error(), failed.Error(), "that the stream broke off tells nothing more")
		var received *RecvError
		require.ErrorAs(t, failed, &received)
		require.Equal(t, RecvInterrupted, received.Kind)
		var command *CommandError
		require.ErrorAs(t, failed, &command)
		require.Same(t, failed.Send, command, "what tells more is found first")
		require.Equal(t, Progress{Expected: 5000}, progress, "a failure makes nothing out of the estimate")
	}
}

func TestPipeBothFail(t *testing.T) {
	t.Parallel()
	_, failed := shellPair{
		send: "echo 'cannot send: Input/output error' >&2; exit 1", recv: "cat >/dev/null; echo out of space >&2; exit 1",
	}.fails(t)
	require.ErrorContains(t, failed, "out of space")
	require.ErrorContains(t, failed, "Input/output error")
}

func TestPipeRefusesBeforeItBegins(t *testing.T) {
	t.Parallel()
	system := scripted(t) // which expects no command
	_, err := system.Pipe(t.Context(), ValidSend{}, RecvArgs{Dataset: "pool/x"}, PipeOptions{})
	require.ErrorIs(t, err, errNotValidated)
	_, err = system.Pipe(t.Context(), validSend(t), RecvArgs{Dataset: "-x"}, PipeOptions{})
	require.ErrorContains(t, err, "invalid dataset name")
}

func TestPipeOfCommandsThatCannotStart(t *testing.T) {
	t.Parallel()
	system := New(NewExecRunner(WithExecutable("zfs", "/nonexistent")))
	_, err := system.Pipe(deadline(t), validSend(t), RecvArgs{Dataset: "pool/x"}, PipeOptions{})
	require.ErrorContains(t, err, "no such file")
}

// signal is a writer that tells that something was written to it.
type signal struct {
	once    sync.Once
	written chan struct{}
}

func (s *signal) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.written) })
	return len(p), nil
}

func TestPipeEndsWithTheContext(t *testing.T) {
	t.Parallel()
	for _, recv := range []string{"exec sleep 600", "exec cat >/dev/null"} {
		ctx, cancel := context.WithCancelCause(deadline(t))
		started := &signal{written: make(chan struct{})}
		pair := shellPair{send: "exec yes", recv: "echo >&2; " + recv, recvStderr: started}
		go func() {
			<-started.written
			cancel(errors.New("enough"))
		}()
		_, err := New(pair).Pipe(ctx, validSend(t), RecvArgs{Dataset: "pool/x"}, PipeOptions{})
		require.ErrorContains(t, err, "enough")
	}
}

// deafRunner has a zfs recv that fails at once, and a zfs send that nothing but a signal ends.
type deafRunner struct{}

func (deafRunner) Run(ctx context.Context, command Command) (Result, error) {
	closeFile(command.Stdin)
	if command.Args[1] == "recv" {
		return Result{ExitCode: 1, Stderr: []byte("cannot receive: out of space\n")}, nil
	}
	<-ctx.Done()
	return Result{ExitCode: -1}, ctx.Err()
}

func TestPipeKillsASendThatDoesNotNotice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, err := New(deafRunner{}).Pipe(t.Context(), validSend(t), RecvArgs{Dataset: "pool/x"}, PipeOptions{})
		var failed *PipeError
		require.ErrorAs(t, err, &failed)
		require.NoError(t, failed.Send)
		require.ErrorContains(t, failed, "out of space")
	})
}
