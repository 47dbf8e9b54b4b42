package worker

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func itemOf(plan protocol.PlanID, task, attempt int, role protocol.Role) protocol.WorkItem {
	return protocol.WorkItem{
		Ref: protocol.StepRef{Plan: plan, Task: task, Attempt: attempt}, Role: role, JobID: "prod.bravo",
		Step: protocol.Step{Filesystem: "tank/data", TargetFilesystem: "backup/tank/data"},
	}
}

func TestANewerTrySupersedesAnOlderOne(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	first, leaveFirst, err := active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.NoError(t, err)

	entered := make(chan error, 1)
	var leaveSecond func()
	go func() {
		var err error
		_, leaveSecond, err = active.enter(t.Context(), itemOf("p", 0, 2, protocol.RoleRecv))
		entered <- err
	}()
	<-first.Done()
	require.ErrorIs(t, context.Cause(first), errSuperseded)
	select {
	case <-entered:
		t.Fatal("the newer try began before the older one had ended")
	default:
	}
	leaveFirst()
	require.NoError(t, <-entered)
	leaveSecond()

	_, _, err = active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.ErrorIs(t, err, errSuperseded, "an old item that comes late is dropped")
}

func TestOneStepAtATime(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	_, leave, err := active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.NoError(t, err)
	_, _, err = active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.ErrorIs(t, err, errDuplicate)
	_, _, err = active.enter(t.Context(), itemOf("other", 0, 1, protocol.RoleRecv))
	require.ErrorIs(t, err, &protocol.Failure{Kind: protocol.Transient}, "another plan may try again later")
	_, leaveSend, err := active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleSend))
	require.NoError(t, err, "the sender's side is another matter")
	otherJob := itemOf("other", 0, 1, protocol.RoleSend)
	otherJob.JobID = "dr"
	_, leaveOther, err := active.enter(t.Context(), otherJob)
	require.NoError(t, err, "another JobID may send the same filesystem")
	leaveOther()
	leaveSend()
	leave()
}

func TestNoticesStopWhatTheyName(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	step, leave, err := active.enter(t.Context(), itemOf("p", 3, 2, protocol.RoleSend))
	require.NoError(t, err)
	defer leave()
	for _, notice := range []protocol.CancelNotice{
		{Plan: "other"},
		{Plan: "p", Try: &protocol.StepRef{Plan: "p", Task: 3, Attempt: 1}},
		{Plan: "p", Try: &protocol.StepRef{Plan: "p", Task: 2, Attempt: 9}},
	} {
		active.stop(notice)
		require.NoError(t, step.Err(), "%+v", notice)
	}
	active.stop(protocol.CancelNotice{Plan: "p"})
	require.ErrorIs(t, context.Cause(step), errPlanCancelled)
}

func TestEnteringEndsWithItsContext(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	_, leave, err := active.enter(t.Context(), itemOf("p", 0, 1, protocol.RoleRecv))
	require.NoError(t, err)
	defer leave()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = active.enter(ctx, itemOf("p", 0, 2, protocol.RoleRecv))
	require.ErrorIs(t, err, context.Canceled)
}
