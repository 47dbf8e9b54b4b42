package zfs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDestroyBatchesByDataset(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t,
		answer{args: "zfs destroy tank/a@1,2"},
		answer{args: "zfs destroy tank/b@3"},
		answer{args: "zfs destroy tank/a#m"},
	).Destroy(t.Context(), "tank/a@1", "tank/b@3", "tank/a#m", "tank/a@2"))
	require.NoError(t, scripted(t).Destroy(t.Context()))
}

func TestDestroyIsIdempotent(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t,
		answer{args: "zfs destroy tank/a@1,2", exit: 1, stderr: "could not find any snapshots to destroy; check snapshot names.\n"},
		answer{args: "zfs destroy tank/b@3", exit: 1, stderr: "cannot open 'tank/b': dataset does not exist\n"},
		answer{args: "zfs destroy tank/a#m", exit: 1, stderr: "bookmark 'tank/a#m' does not exist.\n"},
	).Destroy(t.Context(), "tank/a@1", "tank/b@3", "tank/a#m", "tank/a@2"))
}

func TestDestroySaysWhatFailedAndWhy(t *testing.T) {
	t.Parallel()
	held := "cannot destroy snapshot tank/a@held: it's being held. Run 'zfs holds -r tank/a@held' to see holders.\n"
	busy := "cannot destroy snapshot tank/a@busy: dataset is busy\n"
	cloned := "cannot destroy 'tank/a@cloned': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/clone@x\ntank/clone\n"
	err := scripted(t,
		answer{args: "zfs destroy tank/a@1,held,busy,2,cloned", exit: 1, stderr: cloned},
		answer{args: "zfs destroy tank/a@1,held,busy,2", exit: 1, stderr: held + busy},
		answer{args: "zfs destroy tank/a@1,2"},
		answer{args: "zfs destroy tank/a@held", exit: 1, stderr: held},
		answer{args: "zfs holds -Hp tank/a@held", stdout: "tank/a@held\th1\t1795400087\ntank/a@held\th2\t1795400087\n"},
		answer{args: "zfs destroy tank/a@busy", exit: 1, stderr: busy},
		answer{args: "zfs holds -Hp tank/a@busy"},
		answer{args: "zfs destroy tank/a@cloned", exit: 1, stderr: cloned},
		answer{args: "zfs destroy tank/a#m", exit: 1, stderr: "cannot destroy bookmark: permission denied\n"},
	).Destroy(t.Context(), "tank/a@1", "tank/a@held", "tank/a@busy", "tank/a@2", "tank/a@cloned", "tank/a#m")
	var failed *DestroyError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 4)
	var isHeld *SnapshotHeld
	require.ErrorAs(t, failed.Failed["tank/a@held"], &isHeld)
	require.Equal(t, []string{"h1", "h2"}, isHeld.Tags)
	var isBusy *SnapshotBusy
	require.ErrorAs(t, failed.Failed["tank/a@busy"], &isBusy)
	var hasClones *SnapshotHasClones
	require.ErrorAs(t, failed.Failed["tank/a@cloned"], &hasClones)
	require.Equal(t, []string{"tank/clone"}, hasClones.Clones)
	require.ErrorContains(t, failed.Failed["tank/a#m"], "permission denied")
	require.ErrorContains(t, err, "4 not destroyed: tank/a#m: zfs destroy tank/a#m: cannot destroy bookmark: permission denied (exit status 1); "+
		"tank/a@busy: it is busy (mounted, or being sent); tank/a@cloned: it has clones: tank/clone; tank/a@held: it is held with h1, h2")
	var command *CommandError
	require.ErrorAs(t, err, &command, "the commands are in the chain")
}

func TestDestroyOfTheSourceOfPartiallyReceivedState(t *testing.T) {
	t.Parallel()
	err := scripted(t, answer{
		args: "zfs destroy tank/a@1", exit: 1,
		stderr: "cannot destroy 'tank/a@1': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/a/%recv\n",
	}).Destroy(t.Context(), "tank/a@1")
	require.ErrorContains(t, err, "tank/a@1: it is the incremental source of partially received state")
}

func TestDestroyFallsBackToOneByOne(t *testing.T) {
	t.Parallel()
	unclear := answer{args: "zfs destroy tank/a@1,2", exit: 1, stderr: "cannot destroy snapshots: I/O error\n"}
	err := scripted(t, unclear,
		answer{args: "zfs destroy tank/a@1"},
		answer{args: "zfs destroy tank/a@2", exit: 1, stderr: "cannot destroy snapshots: I/O error\n"},
	).Destroy(t.Context(), "tank/a@1", "tank/a@2")
	var failed *DestroyError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 1)
	require.Contains(t, failed.Failed, "tank/a@2")
}

func TestDestroyThatCannotRun(t *testing.T) {
	t.Parallel()
	cause := errors.New("no zfs")
	err := scripted(t, answer{args: "zfs destroy tank/a@1", err: cause}).Destroy(t.Context(), "tank/a@1", "tank/a#m")
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, scripted(t, answer{args: "zfs destroy tank/a#m", err: cause}).Destroy(t.Context(), "tank/a#m"), cause)
	for _, name := range []string{"tank/a", "tank/a@", "tank/a@1,2", "tank/a@1%2", "-r"} {
		require.Error(t, scripted(t).Destroy(t.Context(), name), name)
	}
}

func TestDestroyErrorShowsTheFirstOfMany(t *testing.T) {
	t.Parallel()
	failed := map[string]error{}
	for i := range 9 {
		failed[fmt.Sprintf("tank/a@%d", i)] = errors.New("why")
	}
	require.ErrorContains(t, &DestroyError{Failed: failed}, "9 not destroyed: tank/a@0: why; tank/a@1: why; tank/a@2: why; tank/a@3: why; tank/a@4: why; and 4 more")
}

// Batches hold all names in order, and none is larger than allowed unless it is a single name.
func TestBatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOf(rapid.StringMatching(`[a-z]{1,30}`)).Draw(t, "names")
		size, count := rapid.IntRange(1, 100).Draw(t, "size"), rapid.IntRange(1, 10).Draw(t, "count")
		var all []string
		for batch := range batches(names, size, count) {
			require.NotEmpty(t, batch)
			require.LessOrEqual(t, len(batch), count)
			require.True(t, len(batch) == 1 || len(strings.Join(batch, ",")) < size)
			all = append(all, batch...)
		}
		require.Len(t, all, len(names))
		for i := range names {
			require.Equal(t, names[i], all[i])
		}
	})
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t, answer{args: "zfs snapshot tank/a@s tank/b@s"}).Snapshot(t.Context(), "tank/a@s", "tank/b@s"))
	require.NoError(t, scripted(t).Snapshot(t.Context()))
	require.Error(t, scripted(t).Snapshot(t.Context(), "tank/a"))
	err := scripted(t, answer{
		args: "zfs snapshot tank/a@s", exit: 1,
		stderr: "cannot create snapshot 'tank/a@s': dataset already exists\nno snapshots were created\n",
	}).Snapshot(t.Context(), "tank/a@s")
	var exists *SnapshotExists
	require.ErrorAs(t, err, &exists)
	require.Equal(t, "tank/a@s", exists.Snapshot)
	err = scripted(t, answer{
		args: "zfs snapshot tank/a@s", exit: 2, stderr: "cannot open 'tank/a': dataset does not exist\nusage:\n",
	}).Snapshot(t.Context(), "tank/a@s")
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
	require.ErrorContains(t, err, "tank/a")
}
