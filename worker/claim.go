// Claims: taking work items, keeping them while working, and giving them up.
//
// A claim takes the places of its tries first (claimlock.go), and ends in one of five ways. The step was done, or failed, for each
// of its receivers, and an event for each in the stream says so: the item is acknowledged (or terminated, when no try of it
// could ever succeed). The item was superseded: acknowledged without effect. Another claim on the item is under way: it is left
// to that one. The item cannot be understood, or has been the end of one worker after the other: it goes to the dead letters and is
// terminated. Or the worker is being stopped, or could not say what became of the step: the item is given back, and the next
// worker of the host finds what is on the pools.

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
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
		c.token = claimToken{Stream: w.workStream(), Item: metadata.Sequence.Stream, Delivery: metadata.NumDelivered}
		c.stored = metadata.Timestamp
		err = protocol.ReadMessage(message.Headers(), message.Data(), &c.item)
	}
	if err == nil && (c.item.Host() != w.config.Host || c.item.Role != role) {
		err = protocol.Usagef("the item is a %s item for host %s", c.item.Role, c.item.Host())
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
	// token orders the claim among others, and stored is when its item was put into the stream.
	token  claimToken
	stored time.Time
	// streamKnown says that the token's stream is what NATS says now, and not what this worker has heard before.
	streamKnown bool
	logger      *slog.Logger
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
	var all []*try
	for _, item := range c.item.Each() {
		all = append(all, c.newTry(item))
	}
	if cancelled {
		for _, t := range all {
			t.end(ctx, errPlanCancelled)
		}
		return c.end(ctx, all)
	}
	begun := c.begin(ctx, all)
	switch {
	case len(begun) == 0:
	case c.item.Transport == protocol.TransportLocal:
		begun[0].end(ctx, begun[0].sendLocally(begun[0].step.ctx))
	case c.item.Role == protocol.RoleRecv:
		begun[0].end(ctx, begun[0].receive(begun[0].step.ctx))
	default:
		c.send(ctx, begun)
	}
	return c.end(ctx, all)
}

// begin has the tries take their places, and tells that they have begun. Those that cannot have ended.
func (c *claim) begin(ctx context.Context, tries []*try) (begun []*try) {
	for _, t := range tries {
		t.enter(ctx)
	}
	c.takePlaces(ctx, tries)
	for _, t := range tries {
		if deaths := t.deaths(); !t.finished && deaths >= uint64(c.worker.config.MaxDeliveries) { //nolint:gosec // it is positive
			c.giveUp(ctx, tries, deaths)
			return nil
		}
	}
	for _, t := range tries {
		if t.begin(ctx) {
			begun = append(begun, t)
		}
	}
	return begun
}

// takePlaces takes the places of all tries, in an order that all claims of the host keep, so that no two wait for each other.
func (c *claim) takePlaces(ctx context.Context, tries []*try) {
	type wanted struct {
		place
		by *try
	}
	var all []wanted
	for _, t := range tries {
		for _, at := range placesOf(t.item) {
			all = append(all, wanted{at, t})
		}
	}
	slices.SortFunc(all, func(a, b wanted) int { return a.compare(b.place) })
	for _, one := range all {
		if one.by.finished {
			continue
		}
		if err := one.by.takePlace(one.place); err != nil {
			one.by.end(ctx, err)
		}
	}
}

// judge tells whether the claim may have a place, by the record that is there: nil if it may, errNotNow where the item has to
// come again for that to be told. Before it is refused, NATS is asked whether the work stream still is the one that it was.
func (c *claim) judge(ctx context.Context, last claimRecord, t *try) error {
	refusal := admit(last, t.record())
	if refusal == nil || errors.Is(refusal, errEnded) {
		return refusal
	}
	if !c.streamKnown {
		made, err := c.worker.askWorkStream(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotNow, err)
		}
		if !made.Equal(c.token.Stream) && c.stored.Before(made) {
			return fmt.Errorf("%w: the item is of a work stream that is gone", errNotNow)
		}
		c.token.Stream, c.streamKnown = made, true
		refusal = admit(last, t.record())
	}
	if errors.Is(refusal, errOtherStream) {
		return nil
	}
	return refusal
}

// giveUp ends the tries of an item on which one worker after the other has died.
func (c *claim) giveUp(ctx context.Context, tries []*try, deaths uint64) {
	reason := protocol.Failf(protocol.Permanent, "%s: the %s item was delivered %d times and never finished: something in it stops the"+
		" workers of %s; see their logs, and the item with zctl deadletters", c.item.Step.Filesystem, c.role, max(c.token.Delivery, deaths+1),
		c.worker.config.Host)
	err := c.keep(ctx, reason)
	for _, t := range tries {
		switch {
		case t.finished:
		case err != nil:
			t.giveBack(err)
		default:
			t.end(ctx, reason)
		}
	}
}

// end ends the claim once each of its tries has ended.
func (c *claim) end(ctx context.Context, tries []*try) error {
	var errs []error
	gave, ignored := false, false
	for _, t := range tries {
		gave, ignored = gave || t.gave, ignored || t.ignored
		errs = append(errs, t.err)
	}
	err := errors.Join(errs...)
	switch failure := tries[0].failure; {
	case gave:
		given := c.giveBack(ctx, err)
		for _, t := range tries {
			if t.gave {
				t.leave(given)
			}
		}
	case ignored:
		// Another claim on the item is under way, and acknowledges it.
		c.logger.DebugContext(ctx, "item left to its other claim", slog.Any("reason", err))
	case len(tries) == 1 && failure != nil && failure.Kind != protocol.Transient:
		c.terminate(ctx, failure.Message)
	default:
		c.acknowledge(ctx)
	}
	return err
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

// planCancelled looks for the plan's cancel key: the notice of it may have come before this worker did. While NATS does not say, it
// is asked again: to give the item back would only bring it here again.
func (c *claim) planCancelled(ctx context.Context) (bool, error) {
	look := func() (bool, error) {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := c.worker.config.Resources.Plans.Get(attempt, protocol.PlanCancelKey(c.item.Ref.Plan))
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return false, nil
		}
		if errors.Is(err, nats.ErrConnectionClosed) {
			return false, backoff.Permanent(err)
		}
		return err == nil, err
	}
	cancelled, err := backoff.Retry(ctx, look, backoff.WithBackOff(patient()), backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, _ time.Duration) {
			c.logger.WarnContext(ctx, "cannot look whether the plan was cancelled; trying on", slog.Any("error", err))
		}))
	if err != nil {
		return false, fmt.Errorf("look whether plan %s was cancelled: %w", c.item.Ref.Plan, err)
	}
	return cancelled, nil
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

// giveBack lets another worker of the host have the item, and tells whether NATS was told.
func (c *claim) giveBack(ctx context.Context, reason error) bool {
	c.logger.InfoContext(ctx, "item given back", slog.Any("reason", reason))
	delay := min(time.Second<<min(c.token.Delivery, 10), maxDelay)
	if ctx.Err() != nil {
		delay = 0
	}
	if err := c.durably(ctx, actionGiveBack, func() error { return c.message.NakWithDelay(delay) }); err != nil {
		c.logger.DebugContext(ctx, "the item was not given back and will come again by itself", slog.Any("error", err))
		return false
	}
	return true
}

// maxDelay bounds how long an item rests that was given back because of an error.
const maxDelay = time.Minute

// bury puts what cannot be worked on among the dead letters.
func (c *claim) bury(ctx context.Context, reason error) {
	if err := c.keep(ctx, reason); err != nil {
		c.giveBack(ctx, err)
		return
	}
	c.terminate(ctx, reason.Error())
}

// keep keeps the item among the dead letters.
func (c *claim) keep(ctx context.Context, reason error) error {
	letterContext, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	letter := protocol.NewDeadLetter(c.message.Subject(), c.message.Headers(), c.message.Data(), reason,
		string(c.worker.config.Host), c.token.Delivery)
	err := c.durably(ctx, actionDeadLetter, func() error {
		return protocol.PublishDeadLetter(letterContext, c.worker.config.Resources.JetStream, letter)
	})
	if err != nil {
		return err
	}
	c.logger.WarnContext(ctx, "an item cannot be worked on; it is kept among the dead letters",
		slog.String("subject", c.message.Subject()), slog.Any("reason", reason))
	return nil
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
