package zfsfake_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// steppingClock is a second later each time it is asked.
type steppingClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *steppingClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

func (c *steppingClock) After(time.Duration) <-chan time.Time {
	due := make(chan time.Time, 1)
	due <- c.Now()
	return due
}

// localHost is a host with a filesystem of three snapshots, and with a pool to replicate it to.
func localHost(t *testing.T) *zfsfake.Fake {
	t.Helper()
	f := zfsfake.New(zfsfake.WithClock(&steppingClock{now: time.Unix(1_700_000_000, 0)}))
	f.CreatePool("tank")
	f.CreatePool("backup")
	run(t, f, "zfs create tank/data")
	for i := range 3 {
		require.NoError(t, f.Generate("tank/data", fmt.Sprint(i), uint64(i), 4<<20))
		run(t, f, fmt.Sprintf("zfs snapshot tank/data@%d", i))
	}
	return f
}

// version is the snapshot as the dataset has it.
func version(t *testing.T, f *zfsfake.Fake, name string) zfs.VersionRef {
	t.Helper()
	dataset, err := zfs.New(f).Get(t.Context(), "tank/data")
	require.NoError(t, err)
	found, ok := dataset.Version(zfs.Snapshot, name)
	require.True(t, ok)
	return zfs.VersionRef{Type: zfs.Snapshot, Name: name, GUID: found.GUID}
}

func pipe(ctx context.Context, t *testing.T, f *zfsfake.Fake, args zfs.SendArgs) (zfs.Progress, error) {
	t.Helper()
	system := zfs.New(f)
	valid, err := system.ValidateSend(t.Context(), args)
	require.NoError(t, err)
	return system.Pipe(ctx, valid, zfs.RecvArgs{Dataset: "backup/data", Resumable: true}, zfs.PipeOptions{})
}

func TestPipeReplicates(t *testing.T) {
	t.Parallel()
	f := localHost(t)
	first := version(t, f, "0")
	progress, err := pipe(t.Context(), t, f, zfs.SendArgs{Dataset: "tank/data", To: first})
	require.NoError(t, err)
	require.Greater(t, progress.Expected, uint64(4<<20))
	require.GreaterOrEqual(t, progress.Sent, progress.Expected)
	require.False(t, progress.Exact)

	progress, err = pipe(t.Context(), t, f, zfs.SendArgs{
		Dataset: "tank/data", From: &first, To: version(t, f, "2"), Intermediate: true,
	})
	require.NoError(t, err)
	require.Greater(t, progress.Expected, uint64(8<<20), "all of the range")
	require.GreaterOrEqual(t, progress.Sent, progress.Expected)
	for _, name := range []string{"@0", "@1", "@2"} {
		requireSame(t, f, "tank/data"+name, f, "backup/data"+name)
	}
}

// A stream that breaks off, for whatever reason, is no success, and is resumed from where it had come to.
func TestPipeIsResumed(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]zfsfake.Fault{
		"zfs send fails":          {Match: zfsfake.Command("zfs", "send").With("-vP"), Truncate: 2 << 20},
		"zfs recv fails":          {Match: zfsfake.Command("zfs", "recv"), Truncate: 2 << 20},
		"the context ends (recv)": {Match: zfsfake.Command("zfs", "recv"), HangAfter: 2 << 20},
		"the context ends (send)": {Match: zfsfake.Command("zfs", "send").With("-vP"), HangAfter: 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := localHost(t)
			args := zfs.SendArgs{Dataset: "tank/data", To: version(t, f, "0")}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			injected := f.Inject(fault)
			if fault.HangAfter > 0 {
				go func() {
					<-injected.Reached()
					cancel()
				}()
			}
			_, err := pipe(ctx, t, f, args)
			var failed *zfs.PipeError
			require.ErrorAs(t, err, &failed)
			if fault.HangAfter > 0 {
				require.ErrorIs(t, err, context.Canceled)
			}
			injected.Remove()

			partial, err := zfs.New(f).Get(t.Context(), "backup/data")
			require.NoError(t, err)
			require.NotEmpty(t, partial.ReceiveResumeToken)
			args.ResumeToken = partial.ReceiveResumeToken
			progress, err := pipe(t.Context(), t, f, args)
			require.NoError(t, err)
			require.Less(t, progress.Expected, uint64(4<<20), "only the rest was sent")
			requireSame(t, f, "tank/data@0", f, "backup/data@0")
		})
	}
}

func TestPipeSaysWhichSideFailed(t *testing.T) {
	t.Parallel()
	f := localHost(t)
	args := zfs.SendArgs{Dataset: "tank/data", To: version(t, f, "0")}
	run(t, f, "zfs create backup/data")
	_, err := pipe(t.Context(), t, f, args)
	var received *zfs.RecvError
	require.ErrorAs(t, err, &received)
	require.Equal(t, zfs.RecvDestinationExists, received.Kind)

	run(t, f, "zfs destroy backup/data")
	f.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "send").With("-vP"), Times: 1, Truncate: 2 << 20})
	_, err = pipe(t.Context(), t, f, args)
	require.EqualError(t, err, "zfs send tank/data@0: warning: cannot send 'tank/data@0': Input/output error (exit status 1)")
}

// zfs send reports each second how far each snapshot is.
func TestSendReportsItsProgress(t *testing.T) {
	t.Parallel()
	f := localHost(t)
	var stdout, stderr bytes.Buffer
	result, err := f.Run(t.Context(), zfs.Command{
		Args:   []string{"zfs", "send", "-vP", "-I", "@0", "tank/data@2"},
		Stdout: &stdout, Stderr: &stderr,
	})
	require.NoError(t, err)
	require.Equal(t, string(result.Stderr), stderr.String(), "it comes as it is written, and at the end")
	lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
	require.Regexp(t, "^incremental\t0\ttank/data@1\t[0-9]+$", lines[0])
	require.Regexp(t, "^incremental\t1\ttank/data@2\t[0-9]+$", lines[1])
	require.Regexp(t, "^size\t[0-9]+$", lines[2])
	last := map[string]int{}
	for _, line := range lines[3:] {
		var sent int
		var name string
		_, err := fmt.Sscanf(line[len("00:00:00"):], "\t%d\t%s", &sent, &name)
		require.NoError(t, err, line)
		require.Greater(t, sent, last[name], "the counter is the snapshot's own")
		last[name] = sent
	}
	require.Len(t, last, 2)
	require.InDelta(t, stdout.Len(), last["tank/data@1"]+last["tank/data@2"], 1<<20)
}
