package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHoldIsIdempotent(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t, answer{args: "zfs hold tag tank/fs@a tank/fs@b"}).Hold(t.Context(), "tag", "tank/fs@a", "tank/fs@b"))
	require.NoError(t, scripted(t, answer{
		args: "zfs hold tag tank/fs@a tank/fs@b", exit: 1,
		stderr: "cannot hold snapshot 'tank/fs@a': tag already exists on this dataset\n",
	}).Hold(t.Context(), "tag", "tank/fs@a", "tank/fs@b"))
	require.NoError(t, scripted(t).Hold(t.Context(), "tag"), "nothing to hold is nothing to do")
}

func TestHoldNamesWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	err := scripted(t, answer{
		args: "zfs hold tag tank/fs@none tank/fs@a tank/none@x", exit: 1,
		stderr: "cannot hold snapshot 'tank/fs@none': dataset does not exist\n" +
			"cannot hold snapshot 'tank/fs@a': tag already exists on this dataset\ncannot open 'tank/none': dataset does not exist\n",
	}).Hold(t.Context(), "tag", "tank/fs@none", "tank/fs@a", "tank/none@x")
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
	require.ErrorContains(t, err, `"tank/fs@none"`)
	require.ErrorContains(t, err, `"tank/none"`)
	require.NotContains(t, err.Error(), "already exists")
}

func TestHoldThatFails(t *testing.T) {
	t.Parallel()
	for _, stderr := range []string{"", "cannot hold snapshot 'tank/fs@a': permission denied\n"} {
		err := scripted(t, answer{args: "zfs hold tag tank/fs@a", exit: 1, stderr: stderr}).Hold(t.Context(), "tag", "tank/fs@a")
		var failed *CommandError
		require.ErrorAs(t, err, &failed)
		require.ErrorContains(t, err, "hold with the tag tag: zfs hold tank/fs@a")
	}
	require.Error(t, scripted(t).Hold(t.Context(), ".x", "tank/fs@a"))
	require.Error(t, scripted(t).Hold(t.Context(), "tag", "tank/fs#a"))
	cause := errors.New("no zfs")
	require.ErrorIs(t, scripted(t, answer{args: "zfs hold tag tank/fs@a", err: cause}).Hold(t.Context(), "tag", "tank/fs@a"), cause)
}

func TestReleaseIsIdempotent(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t, answer{
		args: "zfs release tag tank/fs@a tank/fs@none tank/none@x nopool/x@y", exit: 1,
		stderr: "cannot release hold from snapshot 'tank/fs@a': no such tag on this dataset\n" +
			"cannot release hold from snapshot 'tank/fs@none': dataset does not exist\n" +
			"cannot open 'tank/none': dataset does not exist\ncannot open 'nopool/x': dataset does not exist\n",
	}).Release(t.Context(), "tag", "tank/fs@a", "tank/fs@none", "tank/none@x", "nopool/x@y"))
	err := scripted(t, answer{
		args: "zfs release tag tank/fs@a", exit: 1, stderr: "cannot release hold from snapshot 'tank/fs@a': permission denied\n",
	}).Release(t.Context(), "tag", "tank/fs@a")
	require.ErrorContains(t, err, "permission denied")
}

func TestHoldsOfManySnapshotsTakeSeveralCommands(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range maxHolds + 2 {
		names = append(names, fmt.Sprintf("tank/fs@%d", i))
	}
	require.NoError(t, scripted(t,
		answer{args: "zfs hold tag " + strings.Join(names[:maxHolds], " ")},
		answer{args: "zfs hold tag " + strings.Join(names[maxHolds:], " ")},
	).Hold(t.Context(), "tag", names...))
	cause := errors.New("first")
	require.ErrorIs(t, scripted(t,
		answer{args: "zfs release tag " + strings.Join(names[:maxHolds], " "), err: cause},
		answer{args: "zfs release tag " + strings.Join(names[maxHolds:], " ")},
	).Release(t.Context(), "tag", names...), cause, "the rest is tried all the same")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, scripted(t, answer{args: "zfs release tag " + strings.Join(names[:maxHolds], " "), err: ctx.Err()}).
		Release(ctx, "tag", names...), context.Canceled, "but not after the context's end")
}

func TestHoldsReadsAllTags(t *testing.T) {
	t.Parallel()
	holds, err := scripted(t, answer{
		args: "zfs holds -Hp tank/fs@a tank/fs@none", exit: 1,
		stdout: "tank/fs@a\ta b\t1795400087\ntank/fs@a\tx\ty\t1795400088\n",
		stderr: "cannot open 'tank/fs@none': dataset does not exist\n",
	}).Holds(t.Context(), "tank/fs@a", "tank/fs@none")
	require.NoError(t, err)
	require.Equal(t, []Hold{
		{Snapshot: "tank/fs@a", Tag: "a b", Created: time.Unix(1795400087, 0)},
		{Snapshot: "tank/fs@a", Tag: "x\ty", Created: time.Unix(1795400088, 0)},
	}, holds)
	_, err = scripted(t, answer{args: "zfs holds -Hp tank/fs@a", exit: 1, stderr: "permission denied\n"}).Holds(t.Context(), "tank/fs@a")
	require.ErrorContains(t, err, "permission denied")
	_, err = scripted(t, answer{args: "zfs holds -Hp tank/fs@a", stdout: "tank/fs@a\ttag\t1"}).Holds(t.Context(), "tank/fs@a")
	require.ErrorContains(t, err, "cut off")
	_, err = scripted(t).Holds(t.Context(), "tank/fs")
	require.Error(t, err)
}

func TestHoldsOfOldVersionsPrintDates(t *testing.T) {
	t.Parallel()
	holds, err := scripted(t,
		answer{args: "zfs version", stdout: "zfs-2.1.11-1\n"},
		answer{args: "zfs holds -H tank/fs@a", stdout: "tank/fs@a\ttag\tMon Nov 23 02:14 2026\ntank/fs@a\tother\tSun Nov  1 02:14 2026\n"},
	).Holds(t.Context(), "tank/fs@a")
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 11, 23, 2, 14, 0, 0, time.Local), holds[0].Created)
	require.Equal(t, time.Date(2026, 11, 1, 2, 14, 0, 0, time.Local), holds[1].Created)
}

func FuzzHold(f *testing.F) {
	for _, seed := range []string{
		"tank/fs@a\ttag\t1795400087", "tank/fs@a\ttag\tMon Nov 23 02:14 2026", "tank/fs@a\tx\ty\t1", "tank/fs\ttag\t1", "\t\t", "a@b\t\t1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		hold, err := parseHold(line)
		if err != nil {
			var malformed *OutputError
			require.ErrorAs(t, err, &malformed)
			return
		}
		require.NoError(t, ValidateSnapshot(hold.Snapshot))
		require.NotEmpty(t, hold.Tag)
		require.True(t, strings.HasPrefix(line, hold.Snapshot+"\t"+hold.Tag+"\t"))
	})
}
