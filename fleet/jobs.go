// Jobs: submitting and reading them.

package fleet

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// Submission is what submitting a job did.
type Submission string

// What submitting a job can do.
const (
	JobCreated   Submission = "created"
	JobChanged   Submission = "changed"
	JobUnchanged Submission = "unchanged"
)

// SubmitJob puts the job among the fleet's jobs, in place of one of the same name. A job that is there already as it is
// stays untouched. Submitting does not run it.
func (c *Client) SubmitJob(ctx context.Context, job protocol.Job) (Submission, error) {
	if err := job.Validate(); err != nil {
		return "", err
	}
	value, err := protocol.EncodeValue(job)
	if err != nil {
		return "", protocol.Failf(protocol.Usage, "submit job %s: %w", job.Name, err)
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	outcome := JobChanged
	before, revision, err := c.get(ctx, protocol.BucketJobs, protocol.JobKey(job.Name))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		outcome = JobCreated
	case err != nil && revision != 0: // what is there must not be, and goes
	case err != nil:
		return "", c.explain(err, "submit job %s", job.Name)
	case bytes.Equal(before, value):
		return JobUnchanged, nil
	}
	if _, err := c.resources.Jobs.Put(ctx, protocol.JobKey(job.Name), value); err != nil {
		return "", c.explain(err, "submit job %s", job.Name)
	}
	return outcome, nil
}

// Job reads the job of the given name. One that is not there is an error that names those that are.
func (c *Client) Job(ctx context.Context, name string) (protocol.Job, error) {
	bounded, cancel := c.bounded(ctx)
	defer cancel()
	value, _, err := c.get(bounded, protocol.BucketJobs, protocol.JobKey(name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return protocol.Job{}, c.noSuchJob(ctx, name)
	}
	if err != nil {
		return protocol.Job{}, c.explain(err, "read job %s", name)
	}
	var job protocol.Job
	if err := protocol.DecodeValue(value, &job); err != nil {
		return protocol.Job{}, protocol.Failf(protocol.Permanent, "read job %s: %w; submit it again", name, err)
	}
	return job, nil
}

func (c *Client) noSuchJob(ctx context.Context, name string) error {
	jobs, err := c.Jobs(ctx)
	if err != nil || len(jobs) == 0 {
		return protocol.Failf(protocol.Permanent, "there is no job %q; submit one with: zctl submit -f FILE", name)
	}
	var names []string
	for _, job := range jobs {
		names = append(names, job.Name)
	}
	slices.Sort(names)
	return protocol.Failf(protocol.Permanent, "there is no job %q; the jobs are: %s", name, strings.Join(names, ", "))
}

// Jobs are all jobs in order of name. Some may come beside an *UnreadableError.
func (c *Client) Jobs(ctx context.Context) ([]protocol.Job, error) {
	jobs, err := list[protocol.Job](ctx, c, c.resources.Jobs)
	slices.SortFunc(jobs, func(a, b protocol.Job) int { return strings.Compare(a.Name, b.Name) })
	return jobs, err
}
