package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInterruptRead(t *testing.T) {
	t.Parallel()
	pipeReader, _ := io.Pipe()
	left, right := net.Pipe()
	defer right.Close()
	defer left.Close()
	for name, r := range map[string]io.Reader{"one that can only be closed": pipeReader, "one with deadlines": left} {
		read := make(chan error, 1)
		go func() {
			_, err := r.Read(make([]byte, 1))
			read <- err
		}()
		InterruptRead(r)
		require.Error(t, <-read, name)
	}
	require.NoError(t, left.SetReadDeadline(time.Time{}), "what has deadlines is not closed")
}

func TestInterruptWrite(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer reader.Close()
	defer writer.Close()
	_, pipeWriter := io.Pipe()
	for name, w := range map[string]io.Writer{
		"one that can only be closed": pipeWriter, "a pipe": writer, "something with a file": filed{writer},
	} {
		written := make(chan error, 1)
		go func() {
			_, err := w.Write(make([]byte, 4<<20))
			written <- err
		}()
		InterruptWrite(w)
		require.Error(t, <-written, name)
	}
}

type filed struct{ file *os.File }

func (f filed) File() *os.File              { return f.file }
func (f filed) Write(p []byte) (int, error) { return f.file.Write(p) }

func TestWatchIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Int64
		var held atomic.Bool
		watching := make(chan error, 1)
		go func() { watching <- WatchIdle(t.Context(), time.Minute, moved.Load, held.Load) }()
		for range 10 {
			time.Sleep(50 * time.Second)
			moved.Add(1)
		}
		held.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, watching, "it moved, and then waited for a limit")
		held.Store(false)
		began := time.Now()
		err := <-watching
		require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
		require.ErrorContains(t, err, "for 1m0s")
		require.LessOrEqual(t, time.Since(began), 75*time.Second, "a quarter more at most")
		require.GreaterOrEqual(t, time.Since(began), time.Minute)
	})
	ended, end := context.WithCancel(t.Context())
	end()
	require.NoError(t, WatchIdle(ended, time.Hour, func() int64 { return 0 }, func() bool { return false }))
}

func TestFailuresAreCut(t *testing.T) {
	t.Parallel()
	require.Nil(t, CutFailure(nil))
	short := Transient("sending", errors.New("no"))
	require.Same(t, short, CutFailure(short))
	long := protocol.Failf(protocol.Conflict, "%s", strings.Repeat("x", 1<<20))
	cut := CutFailure(long)
	require.Equal(t, protocol.Conflict, cut.Kind)
	require.Less(t, len(cut.Message), maxReason+10)
	require.Len(t, long.Message, 1<<20, "the original stays as it is")
}

func TestIdleTime(t *testing.T) {
	t.Parallel()
	require.Equal(t, 10*time.Minute, CopyOptions{}.IdleTime(time.Minute))
	require.Equal(t, time.Hour, CopyOptions{Idle: time.Hour}.IdleTime(time.Minute))
	require.Equal(t, MinStall, CopyOptions{Idle: 1}.IdleTime(time.Minute))
}
