package zfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What OpenZFS 2.3.2 printed for each.
var recvFailures = map[string]RecvErrorKind{
	"cannot receive incremental stream: destination back/fs has been modified\nsince most recent snapshot\n":                                                         RecvDestinationModified,
	"cannot receive incremental stream: most recent snapshot of back/fs does not\nmatch incremental source\n":                                                        RecvNoSuchSnapshot,
	"cannot receive incremental stream: destination 'back/nofs' does not exist\n":                                                                                    RecvDestinationMissing,
	"cannot open 'back/none': dataset does not exist\ncannot receive new filesystem stream: unable to restore to destination\n":                                      RecvDestinationMissing,
	"cannot receive new filesystem stream: destination 'back/fs' exists\nmust specify -F to overwrite it\n":                                                          RecvDestinationExists,
	"cannot receive new filesystem stream: destination has snapshots (eg. back/enc@a)\nmust destroy them to overwrite it\n":                                          RecvDestinationExists,
	"cannot receive incremental stream: dataset is busy\n":                                                                                                           RecvBusy,
	"cannot receive incremental stream: destination back/cut contains partially-complete state from \"zfs receive -s\".\n":                                           RecvPartialStatePresent,
	"cannot receive resume stream: kernel modules must be upgraded to receive this stream.\n":                                                                        RecvResumeMismatch,
	"cannot receive incremental stream: incremental send stream requires -L (--large-block), to match previous receive.\n":                                           RecvLargeBlocksRequired,
	"cannot receive new filesystem stream: incompatible embedded data stream feature with encrypted receive.\n":                                                      RecvEmbeddedIntoEncrypted,
	"cannot receive resume stream: incompatible embedded data stream feature with encrypted receive.\n":                                                              RecvResumeMismatch,
	"cannot receive incremental stream: kernel modules must be upgraded to receive this stream.\n":                                                                   RecvIncompatibleFeatures,
	"cannot receive new filesystem stream: checksum mismatch\n":                                                                                                      RecvChecksumMismatch,
	"cannot receive new filesystem stream: incomplete stream\n":                                                                                                      RecvInterrupted,
	"cannot receive: failed to read from stream\n":                                                                                                                   RecvInterrupted,
	"cannot receive: invalid stream (bad magic number)\n":                                                                                                            RecvInvalidStream,
	"cannot receive new filesystem stream: zfs receive -F cannot be used to destroy an encrypted filesystem or overwrite an unencrypted one with an encrypted one\n": RecvForceIntoEncrypted,
	"cannot receive incremental stream: cannot perform raw receive on top of existing unencrypted dataset\n":                                                         RecvEncryption,
	"cannot receive incremental stream: inherited key must be loaded\n":                                                                                              RecvEncryption,
	"cannot receive new filesystem stream: out of space\n":                                                                                                           RecvNoSpace,
	"cannot receive new filesystem stream: destination back/quota/x space quota exceeded.\n":                                                                         RecvNoSpace,
	"cannot receive new filesystem stream: pool must be upgraded to receive this stream.\n":                                                                          RecvIncompatibleFeatures,
	"cannot receive: cannot receive: invalid property 'nosuch'\n":                                                                                                    RecvOther,
	"": RecvOther,
}

const interruptedText = "cannot receive new filesystem stream: checksum mismatch or incomplete stream.\n" +
	"Partially received snapshot is saved.\nA resuming stream can be generated on the sending system by running:\n" +
	"    zfs send -t " + tokenA + "\n"

func TestRecvErrorsAreTyped(t *testing.T) {
	t.Parallel()
	for stderr, kind := range recvFailures {
		system := scripted(t, answer{args: "zfs recv -u -s back/fs", exit: 1, stderr: stderr})
		err := system.Recv(t.Context(), RecvArgs{Dataset: "back/fs", Resumable: true}, strings.NewReader(""))
		var failed *RecvError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, kind, failed.Kind, stderr)
		require.Equal(t, stderr, failed.Stderr)
		require.Empty(t, failed.ResumeToken)
		require.NotContains(t, err.Error(), "\n")
		var command *CommandError
		require.ErrorAs(t, err, &command)
	}
}

func TestRecvInterruptedTellsTheToken(t *testing.T) {
	t.Parallel()
	system := scripted(t, answer{args: "zfs recv -u -s back/fs", exit: 1, stderr: interruptedText})
	cause := errors.New("connection reset")
	err := system.Recv(t.Context(), RecvArgs{Dataset: "back/fs", Resumable: true}, io.MultiReader(strings.NewReader("x"), failingReader{cause}))
	var failed *RecvError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, RecvInterrupted, failed.Kind)
	require.Equal(t, tokenA, failed.ResumeToken)
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestRecvCommandLine(t *testing.T) {
	t.Parallel()
	system := scripted(t, answer{args: "zfs recv -u -s -F -o a:b=1 2 -o mountpoint=none -x atime -x sharenfs back/fs"})
	err := system.Recv(t.Context(), RecvArgs{
		Dataset: "back/fs", Resumable: true, Rollback: true,
		Override: map[string]string{"mountpoint": "none", "a:b": "1 2"}, Inherit: []string{"sharenfs", "atime"},
	}, strings.NewReader(""))
	require.NoError(t, err)
}

func TestRecvRefusesBadArguments(t *testing.T) {
	t.Parallel()
	for _, args := range []RecvArgs{
		{Dataset: "-F"},
		{Dataset: "back/fs@a"},
		{Dataset: "back/fs", Override: map[string]string{"-x": "1"}},
		{Dataset: "back/fs", Override: map[string]string{"a=b": "1"}},
		{Dataset: "back/fs", Inherit: []string{""}},
	} {
		reader, writer, err := os.Pipe()
		require.NoError(t, err)
		require.Error(t, scripted(t).Recv(t.Context(), args, reader))
		require.ErrorIs(t, reader.Close(), os.ErrClosed, "the file was given away")
		require.NoError(t, writer.Close())
	}
}

func TestRecvCopiesAReader(t *testing.T) {
	t.Parallel()
	err := New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/count"}, bytes.NewReader(make([]byte, 3<<20)))
	require.ErrorContains(t, err, "read 3145728 bytes, error <nil>")
	require.NoError(t, New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/accept"}, bytes.NewReader(make([]byte, 3<<20))))
}

func TestRecvGivesAFileToTheCommand(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/stream"
	require.NoError(t, os.WriteFile(path, make([]byte, 12345), 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	err = New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/count"}, file)
	require.ErrorContains(t, err, "read 12345 bytes, error <nil>")
	require.ErrorIs(t, file.Close(), os.ErrClosed)
}

func TestRecvTellsThatTheStreamBrokeOff(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection reset")
	broken := io.MultiReader(bytes.NewReader(make([]byte, 1000)), failingReader{cause})
	err := New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/count"}, broken)
	require.ErrorIs(t, err, cause)
	require.ErrorContains(t, err, "read 1000 bytes")
	var failed *RecvError
	require.ErrorAs(t, err, &failed)
	require.ErrorIs(t, failed.Stream, cause)

	broken = io.MultiReader(bytes.NewReader(make([]byte, 1000)), failingReader{cause})
	err = New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/accept"}, broken)
	require.ErrorIs(t, err, cause, "zfs recv had all, and yet the source failed")
}

// stuckReader blocks until it is closed.
type stuckReader struct {
	closed chan struct{}
	once   sync.Once
}

func (r *stuckReader) Read([]byte) (int, error) {
	<-r.closed
	return 0, os.ErrClosed
}

func (r *stuckReader) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

func TestRecvThatFailsEarlyDoesNotWaitForTheStream(t *testing.T) {
	t.Parallel()
	stuck := &stuckReader{closed: make(chan struct{})}
	err := New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/refuse"}, stuck)
	var failed *RecvError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, RecvDestinationExists, failed.Kind)
	require.NoError(t, failed.Stream)
	<-stuck.closed
}

func TestRecvThatFailsEarlyInterruptsAConnectionAndLeavesItUsable(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer func() { require.NoError(t, errors.Join(near.Close(), far.Close())) }()
	err := New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/refuse"}, near)
	var failed *RecvError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, RecvDestinationExists, failed.Kind)

	require.NoError(t, far.SetDeadline(time.Now().Add(time.Minute)))
	go func() { _, _ = far.Write([]byte("more")) }()
	content := make([]byte, 4)
	_, err = io.ReadFull(near, content)
	require.NoError(t, err, "the deadline is cleared again")
	require.Equal(t, "more", string(content))
}

func TestRecvEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(deadline(t))
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write([]byte("begun"))
		cancel()
	}()
	err := New(selfRunner(t)).Recv(ctx, RecvArgs{Dataset: "child/accept"}, reader)
	require.ErrorIs(t, err, context.Canceled)
}

func TestRecvOfAStreamWithATrailingPart(t *testing.T) {
	t.Parallel()
	require.NoError(t, New(selfRunner(t)).Recv(deadline(t), RecvArgs{Dataset: "child/short"}, bytes.NewReader(make([]byte, 4<<20))))
}

func TestAbortRecvIsIdempotent(t *testing.T) {
	t.Parallel()
	for _, a := range []answer{
		{},
		{exit: 1, stderr: "'back/p' does not have any resumable receive state to abort\n"},
		{exit: 2, stderr: "cannot open 'back/p': dataset does not exist\nusage:\n\treceive [-vMnsFhu]\n"},
	} {
		a.args = "zfs recv -A back/p"
		require.NoError(t, scripted(t, a).AbortRecv(t.Context(), "back/p"))
	}
	err := scripted(t, answer{args: "zfs recv -A back/p", exit: 1, stderr: "cannot destroy 'back/p': dataset is busy\n"}).
		AbortRecv(t.Context(), "back/p")
	require.ErrorContains(t, err, "dataset is busy")
	require.Error(t, scripted(t).AbortRecv(t.Context(), "-A"))
}

func FuzzRecvStderr(f *testing.F) {
	for stderr := range recvFailures {
		f.Add(stderr)
	}
	f.Add(interruptedText)
	f.Fuzz(func(t *testing.T, stderr string) {
		kind, token := classifyRecv(stderr)
		require.NotEmpty(t, kind)
		require.True(t, token == "" || validToken(token))
		err := RecvArgs{Dataset: "back/fs"}.failure(&CommandError{Args: []string{"zfs", "recv", "back/fs"}, ExitCode: 1, Stderr: stderr}, nil)
		require.NotContains(t, err.Error(), "\n")
	})
}
