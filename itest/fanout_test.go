// Fan-out: one zfs send for all targets, on fake and on real pools.

package itest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

func TestFanOut(t *testing.T) {
	t.Parallel()
	for name, play := range fanOutScenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(newFakeCrowd(t))
		})
	}
}

func TestRealFanOut(t *testing.T) {
	zfstest.RequireReal(t)
	for name, play := range fanOutScenarios() {
		t.Run(name, func(t *testing.T) { play(newRealCrowd(t)) })
	}
}

func fanOutScenarios() map[string]func(*crowd) {
	scenarios := map[string]func(*crowd){}
	for _, transport := range []protocol.Transport{protocol.TransportAuto, protocol.TransportObject} {
		scenarios["all go well by "+string(transport)] = func(c *crowd) { c.allGoWell(transport) }
		scenarios["one is killed, one is slow, by "+string(transport)] = func(c *crowd) { c.oneIsKilledAndOneIsSlow(transport) }
	}
	return scenarios
}

// crowd is host alpha with a filesystem, and three hosts that it is replicated to.
type crowd struct {
	*testfleet.Fleet

	t        *testing.T
	source   *zfs.System
	sends    *testfleet.Counter
	data     string
	write    func(generation uint64, bytes int)
	targets  []*crowdTarget
	previous int
}

type crowdTarget struct {
	host   testfleet.Host
	pool   string
	system *zfs.System
	stop   *testfleet.Stopper
	worker *testfleet.Process
}

func newFakeCrowd(t *testing.T) *crowd {
	t.Helper()
	alpha := zfsfake.New()
	alpha.CreatePool("tank")
	c := newCrowd(t, alpha, "tank", func() (zfs.Runner, string) {
		fake := zfsfake.New()
		fake.CreatePool("vault")
		return fake, "vault"
	})
	c.write = func(generation uint64, bytes int) {
		require.NoError(t, alpha.Generate(c.data, "data", generation, uint64(bytes)))
	}
	return c
}

func newRealCrowd(t *testing.T) *crowd {
	t.Helper()
	zfstest.RequireReal(t)
	source := zfstest.NewPool(t)
	c := newCrowd(t, zfs.NewExecRunner(), source, func() (zfs.Runner, string) { return zfs.NewExecRunner(), zfstest.NewPool(t) })
	c.write = func(generation uint64, bytes int) {
		writeNoise(t, zfstest.Mountpoint(t, source)+"/data/data", generation, bytes)
	}
	return c
}

func newCrowd(t *testing.T, source zfs.Runner, pool string, target func() (zfs.Runner, string)) *crowd {
	t.Helper()
	c := &crowd{Fleet: testfleet.New(t), t: t, source: zfs.New(source), sends: testfleet.NewCounter(source, isStream), data: pool + "/data"}
	c.StartCoordinator()
	run(t, source, "create", c.data)
	for _, name := range []protocol.Host{"bravo", "charlie", "delta"} {
		runner, pool := target()
		run(t, runner, "create", pool+"/in")
		stopper := testfleet.NewStopper(runner)
		c.targets = append(c.targets, &crowdTarget{
			host: testfleet.Host{Name: name, Runner: stopper, Policy: testfleet.AllowAll(pool)},
			pool: pool, system: zfs.New(runner), stop: stopper,
		})
	}
	// The kernel keeps tens of megabytes for a receiver that does not read; what the worker keeps comes on top.
	c.StartWorker(testfleet.Host{Name: "alpha", Runner: c.sends, Policy: testfleet.AllowAll(pool), ShareWindow: 2 << 20})
	return c
}

func (c *crowd) startTargets() {
	for _, target := range c.targets {
		target.worker = c.StartWorker(target.host)
	}
}

func (c *crowd) job(transport protocol.Transport) protocol.Job {
	var targets []protocol.JobTarget
	for _, target := range c.targets {
		targets = append(targets, protocol.JobTarget{Host: target.host.Name, Root: target.pool + "/in"})
	}
	job := testfleet.Job("prod", "alpha", protocol.Filter{c.data: true}, targets...)
	job.Replication.Transport = transport
	job.Replication.Attempts = 20
	job.Replication.FanOut.Wait = protocol.Duration(time.Minute)
	job.Replication.FanOut.Lag = protocol.Duration(time.Minute)
	job.Replication.Objects = protocol.Objects{Segment: 256 << 10, Window: 1 << 20}
	return job
}

func (c *crowd) snapshot(n, bytes int) {
	c.t.Helper()
	c.write(uint64(n), bytes)
	require.NoError(c.t, c.source.Snapshot(c.t.Context(), fmt.Sprintf("%s@s%d", c.data, n)))
}

// sent is how many streams zfs send has made since the last call.
func (c *crowd) sent() int {
	total := c.sends.Count()
	sent := total - c.previous
	c.previous = total
	return sent
}

// requireEqual requires that every target has what the source has, and that for each there is one cursor and one last-received
// hold, of its own JobID, for the newest snapshot.
func (c *crowd) requireEqual() {
	c.t.Helper()
	ctx := c.t.Context()
	source, err := c.source.Get(ctx, c.data)
	require.NoError(c.t, err)
	newest := newestSnapshot(source)
	var cursors, bookmarks []string
	for _, target := range c.targets {
		received, err := target.system.Get(ctx, target.pool+"/in/"+c.data)
		require.NoError(c.t, err)
		require.Equal(c.t, snapshotGUIDs(source), snapshotGUIDs(received), "snapshots on %s", target.host.Name)
		require.Empty(c.t, received.ReceiveResumeToken)
		holds, err := target.system.Holds(ctx, newestSnapshot(received).Full(received.Name))
		require.NoError(c.t, err)
		require.Len(c.t, holds, 1)
		require.Equal(c.t, "zrepl_last_received_J_prod."+string(target.host.Name), holds[0].Tag)
		cursors = append(cursors, fmt.Sprintf("zrepl_CURSOR_G_%016x_J_prod.%s", newest.GUID, target.host.Name))
	}
	for _, v := range source.Versions {
		require.Zero(c.t, v.UserRefs, "holds on %s", v.Name)
		if v.Type == zfs.Bookmark {
			bookmarks = append(bookmarks, v.Name)
		}
	}
	slices.Sort(bookmarks)
	require.Equal(c.t, cursors, bookmarks)
}

func snapshotGUIDs(dataset zfs.Dataset) []uint64 {
	var guids []uint64
	for _, v := range dataset.Versions {
		if v.Type == zfs.Snapshot {
			guids = append(guids, v.GUID)
		}
	}
	return guids
}

func (c *crowd) allGoWell(transport protocol.Transport) {
	c.startTargets()
	c.Submit(c.job(transport))
	c.snapshot(1, 4<<20)
	c.MustRun("prod")
	require.Equal(c.t, 1, c.sent(), "one zfs send for the full stream to all three")
	c.snapshot(2, 1<<20)
	c.snapshot(3, 1<<20)
	c.MustRun("prod")
	require.Equal(c.t, 1, c.sent(), "and one for the range")
	c.requireEqual()
}

// oneIsKilledAndOneIsSlow interrupts bravo in the middle of the stream, and has charlie hold the others back for longer than the
// job allows. Delta goes through with the first zfs send, and the others end by themselves, from where they were.
func (c *crowd) oneIsKilledAndOneIsSlow(transport protocol.Transport) {
	const size = 96 << 20
	job := c.job(transport)
	job.Replication.FanOut.Lag = protocol.Duration(300 * time.Millisecond)
	c.Submit(job)
	bravo, charlie := c.targets[0], c.targets[1]
	charlie.host.Bandwidth = worker.Bandwidth{Recv: protocol.BandwidthLimit{Default: 2 << 20}}
	c.startTargets()
	c.snapshot(1, size)
	reached := bravo.stop.Stop(testfleet.Point{Match: isRecv, After: false})
	id := c.Request("prod")
	select {
	case <-reached:
	case <-time.After(testfleet.Timeout):
		require.Fail(c.t, "bravo does not receive")
	}
	bravo.worker.Kill()
	var delta protocol.Task
	require.Eventually(c.t, func() bool {
		detail, err := c.Client.Plan(c.t.Context(), id)
		require.NoError(c.t, err)
		for _, task := range detail.Tasks {
			if task.TargetHost == "delta" {
				delta = task
			}
		}
		return delta.State == protocol.TaskDone
	}, testfleet.Timeout, 20*time.Millisecond, "delta goes through though bravo is dead and charlie slow")
	require.Equal(c.t, 1, delta.Attempt, "%+v", delta.Failure)
	// The sender sees that charlie was dropped once charlie has taken what the kernel keeps for it.
	require.Eventually(c.t, func() bool { return strings.Contains(c.failures(id, "charlie"), "held back") },
		testfleet.Timeout, 50*time.Millisecond, "charlie is dropped for holding back the others")
	charlie.worker.Stop()
	charlie.host.Bandwidth = worker.Bandwidth{}
	charlie.worker = c.StartWorker(charlie.host)
	bravo.worker = c.StartWorker(bravo.host)
	detail := c.Wait(id)
	require.Equal(c.t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	c.requireEqual()
}

// failures is what was told of the failed tries of a target.
func (c *crowd) failures(id protocol.PlanID, target protocol.Host) string {
	c.t.Helper()
	var text string
	for record, err := range c.Client.Events(c.t.Context(), fleet.EventQuery{Plan: id}) {
		require.NoError(c.t, err)
		if e := record.Event; e != nil && e.Kind == protocol.EventFailed && e.Target == target {
			text += e.Failure.Error() + "\n"
		}
	}
	return text
}

func isRecv(args []string) bool {
	return len(args) > 1 && args[0] == "zfs" && (args[1] == "recv" || args[1] == "receive")
}
