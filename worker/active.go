// Active steps: at most one send for each JobID and filesystem, and at most one receive for each filesystem, and the newest
// try of a step wins.

package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

var (
	// errSuperseded says that a newer try of the same task is under way or was.
	errSuperseded = errors.New("a newer try of this step has taken its place")
	// errDuplicate says that this very try is under way in this process.
	errDuplicate = errors.New("this try of the step is under way already")
	// errPlanCancelled is the cause of a step that was stopped because its plan was cancelled.
	errPlanCancelled = errors.New("the plan was cancelled")
)

// activeSteps are the steps under way in this process.
type activeSteps struct {
	mu    sync.Mutex
	steps map[string]*activeStep
	// tries is the newest try seen of each task and role, so that an old item that is delivered late is dropped. Entries
	// are forgotten after forgetTries.
	tries map[taskKey]seenTry
}

type activeStep struct {
	ref    protocol.StepRef
	cancel context.CancelCauseFunc
	left   chan struct{}
}

type taskKey struct {
	plan protocol.PlanID
	task int
	role protocol.Role
}

type seenTry struct {
	attempt int
	at      time.Time
}

const (
	forgetTries = 24 * time.Hour
	sweepTries  = 4096
)

func newActiveSteps() *activeSteps {
	return &activeSteps{steps: map[string]*activeStep{}, tries: map[taskKey]seenTry{}}
}

// enter makes the item's step the active one for what it works on. An older try of the same task is cancelled and waited
// for; for any other step that is under way there the error is transient. The caller calls leave when the step is over.
func (a *activeSteps) enter(ctx context.Context, item protocol.WorkItem) (stepCtx context.Context, leave func(), err error) {
	key := activeKey(item)
	for {
		stepCtx, leave, older, err := a.tryEnter(ctx, key, item)
		if older == nil {
			return stepCtx, leave, err
		}
		older.cancel(errSuperseded)
		select {
		case <-older.left:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

func activeKey(item protocol.WorkItem) string {
	if item.Role == protocol.RoleRecv {
		return "recv " + item.Step.TargetFilesystem
	}
	return "send " + string(item.JobID) + " " + item.Step.Filesystem
}

func (a *activeSteps) tryEnter(
	ctx context.Context, key string, item protocol.WorkItem,
) (stepCtx context.Context, leave func(), older *activeStep, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	task := taskKey{item.Ref.Plan, item.Ref.Task, item.Role}
	if seen := a.tries[task]; seen.attempt > item.Ref.Attempt {
		return nil, nil, nil, errSuperseded
	}
	a.remember(task, item.Ref.Attempt)
	if current := a.steps[key]; current != nil {
		switch {
		case current.ref.Plan != item.Ref.Plan || current.ref.Task != item.Ref.Task:
			return nil, nil, nil, protocol.Failf(protocol.Transient, "%s is busy with step %s of another plan", key[5:], current.ref)
		case current.ref.Attempt < item.Ref.Attempt:
			return nil, nil, current, nil
		default:
			return nil, nil, nil, errDuplicate
		}
	}
	stepCtx, cancel := context.WithCancelCause(ctx)
	step := &activeStep{ref: item.Ref, cancel: cancel, left: make(chan struct{})}
	a.steps[key] = step
	leave = func() {
		a.mu.Lock()
		delete(a.steps, key)
		a.mu.Unlock()
		cancel(nil)
		close(step.left)
	}
	return stepCtx, leave, nil, nil
}

func (a *activeSteps) remember(task taskKey, attempt int) {
	now := time.Now()
	a.tries[task] = seenTry{attempt, now}
	if len(a.tries)%sweepTries != 0 {
		return
	}
	for old, seen := range a.tries {
		if now.Sub(seen.at) > forgetTries {
			delete(a.tries, old)
		}
	}
}

// stop cancels the steps that the notice is about.
func (a *activeSteps) stop(notice protocol.CancelNotice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, step := range a.steps {
		if step.ref.Plan != notice.Plan {
			continue
		}
		if notice.Try == nil {
			step.cancel(fmt.Errorf("%w (plan %s)", errPlanCancelled, notice.Plan))
		} else if step.ref.Task == notice.Try.Task && step.ref.Attempt <= notice.Try.Attempt {
			step.cancel(errSuperseded)
		}
	}
}
