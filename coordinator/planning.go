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

// planTasks asks the source and every target, and plans. A target that cannot be asked fails with all its filesystems;
// the others go on.
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
		tasks[n].Number, tasks[n].Updated = n, time.Now().UTC()
	}
	if r.request.DryRun {
		r.estimate(ctx, spec, tasks)
	}
	return tasks, nil
}

func (r *runner) loadSpec(ctx context.Context) (protocol.Job, error) {
	if r.request.Spec != nil {
		if !r.request.DryRun {
			return protocol.Job{}, protocol.Usagef("plan %s: only a dry run can bring its own job", r.request.Plan)
		}
		return *r.request.Spec, r.request.Spec.Validate()
	}
	jobs := store{bucket: r.resources.Jobs, revisions: map[string]uint64{}}
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
}

// askAll asks the source (first) and the targets, each as long as the job's deadlines allow.
func (r *runner) askAll(ctx context.Context, spec protocol.Job) ([]side, error) {
	requests := []protocol.InventoryRequest{{Roots: spec.Source.Filesystems.Roots(), Filter: spec.Source.Filesystems}}
	hosts := []protocol.Host{spec.Source.Host}
	for _, target := range spec.Targets {
		hosts = append(hosts, target.Host)
		requests = append(requests, protocol.InventoryRequest{
			Roots: []string{target.Root}, Filter: targetFilter(spec.Source.Filesystems, target.Root),
		})
	}
	sides := make([]side, len(hosts))
	waiting := make(chan string)
	group, groupContext := errgroup.WithContext(ctx)
	for n := range hosts {
		group.Go(func() error {
			sides[n] = r.askPatiently(groupContext, spec, hosts[n], requests[n], waiting)
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

// askPatiently asks a host again while it does not answer, for as long as a work item may lie unclaimed.
func (r *runner) askPatiently(
	ctx context.Context, spec protocol.Job, host protocol.Host, request protocol.InventoryRequest, waiting chan<- string,
) side {
	deadlines := spec.Replication.Deadlines
	giveUp := time.Now().Add(deadlines.Claim.Std())
	for wait := firstBackoff; ; wait = min(2*wait, 5*time.Second) {
		answer, err := r.asker.inventory(ctx, host, request, deadlines.Inventory.Std())
		if err == nil {
			return side{inventory: answer}
		}
		failure := protocol.AsFailure(err, protocol.Transient)
		if failure.Kind != protocol.Transient || ctx.Err() != nil {
			return side{failure: failure}
		}
		if time.Now().Add(wait).After(giveUp) {
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
	var tasks []protocol.Task
	for _, dataset := range source.datasets {
		if dataset.Placeholder {
			continue
		}
		tasks = append(tasks, protocol.Task{
			Plan: id, Target: target, TargetHost: spec.Targets[target].Host, JobID: spec.Targets[target].JobIDOf(spec.Name),
			Filesystem: dataset.Name, TargetFilesystem: spec.Targets[target].Filesystem(dataset.Name),
			State: protocol.TaskFailed, Failure: failure,
		})
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
