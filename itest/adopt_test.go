// Adoption: a dataset that zrepl replicated goes on incrementally under zrepl's job name.

package itest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

func TestAdoptWhatZreplReplicated(t *testing.T) {
	t.Parallel()
	onFakes(t, adoptScenarios())
}

func TestRealAdoptWhatZreplReplicated(t *testing.T) { onRealPools(t, adoptScenarios()) }

func adoptScenarios() map[string]scenario {
	scenarios := map[string]scenario{}
	for name, a := range map[string]adopted{
		"with its snapshots":                     {},
		"with the common snapshot gone":          {commonGone: true},
		"in the middle of a step":                {middle: true},
		"with a cursor of the first version too": {oldCursor: true},
	} {
		scenarios[name] = func(c *scene) { adopt(c, a) }
	}
	return scenarios
}

// adopted is how zrepl left the dataset.
type adopted struct {
	// commonGone: the common snapshot was pruned on the source, and only its cursor is left.
	commonGone bool
	// middle: the step from s2 to s3 was interrupted.
	middle bool
	// oldCursor: there is a cursor in the form of zrepl 0.2, too.
	oldCursor bool
}

const zreplJob, zreplSink = "push_to_bravo", "sink"

// adopt plants what zrepl's push and sink jobs leave after replicating s1 and s2, and goes on from there.
func adopt(c *scene, a adopted) {
	ctx := c.t.Context()
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	c.snapshot(c.data, "s2", 2)

	// zrepl's sink receives below <root_fs>/<client identity>, through placeholders.
	received := c.received(c.data)
	placeholder := []string{"create", "-u", "-o", "canmount=off", "-o", "mountpoint=none", "-o", zfs.PlaceholderProperty + "=on"}
	c.command(c.target, append(placeholder, c.root)...)
	c.command(c.target, append(placeholder, c.received(c.sourcePool))...)
	c.pipe(c.stopTarget, []string{"zfs", "send", "-L", "-c", "-e", c.data + "@s1"}, []string{"zfs", "recv", "-u", "-s", received})
	c.pipe(c.stopTarget, []string{"zfs", "send", "-L", "-c", "-e", "-i", "@s1", c.data + "@s2"},
		[]string{"zfs", "recv", "-u", "-s", received})
	source := c.dataset(c.data)
	common, found := source.Version(zfs.Snapshot, "s2")
	require.True(c.t, found)
	c.command(c.source, "bookmark", c.data+"@s2", fmt.Sprintf("%s#zrepl_CURSOR_G_%016x_J_%s", c.data, common.GUID, zreplJob))
	c.command(c.target, "hold", "zrepl_last_received_J_"+zreplSink, received+"@s2")
	if a.oldCursor {
		c.command(c.source, "bookmark", c.data+"@s2", c.data+"#zrepl_replication_cursor")
	}
	c.snapshot(c.data, "s3", 3)
	if a.middle {
		c.command(c.source, "hold", "zrepl_STEP_J_"+zreplJob, c.data+"@s2")
		c.command(c.source, "hold", "zrepl_STEP_J_"+zreplJob, c.data+"@s3")
		c.forge(received, "-L", "-c", "-e", "-i", "@s2", c.data+"@s3")
	}
	if a.commonGone {
		c.command(c.source, "destroy", c.data+"@s2")
	}
	before, err := c.target.Get(ctx, received)
	require.NoError(c.t, err)

	c.Submit(c.job(func(job *protocol.Job) { job.Targets[0].ID = zreplJob }))
	detail := c.MustRun("prod")
	require.Len(c.t, detail.Tasks, 1)
	steps := detail.Tasks[0].Steps
	require.Len(c.t, steps, 1)
	require.NotNil(c.t, steps[0].From, "the step is an increment")
	require.Equal(c.t, common.GUID, steps[0].From.GUID, "from what zrepl replicated last")
	require.Equal(c.t, a.middle, steps[0].Resume)
	done, failures := c.tries(detail.Plan.ID)
	require.Empty(c.t, failures)
	require.Len(c.t, done, 1)
	require.Equal(c.t, a.middle, done[0].Resumed)

	// All is as it was, and what is new came on top.
	after, err := c.target.Get(ctx, received)
	require.NoError(c.t, err)
	require.Equal(c.t, before.GUID, after.GUID)
	require.Len(c.t, after.Versions, 3)
	for i, version := range before.Versions {
		require.Equal(c.t, version.GUID, after.Versions[i].GUID)
	}
	source = c.dataset(c.data)
	newest := newestSnapshot(source)
	require.Equal(c.t, newest.GUID, after.Versions[2].GUID)

	// The cursor moved, the step holds are gone, and what is of another job is not touched.
	var bookmarks []string
	for _, v := range source.Versions {
		if v.Type == zfs.Bookmark {
			bookmarks = append(bookmarks, v.Name)
		}
	}
	expected := []string{fmt.Sprintf("zrepl_CURSOR_G_%016x_J_%s", newest.GUID, zreplJob)}
	if a.oldCursor {
		expected = append(expected, "zrepl_replication_cursor")
	}
	require.ElementsMatch(c.t, expected, bookmarks)
	require.Empty(c.t, c.holds(c.source, source))
	require.ElementsMatch(c.t, []string{
		received + "@s2 zrepl_last_received_J_" + zreplSink,
		received + "@s3 zrepl_last_received_J_" + zreplJob,
	}, c.holds(c.target, after))
	require.True(c.t, c.isPlaceholder(c.received(c.sourcePool)), "zrepl's placeholders are still placeholders")
	c.snapshot(c.data, "s4", 4)
	c.MustRun("prod")
}
