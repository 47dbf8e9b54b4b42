package zfsfake_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// A small stream is cut at every byte; what was received, resumed with its token, makes the same snapshot.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	alpha := zfsfake.New()
	alpha.CreatePool("tank")
	run(t, alpha, "zfs create tank/data")
	for i := range 3 {
		require.NoError(t, alpha.Write("tank/data", fmt.Sprint("file", i), []byte(strings.Repeat("x", 10*i))))
	}
	run(t, alpha, "zfs snapshot tank/data@1")
	require.NoError(t, alpha.Remove("tank/data", "file0"))
	require.NoError(t, alpha.Generate("tank/data", "new", 5, 300))
	run(t, alpha, "zfs snapshot tank/data@2")
	full := []byte(run(t, alpha, "zfs send tank/data@1"))
	incremental := []byte(run(t, alpha, "zfs send -i @1 tank/data@2"))

	bravo := zfsfake.New()
	bravo.CreatePool("backup")
	for at := range full {
		name := fmt.Sprint("backup/full", at)
		_, result := try(t, bravo, full[:at], "zfs", "recv", "-u", "-s", name)
		require.Equal(t, 1, result.ExitCode, "cut at byte %d", at)
		resume(t, alpha, bravo, name, full)
		requireSame(t, alpha, "tank/data@1", bravo, name+"@1")
	}
	for at := range incremental {
		name := fmt.Sprint("backup/inc", at)
		_, result := try(t, bravo, full, "zfs", "recv", "-u", name)
		require.Zero(t, result.ExitCode, "%s", result.Stderr)
		_, result = try(t, bravo, incremental[:at], "zfs", "recv", "-u", "-s", name)
		require.Equal(t, 1, result.ExitCode, "cut at byte %d", at)
		requireSame(t, alpha, "tank/data@1", bravo, name) // the head is as it was
		resume(t, alpha, bravo, name, incremental)
		requireSame(t, alpha, "tank/data@2", bravo, name+"@2")
	}
}

// resume sends what is missing of a partial receive, or the whole stream where nothing was kept.
func resume(t *testing.T, source, target *zfsfake.Fake, name string, whole []byte) {
	t.Helper()
	stdout, result := try(t, target, nil, "zfs", "get", "-H", "-o", "value", "receive_resume_token", name)
	if token := strings.TrimSpace(string(stdout)); result.ExitCode == 0 && token != "-" {
		whole = []byte(run(t, source, "zfs send -t "+token))
	}
	_, result = try(t, target, whole, "zfs", "recv", "-u", "-s", name)
	require.Zero(t, result.ExitCode, "%s", result.Stderr)
}

// Any history of writes, replicated by any mix of sends that are cut any number of times, arrives.
func TestAnyHistoryArrives(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		alpha, bravo := zfsfake.New(), zfsfake.New()
		alpha.CreatePool("tank")
		bravo.CreatePool("backup")
		run(t, alpha, "zfs create tank/data")
		previous := ""
		for i := range rapid.IntRange(1, 4).Draw(r, "snapshots") {
			for range rapid.IntRange(0, 5).Draw(r, "changes") {
				path := rapid.SampledFrom([]string{"a", "b", "c/d"}).Draw(r, "path")
				length := rapid.Uint64Range(0, 300_000).Draw(r, "length")
				switch rapid.IntRange(0, 3).Draw(r, "change") {
				case 0:
					require.NoError(t, alpha.Write("tank/data", path, make([]byte, length)))
				case 1:
					require.NoError(t, alpha.Generate("tank/data", path, length, length))
				case 2:
					require.NoError(t, alpha.WriteAt("tank/data", path, length, []byte("here")))
				default:
					_ = alpha.Remove("tank/data", path) // which may not be there
				}
			}
			snapshot := fmt.Sprint("tank/data@", i)
			run(t, alpha, "zfs snapshot "+snapshot)
			run(t, alpha, fmt.Sprintf("zfs bookmark %s tank/data#%d", snapshot, i))
			command := "zfs send " + snapshot
			if previous != "" {
				command = fmt.Sprintf("zfs send -i %s %s", previous, snapshot)
			}
			whole := []byte(run(t, alpha, command))
			for range rapid.IntRange(0, 3).Draw(r, "cuts") {
				part := whole
				if token, ok := tokenOf(t, bravo, "backup/data"); ok {
					part = []byte(run(t, alpha, "zfs send -t "+token))
				}
				part = part[:rapid.IntRange(0, len(part)-1).Draw(r, "cut")]
				_, result := try(t, bravo, part, "zfs", "recv", "-u", "-s", "backup/data")
				require.Equal(t, 1, result.ExitCode)
			}
			resume(t, alpha, bravo, "backup/data", whole)
			requireSame(t, alpha, snapshot, bravo, fmt.Sprint("backup/data@", i))
			previous = fmt.Sprintf("tank/data%s%d", rapid.SampledFrom([]string{"@", "#"}).Draw(r, "from"), i)
		}
	})
}

func tokenOf(t *testing.T, f *zfsfake.Fake, name string) (string, bool) {
	t.Helper()
	stdout, result := try(t, f, nil, "zfs", "get", "-H", "-o", "value", "receive_resume_token", name)
	token := strings.TrimSpace(string(stdout))
	return token, result.ExitCode == 0 && token != "-"
}

// Whatever single byte of a stream is changed, it is not received as if nothing had happened.
func TestFlipEveryByte(t *testing.T) {
	t.Parallel()
	alpha, bravo := zfsfake.New(), zfsfake.New()
	alpha.CreatePool("tank")
	bravo.CreatePool("backup")
	run(t, alpha, "zfs create tank/data")
	require.NoError(t, alpha.Write("tank/data", "a", []byte("hello")))
	require.NoError(t, alpha.Generate("tank/data", "b", 9, 50))
	run(t, alpha, "zfs snapshot tank/data@1")
	stream := []byte(run(t, alpha, "zfs send tank/data@1"))
	for at := range stream {
		flipped := append([]byte(nil), stream...)
		flipped[at] ^= 1 << (at % 8)
		_, result := try(t, bravo, flipped, "zfs", "recv", "-u", "backup/data")
		require.Equal(t, 1, result.ExitCode, "byte %d was changed unnoticed", at)
		require.Regexp(t, "checksum mismatch|bad magic number|incomplete stream|failed to read", string(result.Stderr))
		require.NotContains(t, bravo.Datasets("backup"), "backup/data")
	}
}

// A gibibyte flows from one fake to the other without being held anywhere.
func TestLargeStreamIsFlat(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("moves a gibibyte")
	}
	alpha, bravo := zfsfake.New(), zfsfake.New()
	alpha.CreatePool("tank")
	bravo.CreatePool("backup")
	run(t, alpha, "zfs create tank/data")
	require.NoError(t, alpha.Generate("tank/data", "large", 1, 1<<30))
	run(t, alpha, "zfs snapshot tank/data@1")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var both errgroup.Group
	both.Go(func() error {
		return succeed(alpha, zfs.Command{Args: []string{"zfs", "send", "tank/data@1"}, Stdout: w})
	})
	both.Go(func() error {
		return succeed(bravo, zfs.Command{Args: []string{"zfs", "recv", "-u", "backup/data"}, Stdin: r})
	})
	require.NoError(t, both.Wait())
	runtime.ReadMemStats(&after)
	requireSame(t, alpha, "tank/data@1", bravo, "backup/data@1")
	require.Less(t, int64(after.HeapInuse)-int64(before.HeapInuse), int64(64<<20), "the stream was kept in memory")
}

func succeed(f *zfsfake.Fake, command zfs.Command) error {
	result, err := f.Run(context.Background(), command)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("%v: exit status %d: %s", command.Args, result.ExitCode, result.Stderr)
	}
	return err
}

func TestManySnapshotsAreCheap(t *testing.T) {
	t.Parallel()
	f := zfsfake.New()
	f.CreatePool("tank")
	const datasets, snapshots = 500, 100
	for i := range datasets {
		run(t, f, fmt.Sprint("zfs create tank/", i))
		require.NoError(t, f.Generate(fmt.Sprint("tank/", i), "a", uint64(i), 1<<30))
	}
	for i := range snapshots {
		run(t, f, fmt.Sprint("zfs snapshot -r tank@", i))
	}
	lines := strings.Count(run(t, f, "zfs list -Hp -r -t filesystem,snapshot -o name,guid,used,zrepl:placeholder tank"), "\n")
	require.Equal(t, (datasets+1)*(snapshots+1), lines)
}

// FuzzReceive feeds anything to zfs receive: it must not crash, hang, or make a snapshot of a damaged stream.
func FuzzReceive(f *testing.F) {
	alpha := zfsfake.New(zfsfake.WithSeed(1))
	alpha.CreatePool("tank")
	for _, args := range [][]string{{"zfs", "create", "tank/a"}, {"zfs", "snapshot", "tank/a@1"}} {
		if err := succeed(alpha, zfs.Command{Args: args}); err != nil {
			f.Fatal(err)
		}
	}
	var stream strings.Builder
	if err := succeed(alpha, zfs.Command{Args: []string{"zfs", "send", "-p", "tank/a@1"}, Stdout: &stream}); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(stream.String()))
	f.Add([]byte(stream.String()[:40]))
	f.Add([]byte("zfsk"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		bravo := zfsfake.New()
		bravo.CreatePool("backup")
		_, result := try(t, bravo, data, "zfs", "recv", "-u", "-s", "backup/a")
		if result.ExitCode != 0 {
			require.NotEmpty(t, result.Stderr)
		}
	})
}

func FuzzResumeToken(f *testing.F) {
	f.Add("1-c740b4779-a0-789c636064000310")
	f.Add("1-2-3-zz")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		fake := zfsfake.New()
		fake.CreatePool("tank")
		_, result := try(t, fake, nil, "zfs", "send", "-nvt", token)
		require.NotZero(t, result.ExitCode)
		require.NotEmpty(t, result.Stderr)
	})
}

// What a stream says of its length is what it has, whatever pieces it is written and read in.
func TestAnyPieces(t *testing.T) {
	t.Parallel()
	alpha, bravo := zfsfake.New(), zfsfake.New()
	alpha.CreatePool("tank")
	bravo.CreatePool("backup")
	run(t, alpha, "zfs create tank/data")
	require.NoError(t, alpha.Generate("tank/data", "a", 3, 400_000))
	run(t, alpha, "zfs snapshot tank/data@1")
	stream := []byte(run(t, alpha, "zfs send tank/data@1"))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	var both errgroup.Group
	both.Go(func() error {
		return succeed(bravo, zfs.Command{Args: []string{"zfs", "recv", "-u", "backup/data"}, Stdin: r})
	})
	random := rand.New(rand.NewPCG(1, 2))
	for rest := stream; len(rest) > 0; {
		n := min(len(rest), 1+random.IntN(9000))
		_, err := w.Write(rest[:n])
		require.NoError(t, err)
		rest = rest[n:]
	}
	require.NoError(t, w.Close())
	require.NoError(t, both.Wait())
	requireSame(t, alpha, "tank/data@1", bravo, "backup/data@1")
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, os.ErrClosed, "the command closes its standard input")
}
