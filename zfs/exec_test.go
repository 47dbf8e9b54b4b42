package zfs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExecRunnerAnswersWithOutputStatusAndStderr(t *testing.T) {
	t.Parallel()
	var stdout bytes.Buffer
	result, err := shellRunner().Run(deadline(t), Command{
		Args: []string{"zfs", "-c", "echo out; echo err >&2; exit 3"}, Stdout: &stdout,
	})
	require.NoError(t, err)
	require.Equal(t, "out\n", stdout.String())
	require.Equal(t, Result{ExitCode: 3, Stderr: []byte("err\n")}, result)
}

func TestExecRunnerFixesTheLocale(t *testing.T) {
	t.Parallel()
	var stdout bytes.Buffer
	_, err := selfRunner(t).Run(deadline(t), Command{Args: []string{"zfs", "child/locale"}, Stdout: &stdout})
	require.NoError(t, err)
	require.Equal(t, "C\n", stdout.String())
}

func TestExecRunnerGivesFilesToTheChildAndClosesThem(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "input")
	require.NoError(t, os.WriteFile(path, []byte("content"), 0o600))
	input, err := os.Open(path)
	require.NoError(t, err)
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer closeFile(reader)

	result, err := shellRunner().Run(deadline(t), Command{Args: []string{"zfs", "-c", "cat"}, Stdin: input, Stdout: writer})
	require.NoError(t, err)
	require.Zero(t, result.ExitCode)
	require.ErrorIs(t, input.Close(), os.ErrClosed, "standard input is closed by the runner")
	require.ErrorIs(t, writer.Close(), os.ErrClosed, "standard output is closed by the runner")
	content, err := bufio.NewReader(reader).ReadString(0)
	require.Equal(t, "content", content)
	require.EqualError(t, err, "EOF")
}

func TestExecRunnerClosesFilesWhenItCannotStart(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	_, err = NewExecRunner(WithExecutable("zfs", "/nonexistent/zfs")).Run(
		deadline(t), Command{Args: []string{"zfs"}, Stdin: reader, Stdout: writer})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, reader.Close(), os.ErrClosed)
	require.ErrorIs(t, writer.Close(), os.ErrClosed)
}

func TestExecRunnerSaysThatOpenZFSIsMissing(t *testing.T) {
	t.Parallel()
	_, err := NewExecRunner().Run(deadline(t), Command{Args: []string{"zfs-that-is-not-there"}})
	require.ErrorContains(t, err, "is OpenZFS installed on this host?")
}

func TestExecRunnerKillsAtTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer closeFile(reader)
	ctx, cancel := context.WithCancelCause(deadline(t))
	go func() {
		_, _ = reader.Read(make([]byte, 1)) // the child runs
		cancel(errors.New("enough"))
	}()
	result, err := shellRunner().Run(ctx, Command{Args: []string{"zfs", "-c", "echo; exec sleep 600"}, Stdout: writer})
	require.ErrorContains(t, err, "enough")
	require.Equal(t, -1, result.ExitCode)
}

func TestExecRunnerDoesNotStartAfterTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := shellRunner().Run(ctx, Command{Args: []string{"zfs", "-c", "exit 0"}})
	require.ErrorIs(t, err, context.Canceled)
}

func TestExecRunnerKeepsTheTailOfStderr(t *testing.T) {
	t.Parallel()
	result, err := shellRunner().Run(deadline(t), Command{
		Args: []string{"zfs", "-c", "yes 0123456789 | head -n 100000 >&2; echo last >&2"},
	})
	require.NoError(t, err)
	require.Len(t, result.Stderr, maxStderr)
	require.True(t, bytes.HasSuffix(result.Stderr, []byte("\nlast\n")), "the end is what is kept")
}

// What comes on standard error is handed on while the command runs, and kept.
func TestExecRunnerHandsStderrOnAsItComes(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	first := &signal{written: make(chan struct{})}
	go func() {
		<-first.written // else the command would wait for ever
		_, _ = writer.WriteString("go on\n")
		closeFile(writer)
	}()
	result, err := shellRunner().Run(deadline(t), Command{
		Args: []string{"zfs", "-c", "echo first >&2; read line; echo $line >&2"}, Stdin: reader, Stderr: first,
	})
	require.NoError(t, err)
	require.Equal(t, Result{Stderr: []byte("first\ngo on\n")}, result)

	result, err = shellRunner().Run(deadline(t), Command{
		Args: []string{"zfs", "-c", "echo one >&2; echo two >&2"}, Stderr: failingWriter{errors.New("refused")},
	})
	require.NoError(t, err, "a writer that fails ends nothing")
	require.Equal(t, "one\ntwo\n", string(result.Stderr))
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestExecRunnerEndsACommandWhoseOutputIsRefused(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	_, err := shellRunner().Run(deadline(t), Command{Args: []string{"zfs", "-c", "exec yes"}, Stdout: failingWriter{refused}})
	require.ErrorIs(t, err, refused)
}
