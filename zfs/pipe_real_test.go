//go:build linux

// Pipe and the reports of zfs send on real OpenZFS, in the virtual machine of itest/vm. For Linux only, since it looks into
// /proc.

package zfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs/zfstest"
)

func (r realZFS) validated(args SendArgs) ValidSend {
	r.t.Helper()
	valid, err := r.ValidateSend(r.ctx(), args)
	require.NoError(r.t, err)
	return valid
}

func (r realZFS) pipe(ctx context.Context, args SendArgs, to string) (Progress, error) {
	r.t.Helper()
	return r.Pipe(ctx, r.validated(args), RecvArgs{Dataset: to, Resumable: true}, PipeOptions{})
}

func TestRealPipe(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	from, to := source+"/fs", target+"/fs"
	r.snapshots(from, 2<<20, "a", "b", "c")
	a := r.ref(from, Snapshot, "a")

	progress, err := r.pipe(r.ctx(), SendArgs{Dataset: from, To: a}, to)
	require.NoError(t, err)
	require.Greater(t, progress.Expected, uint64(2<<20))
	require.GreaterOrEqual(t, progress.Sent, progress.Expected)
	require.False(t, progress.Exact)
	ranged := SendArgs{Dataset: from, From: &a, To: r.ref(from, Snapshot, "c"), Intermediate: true}
	progress, err = r.pipe(r.ctx(), ranged, to)
	require.NoError(t, err)
	require.Greater(t, progress.Expected, uint64(4<<20))
	for _, name := range []string{"a", "b", "c"} {
		require.Equal(t, r.ref(from, Snapshot, name), r.ref(to, Snapshot, name))
	}

	_, err = r.pipe(r.ctx(), SendArgs{Dataset: from, To: a}, to)
	var failed *PipeError
	require.ErrorAs(t, err, &failed)
	var received *RecvError
	require.ErrorAs(t, err, &received)
	require.Equal(t, RecvDestinationExists, received.Kind)
	require.Equal(t, received.Error(), failed.Error(), "that zfs send met a broken pipe tells nothing: %v", failed.Send)
}

// A pipe that is cut in the middle fails, keeps what was received, and is resumed.
func TestRealPipeIsCut(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(send, recv int, cancel context.CancelFunc) error{
		"zfs send is killed": func(send, _ int, _ context.CancelFunc) error { return syscall.Kill(send, syscall.SIGKILL) },
		"zfs recv is killed": func(_, recv int, _ context.CancelFunc) error { return syscall.Kill(recv, syscall.SIGKILL) },
		"the context ends": func(_, _ int, cancel context.CancelFunc) error {
			cancel()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReal(t)
			source, target := zfstest.NewPool(t), zfstest.NewPool(t)
			from, to := source+"/fs", target+"/fs"
			const size = 64 << 20
			r.snapshots(from, size, "a")
			args := SendArgs{Dataset: from, To: r.ref(from, Snapshot, "a")}
			ctx, cancel := context.WithCancel(r.ctx())
			defer cancel()
			done := make(chan error, 1)
			valid := r.validated(args)
			go func() {
				_, err := r.Pipe(ctx, valid, RecvArgs{Dataset: to, Resumable: true}, PipeOptions{})
				done <- err
			}()
			recv := processOf(t, "recv", to)
			require.Eventually(t, func() bool { return bytesRead(recv) > size/4 }, time.Minute, time.Millisecond, "it does not begin")
			require.NoError(t, cut(processOf(t, "send", from+"@a"), recv, cancel))
			err := <-done
			var failed *PipeError
			require.ErrorAs(t, err, &failed)
			switch name {
			case "zfs send is killed":
				require.Equal(t, failed.Send.Error(), failed.Error())
				require.ErrorContains(t, err, "ended by a signal")
				var received *RecvError
				require.ErrorAs(t, failed.Recv, &received)
				require.Equal(t, RecvInterrupted, received.Kind, "%v", received)
			case "zfs recv is killed":
				require.Equal(t, failed.Recv.Error(), failed.Error())
				require.ErrorContains(t, err, "ended by a signal")
			case "the context ends":
				require.ErrorIs(t, err, context.Canceled)
			}

			args.ResumeToken = r.get(to).ReceiveResumeToken
			require.NotEmpty(t, args.ResumeToken, "%v", err)
			progress, err := r.pipe(r.ctx(), args, to)
			require.NoError(t, err)
			require.Positive(t, progress.Expected)
			require.Less(t, progress.Expected, uint64(size-size/8), "only the rest was sent")
			require.Equal(t, args.To, r.ref(to, Snapshot, "a"))
		})
	}
}

// processOf waits for the process of zfs send or zfs recv whose last argument is given, and answers its id.
func processOf(t *testing.T, command, last string) int {
	t.Helper()
	found := 0
	require.Eventually(t, func() bool {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		require.NoError(t, err)
		for _, file := range files {
			line, _ := os.ReadFile(file) // of one that is gone, nothing
			args := bytes.Split(bytes.TrimSuffix(line, []byte{0}), []byte{0})
			if len(args) > 2 && string(args[1]) == command && string(args[len(args)-1]) == last {
				found, err = strconv.Atoi(filepath.Base(filepath.Dir(file)))
				return err == nil
			}
		}
		return false
	}, time.Minute, time.Millisecond, "there is no zfs %s %s", command, last)
	return found
}

// bytesRead is how much a process has read, or the kernel on its behalf (proc(5), /proc/pid/io).
func bytesRead(pid int) int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	var count int64
	_, err = fmt.Sscanf(string(content), "rchar: %d", &count)
	if err != nil {
		return 0
	}
	return count
}

// What zfs send expects is near to what it sends, whatever it sends.
func TestRealSendProgress(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	fs, volume, encrypted := source+"/fs", source+"/vol", source+"/enc"
	r.must("zfs", "create", "-V", "16M", volume)
	r.snapshots(fs, 4<<20, "a", "b", "c")
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, bytes.Repeat([]byte("k"), 32), 0o600))
	r.must("zfs", "create", "-o", "encryption=on", "-o", "keyformat=raw", "-o", "keylocation=file://"+key, encrypted)
	r.write(encrypted, "x", 4<<20)
	require.NoError(t, r.Snapshot(r.ctx(), encrypted+"@a"))
	require.NoError(t, r.Bookmark(r.ctx(), fs+"@a", fs+"#a"))
	var device *os.File
	require.Eventually(t, func() (opened bool) {
		var err error
		device, err = os.OpenFile("/dev/zvol/"+volume, os.O_WRONLY, 0)
		return err == nil
	}, time.Minute, 10*time.Millisecond, "the volume has no device")
	_, err := device.Write(bytes.Repeat([]byte("not empty"), 1<<20))
	require.NoError(t, err)
	require.NoError(t, device.Close())
	r.must("zpool", "sync", source)
	require.NoError(t, r.Snapshot(r.ctx(), volume+"@a"))

	a, mark := r.ref(fs, Snapshot, "a"), r.ref(fs, Bookmark, "a")
	half := r.send(SendArgs{Dataset: fs, To: a})
	require.Error(t, r.Recv(r.ctx(), RecvArgs{Dataset: target + "/fs", Resumable: true}, io.LimitReader(half, 2<<20)))
	require.NoError(t, half.Close())

	for name, args := range map[string]SendArgs{
		"full":      {Dataset: fs, To: a},
		"increment": {Dataset: fs, From: &a, To: r.ref(fs, Snapshot, "b")},
		"range":     {Dataset: fs, From: &a, To: r.ref(fs, Snapshot, "c"), Intermediate: true},
		"bookmark":  {Dataset: fs, From: &mark, To: r.ref(fs, Snapshot, "b"), EstimateFromBookmark: true},
		"resumed":   {Dataset: fs, To: a, ResumeToken: r.get(target + "/fs").ReceiveResumeToken},
		"raw":       {Dataset: encrypted, To: r.ref(encrypted, Snapshot, "a"), Flags: SendFlags{Raw: true}},
		"volume":    {Dataset: volume, To: r.ref(volume, Snapshot, "a")},
	} {
		stream := r.send(args)
		sent, err := io.Copy(io.Discard, stream)
		require.NoError(t, err, name)
		require.NoError(t, stream.Close(), name)
		progress := stream.Progress()
		require.True(t, progress.Exact)
		require.Equal(t, uint64(sent), progress.Sent, name)
		require.InEpsilon(t, progress.Expected, progress.Sent, 0.25, name)
	}

	unasked := r.send(SendArgs{Dataset: fs, From: &mark, To: r.ref(fs, Snapshot, "b")})
	_, err = io.Copy(io.Discard, unasked)
	require.NoError(t, err)
	require.NoError(t, unasked.Close())
	require.Zero(t, unasked.Progress().Expected)
}

// Where nobody counts, the reports of zfs send say how far it is while it runs.
func TestRealSendReportsItsProgress(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	fs := pool + "/fs"
	const size = 16 << 20
	r.snapshots(fs, size, "a")
	stream := r.send(SendArgs{Dataset: fs, To: r.ref(fs, Snapshot, "a")})
	file := stream.File()
	_, err := io.CopyN(io.Discard, file, size/2)
	require.NoError(t, err)
	// Nothing more is read, and so zfs send stands at what was read and what fits into the pipe.
	require.Eventually(t, func() bool { return stream.Progress().Sent >= size/2 }, time.Minute, 10*time.Millisecond, "no report comes")
	require.Less(t, stream.Progress().Sent, uint64(size*3/4))
	_, err = io.Copy(io.Discard, file)
	require.NoError(t, err)
	require.NoError(t, stream.Wait())
	require.NoError(t, stream.Close())
	require.GreaterOrEqual(t, stream.Progress().Sent, uint64(size))
}

func TestRealFailedSendShowsNoProgress(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	fs := pool + "/enc"
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, bytes.Repeat([]byte("k"), 32), 0o600))
	r.must("zfs", "create", "-o", "encryption=on", "-o", "keyformat=raw", "-o", "keylocation=file://"+key, fs)
	require.NoError(t, r.Snapshot(r.ctx(), fs+"@a"))
	valid := r.validated(SendArgs{Dataset: fs, To: r.ref(fs, Snapshot, "a")})
	r.must("zfs", "unmount", fs)
	r.must("zfs", "unload-key", fs)
	stream, err := r.Send(r.ctx(), valid)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, stream)
	require.EqualError(t, err, fmt.Sprintf(
		"zfs send %s@a: warning: cannot send '%s@a': dataset key must be loaded (exit status 1)", fs, fs))
	require.Error(t, stream.Close())
}
