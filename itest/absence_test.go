// Hosts that are away: their filesystems wait, and go on by themselves.

package itest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// eventually waits until the plan is as it should be, and returns it.
func (p *pair) eventually(id protocol.PlanID, what string, is func(fleet.PlanDetail) bool) fleet.PlanDetail {
	p.t.Helper()
	var detail fleet.PlanDetail
	require.Eventually(p.t, func() bool {
		var err error
		detail, err = p.Client.Plan(p.t.Context(), id)
		return err == nil && is(detail)
	}, testfleet.Timeout, 20*time.Millisecond, "%s", what)
	return detail
}

// tasksTo are the plan's tasks for the host.
func tasksTo(detail fleet.PlanDetail, host protocol.Host) []protocol.Task {
	var tasks []protocol.Task
	for _, task := range detail.Tasks {
		if task.TargetHost == host {
			tasks = append(tasks, task)
		}
	}
	return tasks
}

// allOf tells whether there are tasks, and all are in the state.
func allOf(tasks []protocol.Task, state protocol.TaskState) bool {
	for _, task := range tasks {
		if task.State != state {
			return false
		}
	}
	return len(tasks) > 0
}

func TestATargetThatIsAwayHoldsUpNobodyAndGoesOnWhenItIsBack(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	charlie := zfsfake.New()
	charlie.CreatePool("dr")
	p.startAll()
	before := p.StartWorker(testfleet.Host{Name: "charlie", Runner: charlie, Policy: testfleet.AllowAll("dr")})
	require.Eventually(t, func() bool {
		hosts, err := p.Client.Hosts(t.Context())
		return err == nil && len(hosts) == 3
	}, testfleet.Timeout, 10*time.Millisecond, "all hosts are there")
	before.Stop()
	names := p.tree(5, 3)
	job := p.job("prod")
	job.Targets = append(job.Targets, protocol.JobTarget{Host: "charlie", Root: "dr"})
	job.Replication.Concurrency.Steps = 1
	p.Submit(job)
	id := p.Request("prod")

	detail := p.eventually(id, "everything goes to bravo meanwhile", func(detail fleet.PlanDetail) bool {
		return allOf(tasksTo(detail, "bravo"), protocol.TaskDone)
	})
	require.True(t, allOf(tasksTo(detail, "charlie"), protocol.TaskWaiting), "%s", testfleet.Explain(detail))
	for _, task := range tasksTo(detail, "charlie") {
		require.True(t, strings.HasPrefix(task.Waiting, "waiting for host charlie (last seen 20"), task.Waiting)
	}

	p.StartWorker(testfleet.Host{Name: "charlie", Runner: charlie, Policy: testfleet.AllowAll("dr")})
	detail = p.Wait(id)
	require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	for _, task := range detail.Tasks {
		require.Zero(t, task.Failures)
		require.Empty(t, task.Waiting)
	}
	for _, name := range names {
		require.Equal(t, guids(snapshotsOf(t, p.alpha, name)), guids(snapshotsOf(t, charlie, "dr/"+name)), name)
	}
}

func TestARunThatOnlyWaitsMakesWayForTheNext(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	charlie := zfsfake.New()
	charlie.CreatePool("dr")
	p.startAll()
	names := p.tree(2, 1)
	job := p.job("prod")
	job.Targets = append(job.Targets, protocol.JobTarget{Host: "charlie", Root: "dr"})
	p.Submit(job)
	first := p.Request("prod")
	p.eventually(first, "everything goes to bravo", func(detail fleet.PlanDetail) bool {
		return allOf(tasksTo(detail, "bravo"), protocol.TaskDone) && allOf(tasksTo(detail, "charlie"), protocol.TaskWaiting)
	})

	p.snapshots(names, 2, 2)
	second := p.Request("prod")
	detail := p.Wait(first)
	require.Equal(t, protocol.PlanPartial, detail.Plan.State, "%s", testfleet.Explain(detail))
	require.Contains(t, testfleet.Explain(detail), "because another run of the job was asked for")
	p.eventually(second, "bravo gets what is new", func(detail fleet.PlanDetail) bool {
		return allOf(tasksTo(detail, "bravo"), protocol.TaskDone) && allOf(tasksTo(detail, "charlie"), protocol.TaskWaiting)
	})
	p.requireEqual(names, "backup/alpha")

	p.StartWorker(testfleet.Host{Name: "charlie", Runner: charlie, Policy: testfleet.AllowAll("dr")})
	detail = p.Wait(second)
	require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
}

func TestASourceThatIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.StartCoordinator()
	p.StartWorker(p.hostB)
	names := p.tree(2, 2)
	p.Submit(p.job("prod"))
	id := p.Request("prod")
	p.eventually(id, "the plan says what it waits for", func(detail fleet.PlanDetail) bool {
		return detail.Plan.Waiting == "waiting for host alpha (never seen in the last 30 days)"
	})
	p.StartWorker(p.hostA)
	detail := p.Wait(id)
	require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	p.requireEqual(names, "backup/alpha")
}

func TestWaitingForAHostEndsWithItsDeadline(t *testing.T) {
	t.Parallel()
	for _, away := range []protocol.Host{"alpha", "bravo"} {
		t.Run(string(away), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.tree(1, 1)
			p.StartCoordinator()
			if away == "alpha" {
				p.StartWorker(p.hostB)
			} else {
				p.StartWorker(p.hostA)
			}
			job := p.job("prod")
			job.Replication.Deadlines.Absent = protocol.Duration(time.Second)
			p.Submit(job)
			detail := p.Run("prod")
			require.Equal(t, protocol.PlanFailed, detail.Plan.State)
			require.Contains(t, testfleet.Explain(detail), "gave up waiting for host "+string(away)+
				" (never seen in the last 30 days) after 1s (replication.deadlines.absent)")
		})
	}
}

func TestAHostThatDiesIsWaitedForAndWhatItHasIsResumed(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.receiver.Kill()
		i.fault.Release()
		i.eventually(i.plan, "it is told that bravo is away", func(detail fleet.PlanDetail) bool {
			return len(detail.Tasks) == 1 && strings.HasPrefix(detail.Tasks[0].Waiting, "waiting for host bravo (last seen 20")
		})
		i.StartWorker(i.hostB)
		i.requireResumed()
	})
}
