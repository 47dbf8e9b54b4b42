// Planning: from a job and the inventories of its hosts to the tasks of a plan.

package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// planTasks asks the source and every target, and plans. A source that is away is waited for; the filesystems of a target that is
// away get tasks that wait for it. A target that is there and cannot be asked fails with all its filesystems; the others go on.
func (r *runner) planTasks(ctx context.Context) ([]protocol.Task, error) {
	spec, err := r.loadSpec(ctx)
	if err != nil {
		return nil, err
	}
	r.plan.Spec = spec
	sides, err := r.askAll(ctx, spec)
	if err != nil {
		return nil, err
	}
	source, targets := sides[0], sides[1:]
	if source.failure != nil {
		return nil, source.failure
	}
	missing := missingFromSource(spec.Source.Filesystems, source.inventory)
	var tasks []protocol.Task
	failed := 0
	var lastFailure *protocol.Failure
	for n := range spec.Targets {
		side := targets[n]
		if side.away {
			tasks = append(tasks, waiting(r.plan.ID, spec, n, source.inventory)...)
			continue
		}
		if side.failure != nil {
			failed++
			lastFailure = side.failure
			tasks = append(tasks, unreachable(r.plan.ID, spec, n, source.inventory, side.failure)...)
			continue
		}
		results, err := plan.Plan(plan.Input{
			Job: spec, Target: n, Source: source.inventory.datasets, Receiver: side.inventory.datasets,
			RootMissing: side.inventory.find(spec.Targets[n].Root) == nil, Requested: missing,
		})
		if err != nil {
			return nil, protocol.Failf(protocol.Permanent, "plan job %s for %s: %w", spec.Name, spec.Targets[n].Host, err)
		}
		for _, result := range results {
			task, needed := taskOf(r.plan.ID, spec, n, result)
			if !needed {
				r.plan.UpToDate++
			}
			// A dry run also shows the filesystems with nothing to do.
			if needed || r.request.DryRun {
				tasks = append(tasks, task)
			}
		}
	}
	if failed == len(spec.Targets) && len(tasks) == 0 {
		return nil, lastFailure
	}
	for n := range tasks {
		tasks[n].Number, tasks[n].Updated = n, r.now().UTC()
	}
	if r.request.DryRun {
		r.estimate(ctx, spec, tasks)
	}
	return tasks, nil
}

func (r *runner) loadSpec(ctx context.Context) (protocol.Job, error) {
	// The request came by a watch, which does not tell whether it was sent by somebody who may.
	var sent protocol.PlanRequest
	if _, err := r.store.load(ctx, protocol.PlanRequestKey(r.request.Plan), &sent); err != nil {
		return protocol.Job{}, err
	}
	if r.request.Spec != nil {
		if !r.request.DryRun {
			return protocol.Job{}, protocol.Usagef("plan %s: only a dry run can bring its own job", r.request.Plan)
		}
		return *r.request.Spec, r.request.Spec.Validate()
	}
	jobs := store{js: r.resources.JetStream, bucket: r.resources.Jobs, revisions: map[string]uint64{}}
	var spec protocol.Job
	found, err := jobs.load(ctx, protocol.JobKey(r.request.Job), &spec)
	if err != nil {
		return protocol.Job{}, err
	}
	if !found {
		return protocol.Job{}, protocol.Usagef("there is no job %q; submit it first (zctl submit), or see zctl jobs", r.request.Job)
	}
	return spec, spec.Validate()
}

// side is what one host answered, or why it did not.
type side struct {
	inventory inventory
	failure   *protocol.Failure
	// away says that the host has no worker running, and that this is to be waited for.
	away bool
}

// askAll asks the source (first) and the targets, each as long as the job's deadlines allow.
func (r *runner) askAll(ctx context.Context, spec protocol.Job) ([]side, error) {
	sides := make([]side, 1+len(spec.Targets))
	waiting := make(chan string)
	group, groupContext := errgroup.WithContext(ctx)
	group.Go(func() error {
		sides[0] = r.askPatiently(groupContext, spec, spec.Source.Host, sourceRequest(spec), waiting)
		for giveUp := r.now().Add(spec.Replication.Deadlines.Absent.Std()); sides[0].away; {
			if err := r.awaitHost(groupContext, spec.Source.Host, giveUp, waiting); err != nil {
				sides[0] = side{failure: protocol.AsFailure(err, protocol.Permanent)}
				break
			}
			sides[0] = r.askPatiently(groupContext, spec, spec.Source.Host, sourceRequest(spec), waiting)
		}
		return groupContext.Err()
	})
	for n, target := range spec.Targets {
		group.Go(func() error {
			sides[1+n] = r.askPatiently(groupContext, spec, target.Host, targetRequest(spec, target), waiting)
			return groupContext.Err()
		})
	}
	result := make(chan error, 1)
	go func() { result <- group.Wait() }()
	var saveErr error
	for {
		select {
		case text := <-waiting:
			if r.plan.Waiting != text && saveErr == nil {
				r.plan.Waiting = text
				saveErr = r.saveHead(ctx)
			}
		case err := <-result:
			if saveErr != nil {
				return nil, saveErr
			}
			return sides, err
		}
	}
}

// awaitHost waits until the host has a worker running; not longer than until giveUp, which is an error that says so.
func (r *runner) awaitHost(ctx context.Context, host protocol.Host, giveUp time.Time, waiting chan<- string) error {
	expired := time.NewTimer(giveUp.Sub(r.now()))
	defer expired.Stop()
	for {
		known := r.attendance.hosts()
		if !known.absent(host) {
			return nil
		}
		select {
		case waiting <- known.waitingFor(host):
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-r.attended:
		case <-expired.C:
			return protocol.Failf(protocol.Permanent, "gave up %s after %s (replication.deadlines.absent): start a worker there"+
				" (zctl worker), and run the job again", known.waitingFor(host), r.plan.Spec.Replication.Deadlines.Absent)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// askPatiently asks a host again while it does not answer, for as long as a work item may lie unclaimed. A host that is away is
// not asked again; to a dry run, it is one that does not answer.
func (r *runner) askPatiently(
	ctx context.Context, spec protocol.Job, host protocol.Host, request protocol.InventoryRequest, waiting chan<- string,
) side {
	deadlines := spec.Replication.Deadlines
	giveUp := r.now().Add(deadlines.Claim.Std())
	for wait := firstBackoff; ; wait = min(2*wait, 5*time.Second) {
		answer, err := r.asker.inventory(ctx, host, request, deadlines.Inventory.Std())
		if err == nil {
			return side{inventory: answer}
		}
		failure := protocol.AsFailure(err, protocol.Transient)
		if failure.Kind != protocol.Transient || ctx.Err() != nil {
			return side{failure: failure}
		}
		if !r.request.DryRun && r.attendance.hosts().absent(host) {
			return side{away: true}
		}
		if r.now().Add(wait).After(giveUp) {
			return side{failure: &protocol.Failure{
				Kind: protocol.Permanent, Host: failure.Host,
				Message: fmt.Sprintf("%s (waited %s; see zctl hosts)", failure.Message, deadlines.Claim),
			}}
		}
		timer := time.NewTimer(wait)
		select {
		case waiting <- failure.Message:
		case <-ctx.Done():
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// targetFilter has in what the source's filter has in, as it lands below the root, and the root itself.
func targetFilter(source protocol.Filter, root string) protocol.Filter {
	target := protocol.Filter{root: true}
	for pattern, in := range source {
		if pattern == "<" {
			target[root+"<"] = in
			continue
		}
		target[root+"/"+pattern] = in
	}
	target[root] = true
	return target
}

// missingFromSource are the filesystems that the filter names, alone or as the root of a subtree, and that do not exist. One
// that the filter leaves out itself, and only has in what is below it, is not in the inventory though it exists; of those,
// only roots that the host could not find are missing.
func missingFromSource(filter protocol.Filter, source inventory) []string {
	var missing []string
	for pattern, in := range filter {
		name := strings.TrimSuffix(pattern, "<")
		if !in || name == "" || slices.Contains(missing, name) {
			continue
		}
		if filter.Match(name) && source.find(name) == nil || slices.Contains(source.missing, name) {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return missing
}

// taskOf makes the task of a planning result; needed is false when there is nothing to do or to say.
func taskOf(id protocol.PlanID, spec protocol.Job, target int, result plan.Result) (task protocol.Task, needed bool) {
	task = protocol.Task{
		Plan: id, Target: target, TargetHost: spec.Targets[target].Host, JobID: spec.Targets[target].JobIDOf(spec.Name),
		Filesystem: result.Filesystem, TargetFilesystem: result.TargetFilesystem, Steps: result.Steps,
		State: protocol.TaskReady, Note: result.Note, Common: result.Common,
	}
	if result.Partial != nil {
		partial := *result.Partial
		partial.Token = "" // steps have it where they need it
		task.Partial = &partial
	}
	if result.Conflict != nil {
		task.State, task.Failure = protocol.TaskConflict, result.Conflict.Failure()
		return task, true
	}
	if len(result.Steps) == 0 {
		task.State = protocol.TaskDone
		return task, false
	}
	return task, true
}

// unreachable are the tasks of a target that could not be asked: all failed, for the target's reason.
func unreachable(
	id protocol.PlanID, spec protocol.Job, target int, source inventory, failure *protocol.Failure,
) []protocol.Task {
	return unplanned(id, spec, target, source, protocol.Task{State: protocol.TaskFailed, Failure: failure})
}

// waiting are the tasks of a target that is away: they are planned when it is back. The machine says what they wait for.
func waiting(id protocol.PlanID, spec protocol.Job, target int, source inventory) []protocol.Task {
	return unplanned(id, spec, target, source, protocol.Task{State: protocol.TaskWaiting})
}

// unplanned are tasks with no steps for everything that the source has, each like the one given.
func unplanned(id protocol.PlanID, spec protocol.Job, target int, source inventory, like protocol.Task) []protocol.Task {
	var tasks []protocol.Task
	for _, dataset := range source.datasets {
		if dataset.Placeholder {
			continue
		}
		task := like
		task.Plan, task.Target, task.TargetHost = id, target, spec.Targets[target].Host
		task.JobID = spec.Targets[target].JobIDOf(spec.Name)
		task.Filesystem, task.TargetFilesystem = dataset.Name, spec.Targets[target].Filesystem(dataset.Name)
		tasks = append(tasks, task)
	}
	return tasks
}

// estimate fills in the sizes of the tasks' steps; where they cannot be had, they stay unknown.
func (r *runner) estimate(ctx context.Context, spec protocol.Job, tasks []protocol.Task) {
	const batch = 50
	var steps []*protocol.Step
	for n := range tasks {
		for i := range tasks[n].Steps {
			steps = append(steps, &tasks[n].Steps[i])
		}
	}
	for chunk := range slices.Chunk(steps, batch) {
		request := protocol.EstimateRequest{Send: spec.Send}
		for _, step := range chunk {
			request.Steps = append(request.Steps, *step)
		}
		sizes, err := r.asker.estimate(ctx, spec.Source.Host, request, spec.Replication.Deadlines.Inventory.Std())
		if err != nil {
			r.logger.WarnContext(ctx, "the plan has no size estimates", slog.Any("error", err))
			return
		}
		for i, step := range chunk {
			step.Estimate = sizes[i]
		}
	}
}
