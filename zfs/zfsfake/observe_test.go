package zfsfake_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestAnObserverSeesEveryChange(t *testing.T) {
	t.Parallel()
	type seen struct {
		kind         zfsfake.ChangeKind
		dataset, tag string
	}
	var changes []zfsfake.Change
	f := populated(t, zfsfake.WithObserver(func(change zfsfake.Change) { changes = append(changes, change) }))
	requireSeen := func(expected ...seen) {
		t.Helper()
		var all []seen
		for _, change := range changes {
			what := change.Dataset
			if change.Name != "" {
				what += "/" + change.Name
			}
			all = append(all, seen{change.Kind, what, change.Tag})
		}
		require.Equal(t, expected, all)
	}
	requireSeen(seen{zfsfake.SnapshotCreated, "tank/data/1", ""})
	versions, err := f.Versions("tank/data")
	require.NoError(t, err)
	require.Equal(t, versions[0].GUID, changes[0].GUID)
	require.Equal(t, versions[0].CreateTXG, changes[0].CreateTXG)

	whole := []byte(run(t, f, "zfs send tank/data@1"))
	changes = nil
	_, result := try(t, f, whole[:len(whole)/2], "zfs", "recv", "-s", "tank/copy")
	require.NotZero(t, result.ExitCode)
	require.Equal(t, versions[0].GUID, changes[0].GUID)
	run(t, f, "zfs recv -A tank/copy")
	_, result = try(t, f, whole, "zfs", "recv", "-s", "tank/copy")
	require.Zero(t, result.ExitCode, "%s", result.Stderr)
	requireSeen(
		seen{zfsfake.PartialKept, "tank/copy", ""},
		seen{zfsfake.DatasetDestroyed, "tank/copy", ""}, seen{zfsfake.PartialGone, "tank/copy", ""},
		seen{zfsfake.SnapshotReceived, "tank/copy/1", ""}, seen{zfsfake.PartialGone, "tank/copy", ""},
	)

	changes = nil
	for _, line := range []string{
		"zfs hold tag tank/copy@1", "zfs bookmark tank/copy@1 tank/copy#mark", "zfs release tag tank/copy@1",
		"zfs destroy tank/copy#mark", "zfs destroy -r tank/copy",
	} {
		run(t, f, line)
	}
	requireSeen(
		seen{zfsfake.HoldPlaced, "tank/copy/1", "tag"}, seen{zfsfake.BookmarkCreated, "tank/copy/mark", ""},
		seen{zfsfake.HoldReleased, "tank/copy/1", "tag"}, seen{zfsfake.BookmarkDestroyed, "tank/copy/mark", ""},
		seen{zfsfake.SnapshotDestroyed, "tank/copy/1", ""}, seen{zfsfake.DatasetDestroyed, "tank/copy", ""},
	)
}
