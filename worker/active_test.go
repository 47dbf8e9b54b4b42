package worker

import (
	"context"
	"testing"
	"testing/synctest"

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

func TestATryThatHasEndedIsNotBegunAgain(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	item := itemOf("p", 0, 1, protocol.RoleSend)
	_, leave, err := active.enter(t.Context(), item)
	require.NoError(t, err)
	leave()
	_, leave, err = active.enter(t.Context(), item)
	require.NoError(t, err, "its end was not told, and its item was given back")
	active.ended(item)
	leave()
	_, _, err = active.enter(t.Context(), item)
	require.ErrorIs(t, err, errEnded)
	active.ended(itemOf("p", 0, 2, protocol.RoleSend))
	_, leave, err = active.enter(t.Context(), itemOf("p", 0, 2, protocol.RoleSend))
	require.NoError(t, err, "the next try is another")
	leave()
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

func sendItem(plan protocol.PlanID) protocol.WorkItem { return itemOf(plan, 0, 1, protocol.RoleSend) }

func TestWhatAStepUsesIsNotReserved(t *testing.T) {
	t.Parallel()
	active := newActiveSteps()
	local := sendItem("p")
	local.Transport, local.Job = protocol.TransportLocal, "prod"
	_, leave, err := active.enter(t.Context(), local)
	require.NoError(t, err)
	sending := place{protocol.RoleSend, "prod.bravo", "tank/data"}
	ofAnyJob := place{protocol.RoleSend, "", "tank/data"}
	receiving := place{protocol.RoleRecv, "", "backup/tank/data"}
	elsewhere := place{protocol.RoleSend, "dr", "tank/data"}

	inUse, free := active.reserve([]place{sending, ofAnyJob, receiving, elsewhere, elsewhere})
	require.Len(t, inUse, 3)
	for _, at := range []place{sending, ofAnyJob, receiving} {
		require.Equal(t, "step "+local.Ref.String()+" of job prod", inUse[at], "%+v", at)
	}
	again, freeNothing := active.reserve([]place{elsewhere})
	require.Equal(t, map[place]string{elsewhere: "another request of an operator"}, again)
	freeNothing()
	free()
	leave()

	inUse, free = active.reserve([]place{sending, ofAnyJob, receiving, elsewhere})
	require.Empty(t, inUse)
	free()
	require.Empty(t, active.reserved)
}

func TestStepsWaitForAReservation(t *testing.T) {
	t.Parallel()
	local := sendItem("p")
	local.Transport = protocol.TransportLocal
	for name, item := range map[string]protocol.WorkItem{
		"send": sendItem("p"), "receive": itemOf("p", 0, 1, protocol.RoleRecv), "local": local,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				active := newActiveSteps()
				places := placesOf(item)
				_, free := active.reserve(places[len(places)-1:])
				entered := make(chan error, 1)
				go func() {
					_, leave, err := active.enter(t.Context(), item)
					if err == nil {
						leave()
					}
					entered <- err
				}()
				synctest.Wait()
				require.Empty(t, entered, "the step began although its place was reserved")
				free()
				require.NoError(t, <-entered)
			})
		})
	}
}
