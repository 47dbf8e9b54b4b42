// Claims: taking work items, keeping them while working, and giving them up.
//
// A claim ends in one of four ways. The step was done, or failed, for each of its receivers, and an event for each in the
// stream says so: the item is acknowledged (or terminated, when no try of it could ever succeed). The item was superseded:
// acknowledged without effect. The item cannot be understood: it goes to the dead letters and is terminated. Or the worker
// is being stopped, or could not say what became of the step: the item is given back, and the next worker of the host finds
// what is on the pools.

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/protocol"
)

// takeItems runs one slot: it asks for an item only when it is free, until asking ends. The step that the slot works on then
// goes on, until ctx ends.
func (w *Worker) takeItems(ctx, asking context.Context, role protocol.Role) {
	var consumer jetstream.Consumer
	loop := w.loops.begin()
	defer loop.rest()
	told := ""
	for wait := time.Duration(0); asking.Err() == nil; {
		loop.turn()
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-asking.Done():
				return
			}
			wait = 0
		}
		var err error
		if consumer == nil {
			consumer, err = protocol.EnsureWorkConsumer(asking, w.config.Resources.JetStream, w.config.Host, role, w.config.AckWait)
		}
		var message jetstream.Msg
		if err == nil {
			message, err = nextItem(asking, consumer)
		}
		switch {
		case message != nil && asking.Err() != nil:
			(&claim{worker: w, message: message, role: role, logger: w.logger}).giveBack(asking, errors.New("the worker claims nothing more"))
		case message != nil:
			loop.rest() // while the step runs, the loop that keeps its claim turns
			w.handle(ctx, role, message)
			told = ""
		case asking.Err() != nil:
			return
		case err != nil:
			if text := err.Error(); text != told { // and not every two seconds, by every slot
				told = text
				w.logger.WarnContext(ctx, "cannot ask for work; trying on", slog.String("role", string(role)), slog.Any("error", err))
			}
			consumer, wait = nil, 2*time.Second
		}
	}
}

// nextItem waits a while for one item; nil means that there was none.
func nextItem(ctx context.Context, consumer jetstream.Consumer) (jetstream.Msg, error) {
	fetchContext, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	message, err := consumer.Next(jetstream.FetchContext(fetchContext))
	switch {
	case err == nil:
		return message, nil
	case errors.Is(err, jetstream.ErrNoMessages), errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, context.Canceled):
		return nil, nil //nolint:nilnil // no item and no error is what an idle queue looks like
	}
	return nil, fmt.Errorf("ask for the next item: %w", err)
}

// handle works on one delivered item until the claim has ended.
func (w *Worker) handle(ctx context.Context, role protocol.Role, message jetstream.Msg) {
	defer w.loops.step(role)()
	ctx = protocol.ContextWithTrace(ctx, message.Headers())
	c := &claim{message: message, role: role, worker: w, logger: w.logger}
	metadata, err := message.Metadata()
	if err == nil {
		c.sequence, c.delivery = metadata.Sequence.Stream, metadata.NumDelivered
		err = protocol.ReadMessage(message.Headers(), message.Data(), &c.item)
	}
	if err == nil && (c.item.Host() != w.config.Host || c.item.Role != role) {
		err = protocol.Usagef("the item is a %s item for host %s", c.item.Role, c.item.Host())
	}
	if err == nil && c.delivery > protocol.MaxDeliveries {
		err = protocol.Usagef("the item was delivered %d times and never finished", c.delivery-1)
	}
	if err != nil {
		c.bury(ctx, err)
		return
	}
	ctx, span := w.tracer.Start(ctx, string(role), trace.WithAttributes(
		attribute.String("zfleet.host", string(w.config.Host)), attribute.String("zfleet.worker", w.config.Name),
		attribute.String("zfleet.filesystem", c.item.Step.Filesystem), attribute.String("zfleet.step", c.item.Step.String()),
		attribute.Int("zfleet.attempt", c.item.Ref.Attempt)))
	defer span.End()
	c.logger = w.logger.With(slog.String("job", c.item.Job), slog.String("plan", string(c.item.Ref.Plan)),
		slog.String("step", c.item.Ref.String()), slog.String("role", string(role)))
	if err := c.work(ctx); err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
}

// claim is one delivery of one work item to this worker.
type claim struct {
	worker  *Worker
	message jetstream.Msg
	// role is that of the queue that the item came from.
	role protocol.Role
	item protocol.WorkItem
	// sequence is the item's in its stream, and delivery how often it was delivered.
	sequence, delivery uint64
	logger             *slog.Logger
}

// work does the step and ends the claim. The error is what went wrong, for the span; it has been dealt with.
func (c *claim) work(ctx context.Context) error {
	stopExtending := c.extend(ctx)
	defer stopExtending()
	cancelled, err := c.planCancelled(ctx)
	if err != nil {
		c.giveBack(ctx, err)
		return err
	}
	var all, begun []*try
	for _, item := range c.item.Each() {
		t := c.newTry(item)
		all = append(all, t)
		if cancelled {
			t.dropped(ctx, errPlanCancelled)
		} else if t.enter(ctx) {
			begun = append(begun, t)
		}
	}
	switch {
	case len(begun) == 0:
	case c.item.Transport == protocol.TransportLocal:
		begun[0].end(ctx, begun[0].sendLocally(begun[0].ctx))
	case c.item.Role == protocol.RoleRecv:
		begun[0].end(ctx, begun[0].receive(begun[0].ctx))
	default:
		c.send(ctx, begun)
	}
	return c.end(ctx, all)
}

// end ends the claim once each of its tries has ended.
func (c *claim) end(ctx context.Context, tries []*try) error {
	var errs []error
	for _, t := range tries {
		if t.gave {
			c.giveBack(ctx, t.err)
			return t.err
		}
		errs = append(errs, t.err)
	}
	if failure := tries[0].failure; len(tries) == 1 && failure != nil && failure.Kind != protocol.Transient {
		c.terminate(ctx, failure.Message)
	} else {
		c.acknowledge(ctx)
	}
	return errors.Join(errs...)
}

// extend keeps the claim while the step runs.
func (c *claim) extend(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(c.worker.config.AckWait / 3)
		defer ticker.Stop()
		loop := c.worker.loops.begin()
		defer loop.rest()
		for {
			loop.turn()
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if err := c.message.InProgress(); err != nil {
					c.logger.DebugContext(ctx, "the claim was not extended", slog.Any("error", err))
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// planCancelled looks for the plan's cancel key: the notice of it may have come before this worker did.
func (c *claim) planCancelled(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := c.worker.config.Resources.Plans.Get(ctx, protocol.PlanCancelKey(c.item.Ref.Plan))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether plan %s was cancelled: %w", c.item.Ref.Plan, err)
	}
	return true, nil
}

// acknowledge ends the claim, and waits until the server knows it (double ack): otherwise the item would come again.
func (c *claim) acknowledge(ctx context.Context) {
	ackContext, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := c.durably(ctx, actionAcknowledge, func() error { return c.message.DoubleAck(ackContext) }); err != nil {
		c.logger.WarnContext(ctx, "the item was not acknowledged and will come again; that changes nothing",
			slog.Any("error", err))
	}
}

// giveBack lets another worker of the host have the item.
func (c *claim) giveBack(ctx context.Context, reason error) {
	c.logger.InfoContext(ctx, "item given back", slog.Any("reason", reason))
	delay := time.Second
	if ctx.Err() != nil {
		delay = 0
	}
	if err := c.durably(ctx, actionGiveBack, func() error { return c.message.NakWithDelay(delay) }); err != nil {
		c.logger.DebugContext(ctx, "the item was not given back and will come again by itself", slog.Any("error", err))
	}
}

// bury puts what cannot be worked on among the dead letters.
func (c *claim) bury(ctx context.Context, reason error) {
	letterContext, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	letter := protocol.NewDeadLetter(c.message.Subject(), c.message.Headers(), c.message.Data(), reason,
		string(c.worker.config.Host), c.delivery)
	err := c.durably(ctx, actionDeadLetter, func() error {
		return protocol.PublishDeadLetter(letterContext, c.worker.config.Resources.JetStream, letter)
	})
	if err != nil {
		c.giveBack(ctx, err)
		return
	}
	c.logger.WarnContext(ctx, "an item cannot be worked on; it is kept among the dead letters",
		slog.String("subject", c.message.Subject()), slog.Any("reason", reason))
	c.terminate(ctx, reason.Error())
}

// terminate ends a claim on an item that is not to come again, though its step was not done.
func (c *claim) terminate(ctx context.Context, reason string) {
	if err := c.durably(ctx, actionTerminate, func() error { return c.message.TermWithReason(reason) }); err != nil {
		c.logger.DebugContext(ctx, "the item was not terminated and will come again", slog.Any("error", err))
	}
}

func (c *claim) durably(ctx context.Context, action string, do func() error) error {
	return c.worker.durably(ctx, pointOf(c.role, action), do)
}

// closed notes a failure of closing something whose work is done.
func (c *claim) closed(ctx context.Context, what string, err error) {
	if err != nil {
		c.logger.DebugContext(ctx, "closing failed", slog.String("what", what), slog.Any("error", err))
	}
}
