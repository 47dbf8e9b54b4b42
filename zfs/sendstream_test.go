package zfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// startShell starts a shell command as if it were zfs send.
func startShell(t testing.TB, ctx context.Context, command string) *SendStream {
	t.Helper()
	stream, err := startSend(ctx, shellRunner(), []string{"zfs", "-c", command})
	require.NoError(t, err)
	return stream
}

func TestSendStreamReadsToTheEnd(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "yes | head -c 300000")
	content, err := io.ReadAll(stream)
	require.NoError(t, err)
	require.Len(t, content, 300000)
	n, err := stream.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF, "the end is repeated")
	require.NoError(t, stream.Wait())
	require.Nil(t, stream.File(), "there is nothing left to hand out")
	require.NoError(t, stream.Close())
	require.ErrorIs(t, stream.Close(), os.ErrClosed)
	require.NoError(t, stream.Wait(), "that it succeeded is not forgotten")
	_, err = stream.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestSendStreamFailureComesInThePlaceOfEOF(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "echo part; echo 'cannot send: reason' >&2; exit 4")
	content, err := io.ReadAll(stream)
	require.Equal(t, "part\n", string(content))
	var failed *CommandError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, 4, failed.ExitCode)
	require.ErrorContains(t, err, "cannot send: reason")
	require.ErrorIs(t, stream.Wait(), err)
	require.ErrorIs(t, stream.Close(), err, "Close tells it as well")
	require.ErrorIs(t, stream.Close(), os.ErrClosed)
}

func TestSendStreamTypesTheFailure(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), `echo "cannot open 'tank/x@a': dataset does not exist" >&2; exit 1`)
	_, err := io.ReadAll(stream)
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
	require.Error(t, stream.Close())
}

func TestSendStreamCloseWhileThePipeIsFull(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "exec yes")
	// yes ends only by being killed or by EPIPE, and it has nobody to read: the pipe is full soon, if it is not yet.
	require.NoError(t, stream.Close())
	require.ErrorIs(t, stream.Wait(), os.ErrClosed)
	require.ErrorIs(t, stream.Close(), os.ErrClosed)
}

// taskqRunner behaves like a kernel whose zfs send writes from a taskq: what ends the command is a failed write only, never
// a signal (openzfs/zfs#12500).
type taskqRunner struct{ full chan struct{} }

func (r *taskqRunner) Run(ctx context.Context, command Command) (Result, error) {
	out := command.Stdout.(*os.File)
	defer closeFile(out)
	if err := fillPipe(out); err != nil {
		return Result{}, err
	}
	close(r.full)
	if _, err := out.Write(bytes.Repeat([]byte("x"), 4<<20)); err == nil {
		return Result{}, errors.New("the pipe was read")
	}
	return Result{ExitCode: -1}, ctx.Err()
}

// fillPipe writes until a write would block.
func fillPipe(pipe *os.File) error {
	connection, err := pipe.SyscallConn()
	if err != nil {
		return err
	}
	var writeErr error
	err = connection.Write(func(fd uintptr) bool {
		writeErr = fillDescriptor(int(fd))
		return true
	})
	return errors.Join(err, writeErr)
}

func TestSendStreamCloseEndsASendThatSignalsDoNotReach(t *testing.T) {
	t.Parallel()
	runner := &taskqRunner{full: make(chan struct{})}
	stream, err := startSend(deadline(t), runner, []string{"zfs", "send", "tank/x@a"})
	require.NoError(t, err)
	<-runner.full
	require.NoError(t, stream.Close())
}

func TestSendStreamEndOfTheContextEndsASendThatSignalsDoNotReach(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(deadline(t))
	runner := &taskqRunner{full: make(chan struct{})}
	stream, err := startSend(ctx, runner, []string{"zfs", "send", "tank/x@a"})
	require.NoError(t, err)
	<-runner.full
	cancel()
	require.ErrorIs(t, stream.Wait(), context.Canceled)
	_, err = stream.Read(make([]byte, 1))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, stream.Close(), context.Canceled)
}

func TestSendStreamEndOfTheContextEndsABlockedRead(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(deadline(t))
	stream := startShell(t, ctx, "echo; exec sleep 600")
	_, err := io.ReadFull(stream, make([]byte, 1))
	require.NoError(t, err)
	blocked := make(chan error, 1)
	go func() {
		_, err := stream.Read(make([]byte, 1))
		blocked <- err
	}()
	cancel()
	require.ErrorIs(t, <-blocked, context.Canceled)
	require.ErrorIs(t, stream.Close(), context.Canceled)
}

func TestSendStreamCloseEndsABlockedRead(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "echo; exec sleep 600")
	_, err := io.ReadFull(stream, make([]byte, 1))
	require.NoError(t, err)
	blocked := make(chan error, 1)
	go func() {
		_, err := stream.Read(make([]byte, 1))
		blocked <- err
	}()
	require.NoError(t, stream.Close())
	require.ErrorIs(t, <-blocked, os.ErrClosed)
}

func TestSendStreamCloseAfterTheChildFailedUnread(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "echo wrong >&2; exit 1")
	require.ErrorContains(t, stream.Wait(), "wrong")
	require.ErrorContains(t, stream.Close(), "wrong")
}

func TestSendStreamConcurrentClosesAgreeOnOne(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "exec yes")
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- stream.Close() }()
	}
	closed := 0
	for range cap(results) {
		if err := <-results; err == nil {
			closed++
		} else {
			require.ErrorIs(t, err, os.ErrClosed)
		}
	}
	require.Equal(t, 1, closed)
}

func TestSendStreamHandsOutItsFile(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "yes | head -c 100000")
	file := stream.File()
	require.NotNil(t, file)
	require.Nil(t, stream.File(), "it is handed out once")
	_, err := stream.Read(make([]byte, 1))
	require.ErrorIs(t, err, errHanded)
	err = New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/count"}, file)
	require.ErrorContains(t, err, "read 100000 bytes, error <nil>")
	require.NoError(t, stream.Wait())
	require.NoError(t, stream.Close())
}

func TestSendStreamHandedOutAndClosed(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "exec yes")
	require.NotNil(t, stream.File())
	require.NoError(t, stream.Close())
}

func TestSendStreamOfACommandThatCannotStart(t *testing.T) {
	t.Parallel()
	stream, err := startSend(deadline(t), NewExecRunner(WithExecutable("zfs", "/nonexistent")), []string{"zfs", "send", "a@b"})
	require.NoError(t, err)
	_, err = stream.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, stream.Close(), os.ErrNotExist)
}

// memoryRunner writes what it is told to, and ends as it is told to; it closes its output when the context ends.
type memoryRunner struct {
	content []byte
	exit    int
}

func (r memoryRunner) Run(ctx context.Context, command Command) (Result, error) {
	out := command.Stdout.(*os.File)
	defer closeFile(out)
	defer context.AfterFunc(ctx, func() { closeFile(out) })()
	if _, err := out.Write(r.content); err != nil {
		return Result{ExitCode: -1}, errors.Join(err, ctx.Err())
	}
	return Result{ExitCode: r.exit, Stderr: []byte("as told")}, nil
}

// Whatever is done with a stream in whatever order, the model of its states says what comes out.
func TestSendStreamFollowsItsStates(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	rapid.Check(t, func(t *rapid.T) {
		runner := memoryRunner{
			content: bytes.Repeat([]byte("x"), rapid.IntRange(0, 100_000).Draw(t, "size")),
			exit:    rapid.IntRange(0, 1).Draw(t, "exit"),
		}
		stream, err := startSend(ctx, runner, []string{"zfs", "send", "a@b"})
		require.NoError(t, err)
		defer func() { _ = stream.Close() }() // os.ErrClosed where the sequence has closed it
		read, ended, handed, closed := 0, false, false, false
		for _, action := range rapid.SliceOfN(rapid.SampledFrom([]string{"read", "readall", "file", "close"}), 1, 8).Draw(t, "actions") {
			switch action {
			case "read", "readall":
				size := 4096
				if action == "readall" {
					size = len(runner.content) + 1
				}
				n, err := io.ReadFull(stream, make([]byte, size))
				switch {
				case closed:
					require.ErrorIs(t, err, os.ErrClosed)
				case handed:
					require.ErrorIs(t, err, errHanded)
				default:
					read += n
					require.LessOrEqual(t, read, len(runner.content))
					if err == nil {
						continue
					}
					require.Equal(t, len(runner.content), read, "the end comes after the last byte")
					ended = true
					if runner.exit == 0 {
						require.True(t, errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
					} else {
						require.ErrorContains(t, err, "as told")
					}
				}
			case "file":
				file := stream.File()
				require.Equal(t, !ended && !handed && !closed, file != nil)
				handed = handed || file != nil
			case "close":
				err := stream.Close()
				if closed {
					require.ErrorIs(t, err, os.ErrClosed)
				} else if runner.exit == 0 || !ended && err == nil {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, "as told")
				}
				closed = true
			}
		}
	})
}

func TestSendStreamErrorIsOneLine(t *testing.T) {
	t.Parallel()
	stream := startShell(t, deadline(t), "printf 'a\\nb\\n' >&2; exit 1")
	_, err := io.ReadAll(stream)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	require.Error(t, stream.Close())
}

// The file may be on its way to another process when the context ends: it must not be closed under that one's hands.
func TestSendStreamFileAndTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(deadline(t))
	stream := startShell(t, ctx, "exec yes")
	file := stream.File()
	require.NotNil(t, file)
	cancel()
	_, err := io.Copy(io.Discard, file)
	require.NoError(t, err, "the file is open, and at its end once zfs send was killed")
	require.ErrorIs(t, stream.Wait(), context.Canceled)
	require.NoError(t, file.Close())
	require.ErrorIs(t, stream.Close(), context.Canceled, "it had ended before")

	ended, end := context.WithCancel(deadline(t))
	late := startShell(t, ended, "exec yes")
	end()
	require.Nil(t, late.File())
	require.NoError(t, late.Close())
}

func TestPipeAfterTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(deadline(t))
	pair := shellPair{send: "exec yes", recv: "exec cat >/dev/null"}
	cancel(errors.New("enough"))
	_, err := New(pair).Pipe(ctx, validSend(t), RecvArgs{Dataset: "pool/x"}, PipeOptions{})
	require.ErrorContains(t, err, "enough")
}
