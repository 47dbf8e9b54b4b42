// The forbidden job: what a host's policy does not allow is not done, whatever else happens.

package faults

import (
	"context"
	"fmt"
	"slices"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
)

// forbidden is a job that the policy of its source does not allow, for even seeds, or else that of its target.
func (f *fleet) forbidden() protocol.Job {
	job := f.schedule.Jobs[0]
	job.Name = "forbidden"
	job.Source = protocol.JobSource{Host: "alpha", Filesystems: protocol.Filter{sourcePool + "/" + job.Name: true}}
	job.Targets = []protocol.JobTarget{{Host: "bravo", Root: targetPool + "/" + job.Name}}
	job.Replication.Transport = protocol.TransportAuto
	return job
}

// buildForbidden makes the pools so that nothing but a policy is in the job's way.
func (f *fleet) buildForbidden(ctx context.Context) {
	job := f.forbidden()
	source, target := f.hosts["alpha"], f.hosts["bravo"]
	source.must(ctx, "create", "-p", sourcePool+"/"+job.Name)
	source.takeSnapshot(ctx, sourcePool+"/"+job.Name, f.schedule.Seed)
	target.must(ctx, "create", "-p", job.Targets[0].Root+"/"+sourcePool)
	if f.schedule.Seed%2 == 0 {
		target.policy.Recv = append(target.policy.Recv, worker.RecvRule{Root: job.Targets[0].Root})
	} else {
		source.policy.Send[sourcePool+"/"+job.Name] = true
	}
}

// tryForbidden runs the job until its plan has ended, and requires that a policy ended it. That nothing came of it is seen by
// the observer, for which no job is there.
func (f *fleet) tryForbidden(ctx context.Context) error {
	job := f.forbidden()
	var id protocol.PlanID
	if err := eventually(ctx, func(ctx context.Context) error {
		_, err := f.client.SubmitJob(ctx, job)
		if err == nil {
			id, err = f.client.Run(ctx, job.Name)
		}
		return err
	}); err != nil {
		return fmt.Errorf("running the forbidden job: %w", err)
	}
	detail, err := f.wait(ctx, id)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		f.timeline.violate("no convergence: the plan of the forbidden job does not end: %v", err)
	case !slices.ContainsFunc(detail.Tasks, func(t protocol.Task) bool {
		return t.State == protocol.TaskFailed && t.Failure != nil && t.Failure.Kind == protocol.Policy
	}):
		f.timeline.violate("invariant 5: the forbidden job did not fail for a policy: %s", explain(detail))
	}
	return nil
}
