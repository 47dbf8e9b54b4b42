package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

var (
	bothHere   = hosts{"alpha": {here: true}, "bravo": {here: true}, "charlie": {here: true}}
	bravoAway  = hosts{"alpha": {here: true}, "bravo": {seen: start}, "charlie": {here: true}}
	sourceAway = hosts{"bravo": {here: true}, "charlie": {here: true}}
)

func TestTasksOfAHostThatIsAwayWaitAndTakeNoPlace(t *testing.T) {
	t.Parallel()
	job := testJob(protocol.TransportTCP)
	job.Targets = append(job.Targets, protocol.JobTarget{Host: "charlie", Root: "dr"})
	job.Replication.FanOut.Enabled = false
	job.Replication.Concurrency.Steps = 1
	m := machineOf(job, 1, "tank")
	toBravo, toCharlie := m.tasks[0], m.tasks[1]

	m.hosts = bravoAway
	items := published(m.advance(start))
	require.Equal(t, protocol.TaskWaiting, toBravo.State)
	require.Equal(t, "waiting for host bravo (last seen 2026-11-23 12:00:00 UTC)", toBravo.Waiting)
	require.Equal(t, start, toBravo.WaitingSince)
	require.Len(t, items, 1, "the place is charlie's")
	require.Equal(t, toCharlie.ref(), items[0].Ref)
	require.Empty(t, m.advance(start.Add(time.Minute)), "waiting changes nothing")

	m.hosts = bothHere
	back := start.Add(time.Hour)
	actions := m.advance(back)
	require.Contains(t, actions, action(saveTask{toBravo}))
	require.Equal(t, []*task{toBravo}, actions[len(actions)-1].(lookAgain).tasks, "what was planned may be old by now")
	m.looked(toBravo, look{result: plan.Result{Steps: toBravo.Steps}}, back)
	require.Equal(t, protocol.TaskReady, toBravo.State)
	require.Empty(t, toBravo.Waiting)
	require.Zero(t, toBravo.WaitingSince)
	require.Zero(t, toBravo.Failures)
}

func TestNothingIsBegunWhileTheSourceIsAway(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank", "pool")
	m.hosts = sourceAway
	require.Empty(t, published(m.advance(start)))
	for _, task := range m.tasks {
		require.Equal(t, protocol.TaskWaiting, task.State)
		require.Equal(t, "waiting for host alpha (never seen in the last 30 days)", task.Waiting)
	}
}

func TestAStepUnderWayIsNotGivenUpWhileItsHostIsAway(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	task := m.tasks[0]
	m.advance(start)
	m.apply(m.event(task, protocol.EventOffered), start)
	m.apply(claimedBy(m, task, protocol.RoleSend), start)
	m.hosts = bravoAway
	m.advance(start)
	require.Equal(t, protocol.TaskSending, task.State)
	require.Zero(t, m.active(), "it takes no place")
	silence := start.Add(23 * time.Hour)
	require.Empty(t, m.advance(silence))
	require.Equal(t, protocol.TaskSending, task.State)

	t.Run("its end may be told when the host is back", func(t *testing.T) {
		m.hosts = bothHere
		m.advance(silence)
		require.Equal(t, protocol.TaskSending, task.State, "it is given time to speak")
		m.apply(m.event(task, protocol.EventDone), silence)
		require.Equal(t, protocol.TaskDone, task.State)
	})
}

func TestAStepUnderWayIsGivenUpWhenItsHostIsBackAndSilent(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	task := m.tasks[0]
	m.advance(start)
	m.apply(claimedBy(m, task, protocol.RoleRecv), start)
	m.hosts = bravoAway
	m.advance(start)
	m.hosts = bothHere
	back := start.Add(time.Hour)
	m.advance(back)
	require.Equal(t, protocol.TaskOffering, task.State)
	m.advance(m.wake())
	require.Equal(t, protocol.TaskBackoff, task.State)
	require.Contains(t, task.Failure.Message, "no sign of life from the worker of bravo since 13:00:00")
}

func TestAbsenceHasADeadline(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank", "pool")
	m.plan.Spec.Replication.Concurrency.Steps = 1
	m.advance(start)
	m.hosts = bravoAway
	m.advance(start)
	require.ElementsMatch(t, []protocol.TaskState{protocol.TaskOffering, protocol.TaskWaiting},
		[]protocol.TaskState{m.tasks[0].State, m.tasks[1].State})
	require.Equal(t, start.Add(24*time.Hour), m.wake())
	m.advance(m.wake())
	for _, task := range m.tasks {
		require.Equal(t, protocol.TaskFailed, task.State)
		require.Contains(t, task.Failure.Message, "gave up waiting for host bravo (last seen 2026-11-23 12:00:00 UTC) after 24h")
		require.Empty(t, task.Waiting)
	}
}

func TestATaskOfATargetThatWasAwayIsPlannedWhenItIsBack(t *testing.T) {
	t.Parallel()
	job := testJob(protocol.TransportTCP)
	p := protocol.Plan{ID: "20261123t120000-test", Job: job.Name, Spec: job, State: protocol.PlanRunning}
	m := newMachine(p, []protocol.Task{
		{Plan: p.ID, Number: 0, TargetHost: "bravo", Filesystem: "tank", TargetFilesystem: "backup/tank", State: protocol.TaskWaiting},
		{Plan: p.ID, Number: 1, TargetHost: "bravo", Filesystem: "tank/a", TargetFilesystem: "backup/tank/a", State: protocol.TaskWaiting},
	}, start, func() float64 { return 0 })
	m.hosts = bravoAway
	m.advance(start)
	require.Equal(t, start, m.tasks[1].WaitingSince)

	m.hosts = bothHere
	actions := m.advance(start)
	require.Equal(t, m.tasks, actions[len(actions)-1].(lookAgain).tasks, "all of a target are looked at together")
	m.looked(m.tasks[1], look{result: plan.Result{Steps: []protocol.Step{stepTo("tank/a", 1)}}}, start)
	require.Empty(t, published(m.advance(start)), "its parent may have to be created")
	m.looked(m.tasks[0], look{result: plan.Result{}}, start)
	require.Equal(t, protocol.TaskDone, m.tasks[0].State)
	require.Len(t, published(m.advance(start)), 1)
}

func TestCancelAndFailureEndWaiting(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	m.hosts = bravoAway
	m.advance(start)
	m.cancel(start)
	require.Equal(t, protocol.TaskCancelled, m.tasks[0].State)
	require.Empty(t, m.tasks[0].Waiting)
	require.True(t, m.wake().IsZero())
}

func TestANewLeaderGoesOnWaiting(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	m.hosts = bravoAway
	m.advance(start)
	later := start.Add(time.Hour)
	again := newMachine(m.plan, []protocol.Task{m.tasks[0].Task}, later, m.jitter)
	again.hosts = bravoAway
	require.Empty(t, again.recovered(later))
	require.Empty(t, again.advance(later))
	require.Equal(t, start.Add(24*time.Hour), again.wake(), "the deadline does not begin again")
}

func TestASupersededClaimIsNotHeard(t *testing.T) {
	t.Parallel()
	for name, newer := range map[string]claim{"a later delivery": {7, 2}, "a later item": {8, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := testMachine(protocol.TransportTCP, 1, "tank")
			task := m.tasks[0]
			m.advance(start)
			m.apply(m.event(task, protocol.EventOffered), start)
			claimed := claimedBy(m, task, protocol.RoleSend)
			claimed.Item, claimed.Delivery = newer.item, newer.delivery
			m.apply(claimed, start)

			done := m.event(task, protocol.EventDone)
			done.Item, done.Delivery = 7, 1
			require.Empty(t, m.apply(done, start))
			require.Equal(t, protocol.TaskSending, task.State)
			done.Item, done.Delivery = newer.item, newer.delivery
			m.apply(done, start)
			require.Equal(t, protocol.TaskDone, task.State)
		})
	}
}

func TestAPlanThatOnlyWaitsMakesWayForTheNextRun(t *testing.T) {
	t.Parallel()
	job := testJob(protocol.TransportTCP)
	job.Targets = append(job.Targets, protocol.JobTarget{Host: "charlie", Root: "dr"})
	job.Replication.FanOut.Enabled = false
	m := machineOf(job, 1, "tank", "pool")
	m.advance(start)
	bravoClaimed, bravoSilent := m.tasks[0], m.tasks[2]
	m.apply(claimedBy(m, bravoClaimed, protocol.RoleRecv), start)
	m.hosts, m.yielding = bravoAway, true
	m.advance(start)
	require.False(t, m.finished(), "there is something to do for charlie")

	for _, task := range []*task{m.tasks[1], m.tasks[3]} {
		m.apply(m.event(task, protocol.EventOffered), start)
		m.apply(m.event(task, protocol.EventDone), start)
	}
	m.advance(start)
	require.Equal(t, protocol.TaskOffering, bravoClaimed.State, "its step may be going on")
	require.Equal(t, protocol.TaskOffering, bravoSilent.State)
	now := m.wake()
	require.Less(t, now.Sub(start), time.Hour, "but it is not waited for in silence as long as usual")
	m.advance(now)
	m.advance(now)
	require.True(t, m.finished())
	for _, task := range []*task{bravoClaimed, bravoSilent} {
		require.Equal(t, protocol.TaskFailed, task.State)
		require.Contains(t, task.Failure.Message, "given up waiting for host bravo (last seen 2026-11-23 12:00:00 UTC), because another run")
	}
	state, done, failed, _ := m.outcome()
	require.Equal(t, protocol.PlanPartial, state)
	require.Equal(t, []int{2, 2}, []int{done, failed})
}
