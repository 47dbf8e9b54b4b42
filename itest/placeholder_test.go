// Placeholders: made to hold others, replaced when their source joins the job, never sent; and chains of jobs.

package itest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

func TestPlaceholders(t *testing.T) {
	t.Parallel()
	onFakes(t, placeholderScenarios())
}

func TestRealPlaceholders(t *testing.T) { onRealPools(t, placeholderScenarios()) }

func placeholderScenarios() map[string]scenario {
	return map[string]scenario{
		"turn into what joins the job":            placeholderTurnsReal,
		"turn into what was half received":        placeholderTurnsRealAfterInterruption,
		"are never sent, in a chain":              chain,
		"a parent that fails keeps its children":  failedParentKeepsItsChildren,
		"and clones, which are sent as their own": clonesAreSentAsTheirOwn,
	}
}

// nested makes data, data/a and data/a/b, each with a snapshot, and replicates the last alone.
func (c *scene) nested() (middle, leaf string) {
	c.t.Helper()
	middle, leaf = c.data+"/a", c.data+"/a/b"
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", "-p", leaf)
	for i, dataset := range []string{c.data, middle, leaf} {
		c.snapshot(dataset, "s1", uint64(i)+1)
	}
	c.Submit(c.job(func(job *protocol.Job) { job.Source.Filesystems = protocol.Filter{leaf: true} }))
	c.MustRun("prod")
	c.requireReceived(leaf)
	for _, dataset := range []string{c.sourcePool, c.data, middle} {
		require.True(c.t, c.isPlaceholder(c.received(dataset)), "%s is a placeholder", c.received(dataset))
	}
	require.False(c.t, c.isPlaceholder(c.received(leaf)))
	return middle, leaf
}

func (c *scene) isPlaceholder(dataset string) bool {
	c.t.Helper()
	found, err := c.target.Get(c.t.Context(), dataset)
	require.NoError(c.t, err)
	return found.Placeholder
}

func placeholderTurnsReal(c *scene) {
	middle, leaf := c.nested()
	before := c.property(c.target, c.received(leaf), "guid")
	c.Submit(c.job(nil))
	c.MustRun("prod")
	c.requireReceived(c.data, middle, leaf)
	for _, dataset := range []string{c.data, middle, leaf} {
		require.False(c.t, c.isPlaceholder(c.received(dataset)), "%s is real", c.received(dataset))
	}
	require.True(c.t, c.isPlaceholder(c.received(c.sourcePool)), "what is not in the job stays a placeholder")
	require.Equal(c.t, before, c.property(c.target, c.received(leaf), "guid"), "what is below is not sent again")
	c.snapshot(middle, "s2", 9)
	c.MustRun("prod")
	c.requireReceived(middle)
}

func placeholderTurnsRealAfterInterruption(c *scene) {
	middle, leaf := c.nested()
	c.stopped("prod", testfleet.Point{Match: isStream, Bytes: scenarioBytes / 2}, func() {
		c.Submit(c.job(func(job *protocol.Job) { job.Source.Filesystems = protocol.Filter{middle: true} }))
	})
	c.Submit(c.job(nil))
	c.MustRun("prod")
	c.requireReceived(c.data, middle, leaf)
	require.False(c.t, c.isPlaceholder(c.received(middle)))
}

// stopped runs a job until both workers are killed at the point of the sender, and then to its end.
func (c *scene) stopped(job string, at testfleet.Point, submit func()) {
	c.t.Helper()
	submit()
	reached := c.stopSource.Stop(at)
	plan := c.Request(job)
	<-reached
	c.killWorkers()
	c.startWorkers()
	c.requireDone(c.Wait(plan))
}

func chain(c *scene) {
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	host, pool := c.third()
	c.StartWorker(host)
	third := zfs.New(host.Runner)
	run(c.t, host.Runner, "create", pool+"/bravo")
	c.Submit(c.job(nil))
	onward := testfleet.Job("onward", "bravo", protocol.Filter{c.root + "<": true, c.root: false},
		protocol.JobTarget{Host: "charlie", Root: pool + "/bravo"})
	c.Submit(onward)
	landing := pool + "/bravo/" + c.received(c.data)

	for n := uint64(2); n < 5; n++ {
		c.MustRun("prod")
		detail := c.MustRun("onward")
		require.Len(c.t, detail.Tasks, 1, "placeholders on the sender are not sent: %s", testfleet.Explain(detail))
		require.Equal(c.t, c.guids(c.target, c.received(c.data)), c.guids(third, landing), "snapshots on the third host")

		// What both jobs keep on the host in the middle does not get into the way of either.
		middle, err := c.target.Get(c.t.Context(), c.received(c.data))
		require.NoError(c.t, err)
		newest := newestSnapshot(middle)
		require.Equal(c.t, []string{middle.Name + "@" + newest.Name + " zrepl_last_received_J_prod.bravo"}, c.holds(c.target, middle))
		_, found := middle.Version(zfs.Bookmark, fmt.Sprintf("zrepl_CURSOR_G_%016x_J_onward.charlie", newest.GUID))
		require.True(c.t, found, "the cursor of the second job")

		c.command(c.source, "destroy", fmt.Sprintf("%s@s%d", c.data, n-1))
		c.snapshot(c.data, fmt.Sprintf("s%d", n), n)
	}
	for _, dataset := range []string{c.targetPool, c.root, c.received(c.sourcePool)} {
		found, err := third.Get(c.t.Context(), pool+"/bravo/"+dataset)
		require.NoError(c.t, err)
		require.True(c.t, found.Placeholder, "%s is a placeholder", found.Name)
		require.Empty(c.t, found.Versions)
	}
}

func failedParentKeepsItsChildren(c *scene) {
	// Only data/plain is not encrypted, so that its first replication fails for good.
	plain, child, grandchild, other := c.data+"/plain", c.data+"/plain/child", c.data+"/plain/child/grandchild", c.data+"/other"
	c.command(c.target, "create", c.root)
	c.encryptionRoot(c.source, c.data)
	c.command(c.source, "create", "-o", "encryption=off", plain)
	c.encryptionRoot(c.source, child)
	c.command(c.source, "create", grandchild)
	c.command(c.source, "create", other)
	for i, dataset := range []string{c.data, plain, child, grandchild, other} {
		c.snapshot(dataset, "s1", uint64(i)+1)
	}
	c.Submit(c.job(encrypted))
	detail := c.Run("prod")
	require.Equal(c.t, protocol.PlanPartial, detail.Plan.State, "%s", testfleet.Explain(detail))
	c.requireReceived(c.data, other)
	c.requireFailed(detail, plain, protocol.Permanent, "it is not encrypted")
	for _, dataset := range []string{child, grandchild} {
		require.Equal(c.t, protocol.TaskFailed, c.task(detail, dataset).State, "%s", testfleet.Explain(detail))
		_, err := c.target.Get(c.t.Context(), c.received(dataset))
		require.ErrorIs(c.t, err, zfs.ErrDatasetDoesNotExist, "%s was not begun", dataset)
		require.Empty(c.t, c.holds(c.source, c.dataset(dataset)))
	}
	done, _ := c.tries(detail.Plan.ID)
	require.Len(c.t, done, 2, "nothing else was kept from starting")
}

func clonesAreSentAsTheirOwn(c *scene) {
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	clone := c.data + "/clone"
	c.command(c.source, "clone", c.data+"@s1", clone)
	c.command(c.source, "snapshot", clone+"@c1")
	c.Submit(c.job(nil))
	id, err := c.Client.DryRun(c.t.Context(), "prod")
	require.NoError(c.t, err)
	require.Contains(c.t, c.task(c.Wait(id), clone).Note, "is a clone of "+c.data+"@s1")
	c.MustRun("prod")
	c.requireReceived(c.data, clone)
	require.Equal(c.t, "-", c.property(c.target, c.received(clone), "origin"))
	c.command(c.source, "snapshot", clone+"@c2")
	c.MustRun("prod")
	c.requireReceived(clone)
}
