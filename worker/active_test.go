package worker

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func itemOf(plan protocol.PlanID, task, attempt int, role protocol.Role) protocol.WorkItem {
	return protocol.WorkItem{
		Ref: protocol.StepRef{Plan: plan, Task: task, Attempt: attempt}, Role: role, JobID: "prod.bravo", Job: "prod",
		Step: protocol.Step{Filesystem: "tank/data", TargetFilesystem: "backup/tank/data"},
	}
}

func TestANewerTryStopsAnOlderOne(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	first, err := active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.NoError(t, err)
	_, err = active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.ErrorIs(t, err, errDuplicate)
	second, err := active.enter(t.Context(), itemOf("p", 0, 2, protocol.RoleRecv))
	require.NoError(t, err, "the locks make it wait, not this")
	require.ErrorIs(t, context.Cause(first.ctx), errSuperseded)
	_, err = active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.ErrorIs(t, err, errSuperseded, "an old item that comes late is dropped")
	require.NoError(t, second.ctx.Err())
	first.leave()
	second.leave()
	require.Empty(t, active.steps)
}

func TestStepsOfOtherTasksAreLeftAlone(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	first, err := active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.NoError(t, err)
	defer first.leave()
	for _, item := range []protocol.WorkItem{
		itemOf("p", 0, 2, protocol.RoleSend), itemOf("p", 1, 2, protocol.RoleRecv), itemOf("other", 0, 2, protocol.RoleRecv),
	} {
		step, err := active.enter(t.Context(), item)
		require.NoError(t, err)
		t.Cleanup(step.leave)
	}
	require.NoError(t, first.ctx.Err())
}

func TestNoticesStopWhatTheyName(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	step, err := active.enter(t.Context(), itemOf("p", 3, 2, protocol.RoleSend))
	require.NoError(t, err)
	defer step.leave()
	for _, notice := range []protocol.CancelNotice{
		{Plan: "other"},
		{Plan: "p", Try: &protocol.StepRef{Plan: "p", Task: 3, Attempt: 1}},
		{Plan: "p", Try: &protocol.StepRef{Plan: "p", Task: 2, Attempt: 9}},
	} {
		active.stop(notice)
		require.NoError(t, step.ctx.Err(), "%+v", notice)
	}
	active.stop(protocol.CancelNotice{Plan: "p"})
	require.ErrorIs(t, context.Cause(step.ctx), errPlanCancelled)
}

func TestAStepEndsWithItsWorker(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	step, err := newActiveSteps().enter(ctx, itemOf("p", 0, 1, protocol.RoleRecv))
	require.NoError(t, err)
	defer step.leave()
	cancel()
	require.ErrorIs(t, step.ctx.Err(), context.Canceled)
}
