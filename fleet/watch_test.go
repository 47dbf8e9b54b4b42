package fleet

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

const watched = protocol.PlanID("20261123t000000-aaaaa")

var quick = WatchOptions{Interval: time.Millisecond, Health: 20 * time.Millisecond, Patience: time.Minute}

// stage is one act of a scripted coordinator: when the watcher has shown what ready asks for, act happens.
type stage struct {
	ready func(Snapshot) bool
	act   func()
}

// play watches the plan, acts out the stages, and gives the last snapshot and error.
func (s *scripted) play(options WatchOptions, stages ...stage) (Snapshot, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	var last Snapshot
	for shot, err := range s.Watch(ctx, watched, options) {
		last = shot
		if err != nil {
			return last, err
		}
		if len(stages) > 0 && stages[0].ready(shot) {
			stages[0].act()
			stages = stages[1:]
		}
	}
	require.Empty(s.t, stages, "the watch ended before all stages were played")
	return last, nil
}

func TestWatchingAPlan(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.lead()
	plan := protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanPlanning, Waiting: "inventory of alpha"}
	s.putPlan(plan)
	a, b := exampleTask(watched, 0, "tank/a"), exampleTask(watched, 1, "tank/b")

	last, err := s.play(quick,
		stage{func(shot Snapshot) bool { return shot.Waiting == "inventory of alpha" }, func() {
			s.putTask(a)
			s.putTask(b)
			a.State, a.Attempt = protocol.TaskSending, 1
			s.putTask(a)
			plan.State, plan.Waiting, plan.Tasks = protocol.PlanRunning, "", 2
			s.putPlan(plan)
			event := report(1, 250, 1000, time.Second)
			event.Ref.Plan, event.Host, event.Job = watched, "alpha", "prod"
			s.tell(event)
		}},
		stage{func(shot Snapshot) bool { return len(shot.Tasks) == 2 && shot.Tasks[0].Sent == 250 }, func() {
			for _, task := range []*protocol.Task{&a, &b} {
				task.State, task.Next, task.Bytes = protocol.TaskDone, 1, 1000
				s.putTask(*task)
			}
			plan.State, plan.Done = protocol.PlanDone, 2
			s.putPlan(plan)
		}},
	)
	require.NoError(t, err)
	require.Equal(t, protocol.PlanDone, last.Plan.State)
	require.Equal(t, uint64(2000), last.Sent())
	require.Equal(t, uint64(2000), last.Expected())
	require.Equal(t, 2, last.Count(protocol.TaskDone))
	require.Empty(t, last.Waiting)
}

func TestWatchingAFinishedPlanEndsAtOnceWithoutACoordinator(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.putPlan(protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanPartial})
	last, err := s.play(quick)
	require.NoError(t, err)
	require.Equal(t, protocol.PlanPartial, last.Plan.State)
}

func TestWatchingSaysThatNoCoordinatorRuns(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	_, err := s.SubmitJob(t.Context(), exampleJob("prod"))
	require.NoError(t, err)
	id, err := s.Run(t.Context(), "prod")
	require.NoError(t, err)
	options := quick
	options.Patience = 200 * time.Millisecond
	said := false
	for shot, err := range s.Watch(t.Context(), id, options) {
		if err != nil {
			require.ErrorIs(t, err, ErrNoCoordinator)
			require.ErrorContains(t, err, "zctl plans "+string(id)+" --wait")
			require.True(t, said, "it must say what it waits for before it gives up")
			return
		}
		said = said || shot.Waiting == ErrNoCoordinator.Error()
	}
	t.Fatal("watching ended without an error")
}

func TestWatchingGoesOnWithANewCoordinator(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.putPlan(protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanRunning})
	last, err := s.play(quick,
		stage{func(shot Snapshot) bool { return shot.Waiting == ErrNoCoordinator.Error() }, s.lead},
		stage{func(shot Snapshot) bool { return shot.Waiting == "" }, func() {
			s.putPlan(protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanDone})
		}},
	)
	require.NoError(t, err)
	require.Equal(t, protocol.PlanDone, last.Plan.State)
}

func TestWatchingSurvivesARestartOfNATS(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.lead()
	s.putPlan(protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanRunning})
	last, err := s.play(quick,
		stage{func(shot Snapshot) bool { return shot.Plan.State == protocol.PlanRunning }, func() {
			s.server.Shutdown()
		}},
		stage{func(shot Snapshot) bool { return shot.Waiting == ErrDisconnected.Error() }, func() {
			natstest.Restart(t, s.server)
		}},
		stage{func(shot Snapshot) bool { return shot.Waiting == "" }, func() {
			s.putTask(exampleTask(watched, 0, "tank/a"))
			s.putPlan(protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanDone})
		}},
	)
	require.NoError(t, err)
	require.Equal(t, protocol.PlanDone, last.Plan.State)
	require.Len(t, last.Tasks, 1)
}

func TestWatchingWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	_, err := s.play(quick)
	require.ErrorContains(t, err, "there is no plan")
	for _, err := range s.Watch(t.Context(), "No Plan", quick) {
		require.Equal(t, protocol.Usage, protocol.KindOf(err, ""))
	}
}

func TestAPlanThatAServerDoesNotHaveYetIsLookedForAgain(t *testing.T) {
	t.Parallel()
	w := &watch{values: newPlanValues(watched), revisions: map[string]uint64{}}
	for range looks - 1 {
		w.loaded = true
		require.False(t, w.absent())
		require.False(t, w.loaded, "what the next source has is waited for")
	}
	require.True(t, w.absent())
	removed := &watch{values: newPlanValues(watched), revisions: map[string]uint64{protocol.PlanKey(watched): 7}}
	require.True(t, removed.absent(), "a marker says that it was there")
}

func TestWatchingEndsWhenThePlanIsRemoved(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.lead()
	s.putPlan(protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanRunning})
	_, err := s.play(quick, stage{func(Snapshot) bool { return true }, func() {
		require.NoError(t, s.resources.Plans.Delete(context.Background(), protocol.PlanKey(watched)))
	}})
	require.ErrorContains(t, err, "there is no plan")
}

func TestWatchingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.lead()
	s.putPlan(protocol.Plan{ID: watched, Job: "prod", State: protocol.PlanRunning})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range s.Watch(ctx, watched, quick) {
		last = err
		cancel()
	}
	require.ErrorIs(t, last, context.Canceled)
	require.ErrorContains(t, last, "goes on by itself")
}
