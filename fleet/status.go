// Status: the fleet at a glance.

package fleet

import (
	"context"
	"errors"

	"github.com/zfleet/zfleet/protocol"
)

// Status is the fleet at one moment.
type Status struct {
	// Leader is nil when no coordinator leads.
	Leader *protocol.Lease `json:"leader"`
	// Hosts are the workers that are there, and Absent the hosts of which none is any more.
	Hosts  []protocol.Presence `json:"hosts"`
	Absent []AbsentHost        `json:"absent"`
	Jobs   []JobStatus         `json:"jobs"`
	// Running are the plans that are not finished, oldest first.
	Running []PlanDetail `json:"running"`
}

// JobStatus is a job and its latest plan that was more than a dry run; nil when there is none.
type JobStatus struct {
	Job  protocol.Job   `json:"job"`
	Last *protocol.Plan `json:"last,omitempty"`
}

// Status reads all of it. What cannot be read is an error beside the rest.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var status Status
	var failures []error
	note := func(err error) {
		if err != nil {
			failures = append(failures, err)
		}
	}
	var err error
	status.Leader, err = c.Leader(ctx)
	note(err)
	status.Hosts, err = c.Hosts(ctx)
	note(err)
	status.Absent, err = c.AbsentHosts(ctx)
	note(err)
	plans, err := c.Plans(ctx)
	note(err)
	jobs, err := c.Jobs(ctx)
	note(err)

	last := map[string]*protocol.Plan{}
	for i, plan := range plans {
		if !plan.Request.DryRun {
			last[plan.Job] = &plans[i]
		}
		if plan.State.Final() {
			continue
		}
		detail, err := c.Plan(ctx, plan.ID)
		note(err)
		if err == nil {
			status.Running = append(status.Running, detail)
		}
	}
	for _, job := range jobs {
		status.Jobs = append(status.Jobs, JobStatus{Job: job, Last: last[job.Name]})
	}
	return status, errors.Join(failures...)
}
