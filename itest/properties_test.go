// Properties and send flags: what is set on what is received, what the flags carry, and what is refused before anything
// starts; and receivers that were written to.

package itest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestProperties(t *testing.T) {
	t.Parallel()
	onFakes(t, propertyScenarios())
}

func TestRealProperties(t *testing.T) { onRealPools(t, propertyScenarios()) }

func propertyScenarios() map[string]scenario {
	return map[string]scenario{
		"of filesystems and of volumes":         propertiesOfEachType,
		"sent along":                            propertiesSentAlong,
		"large blocks, turned off later":        largeBlocksTurnedOff,
		"a target that was written to":          writtenTo(false),
		"a target that was written to, locally": writtenTo(true),
		"a target that may be rolled back":      writtenToAndRolledBack,
		"a target with snapshots of its own":    rolledBackToTheCommonVersionOnly,
		"the estimate of a resumed step":        estimateOfAResumedStep,
	}
}

func propertiesOfEachType(c *scene) {
	volume := c.data + "/volume"
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.command(c.source, "create", "-s", "-V", "16M", volume)
	c.command(c.source, "snapshot", "-r", c.data+"@s1")
	c.Submit(c.job(func(job *protocol.Job) {
		job.Recv.Properties = protocol.RecvProperties{
			Override: map[string]string{"mountpoint": "none", "canmount": "off", "readonly": "on", "org.zfleet:all": "yes"},
			Inherit:  []string{"sharenfs", "atime", "compression"},
			Filesystem: protocol.PropertyChanges{
				Override: map[string]string{"recordsize": "65536", "org.zfleet:type": "filesystem"},
			},
			Volume: protocol.PropertyChanges{
				Override: map[string]string{"volmode": "none", "readonly": "off", "org.zfleet:type": "volume"},
			},
		}
	}))
	c.MustRun("prod")
	c.command(c.source, "snapshot", "-r", c.data+"@s2")
	c.MustRun("prod")
	c.requireReceived(c.data, volume)
	for dataset, properties := range map[string]map[string]string{
		c.data: {
			"mountpoint": "none", "canmount": "off", "readonly": "on", "org.zfleet:all": "yes", "recordsize": "65536",
			"org.zfleet:type": "filesystem",
		},
		volume: {"readonly": "off", "org.zfleet:all": "yes", "volmode": "none", "org.zfleet:type": "volume"},
	} {
		for name, value := range properties {
			require.Equal(c.t, value, c.property(c.target, c.received(dataset), name), "%s of %s", name, dataset)
		}
	}
}

func propertiesSentAlong(c *scene) {
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", "-o", "org.zfleet:owner=alice", "-o", "atime=off", "-o", "recordsize=64K", c.data)
	c.snapshot(c.data, "s1", 1)
	c.Submit(c.job(func(job *protocol.Job) {
		job.Send.Properties = true
		job.Recv.Properties.Inherit = []string{"recordsize"}
	}))
	c.MustRun("prod")
	c.command(c.source, "set", "org.zfleet:owner=bob", c.data)
	c.snapshot(c.data, "s2", 2)
	c.snapshot(c.data, "s3", 3)
	c.MustRun("prod")
	c.requireReceived(c.data)
	received := c.received(c.data)
	require.Equal(c.t, "bob", c.property(c.target, received, "org.zfleet:owner"))
	require.Equal(c.t, "off", c.property(c.target, received, "atime"))
	require.Equal(c.t, "131072", c.property(c.target, received, "recordsize"), "inherited, not as it was sent")
	require.False(c.t, c.isPlaceholder(received))

	// What the target received itself is sent on as it was received.
	host, pool := c.third()
	c.StartWorker(host)
	run(c.t, host.Runner, "create", pool+"/bravo")
	onward := testfleet.Job("onward", "bravo", protocol.Filter{received: true},
		protocol.JobTarget{Host: "charlie", Root: pool + "/bravo"})
	onward.Send.BackupProperties = true
	c.Submit(onward)
	c.MustRun("onward")
	found, err := zfs.New(host.Runner).Get(c.t.Context(), pool+"/bravo/"+received)
	require.NoError(c.t, err)
	require.Len(c.t, found.Versions, 3)
}

func largeBlocksTurnedOff(c *scene) {
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", "-o", "recordsize=1M", c.data)
	c.snapshot(c.data, "s1", 1)
	c.Submit(c.job(nil))
	c.MustRun("prod")
	c.snapshot(c.data, "s2", 2)
	c.Submit(c.job(func(job *protocol.Job) { job.Send.LargeBlocks = false }))
	detail := c.Run("prod")
	c.requireFailed(detail, c.data, protocol.Permanent, "incremental send stream requires -L", "send.large_blocks: true")
	c.Submit(c.job(nil))
	c.MustRun("prod")
	c.requireReceived(c.data)
}

// replicated replicates two snapshots and takes a third.
func (c *scene) replicated(change func(*protocol.Job)) {
	c.t.Helper()
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	c.snapshot(c.data, "s2", 2)
	c.Submit(c.job(change))
	c.MustRun("prod")
	c.snapshot(c.data, "s3", 3)
}

func writtenTo(local bool) scenario {
	return func(c *scene) {
		if local {
			c.StartWorker(testfleet.Host{
				Name: "both", Runner: c.stopTarget, Policy: testfleet.AllowAll(c.targetPool),
			})
			copied := c.targetPool + "/copy"
			c.command(c.target, "create", copied)
			c.replicated(nil)
			c.MustRun("prod")
			job := testfleet.Job("copy", "both", protocol.Filter{c.received(c.data): true},
				protocol.JobTarget{Host: "both", Root: copied})
			c.Submit(job)
			c.MustRun("copy")
			c.snapshot(c.data, "s4", 4)
			c.MustRun("prod")
			landing := copied + "/" + c.received(c.data)
			c.alter(landing)
			c.requireFailed(c.Run("copy"), c.received(c.data), protocol.Conflict, "was written to since "+landing+"@s3",
				"recv.force_rollback: true")
			return
		}
		c.replicated(nil)
		received := c.received(c.data)
		c.alter(received)
		before := c.guids(c.target, received)
		c.requireFailed(c.Run("prod"), c.data, protocol.Conflict, "was written to since "+received+"@s2",
			"zfs rollback -r '"+received+"@s2'", "recv.force_rollback: true")
		require.Equal(c.t, before, c.guids(c.target, received), "nothing is given up")
		require.True(c.t, c.altered(received), "nor what was written")
	}
}

func writtenToAndRolledBack(c *scene) {
	c.replicated(func(job *protocol.Job) { job.Recv.ForceRollback = true })
	c.alter(c.received(c.data))
	c.MustRun("prod")
	c.requireReceived(c.data)
	require.False(c.t, c.altered(c.received(c.data)), "what was written is given up")
}

func rolledBackToTheCommonVersionOnly(c *scene) {
	received := c.received(c.data)
	c.replicated(nil)
	c.command(c.source, "destroy", c.data+"@s1")
	c.command(c.target, "snapshot", received+"@foreign")
	c.snapshot(c.data, "s4", 4)
	c.requireFailed(c.Run("prod"), c.data, protocol.Conflict, "@foreign")
	before := c.guids(c.target, received)
	c.Submit(c.job(func(job *protocol.Job) { job.Recv.ForceRollback = true }))
	c.MustRun("prod")
	after := c.guids(c.target, received)
	require.Equal(c.t, before[:2], after[:2], "s1, which the source has no more, and s2 are still there")
	require.Equal(c.t, c.guids(c.source, c.data), after[1:], "and the foreign one is not")
}

func estimateOfAResumedStep(c *scene) {
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	c.Submit(c.job(nil))
	estimate := func() uint64 {
		id, err := c.Client.DryRun(c.t.Context(), "prod")
		require.NoError(c.t, err)
		steps := c.task(c.Wait(id), c.data).Steps
		require.Len(c.t, steps, 1)
		return steps[0].Estimate
	}
	whole := estimate()
	require.Greater(c.t, whole, uint64(scenarioBytes/2))
	c.command(c.target, "create", "-u", c.received(c.sourcePool))
	c.forge(c.received(c.data), "-L", "-c", "-e", c.data+"@s1")
	rest := estimate()
	require.NotZero(c.t, rest)
	require.Less(c.t, rest, whole*3/4, "only what is left")

	// A token that the sender would refuse says nothing about what it will send.
	c.Submit(c.job(func(job *protocol.Job) { job.Send.Compressed = false }))
	require.Greater(c.t, estimate(), whole*3/4)
}

func TestFlagsThatTheHostDoesNotKnowAreRefusedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	alpha, bravo := zfsfake.New(zfsfake.WithVersion("0.8.6")), zfsfake.New()
	alpha.CreatePool("tank")
	bravo.CreatePool("backup")
	c := &scene{alpha: alpha, bravo: bravo, stand: newStand(t, alpha, bravo)}
	c.sourcePool, c.targetPool = "tank", "backup"
	c.write = func(filesystem string, generation uint64, size int) {
		require.NoError(t, alpha.Generate(filesystem, "data", generation, uint64(size)))
	}
	c.set()
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	c.Submit(c.job(func(job *protocol.Job) { job.Send.Saved = true }))
	alpha.ResetCommands()
	bravo.ResetCommands()
	c.requireFailed(c.Run("prod"), c.data, protocol.Permanent, "OpenZFS 0.8.6", "send.saved: false")
	require.Zero(t, alpha.Count(zfsfake.Command("zfs", "hold")), "nothing was begun on the source")
	for _, verb := range []string{"create", "recv", "set"} {
		require.Zero(t, bravo.Count(zfsfake.Command("zfs", verb)), "zfs %s on the target", verb)
	}
	c.Submit(c.job(nil))
	c.MustRun("prod")
}

func TestEstimatesAreMadeSeveralAtATime(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(6, 1)
	p.startAll()
	p.Submit(p.job("prod"))
	hung := p.alpha.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "send").With("-nP"), Hang: true})
	id, err := p.Client.DryRun(t.Context(), "prod")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return hung.Hits() > 1 }, testfleet.Timeout, time.Millisecond)
	hung.Release()
	for _, task := range p.Wait(id).Tasks {
		require.NotZero(t, task.Steps[0].Estimate, "the size of %s", task.Filesystem)
	}
}
