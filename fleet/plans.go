// Plans: asking for them, stopping them, reading them.

package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// PlanStateRequested is the state of a plan that no coordinator has taken up yet. It is the client's own: such a plan has
// no state in the fleet.
const PlanStateRequested protocol.PlanState = "requested"

// PlanDetail is a plan with its tasks in order of number.
type PlanDetail struct {
	Plan  protocol.Plan   `json:"plan"`
	Tasks []protocol.Task `json:"tasks"`
}

// Run asks for a plan of a submitted job, which does what is to do.
func (c *Client) Run(ctx context.Context, job string) (protocol.PlanID, error) {
	if _, err := c.Job(ctx, job); err != nil {
		return "", err
	}
	return c.request(ctx, protocol.PlanRequest{Job: job})
}

// DryRun asks for a plan of a submitted job that is only looked at.
func (c *Client) DryRun(ctx context.Context, job string) (protocol.PlanID, error) {
	if _, err := c.Job(ctx, job); err != nil {
		return "", err
	}
	return c.request(ctx, protocol.PlanRequest{Job: job, DryRun: true})
}

// DryRunOf asks for a plan of a job that need not be submitted; it is only looked at.
func (c *Client) DryRunOf(ctx context.Context, job protocol.Job) (protocol.PlanID, error) {
	if err := job.Validate(); err != nil {
		return "", err
	}
	return c.request(ctx, protocol.PlanRequest{Job: job.Name, DryRun: true, Spec: &job})
}

func (c *Client) request(ctx context.Context, request protocol.PlanRequest) (protocol.PlanID, error) {
	request.At = time.Now().UTC()
	request.By = c.by
	request.Plan = protocol.NewPlanID(request.At, strings.ToLower(rand.Text()[:5]))
	request.Traceparent, request.Tracestate = protocol.InjectTrace(ctx)
	if err := c.create(ctx, protocol.PlanRequestKey(request.Plan), request); err != nil {
		return "", c.explain(err, "ask for a plan of job %s", request.Job)
	}
	return request.Plan, nil
}

// Cancel asks for the plan to stop. Cancelling it twice is the same as once; a plan that is finished is an error.
func (c *Client) Cancel(ctx context.Context, id protocol.PlanID) error {
	detail, err := c.Plan(ctx, id)
	if err != nil {
		return err
	}
	if detail.Plan.State.Final() {
		return protocol.Failf(protocol.Permanent, "plan %s is %s already; there is nothing to cancel", id, detail.Plan.State)
	}
	request := protocol.PlanRequest{Plan: id, Job: detail.Plan.Job, At: time.Now().UTC(), By: c.by}
	err = c.create(ctx, protocol.PlanCancelKey(id), request)
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return c.explain(err, "cancel plan %s", id)
	}
	return nil
}

func (c *Client) create(ctx context.Context, key string, request protocol.PlanRequest) error {
	value, err := protocol.EncodeValue(request)
	if err != nil {
		return err
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	_, err = c.resources.Plans.Create(ctx, key, value)
	return err
}

// Plan reads a plan with its tasks. One that nobody has taken up yet has the state PlanStateRequested.
func (c *Client) Plan(ctx context.Context, id protocol.PlanID) (PlanDetail, error) {
	if err := id.Validate(); err != nil {
		return PlanDetail{}, err
	}
	values, err := c.collect(ctx, c.resources.Plans, protocol.PlanKeys(id))
	if err != nil {
		return PlanDetail{}, c.explain(err, "read plan %s", id)
	}
	kept := newPlanValues(id)
	for key, data := range sortedByKey(values) {
		kept.put(key, data)
	}
	if kept.head == nil && kept.request == nil {
		if kept.unreadable != nil {
			return PlanDetail{}, kept.unreadable
		}
		return PlanDetail{}, noSuchPlan(id)
	}
	return kept.detail(), kept.unreadable.asError()
}

func noSuchPlan(id protocol.PlanID) error {
	return protocol.Failf(protocol.Permanent, "there is no plan %s: it was never asked for, or it is so old that it was removed;"+
		" zctl plans lists those that are kept", id)
}

// Plans are all plans that are kept, oldest first, without their tasks. Some may come beside an *UnreadableError.
func (c *Client) Plans(ctx context.Context) ([]protocol.Plan, error) {
	values, err := c.collect(ctx, c.resources.Plans, "*."+string(protocol.PlanKeyRequest), "*."+string(protocol.PlanKeyHead))
	if err != nil {
		return nil, c.explain(err, "list plans")
	}
	plans := map[protocol.PlanID]*planValues{}
	var unreadable *UnreadableError
	for key, data := range sortedByKey(values) {
		id, _, _, err := protocol.ParsePlanKey(key)
		if err != nil {
			unreadable = unreadable.note(protocol.BucketPlans, key, err)
			continue
		}
		if plans[id] == nil {
			plans[id] = newPlanValues(id)
		}
		plans[id].put(key, data)
	}
	found := make([]protocol.Plan, 0, len(plans))
	for _, kept := range sortedByKey(plans) {
		if kept.unreadable != nil {
			for key, reason := range kept.unreadable.Reasons {
				unreadable = unreadable.note(protocol.BucketPlans, key, reason)
			}
		}
		if kept.head != nil || kept.request != nil {
			found = append(found, kept.plan())
		}
	}
	// The names tell seconds apart, the requests more.
	slices.SortStableFunc(found, func(a, b protocol.Plan) int { return a.Request.At.Compare(b.Request.At) })
	return found, unreadable.asError()
}

// planValues gathers the values that the bucket of plans keeps for one plan.
type planValues struct {
	id         protocol.PlanID
	request    *protocol.PlanRequest
	head       *protocol.Plan
	tasks      map[int]protocol.Task
	unreadable *UnreadableError
}

func newPlanValues(id protocol.PlanID) *planValues {
	return &planValues{id: id, tasks: map[int]protocol.Task{}}
}

// put takes in one value of the plan.
func (v *planValues) put(key string, data []byte) {
	id, kind, number, err := protocol.ParsePlanKey(key)
	if err == nil && id == v.id {
		switch kind {
		case protocol.PlanKeyHead:
			var head protocol.Plan
			if err = protocol.DecodeValue(data, &head); err == nil {
				v.head = &head
			}
		case protocol.PlanKeyRequest:
			var request protocol.PlanRequest
			if err = protocol.DecodeValue(data, &request); err == nil {
				v.request = &request
			}
		case protocol.PlanKeyTask:
			var task protocol.Task
			if err = protocol.DecodeValue(data, &task); err == nil {
				v.tasks[number] = task
			}
		case protocol.PlanKeyCancel: // that it exists is all that it says
		}
	}
	if err != nil {
		v.unreadable = v.unreadable.note(protocol.BucketPlans, key, err)
	}
}

// remove forgets a value that was deleted.
func (v *planValues) remove(key string) {
	_, kind, number, err := protocol.ParsePlanKey(key)
	if err != nil {
		return
	}
	switch kind {
	case protocol.PlanKeyHead:
		v.head = nil
	case protocol.PlanKeyRequest:
		v.request = nil
	case protocol.PlanKeyTask:
		delete(v.tasks, number)
	case protocol.PlanKeyCancel:
	}
}

// plan is the plan as it is kept, or as far as its request describes it.
func (v *planValues) plan() protocol.Plan {
	if v.head != nil {
		return *v.head
	}
	plan := protocol.Plan{ID: v.id, State: PlanStateRequested}
	if v.request != nil {
		plan.Job, plan.Request, plan.Started = v.request.Job, *v.request, v.request.At
	}
	return plan
}

func (v *planValues) detail() PlanDetail {
	detail := PlanDetail{Plan: v.plan(), Tasks: make([]protocol.Task, 0, len(v.tasks))}
	for _, task := range v.tasks {
		detail.Tasks = append(detail.Tasks, task)
	}
	slices.SortFunc(detail.Tasks, func(a, b protocol.Task) int { return a.Number - b.Number })
	return detail
}
