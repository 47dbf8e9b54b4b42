// Tries: one try of one task's step, on one side.

package worker

import (
	"context"
	"errors"
	"log/slog"

	"github.com/zfleet/zfleet/protocol"
)

// try is what a claim has to do for one task. Most claims are for one; that of a send item with several receivers has a try for
// each, and each ends by itself.
type try struct {
	worker *Worker
	// item is the claim's, as it is for this try alone.
	item     protocol.WorkItem
	delivery uint64
	reporter *reporter
	logger   *slog.Logger

	// ctx ends when the try is to stop, with the reason as its cause; it is nil before enter, and after enter has failed.
	ctx   context.Context //nolint:containedctx // the try's own life: an operator or the coordinator may end it
	leave func()

	// ahead is the sender's connection while it is being made; nil before.
	ahead *headStart

	// What follows is set by end: how the try went, the failure that was told, if it was one, and whether nothing could be
	// told, so that the item must come again.
	err     error
	failure *protocol.Failure
	gave    bool
}

func (c *claim) newTry(item protocol.WorkItem) *try {
	return &try{
		worker: c.worker, item: item, delivery: c.delivery,
		reporter: &reporter{worker: c.worker, item: item, sequence: c.sequence, delivery: c.delivery},
		logger: c.worker.logger.With(slog.String("job", item.Job), slog.String("plan", string(item.Ref.Plan)),
			slog.String("step", item.Ref.String()), slog.String("role", string(item.Role)),
			slog.String("filesystem", item.Step.Filesystem), slog.String("target", string(item.Target))),
	}
}

// enter makes the try the active one for what it works on, and tells that it has begun. It returns false when that cannot be; the
// try has ended then.
func (t *try) enter(ctx context.Context) bool {
	stepContext, leave, err := t.worker.active.enter(ctx, t.item)
	if err != nil {
		t.end(ctx, err)
		return false
	}
	t.ctx, t.leave = stepContext, leave
	if err := t.reporter.tell(stepContext, t.reporter.event(protocol.EventClaimed)); err != nil {
		t.logger.InfoContext(ctx, "the step is not begun, since that cannot be told", slog.Any("error", err))
		t.err, t.gave = err, true
		t.leave()
		return false
	}
	t.logger.InfoContext(ctx, "step begun", slog.String("what", t.item.Step.String()))
	return true
}

// end tells how the try went. ctx is the worker's: when it has ended, nothing is told, and the item comes again.
func (t *try) end(ctx context.Context, err error) {
	t.err = err
	var cause error
	if t.ctx != nil {
		cause = context.Cause(t.ctx)
		defer t.leave()
		defer func() {
			if !t.gave {
				t.worker.active.ended(t.item)
			}
		}()
	}
	switch {
	case err == nil:
		t.logger.InfoContext(ctx, "step ended")
	case errors.Is(err, errSuperseded), errors.Is(err, errDuplicate), errors.Is(err, errEnded),
		errors.Is(err, errPlanCancelled):
		t.dropped(ctx, err)
	case errors.Is(cause, errSuperseded), errors.Is(cause, errPlanCancelled):
		t.dropped(ctx, cause)
	case ctx.Err() != nil:
		t.gave = true
	default:
		t.failed(ctx, err)
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

func (t *try) tellLast(ctx context.Context, event protocol.Event) {
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
