package zfsfake_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// populated answers a host with one filesystem tank/data of 1 MiB and a snapshot @1.
func populated(t *testing.T, options ...zfsfake.Option) *zfsfake.Fake {
	t.Helper()
	f := zfsfake.New(options...)
	f.CreatePool("tank")
	run(t, f, "zfs create tank/data")
	require.NoError(t, f.Generate("tank/data", "a", 1, 1<<20))
	run(t, f, "zfs snapshot tank/data@1")
	return f
}

func TestFailBeforeAndAfter(t *testing.T) {
	t.Parallel()
	f := populated(t)
	holds := zfsfake.Command("zfs", "hold")
	before := f.Inject(zfsfake.Fault{Match: holds, Times: 1, Before: &zfsfake.Failure{ExitCode: 1, Stderr: "no\n"}})
	_, result := try(t, f, nil, "zfs", "hold", "tag", "tank/data@1")
	require.Equal(t, zfs.Result{ExitCode: 1, Stderr: []byte("no\n")}, result)
	require.Equal(t, 1, before.Hits())
	require.Empty(t, run(t, f, "zfs holds -H tank/data@1"))

	f.Inject(zfsfake.Fault{Match: holds, Skip: 1, After: &zfsfake.Failure{ExitCode: 2, Stderr: "lost\n"}})
	run(t, f, "zfs hold first tank/data@1")
	_, result = try(t, f, nil, "zfs", "hold", "second", "tank/data@1")
	require.Equal(t, 2, result.ExitCode)
	require.Equal(t, "lost\n", string(result.Stderr))
	require.Contains(t, run(t, f, "zfs holds -H tank/data@1"), "second")
	require.Equal(t, 3, f.Count(holds))
	require.Equal(t, 3, f.Count(holds.With("tank/data@1")))
	require.Zero(t, f.Count(holds.With("tank/data@2")))
}

func TestHang(t *testing.T) {
	t.Parallel()
	f := populated(t)
	fault := f.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "snapshot"), Hang: true})
	watch := f.Watch(zfsfake.Command("zfs", "snapshot"))

	ctx, cancel := context.WithCancel(context.Background())
	var runs errgroup.Group
	runs.Go(func() error {
		_, err := f.Run(ctx, zfs.Command{Args: []string{"zfs", "snapshot", "tank/data@killed"}})
		return err
	})
	<-watch.Started()
	<-fault.Reached()
	cancel()
	require.ErrorIs(t, runs.Wait(), context.Canceled)
	<-watch.Ended()
	_, _, done := watch.Record().Outcome()
	require.True(t, done)

	var released errgroup.Group
	released.Go(func() error { return succeed(f, zfs.Command{Args: []string{"zfs", "snapshot", "tank/data@later"}}) })
	fault.Release()
	require.NoError(t, released.Wait())
	versions, err := f.Versions("tank/data")
	require.NoError(t, err)
	require.Len(t, versions, 2, "the command that was killed while it hung must have no effect")
}

// transfer runs a send into a receive and answers both results.
func transfer(ctx context.Context, t *testing.T, from, to *zfsfake.Fake, send, recv []string) (sent, received zfs.Result, err error) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	var both errgroup.Group
	both.Go(func() (err error) {
		sent, err = from.Run(ctx, zfs.Command{Args: send, Stdout: w})
		return err
	})
	both.Go(func() (err error) {
		received, err = to.Run(ctx, zfs.Command{Args: recv, Stdin: r})
		return err
	})
	err = both.Wait()
	return sent, received, err
}

var (
	sendData = []string{"zfs", "send", "tank/data@1"}
	recvData = []string{"zfs", "recv", "-u", "-s", "backup/data"}
)

func TestTruncateAndCorrupt(t *testing.T) {
	t.Parallel()
	alpha, bravo := populated(t), zfsfake.New()
	bravo.CreatePool("backup")
	truncate := alpha.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "send"), Times: 1, Truncate: 500_000})
	sent, received, err := transfer(t.Context(), t, alpha, bravo, sendData, recvData)
	require.NoError(t, err)
	require.Equal(t, 1, sent.ExitCode)
	require.Contains(t, string(received.Stderr), "Partially received snapshot is saved.")
	truncate.Remove()

	token, ok := tokenOf(t, bravo, "backup/data")
	require.True(t, ok)
	bravo.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "recv"), Times: 1, Corrupt: []int64{200_000}})
	resumed := []string{"zfs", "send", "-t", token}
	_, received, err = transfer(t.Context(), t, alpha, bravo, resumed, recvData)
	require.NoError(t, err)
	require.Contains(t, string(received.Stderr), "checksum mismatch")

	token, ok = tokenOf(t, bravo, "backup/data")
	require.True(t, ok)
	sent, received, err = transfer(t.Context(), t, alpha, bravo, []string{"zfs", "send", "-t", token}, recvData)
	require.NoError(t, err)
	require.Zero(t, sent.ExitCode, "%s", sent.Stderr)
	require.Zero(t, received.ExitCode, "%s", received.Stderr)
	requireSame(t, alpha, "tank/data@1", bravo, "backup/data@1")
}

func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	alpha, bravo := populated(t), zfsfake.New()
	bravo.CreatePool("backup")
	fault := bravo.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "recv"), Times: 1, HangAfter: 400_000})
	watch := bravo.Watch(zfsfake.Command("zfs", "recv"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var transferred errgroup.Group
	transferred.Go(func() error {
		_, _, err := transfer(ctx, t, alpha, bravo, sendData, recvData)
		return err
	})
	<-watch.Transferred(400_000)
	<-fault.Reached()
	require.GreaterOrEqual(t, watch.Record().Bytes(), int64(400_000))

	_, busy := try(t, bravo, []byte(run(t, alpha, "zfs send tank/data@1")), "zfs", "recv", "-u", "-s", "-F", "backup/data")
	require.Contains(t, string(busy.Stderr), "partially-complete state")
	_, busy = try(t, bravo, nil, "zfs", "recv", "-A", "backup/data")
	require.Contains(t, string(busy.Stderr), "dataset is busy")
	_, busy = try(t, bravo, nil, "zfs", "destroy", "backup/data")
	require.Contains(t, string(busy.Stderr), "dataset is busy")
	_, busy = try(t, alpha, nil, "zfs", "destroy", "tank/data@1")
	require.Contains(t, string(busy.Stderr), "dataset is busy", "a snapshot that is being sent cannot be destroyed")

	cancel()
	require.ErrorIs(t, transferred.Wait(), context.Canceled)
	resume(t, alpha, bravo, "backup/data", nil)
	requireSame(t, alpha, "tank/data@1", bravo, "backup/data@1")
}

// A sender whose reader goes away fails; a receiver that refuses at once makes its writer fail.
func TestBrokenPipe(t *testing.T) {
	t.Parallel()
	f := populated(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	var sending errgroup.Group
	var result zfs.Result
	sending.Go(func() (err error) {
		result, err = f.Run(t.Context(), zfs.Command{Args: sendData, Stdout: w})
		return err
	})
	_, err = io.ReadFull(r, make([]byte, 1000))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, sending.Wait())
	require.NotZero(t, result.ExitCode)

	r, w, err = os.Pipe()
	require.NoError(t, err)
	result, err = f.Run(t.Context(), zfs.Command{Args: []string{"zfs", "recv", "-n"}, Stdin: r})
	require.NoError(t, err)
	require.Equal(t, 2, result.ExitCode)
	_, err = w.Write([]byte("x"))
	require.ErrorContains(t, err, "broken pipe")
	require.NoError(t, w.Close())
}

type brokenWriter struct{}

var errBroken = errors.New("no more")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestWriterFails(t *testing.T) {
	t.Parallel()
	f := populated(t)
	_, err := f.Run(t.Context(), zfs.Command{Args: sendData, Stdout: brokenWriter{}})
	require.ErrorIs(t, err, errBroken)
	_, err = f.Run(t.Context(), zfs.Command{Args: []string{"zfs", "list"}, Stdout: brokenWriter{}})
	require.ErrorIs(t, err, errBroken)
	_, err = f.Run(t.Context(), zfs.Command{Args: []string{"rm", "-rf", "/"}})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = f.Run(t.Context(), zfs.Command{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Stdin and Stdout are closed when a command ends, whatever became of it.
func TestFilesAreClosed(t *testing.T) {
	t.Parallel()
	f := populated(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{sendData, {"zfs", "list", "nowhere"}, {"zfs"}, {"nothing"}} {
		for _, ctx := range []context.Context{t.Context(), ended} {
			in, feed, err := os.Pipe()
			require.NoError(t, err)
			out, sink, err := os.Pipe()
			require.NoError(t, err)
			var reading errgroup.Group
			reading.Go(func() error { _, err := io.Copy(io.Discard, out); return err })
			_, _ = f.Run(ctx, zfs.Command{Args: args, Stdin: in, Stdout: sink})
			require.NoError(t, reading.Wait(), "%v leaves its output open", args)
			_, err = feed.Write([]byte("x"))
			require.Error(t, err, "%v leaves its input open", args)
			require.NoError(t, feed.Close())
			require.NoError(t, out.Close())
		}
	}
}

// A descriptor in blocking mode, as that of a socket's File, can be interrupted all the same.
func TestBlockingInput(t *testing.T) {
	t.Parallel()
	f := populated(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	_ = r.Fd()
	ctx, cancel := context.WithCancel(t.Context())
	watch := f.Watch(nil)
	var receiving errgroup.Group
	receiving.Go(func() error {
		_, err := f.Run(ctx, zfs.Command{Args: []string{"zfs", "recv", "tank/x"}, Stdin: r})
		return err
	})
	<-watch.Started()
	cancel()
	require.ErrorIs(t, receiving.Wait(), context.Canceled)
	require.NoError(t, w.Close())
}

// manualClock is a clock that a test moves.
type manualClock struct {
	mu     sync.Mutex
	now    time.Time
	timers []manualTimer
}

type manualTimer struct {
	due time.Time
	c   chan time.Time
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := manualTimer{due: c.now.Add(d), c: make(chan time.Time, 1)}
	c.timers = append(c.timers, timer)
	return timer.c
}

// advance moves the clock to its next timer, and says whether there was one.
func (c *manualClock) advance() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.timers) == 0 {
		return false
	}
	timer := c.timers[0]
	c.timers = c.timers[1:]
	if timer.due.After(c.now) {
		c.now = timer.due
	}
	timer.c <- c.now
	return true
}

func TestSlowStreamFollowsTheClock(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_700_000_000, 0)
	clock := &manualClock{now: start}
	f := populated(t, zfsfake.WithClock(clock))
	require.Contains(t, run(t, f, "zfs get -Hp -o value creation tank/data@1"), "1700000000")
	f.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "send"), BytesPerSecond: 100_000})
	done := make(chan error, 1)
	var out strings.Builder
	go func() { done <- succeed(f, zfs.Command{Args: sendData, Stdout: &out}) }()
	for {
		select {
		case err := <-done:
			require.NoError(t, err)
			require.InDelta(t, 10.5, clock.Now().Sub(start).Seconds(), 1)
			return
		default:
			clock.advance()
		}
	}
}

func TestPoolFull(t *testing.T) {
	t.Parallel()
	alpha, bravo := populated(t), zfsfake.New()
	bravo.CreatePool("backup", zfsfake.WithSize(600_000))
	_, received, err := transfer(t.Context(), t, alpha, bravo, sendData, recvData)
	require.NoError(t, err)
	require.Equal(t, "cannot receive new filesystem stream: out of space\n", string(received.Stderr))
	_, ok := tokenOf(t, bravo, "backup/data")
	require.True(t, ok)
	require.ErrorContains(t, bravo.Write("backup", "x", make([]byte, 1<<20)), "no space left")
}

func TestReadOnlyPool(t *testing.T) {
	t.Parallel()
	f := populated(t)
	require.NoError(t, f.SetPoolReadOnly("tank", true))
	for _, line := range []string{
		"zfs create tank/x", "zfs snapshot tank/data@2", "zfs hold tag tank/data@1", "zfs destroy tank/data@1",
		"zfs bookmark tank/data@1 tank/data#1", "zfs set a:b=c tank/data",
	} {
		_, result := try(t, f, nil, strings.Fields(line)...)
		require.NotZero(t, result.ExitCode, line)
		require.Contains(t, string(result.Stderr), "read-only", line)
	}
	require.NotEmpty(t, run(t, f, "zfs send tank/data@1"))
	require.Error(t, f.SetPoolReadOnly("none", true))
}

// Guids are those of the seed; hosts without a seed share none.
func TestGUIDs(t *testing.T) {
	t.Parallel()
	guid := func(f *zfsfake.Fake) uint64 {
		versions, err := f.Versions("tank/data")
		require.NoError(t, err)
		return versions[0].GUID
	}
	one, again, two := populated(t, zfsfake.WithSeed(1)), populated(t, zfsfake.WithSeed(1)), populated(t, zfsfake.WithSeed(2))
	require.Equal(t, guid(one), guid(again))
	require.NotEqual(t, guid(one), guid(two))
	unseeded, other := populated(t), populated(t)
	require.NotEqual(t, guid(unseeded), guid(other))
}

// Concurrent commands do not disturb each other.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	f := populated(t)
	f.CreatePool("backup")
	var all errgroup.Group
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		all.Go(func() error {
			for _, line := range []string{
				"zfs create tank/" + name, "zfs snapshot tank/" + name + "@1", "zfs hold tag tank/" + name + "@1",
				"zfs bookmark tank/" + name + "@1 tank/" + name + "#1", "zfs list -Hp -t all -r -o name,userrefs,used tank",
			} {
				if err := succeed(f, zfs.Command{Args: strings.Fields(line), Stdout: io.Discard}); err != nil {
					return err
				}
			}
			sent, received, err := transfer(t.Context(), t, f, f, sendData, []string{"zfs", "recv", "-u", "backup/" + name})
			if err == nil && sent.ExitCode+received.ExitCode != 0 {
				err = errors.New(string(sent.Stderr) + string(received.Stderr))
			}
			return err
		})
	}
	require.NoError(t, all.Wait())
	require.Len(t, f.Datasets("backup"), 9)
}

func TestOldVersion(t *testing.T) {
	t.Parallel()
	f := populated(t, zfsfake.WithVersion("2.1.11-1"))
	require.Equal(t, "zfs-2.1.11-1\nzfs-kmod-2.1.11-1\n", run(t, f, "zfs version"))
	_, result := try(t, f, nil, "zfs", "list", "-o", "name,snapshots_changed")
	require.Equal(t, 2, result.ExitCode)
	require.Contains(t, string(result.Stderr), "invalid property 'snapshots_changed'")
	_, result = try(t, f, nil, "zfs", "holds", "-Hp", "tank/data@1")
	require.Contains(t, string(result.Stderr), "invalid option 'p'")
}
