// Active steps: what is under way in this process, so that it can be stopped. That there is one at a time on a place is the
// locks' doing (claimlock.go).

package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/zfleet/zfleet/protocol"
)

var (
	// errSuperseded says that a newer try of the same task is under way or was.
	errSuperseded = errors.New("a newer try of this step has taken its place")
	// errDuplicate says that this very try is under way in this process.
	errDuplicate = errors.New("this try of the step is under way already")
	// errEnded says that this very try was under way on this host, and that its end was told.
	errEnded = errors.New("this try of the step has ended already")
	// errStale says that the item was delivered to somebody else since, who works on it or did.
	errStale = errors.New("the item was delivered to another worker since")
	// errOtherStream says that the claims before were on items of another work stream.
	errOtherStream = errors.New("the work stream was made anew")
	// errClaimFileGone says that the file that shows others the claim was removed.
	errClaimFileGone = errors.New("the file of the claim was removed")
	// errPlanCancelled is the cause of a step that was stopped because its plan was cancelled.
	errPlanCancelled = errors.New("the plan was cancelled")
)

// activeSteps are the steps that this process has claimed, those that wait for their places among them.
type activeSteps struct {
	mu    sync.Mutex
	steps map[*activeStep]struct{}
}

type activeStep struct {
	item protocol.WorkItem
	// ctx ends when the step is to stop, with the reason as its cause.
	ctx    context.Context //nolint:containedctx // the step's own life: an operator or the coordinator may end it
	cancel context.CancelCauseFunc
	of     *activeSteps
}

func newActiveSteps() *activeSteps { return &activeSteps{steps: map[*activeStep]struct{}{}} }

// enter makes the item's step an active one. Older tries of the same task are stopped; the locks tell when they have. The error is
// errDuplicate where this try is active, and errSuperseded where a newer one is. The caller calls leave when the step is over.
func (a *activeSteps) enter(ctx context.Context, item protocol.WorkItem) (*activeStep, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var older []*activeStep
	duplicate := false
	for step := range a.steps {
		if step.item.Role != item.Role || step.item.Ref.Plan != item.Ref.Plan || step.item.Ref.Task != item.Ref.Task {
			continue
		}
		switch attempt := step.item.Ref.Attempt; {
		case attempt > item.Ref.Attempt:
			return nil, errSuperseded
		case attempt == item.Ref.Attempt:
			duplicate = true
		default:
			older = append(older, step)
		}
	}
	if duplicate {
		return nil, errDuplicate
	}
	for _, step := range older {
		step.cancel(errSuperseded)
	}
	step := &activeStep{item: item, of: a}
	step.ctx, step.cancel = context.WithCancelCause(ctx)
	a.steps[step] = struct{}{}
	return step, nil
}

func (s *activeStep) leave() {
	s.of.mu.Lock()
	delete(s.of.steps, s)
	s.of.mu.Unlock()
	s.cancel(nil)
}

// stop cancels the steps that the notice is about.
func (a *activeSteps) stop(notice protocol.CancelNotice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for step := range a.steps {
		if step.item.Ref.Plan != notice.Plan {
			continue
		}
		if notice.Try == nil {
			step.cancel(fmt.Errorf("%w (plan %s)", errPlanCancelled, notice.Plan))
		} else if step.item.Ref.Task == notice.Try.Task && step.item.Ref.Attempt <= notice.Try.Attempt {
			step.cancel(errSuperseded)
		}
	}
}
