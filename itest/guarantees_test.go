// Guarantees: an incremental is always possible, JobIDs do not interfere, and conflicts are explained and nothing is changed.

package itest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestIncrementGoesFromTheCursorWhenTheCommonSnapshotIsGone(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(1, 2)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")

	p.zfs(p.alpha, "destroy", "tank/data@s1,s2")
	p.snapshots(names, 3, 5)
	detail := p.MustRun("prod")
	require.Len(t, detail.Tasks, 1)
	steps := detail.Tasks[0].Steps
	require.Len(t, steps, 2, "from the bookmark to the first, and then the range")
	require.Equal(t, protocol.Bookmark, steps[0].From.Type)
	require.Equal(t, 0, steps[0].Intermediates)
	require.Equal(t, "s3", steps[0].To.Name)
	require.Equal(t, "s5", steps[1].To.Name)
	p.requireAbstractions("tank/data", "backup/alpha", "prod.bravo")
	require.Len(t, snapshotsOf(t, p.bravo, "backup/alpha/tank/data"), 5)
}

func TestJobIDsDoNotInterfere(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(2, 2)
	p.zfs(p.bravo, "create", "backup/second")
	p.startAll()
	p.Submit(p.job("prod"))
	second := p.job("prod")
	second.Name = "second"
	second.Targets[0].Root = "backup/second"
	p.Submit(second)

	p.MustRun("prod")
	p.snapshots(names, 3, 3)
	p.MustRun("second")
	p.snapshots(names, 4, 4)
	p.MustRun("prod")
	p.MustRun("second")
	for _, name := range names {
		p.requireCursors(name, "prod.bravo", "second.bravo")
		p.requireLastReceived(name, "backup/alpha", "prod.bravo")
		p.requireLastReceived(name, "backup/second", "second.bravo")
	}
	p.requireEqual(names, "backup/alpha")
	p.requireEqual(names, "backup/second")
}

func TestTwoTargetsOfOneJob(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(2, 2)
	charlie := zfsfake.New()
	charlie.CreatePool("dr")
	p.zfs(charlie, "create", "dr/alpha")
	p.startAll()
	p.StartWorker(testfleet.Host{Name: "charlie", Runner: charlie, Policy: testfleet.AllowAll("dr")})
	job := p.job("prod")
	job.Targets = append(job.Targets, protocol.JobTarget{Host: "charlie", Root: "dr/alpha", ID: "zrepl_push_dr"})
	p.Submit(job)
	p.MustRun("prod")
	p.snapshots(names, 3, 4)
	p.MustRun("prod")
	p.requireEqual(names, "backup/alpha")
	for _, name := range names {
		require.Equal(t, guids(snapshotsOf(t, p.alpha, name)), guids(snapshotsOf(t, charlie, "dr/alpha/"+name)))
		source, err := p.alpha.Versions(name)
		require.NoError(t, err)
		require.Len(t, source, 4+2, "four snapshots and a cursor for each target on %s", name)
	}
}

func TestDivergedIsExplainedAndNothingIsChanged(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 2)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")
	p.zfs(p.bravo, "snapshot", "backup/alpha/tank/data@foreign")
	p.snapshots([]string{"tank/data"}, 3, 3)
	before, err := p.alpha.Versions("tank/data")
	require.NoError(t, err)
	commands := len(p.bravo.Commands())

	id, err := p.Client.DryRun(t.Context(), "prod")
	require.NoError(t, err)
	detail := p.Wait(id)
	require.Equal(t, protocol.PlanPlanned, detail.Plan.State)
	require.Len(t, detail.Tasks, 1)
	require.Equal(t, protocol.TaskConflict, detail.Tasks[0].State)
	require.Contains(t, detail.Tasks[0].Failure.Message, "foreign")

	detail = p.Run("prod")
	require.Equal(t, protocol.PlanFailed, detail.Plan.State)
	require.Equal(t, protocol.Conflict, detail.Tasks[0].Failure.Kind)

	after, err := p.alpha.Versions("tank/data")
	require.NoError(t, err)
	require.Equal(t, before, after)
	for _, record := range p.bravo.Commands()[commands:] {
		require.NotContains(t, []string{"recv", "destroy", "rollback", "set", "hold", "release", "create"}, record.Args()[1],
			"nothing is changed on the target")
	}
}

func TestLocalReplication(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(3, 2)
	p.alpha.CreatePool("spare")
	p.zfs(p.alpha, "create", "spare/copy")
	p.hostA.Policy = testfleet.AllowAll("tank", "spare")
	p.startAll()
	p.Submit(testfleet.Job("local", "alpha", protocol.Filter{"tank/data<": true},
		protocol.JobTarget{Host: "alpha", Root: "spare/copy"}))
	p.MustRun("local")
	p.snapshots(names, 3, 4)
	p.MustRun("local")
	for _, name := range names {
		require.Equal(t, guids(snapshotsOf(t, p.alpha, name)), guids(snapshotsOf(t, p.alpha, "spare/copy/"+name)))
	}
}

func TestInterruptedRangeGoesOnFromWhereItStopped(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")
	const each = 8 << 20
	for n, name := range []string{"s2", "s3", "s4"} {
		require.NoError(t, p.alpha.Generate("tank/data", "large", uint64(n), each))
		p.zfs(p.alpha, "snapshot", "tank/data@"+name)
	}
	p.alpha.ResetCommands()
	p.alpha.Inject(zfsfake.Fault{Match: isStream, Truncate: each + each/2, Times: 1})
	p.MustRun("prod")
	p.requireEqual([]string{"tank/data"}, "backup/alpha")
	p.requireAbstractions("tank/data", "backup/alpha", "prod.bravo")
	var sent int64
	for _, record := range p.alpha.Commands() {
		if isStream(record.Args()) {
			sent += record.Bytes()
		}
	}
	require.Less(t, sent, int64(4*each), "what had arrived of the range is not sent again")
}
