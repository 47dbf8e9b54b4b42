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
	// errEnded says that this very try was under way in this process, and that its end was told.
	errEnded = errors.New("this try of the step has ended already")
	// errPlanCancelled is the cause of a step that was stopped because its plan was cancelled.
	errPlanCancelled = errors.New("the plan was cancelled")
)

// activeSteps are the steps under way in this process.
type activeSteps struct {
	mu    sync.Mutex
	steps map[place]*activeStep
	// reserved are places where no step may begin for a while.
	reserved map[place]*activeStep
	// tries is the newest try seen of each task and role, so that an old item that is delivered late is dropped. Entries
	// are forgotten after forgetTries.
	tries map[taskKey]seenTry
}

// place is what there is at most one step at a time for: a filesystem that is received into, or that is sent from for a
// JobID, which is empty for the former.
type place struct {
	role       protocol.Role
	jobID      protocol.JobID
	filesystem string
}

type activeStep struct {
	item   protocol.WorkItem
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
	// ended says that the end of that try was told.
	ended bool
}

const (
	forgetTries = 24 * time.Hour
	sweepTries  = 4096
)

func newActiveSteps() *activeSteps {
	return &activeSteps{steps: map[place]*activeStep{}, reserved: map[place]*activeStep{}, tries: map[taskKey]seenTry{}}
}

// enter makes the item's step the active one for what it works on. An older try of the same task is cancelled and waited
// for, and so is a reservation; for any other step that is under way there the error is transient. The caller calls leave
// when the step is over.
func (a *activeSteps) enter(ctx context.Context, item protocol.WorkItem) (stepCtx context.Context, leave func(), err error) {
	for {
		stepCtx, leave, older, err := a.tryEnter(ctx, item)
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

// placesOf are what the item's step works on. The first is the one that it is entered under: that of a local step, which
// receives too, is the sender's.
func placesOf(item protocol.WorkItem) []place {
	receiving := place{role: protocol.RoleRecv, filesystem: item.Step.TargetFilesystem}
	if item.Role == protocol.RoleRecv {
		return []place{receiving}
	}
	sending := place{role: protocol.RoleSend, jobID: item.JobID, filesystem: item.Step.Filesystem}
	if item.Transport == protocol.TransportLocal {
		return []place{sending, receiving}
	}
	return []place{sending}
}

func (a *activeSteps) tryEnter(
	ctx context.Context, item protocol.WorkItem,
) (stepCtx context.Context, leave func(), older *activeStep, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	task := taskKey{item.Ref.Plan, item.Ref.Task, item.Role}
	switch seen := a.tries[task]; {
	case seen.attempt > item.Ref.Attempt:
		return nil, nil, nil, errSuperseded
	case seen.attempt == item.Ref.Attempt && seen.ended:
		// Its item came again, because the claim was not extended in time, or its end not acknowledged. To begin it once more
		// would put holds that nobody releases before the next step.
		return nil, nil, nil, errEnded
	}
	a.remember(task, item.Ref.Attempt)
	places := placesOf(item)
	for _, at := range places {
		if reservation := a.reserved[at]; reservation != nil {
			return nil, nil, reservation, nil
		}
	}
	key := places[0]
	if current := a.steps[key]; current != nil {
		switch {
		case current.item.Ref.Plan != item.Ref.Plan || current.item.Ref.Task != item.Ref.Task:
			return nil, nil, nil, protocol.Failf(protocol.Transient, "%s is busy with step %s of another plan", key.filesystem,
				current.item.Ref)
		case current.item.Ref.Attempt < item.Ref.Attempt:
			return nil, nil, current, nil
		default:
			return nil, nil, nil, errDuplicate
		}
	}
	stepCtx, cancel := context.WithCancelCause(ctx)
	step := &activeStep{item: item, cancel: cancel, left: make(chan struct{})}
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
	a.tries[task] = seenTry{attempt: attempt, at: now}
	if len(a.tries)%sweepTries != 0 {
		return
	}
	for old, seen := range a.tries {
		if now.Sub(seen.at) > forgetTries {
			delete(a.tries, old)
		}
	}
}

// ended notes that the end of the item's try was told.
func (a *activeSteps) ended(item protocol.WorkItem) {
	a.mu.Lock()
	defer a.mu.Unlock()
	task := taskKey{item.Ref.Plan, item.Ref.Task, item.Role}
	if seen := a.tries[task]; seen.attempt == item.Ref.Attempt {
		seen.ended = true
		a.tries[task] = seen
	}
}

// stop cancels the steps that the notice is about.
func (a *activeSteps) stop(notice protocol.CancelNotice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, step := range a.steps {
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

// reserve keeps steps from beginning at the places until the caller calls leave; they wait. Places where a step is under
// way, or which somebody else has reserved, are not reserved: they are in inUse, with what they are in use by. A sender's
// place with no JobID is that of all JobIDs: it is in use by any of them, and cannot be reserved.
func (a *activeSteps) reserve(places []place) (inUse map[place]string, leave func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	inUse = map[place]string{}
	reservation := &activeStep{cancel: func(error) {}, left: make(chan struct{})}
	var reserved []place
	for _, wanted := range places {
		switch by := a.userOf(wanted, reservation); {
		case by != "":
			inUse[wanted] = by
		case !wanted.ofAllJobs():
			a.reserved[wanted] = reservation
			reserved = append(reserved, wanted)
		}
	}
	return inUse, func() {
		a.mu.Lock()
		for _, at := range reserved {
			delete(a.reserved, at)
		}
		a.mu.Unlock()
		close(reservation.left)
	}
}

func (p place) ofAllJobs() bool { return p.role == protocol.RoleSend && p.jobID == "" }

// userOf is what uses the place, for people; empty if nothing but the given reservation does.
func (a *activeSteps) userOf(wanted place, ours *activeStep) string {
	if reservation := a.reserved[wanted]; reservation != nil && reservation != ours {
		return "another request of an operator"
	}
	for _, step := range a.steps {
		for _, at := range placesOf(step.item) {
			if at == wanted || wanted.ofAllJobs() && at.role == wanted.role && at.filesystem == wanted.filesystem {
				return "step " + step.item.Ref.String() + " of job " + step.item.Job
			}
		}
	}
	return ""
}
