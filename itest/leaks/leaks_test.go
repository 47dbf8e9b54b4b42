// Package leaks_test runs a job 200 times in a process that does nothing else, and looks at what is left of it: goroutines,
// open files, child processes, temporary files, holds, bookmarks, plans and messages.
package leaks_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ClientLeak()) }

const (
	runs = 200
	// warm is after how many runs everything that is made once has been made.
	warm = 20
	// slack is for what comes and goes by itself: a timer's goroutine, a connection that is just being closed.
	slack = 8
)

// footprint is what the process has of what could leak.
type footprint struct {
	goroutines, files, children, temporary int
}

func measure(t *testing.T) footprint {
	t.Helper()
	count := func(pattern string) int {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		return len(found)
	}
	children := 0
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, task := range tasks {
		if pids, err := os.ReadFile(task); err == nil { // a thread may be gone by now
			children += len(strings.Fields(string(pids)))
		}
	}
	return footprint{
		goroutines: runtime.NumGoroutine(), files: count("/proc/self/fd/*"), children: children,
		temporary: count(filepath.Join(os.Getenv("TMPDIR"), "*")),
	}
}

func TestNothingLeaksOver200Runs(t *testing.T) {
	// Temporary files of the fleet, and of nobody else, go to a directory of the test's.
	t.Setenv("TMPDIR", t.TempDir())
	fleet := testfleet.New(t)
	alpha, bravo := zfsfake.New(), zfsfake.New()
	alpha.CreatePool("tank")
	bravo.CreatePool("backup")
	zfsCommand(t, alpha, "create", "tank/data")
	zfsCommand(t, alpha, "create", "tank/data/child")
	zfsCommand(t, bravo, "create", "backup/alpha")
	fleet.StartCoordinator()
	fleet.StartWorker(testfleet.Host{Name: "alpha", Runner: alpha, Policy: testfleet.AllowAll("tank")})
	fleet.StartWorker(testfleet.Host{Name: "bravo", Runner: bravo, Policy: testfleet.AllowAll("backup")})
	fleet.Submit(testfleet.Job("prod", "alpha", protocol.Filter{"tank/data<": true},
		protocol.JobTarget{Host: "bravo", Root: "backup/alpha"}))

	var before footprint
	for n := range runs {
		for _, name := range []string{"tank/data", "tank/data/child"} {
			require.NoError(t, alpha.Write(name, "file", []byte(fmt.Sprint("generation ", n))))
		}
		zfsCommand(t, alpha, "snapshot", "-r", fmt.Sprintf("tank/data@s%d", n))
		if n >= 3 {
			zfsCommand(t, alpha, "destroy", "-r", fmt.Sprintf("tank/data@s%d", n-3))
		}
		fleet.MustRun("prod")
		if n == warm {
			before = measure(t)
		}
	}

	require.EventuallyWithT(t, func(c *assert.CollectT) {
		after := measure(t)
		require.LessOrEqual(c, after.goroutines, before.goroutines+slack, "goroutines")
		require.LessOrEqual(c, after.files, before.files+slack, "open files")
		require.Equal(c, before.children, after.children, "child processes")
		require.Equal(c, before.temporary, after.temporary, "temporary files")
	}, testfleet.Timeout, 50*time.Millisecond)

	for _, name := range []string{"tank/data", "tank/data/child"} {
		source, err := alpha.Versions(name)
		require.NoError(t, err)
		bookmarks := 0
		for _, v := range source {
			require.Empty(t, v.Holds, "holds on %s@%s", name, v.Name)
			if v.Type == "bookmark" {
				bookmarks++
			}
		}
		require.Equal(t, 1, bookmarks, "cursors of %s", name)
		target, err := bravo.Versions("backup/alpha/" + name)
		require.NoError(t, err)
		require.Len(t, target, runs)
		for i, v := range target {
			require.Equal(t, i == len(target)-1, len(v.Holds) == 1, "only the newest received snapshot is held")
		}
	}
	plans, err := fleet.Client.Plans(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, len(plans), 21, "old plans are removed")
	// The receiver acknowledges its item after the sender has told that the step is done.
	require.Eventually(t, func() bool {
		info, err := fleet.Resources.Work.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, testfleet.Timeout, 10*time.Millisecond, "the work queue is empty")
}

func zfsCommand(t *testing.T, fake *zfsfake.Fake, args ...string) {
	t.Helper()
	result, err := fake.Run(t.Context(), zfs.Command{Args: append([]string{"zfs"}, args...)})
	require.NoError(t, err)
	require.Zero(t, result.ExitCode, "zfs %s: %s", strings.Join(args, " "), result.Stderr)
}
