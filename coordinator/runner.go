// The runner: drives one plan from its request to its end, by asking hosts, carrying out the machine's actions and
// feeding events back to it.

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// runner drives one plan. Its fields are used by the goroutine of run only, but for the channels.
type runner struct {
	resources *protocol.Resources
	asker     asker
	store     store
	logger    *slog.Logger
	tracer    trace.Tracer

	request protocol.PlanRequest
	// since is the event sequence at which the plan began; it does not change once the runner is prepared.
	since   uint64
	plan    protocol.Plan
	machine *machine

	// events are the plan's events in order; the leader writes, run reads.
	events chan protocol.Event
	// caughtUp is closed when every event from before this term has been put into events.
	caughtUp chan struct{}
	// cancelled is closed when an operator asks to cancel the plan.
	cancelled  chan struct{}
	cancelOnce sync.Once
	// wanted has an element when another run of the job waits for this one.
	wanted chan struct{}
	// reconnected has an element when the connection was lost and is there again.
	reconnected chan struct{}
	// attendance knows which hosts are there, and attended has an element when that has changed.
	attendance *attendance
	attended   chan struct{}
	now        func() time.Time
	failPoint  func(ctx context.Context, point string)

	looks    chan lookResult
	lookers  sync.WaitGroup
	spans    map[*task]taskSpans
	workItem map[*task][]uint64
}

type taskSpans struct {
	task, step trace.Span
	ctx        context.Context //nolint:containedctx // the span's, for the messages of the step
}

// lookResult is what was found of several tasks, in their order.
type lookResult struct {
	tasks []*task
	looks []look
}

func newRunner(c *Coordinator, attendance *attendance, request protocol.PlanRequest) *runner {
	return &runner{
		attendance:  attendance,
		attended:    make(chan struct{}, 1),
		now:         c.config.Now,
		failPoint:   c.config.FailPoint,
		resources:   c.config.Resources,
		asker:       asker{c.config.Conn},
		store:       store{js: c.config.Resources.JetStream, bucket: c.config.Resources.Plans, revisions: map[string]uint64{}},
		logger:      c.config.Logger.With(slog.String("plan", string(request.Plan)), slog.String("job", request.Job)),
		tracer:      c.tracer,
		request:     request,
		events:      make(chan protocol.Event, 256),
		caughtUp:    make(chan struct{}),
		cancelled:   make(chan struct{}),
		wanted:      make(chan struct{}, 1),
		reconnected: make(chan struct{}, 1),
		looks:       make(chan lookResult),
		spans:       map[*task]taskSpans{},
		workItem:    map[*task][]uint64{},
	}
}

// cancel asks the runner to cancel the plan; it may be called any number of times.
func (r *runner) cancel() { r.cancelOnce.Do(func() { close(r.cancelled) }) }

// yield tells the runner that another run of the job waits for this one.
func (r *runner) yield() { signal(r.wanted) }

// wake tells the runner that the connection is there again after it was lost.
func (r *runner) wake() { signal(r.reconnected) }

// hostsChanged tells the runner that a host has come or gone.
func (r *runner) hostsChanged() { signal(r.attended) }

// signal puts an element into a channel that has room for one, unless it is there already.
func signal(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// prepare loads the plan's head, or makes it. It returns false when the plan has ended already.
func (r *runner) prepare(ctx context.Context) (bool, error) {
	found, err := r.store.load(ctx, protocol.PlanKey(r.request.Plan), &r.plan)
	if err != nil {
		return false, err
	}
	if found {
		r.since = r.plan.EventSequence
		return !r.plan.State.Final(), nil
	}
	info, err := retry(ctx, "read the state of the events", func(ctx context.Context) (*jetstream.StreamInfo, error) {
		return r.resources.Events.Info(ctx)
	})
	if err != nil {
		return false, err
	}
	r.plan = protocol.Plan{
		ID:            r.request.Plan,
		Job:           r.request.Job,
		State:         protocol.PlanPlanning,
		Request:       r.request,
		Started:       r.now().UTC(),
		EventSequence: info.State.LastSeq,
	}
	r.since = r.plan.EventSequence
	return true, r.act(ctx, pointPlanCreate, func() error { return r.store.create(ctx, protocol.PlanKey(r.plan.ID), r.plan) })
}

// act does something durable, between its fail points.
func (r *runner) act(ctx context.Context, point string, do func() error) error {
	r.failPoint(ctx, before(point))
	err := do()
	r.failPoint(ctx, after(point))
	return err
}

func (r *runner) saveHead(ctx context.Context) error {
	return r.act(ctx, pointPlanSave, func() error { return r.store.put(ctx, protocol.PlanKey(r.plan.ID), r.plan) })
}

// run drives the plan to its end. It returns nil when the plan has ended or ctx has, and an error when this coordinator
// cannot or must not go on leading.
func (r *runner) run(ctx context.Context) error {
	defer r.lookers.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ctx = protocol.ExtractTrace(ctx, r.request.Traceparent, r.request.Tracestate)
	if r.plan.Traceparent != "" {
		ctx = protocol.ExtractTrace(ctx, r.plan.Traceparent, r.plan.Tracestate)
	}
	ctx, span := r.tracer.Start(ctx, "plan", trace.WithAttributes(
		attribute.String("zfleet.plan", string(r.plan.ID)), attribute.String("zfleet.job", r.plan.Job)))
	defer span.End()
	defer r.endSpans()
	if r.plan.Traceparent == "" {
		r.plan.Traceparent, r.plan.Tracestate = protocol.InjectTrace(ctx)
	}

	err := r.drive(ctx)
	if ctx.Err() != nil && !errors.Is(err, errDeposed) {
		err = nil
	}
	span.SetAttributes(attribute.String("zfleet.plan.state", string(r.plan.State)))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return fmt.Errorf("plan %s of job %s: %w", r.plan.ID, r.plan.Job, err)
	}
	if r.plan.State == protocol.PlanFailed || r.plan.State == protocol.PlanPartial {
		span.SetStatus(codes.Error, "plan "+string(r.plan.State))
	}
	return nil
}

func (r *runner) drive(ctx context.Context) error {
	if r.plan.State == protocol.PlanPlanning {
		ended, err := r.makeTasks(ctx)
		if ended || err != nil {
			return err
		}
	} else if err := r.loadTasks(ctx); err != nil {
		return err
	}
	return r.runTasks(ctx)
}

// makeTasks asks both sides, plans, and stores the tasks. ended tells that the plan has come to its end with that.
func (r *runner) makeTasks(ctx context.Context) (ended bool, err error) {
	cancelledContext, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-r.cancelled:
			cancel(errPlanCancelled)
		case <-cancelledContext.Done():
		}
	}()
	tasks, err := r.planTasks(cancelledContext)
	cause := context.Cause(cancelledContext)
	cancel(nil)
	<-watching
	switch {
	case errors.Is(cause, errPlanCancelled):
		return true, r.finish(ctx, protocol.PlanCancelled, nil)
	case ctx.Err() != nil:
		return true, ctx.Err()
	case errors.Is(err, errDeposed), errors.Is(err, errLeaseOver), protocol.KindOf(err, protocol.Permanent) == protocol.Transient:
		return true, err // what NATS does not take now is for the next term to go on with
	case err != nil:
		return true, r.finish(ctx, protocol.PlanFailed, protocol.AsFailure(err, protocol.Permanent))
	}
	group, groupContext := errgroup.WithContext(ctx)
	group.SetLimit(32)
	revisions := make([]uint64, len(tasks))
	for i, t := range tasks {
		group.Go(func() error {
			one := store{js: r.store.js, bucket: r.store.bucket, revisions: map[string]uint64{}}
			key := protocol.TaskKey(t.Plan, t.Number)
			// A predecessor may have died in the middle of storing its tasks; they were never acted on.
			var old protocol.Task
			if _, err := one.load(groupContext, key, &old); err != nil && !errors.Is(err, errUnreadable) {
				return err
			}
			if err := r.act(groupContext, pointTaskCreate, func() error { return one.put(groupContext, key, t) }); err != nil {
				return err
			}
			revisions[i] = one.revisions[key]
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return true, err
	}
	for i, t := range tasks {
		r.store.revisions[protocol.TaskKey(t.Plan, t.Number)] = revisions[i]
	}
	r.plan.Tasks, r.plan.Waiting = len(tasks), ""
	r.machine = newMachine(r.plan, tasks, r.now(), rand.Float64)
	if r.request.DryRun {
		return true, r.finish(ctx, protocol.PlanPlanned, nil)
	}
	r.plan.State = protocol.PlanRunning
	return false, r.saveHead(ctx)
}

var errPlanCancelled = errors.New("the plan was cancelled")

func (r *runner) loadTasks(ctx context.Context) error {
	tasks := make([]protocol.Task, r.plan.Tasks)
	for n := range tasks {
		found, err := r.store.load(ctx, protocol.TaskKey(r.plan.ID, n), &tasks[n])
		switch {
		case errors.Is(err, errUnreadable):
			return r.finish(ctx, protocol.PlanFailed, protocol.Failf(protocol.Permanent,
				"the record of task %d was found damaged (%v); run the job again", n, err))
		case err != nil:
			return err
		case !found:
			return r.finish(ctx, protocol.PlanFailed, protocol.Failf(protocol.Permanent,
				"the record of task %d is gone; run the job again", n))
		}
	}
	r.machine = newMachine(r.plan, tasks, r.now(), rand.Float64)
	return nil
}

// runTasks lets the machine run until every task is finished.
func (r *runner) runTasks(ctx context.Context) error {
	if r.plan.State.Final() {
		return nil
	}
	caughtUp, cancelled := r.caughtUp, r.cancelled
	r.machine.hosts = r.attendance.hosts()
	for {
		if caughtUp == nil {
			if err := r.carryOut(ctx, r.machine.advance(r.now())); err != nil {
				return err
			}
			if r.machine.finished() {
				return r.finishFromTasks(ctx)
			}
		}
		var timer <-chan time.Time
		if wake := r.machine.wake(); !wake.IsZero() && caughtUp == nil {
			timer = time.After(wake.Sub(r.now()))
		}
		var actions []action
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-r.events:
			if caughtUp != nil {
				r.machine.replayOffer(e)
			}
			actions = r.machine.apply(e, r.now())
		case result := <-r.looks:
			for i, t := range result.tasks {
				actions = append(actions, r.machine.looked(t, result.looks[i], r.now())...)
			}
		case <-cancelled:
			cancelled = nil
			actions = r.machine.cancel(r.now())
		case <-r.reconnected:
			r.machine.seenAll(r.now())
		case <-r.attended:
			r.machine.hosts = r.attendance.hosts()
		case <-r.wanted:
			r.machine.yielding = true
		case <-caughtUp:
			if len(r.events) > 0 {
				continue // the events of before this term go first
			}
			caughtUp = nil
			actions = r.machine.recovered(r.now())
		case <-timer:
		}
		if err := r.carryOut(ctx, actions); err != nil {
			return err
		}
	}
}

func (r *runner) carryOut(ctx context.Context, actions []action) error {
	for _, next := range actions {
		var err error
		switch a := next.(type) {
		case saveTask:
			err = r.act(ctx, pointTaskSave, func() error {
				return r.store.put(ctx, protocol.TaskKey(a.task.Plan, a.task.Number), a.task.Task)
			})
		case publishItem:
			err = r.act(ctx, pointItemPublish, func() error { return r.publish(ctx, a.task, a.item) })
		case withdrawItems:
			err = r.act(ctx, pointItemWithdraw, func() error {
				r.withdraw(ctx, a.task, a.shared)
				return nil
			})
		case lookAgain:
			r.startLook(ctx, a.tasks)
		case dismiss:
			r.notify(ctx, protocol.CancelNotice{Plan: r.plan.ID, Try: &a.ref})
		case recordCursor:
			err = r.act(ctx, pointCursorRecord, func() error { return r.recordCursor(ctx, a.cursor) })
		case finishStep:
			r.finishStep(ctx, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) publish(ctx context.Context, t *task, item protocol.WorkItem) error {
	ctx = r.stepContext(ctx, t, item)
	sequence, err := retry(ctx, "publish work item "+item.Ref.String(), func(ctx context.Context) (uint64, error) {
		return protocol.PublishWork(ctx, r.resources.JetStream, item)
	})
	if err != nil {
		return err
	}
	r.workItem[t] = append(r.workItem[t], sequence)
	r.logger.DebugContext(ctx, "work item published", slog.String("step", item.Ref.String()),
		slog.String("role", string(item.Role)), slog.String("host", string(item.Host())))
	return nil
}

// withdraw removes the work items of a try that is over, so that nobody claims them for nothing, and tells the workers that
// have claimed them to stop. Both are a help and no more: a worker drops an item that a newer one supersedes.
func (r *runner) withdraw(ctx context.Context, t *task, shared bool) {
	if leading(ctx) != nil {
		return
	}
	sequences := r.workItem[t]
	delete(r.workItem, t)
	if t.Attempt > 0 {
		ref := t.ref()
		r.notify(ctx, protocol.CancelNotice{Plan: t.Plan, Try: &ref})
	}
	if t.claimed || shared {
		return
	}
	for _, sequence := range sequences {
		withdrawContext, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := r.resources.Work.DeleteMsg(withdrawContext, sequence)
		cancel()
		if err != nil && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) && !errors.Is(err, jetstream.ErrMsgNotFound) {
			r.logger.DebugContext(ctx, "a superseded work item was not withdrawn; its worker will drop it",
				slog.Uint64("sequence", sequence), slog.Any("error", err))
		}
	}
}

// startLook inventories the filesystems of tasks of one target on both sides in the background; the result comes through r.looks.
func (r *runner) startLook(ctx context.Context, tasks []*task) {
	target := r.plan.Spec.Targets[tasks[0].Target]
	var wanted []lookWanted
	for _, t := range tasks {
		wanted = append(wanted, lookWanted{source: t.Filesystem, target: t.TargetFilesystem})
	}
	r.lookers.Go(func() {
		seen := r.look(ctx, target, wanted)
		select {
		case r.looks <- lookResult{tasks, seen}:
		case <-ctx.Done():
		}
	})
}

// lookWanted is a pair of filesystems to look at.
type lookWanted struct{ source, target string }

// lookSingly is up to how many filesystems are asked for by name. For more of them, each side is asked for all that the job has
// there, which is one listing.
const lookSingly = 4

func (r *runner) look(ctx context.Context, target protocol.JobTarget, wanted []lookWanted) []look {
	spec := r.plan.Spec
	fromSource, fromTarget := sourceRequest(spec), targetRequest(spec, target)
	if len(wanted) <= lookSingly {
		fromSource, fromTarget = protocol.InventoryRequest{Exact: true}, protocol.InventoryRequest{Exact: true}
		for _, pair := range wanted {
			fromSource.Roots = append(fromSource.Roots, pair.source)
			fromTarget.Roots = append(fromTarget.Roots, pair.target)
		}
	}
	deadline := spec.Replication.Deadlines.Inventory.Std()
	source, err := r.asker.inventory(ctx, spec.Source.Host, fromSource, deadline)
	var received inventory
	if err == nil {
		received, err = r.asker.inventory(ctx, target.Host, fromTarget, deadline)
	}
	looks := make([]look, len(wanted))
	onSource, onTarget := source.byName(), received.byName()
	for i, pair := range wanted {
		if err != nil {
			looks[i] = look{failure: protocol.AsFailure(err, protocol.Transient)}
		} else {
			looks[i] = lookOf(spec, target, pair.source, onSource[pair.source], onTarget[pair.target])
		}
	}
	return looks
}

// lookOf is what there is of one filesystem, and what follows from it; a side that does not have it is nil.
func lookOf(spec protocol.Job, target protocol.JobTarget, filesystem string, source, received *protocol.Dataset) look {
	if source == nil {
		return look{failure: plan.SourceGone(spec, target, filesystem, received).Conflict.Failure()}
	}
	seen := look{
		result:      plan.Filesystem(spec, target, *source, received),
		receiverHas: map[uint64]bool{},
		sourceHas:   map[uint64]bool{},
	}
	for _, version := range source.Versions {
		seen.sourceHas[version.GUID] = true
	}
	if received != nil {
		for _, version := range received.Versions {
			seen.receiverHas[version.GUID] = seen.receiverHas[version.GUID] || version.IsSnapshot()
		}
	}
	return seen
}

// recordCursor stores the view of the cursor, unless a later one is there: this coordinator may have been stopped between
// the event and now, and not know that another one has led since. So the key is read first, then the clock is asked, and what is
// written must follow what was read.
func (r *runner) recordCursor(ctx context.Context, cursor protocol.Cursor) error {
	data, err := protocol.EncodeValue(cursor)
	if err != nil {
		return err
	}
	key := protocol.CursorKey(cursor.Job, cursor.JobID, cursor.Filesystem)
	_, err = retry(ctx, "record the cursor of "+cursor.Filesystem, func(ctx context.Context) (uint64, error) {
		for {
			recorded, last, err := protocol.GetKey(ctx, r.resources.JetStream, protocol.BucketCursors, key)
			if err != nil && last == 0 && !errors.Is(err, jetstream.ErrKeyNotFound) {
				return 0, err
			}
			if err == nil && isLater(recorded, cursor) {
				return last, nil
			}
			if err := leading(ctx); err != nil {
				return 0, backoff.Permanent(err)
			}
			var revision uint64
			if last == 0 {
				revision, err = r.resources.Cursors.Create(ctx, key, data)
			} else {
				revision, err = r.resources.Cursors.Update(ctx, key, data, last)
			}
			if !isWrongRevision(err) {
				return revision, err
			}
		}
	})
	return err
}

// isLater tells whether the value is a cursor that came after the given one: told later, of a later version. (Clocks may be set
// back, and filesystems made anew with a count of transactions that begins again; hardly both.)
func isLater(value []byte, cursor protocol.Cursor) bool {
	var recorded protocol.Cursor
	return protocol.DecodeValue(value, &recorded) == nil && recorded.At.After(cursor.At) &&
		recorded.Version.CreateTXG > cursor.Version.CreateTXG
}

func (r *runner) finishFromTasks(ctx context.Context) error {
	var state protocol.PlanState
	state, r.plan.Done, r.plan.Failed, r.plan.Bytes = r.machine.outcome()
	if state == protocol.PlanCancelled {
		r.notify(ctx, protocol.CancelNotice{Plan: r.plan.ID})
	}
	return r.finish(ctx, state, nil)
}

// notify tells the workers to stop; it is said once, and a worker that does not hear it finishes its step.
func (r *runner) notify(ctx context.Context, notice protocol.CancelNotice) {
	message, err := protocol.NewMessage(ctx, protocol.CancelSubject(notice.Plan), notice)
	if err == nil {
		err = r.asker.conn.PublishMsg(message)
	}
	if err != nil {
		r.logger.WarnContext(ctx, "the workers were not told to stop; steps under way will finish or fail by themselves",
			slog.Any("error", err))
	}
}

func (r *runner) finish(ctx context.Context, state protocol.PlanState, failure *protocol.Failure) error {
	r.plan.State, r.plan.Failure, r.plan.Waiting = state, failure, ""
	r.plan.Finished = r.now().UTC()
	if err := r.saveHead(ctx); err != nil {
		return err
	}
	r.logger.InfoContext(ctx, "plan ended", slog.String("state", string(state)), slog.Int("done", r.plan.Done),
		slog.Int("failed", r.plan.Failed), slog.Int("up_to_date", r.plan.UpToDate), slog.Uint64("bytes", r.plan.Bytes),
		slog.Duration("took", r.plan.Finished.Sub(r.plan.Started)))
	return nil
}
