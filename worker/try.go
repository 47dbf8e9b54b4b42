// Tries: one try of one task's step, on one side.

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// errNotNow says that the item has to come again before anything can be said about it.
var errNotNow = errors.New("it cannot be told now whether the claim is the newest")

// try is what a claim has to do for one task. Most claims are for one; that of a send item with several receivers has a try for
// each, and each ends by itself.
type try struct {
	worker *Worker
	claim  *claim
	// item is the claim's, as it is for this try alone.
	item     protocol.WorkItem
	reporter *reporter
	logger   *slog.Logger

	// step is the active step, and places the locks of what it works on; nil before enter, and after enter has failed.
	step     *activeStep
	places   []*claimLock
	watching sync.WaitGroup
	// confirmed says that the receiver has confirmed this very try to an earlier claim.
	confirmed bool

	// ahead is the sender's connection while it is being made; nil before.
	ahead *headStart

	// What follows is set by end: that it was, how it went, the failure that was told, if it was one, whether nothing
	// could be told, so that the item must come again, and whether the item is another claim's.
	finished bool
	err      error
	failure  *protocol.Failure
	gave     bool
	ignored  bool
}

func (c *claim) newTry(item protocol.WorkItem) *try {
	return &try{
		worker: c.worker, claim: c, item: item,
		reporter: &reporter{worker: c.worker, item: item, sequence: c.token.Item, delivery: c.token.Delivery},
		logger: c.worker.logger.With(slog.String("job", item.Job), slog.String("plan", string(item.Ref.Plan)),
			slog.String("step", item.Ref.String()), slog.String("role", string(item.Role)),
			slog.String("filesystem", item.Step.Filesystem), slog.String("target", string(item.Target))),
	}
}

// enter makes the try an active one of this process. When that cannot be, the try has ended.
func (t *try) enter(ctx context.Context) {
	step, err := t.worker.active.enter(ctx, t.item)
	if err != nil {
		t.end(ctx, err)
		return
	}
	t.step = step
}

// record is what the files of the try's places say of it.
func (t *try) record() claimRecord {
	return claimRecord{
		Token: t.claim.token, Ref: t.item.Ref, Job: t.item.Job, JobID: t.item.JobID, Role: t.item.Role,
		Filesystem: t.item.Step.Filesystem, Worker: t.worker.config.Name, PID: os.Getpid(), Since: time.Now().UTC(),
	}
}

// recordAt is the record for one of the places.
func (t *try) recordAt(at place) claimRecord {
	record := t.record()
	record.Role, record.Filesystem = at.role, at.filesystem
	return record
}

// takePlace waits until nobody works on the place, and makes it the try's, unless a newer claim has had it. It waits for at most
// three quarters of the claim deadline, so that the coordinator hears who is in the way before it gives the item up itself.
func (t *try) takePlace(at place) error {
	patience := t.item.Deadlines.Claim.Std() / 4 * 3
	ctx, cancel := context.WithTimeout(t.step.ctx, patience)
	defer cancel()
	var holder claimRecord
	lock, err := t.worker.locks.wait(ctx, at, func(record claimRecord) error {
		if holder == (claimRecord{}) {
			t.logger.InfoContext(ctx, "waiting for another claim to end", slog.String("holder", record.holder()),
				slog.String("holds", record.Ref.String()))
		}
		holder = record
		if err := t.claim.judge(ctx, record, t); err != nil {
			return err
		}
		if ours := t.recordAt(at); yields(record, ours) {
			return t.worker.locks.ask(at, ours)
		}
		return nil
	})
	switch {
	case err == nil:
	case ctx.Err() == nil || t.step.ctx.Err() != nil:
		return err
	case holder.Ref == t.item.Ref:
		return errStale // the item's other claim lives, and will end by itself or with its process
	default:
		return protocol.Failf(protocol.Transient, "%s: %s of this host still holds step %s of job %s, since %s; it was waited for %s, and"+
			" the step is tried again. If that process hangs, end it (kill -9 %d): its claims are free then", at.filesystem, holder.holder(),
			holder.Ref, holder.Job, holder.Since.Format(time.DateTime), patience, holder.PID)
	}
	last := lock.now()
	if err = t.claim.judge(t.step.ctx, last, t); err == nil {
		t.confirmed = t.confirmed || last.Ref == t.item.Ref && last.Confirmed
		if err = lock.take(t.recordAt(at)); err != nil {
			err = protocol.AsFailure(fmt.Errorf("%s: %w", at.filesystem, err), protocol.Transient)
		}
	}
	if err != nil {
		lock.release()
		return err
	}
	t.places = append(t.places, lock)
	t.watching.Go(func() { t.watch(lock) })
	return nil
}

// watch stops the try when a claim that goes first asks for its place, or when the file of the place is gone.
func (t *try) watch(lock *claimLock) {
	ticker := time.NewTicker(stopPoll)
	defer ticker.Stop()
	for {
		select {
		case <-t.step.ctx.Done():
			return
		case <-ticker.C:
		}
		if lock.mustStop() {
			t.step.cancel(errSuperseded)
		} else if err := lock.valid(); err != nil {
			t.step.cancel(err)
		}
	}
}

// fence tells whether the try still is the newest that this host knows for its places. Nothing that outlives the try may be said or
// done otherwise.
func (t *try) fence() error {
	if cause := context.Cause(t.step.ctx); cause != nil {
		return cause
	}
	for _, lock := range t.places {
		if err := lock.valid(); err != nil {
			return err
		}
	}
	return nil
}

// deaths is how many claims on the try's item have died on this host.
func (t *try) deaths() (most uint64) {
	for _, lock := range t.places {
		most = max(most, lock.now().Deaths)
	}
	return most
}

// begin tells that the try has begun, and returns false when that cannot be; the try has ended then.
func (t *try) begin(ctx context.Context) bool {
	if t.finished {
		return false
	}
	if err := t.reporter.tell(t.step.ctx, t.reporter.event(protocol.EventClaimed)); err != nil {
		t.logger.InfoContext(ctx, "the step is not begun, since that cannot be told", slog.Any("error", err))
		t.giveBack(err)
		return false
	}
	t.logger.InfoContext(ctx, "step begun", slog.String("what", t.item.Step.String()))
	return true
}

// tell tells what the try has done.
func (t *try) tell(ctx context.Context, event protocol.Event) error {
	if err := t.fence(); err != nil {
		return err
	}
	return t.reporter.tell(ctx, event)
}

// giveBack ends the try with nothing told, so that its item comes again. Its places stay its own until it has been given back.
func (t *try) giveBack(err error) { t.finished, t.gave, t.err = true, true, err }

// end tells how the try went. ctx is the worker's: when it has ended, nothing is told, and the item comes again.
func (t *try) end(ctx context.Context, err error) {
	t.finished, t.err = true, err
	var cause error
	if t.step != nil {
		cause = context.Cause(t.step.ctx)
	}
	if err != nil && errors.Is(cause, errClaimFileGone) {
		err = protocol.Failf(protocol.Transient, "%s: %w; nobody but the workers may remove files from %s while they run (worker.run_dir)",
			t.item.Step.Filesystem, cause, t.worker.config.ClaimsDir)
	}
	switch {
	case err == nil:
		t.logger.InfoContext(ctx, "step ended")
	case errors.Is(err, errStale), errors.Is(err, errDuplicate):
		t.ignored = true
	case errors.Is(err, errEnded):
		t.logger.InfoContext(ctx, "step dropped", slog.Any("reason", err))
	case errors.Is(err, errNotNow):
		t.gave = true
	case errors.Is(err, errSuperseded), errors.Is(err, errPlanCancelled):
		t.dropped(ctx, err)
	case errors.Is(cause, errSuperseded), errors.Is(cause, errPlanCancelled):
		t.dropped(ctx, cause)
	case ctx.Err() != nil:
		t.gave = true
	default:
		t.failed(ctx, err)
	}
	if !t.gave {
		t.leave(true)
	}
}

// leave frees the try's places. inOrder is false where nobody has been told that the try is not worked on any more.
func (t *try) leave(inOrder bool) {
	if t.step == nil {
		return
	}
	t.step.leave()
	t.watching.Wait()
	for _, lock := range t.places {
		if inOrder {
			err := lock.change(func(record *claimRecord) { record.Holding, record.Ended = false, !t.gave && !t.ignored })
			t.closed(t.step.ctx, "record of a claim", err)
		}
		lock.release()
	}
}

// failed tells the failure: a new try is a new item.
func (t *try) failed(ctx context.Context, err error) {
	event := t.reporter.event(protocol.EventFailed)
	event.Failure = t.worker.failureOf(err)
	t.failure = event.Failure
	t.logger.WarnContext(ctx, "step failed", slog.String("kind", string(event.Failure.Kind)), slog.Any("error", err))
	t.tellLast(ctx, event)
}

// dropped tells that the try must not be worked on any more.
func (t *try) dropped(ctx context.Context, reason error) {
	t.err = reason
	event := t.reporter.event(protocol.EventDropped)
	event.Note = reason.Error()
	t.logger.InfoContext(ctx, "step dropped", slog.Any("reason", reason))
	t.tellLast(ctx, event)
}

// tellLast tells the end. While NATS is away, that goes on for as long as nothing ends the try from without: then it is left
// at one attempt more, since somebody else may wait for its places.
func (t *try) tellLast(ctx context.Context, event protocol.Event) {
	if t.step != nil {
		ctx = t.step.ctx
	}
	if err := t.reporter.tell(ctx, event); err != nil {
		t.err, t.gave = errors.Join(t.err, err), true
	}
}

// closed notes a failure of closing something whose work is done.
func (t *try) closed(ctx context.Context, what string, err error) {
	if err != nil {
		t.logger.DebugContext(ctx, "closing failed", slog.String("what", what), slog.Any("error", err))
	}
}
