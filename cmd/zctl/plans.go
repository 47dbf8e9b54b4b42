// zctl plans: the plans that are kept, or one of them with its tasks.

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) plansCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var following followFlags
	var wait bool
	var job string
	command := &cobra.Command{
		Use:     "plans [PLAN [--wait]]",
		GroupID: groupLook,
		Short:   "List plans, or show one with its filesystems; with --wait, until it is done",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			if wait && len(args) == 0 {
				return protocol.Usagef("--wait is for one plan: zctl plans PLAN --wait")
			}
			ctx, s, err := p.open(command.Context(), "plans", connection)
			if err != nil {
				return err
			}
			defer s.close()
			switch {
			case wait:
				return p.follow(ctx, s, protocol.PlanID(args[0]), output, following)
			case len(args) == 1:
				return p.showPlan(ctx, s, protocol.PlanID(args[0]), output)
			}
			return p.listPlans(ctx, s, job, output)
		},
	}
	command.Flags().StringVar(&job, "job", "", "only plans of this job")
	command.Flags().BoolVar(&wait, "wait", false, "show progress and wait until the plan is done")
	following.add(command)
	connection.add(command)
	output.add(command)
	return command
}

func (p *program) listPlans(ctx context.Context, s *session, job string, output outputFormat) error {
	all, err := s.Plans(ctx)
	if all == nil {
		return err
	}
	plans := []protocol.Plan{}
	for _, plan := range all {
		if job == "" || plan.Job == job {
			plans = append(plans, plan)
		}
	}
	return printed(p.print(output, plans, func(w io.Writer) { p.writePlans(w, plans) }), err)
}

func (p *program) writePlans(w io.Writer, plans []protocol.Plan) {
	var rows [][]string
	for _, plan := range plans {
		took, by := "", plan.Request.By
		if !plan.Finished.IsZero() {
			took = progress.Duration(plan.Finished.Sub(plan.Started))
		}
		if plan.Request.DryRun {
			by += " (dry run)"
		}
		rows = append(rows, []string{
			string(plan.ID), plan.Job, string(plan.State), p.when(plan.Started), took, strconv.Itoa(plan.Tasks), strconv.Itoa(plan.Done),
			strconv.Itoa(plan.Failed), strconv.Itoa(plan.UpToDate), progress.Bytes(plan.Bytes), by,
		})
	}
	table.Write(w, []string{"PLAN", "JOB", "STATE", "STARTED", "TOOK", "TASKS", "DONE", "FAILED", "UP TO DATE", "SENT", "BY"}, rows)
}

func (p *program) showPlan(ctx context.Context, s *session, id protocol.PlanID, output outputFormat) error {
	detail, err := s.Plan(ctx, id)
	if detail.Plan.ID == "" {
		return err
	}
	return printed(p.print(output, detail, func(w io.Writer) { p.writePlan(w, detail) }), err)
}

// writePlan writes the plan for people. Writing to a buffer cannot fail, and the buffer is what it is given.
func (p *program) writePlan(w io.Writer, detail fleet.PlanDetail) {
	plan := detail.Plan
	if plan.State == protocol.PlanPlanned {
		dryRun{PlanDetail: detail}.write(w)
		return
	}
	_, _ = fmt.Fprintf(w, "plan %s of job %s: %s\n", plan.ID, plan.Job, plan.State)
	_, _ = fmt.Fprintf(w, "asked for by %s at %s\n", plan.Request.By, p.when(plan.Request.At))
	if plan.Waiting != "" && !plan.State.Final() {
		_, _ = fmt.Fprintf(w, "waiting: %s\n", plan.Waiting)
	}
	tasks := make([]fleet.TaskProgress, 0, len(detail.Tasks))
	var rows [][]string
	for _, task := range detail.Tasks {
		tasks = append(tasks, fleet.TaskProgress{Task: task, Sent: task.Bytes})
		step := ""
		if task.Next < len(task.Steps) {
			step = describeStep(task.Steps[task.Next])
		}
		rows = append(rows, []string{
			task.Filesystem, string(task.TargetHost) + ":" + task.TargetFilesystem, string(task.State),
			fmt.Sprintf("%d/%d", task.Next, len(task.Steps)), step, progress.Bytes(task.Bytes), strconv.Itoa(task.Attempt),
		})
	}
	if len(rows) > 0 {
		_, _ = fmt.Fprintln(w)
		table.Write(w, []string{"FILESYSTEM", "TARGET", "STATE", "STEPS", "NEXT STEP", "SENT", "TRIES"}, rows)
		_, _ = fmt.Fprintln(w)
	}
	for _, line := range waitedFor(detail.Tasks) {
		_, _ = fmt.Fprintln(w, line)
	}
	for _, problem := range progress.Problems(plan, tasks) {
		_, _ = fmt.Fprintln(w, problem)
	}
	if plan.State.Final() {
		_, _ = fmt.Fprintln(w, progress.Summary(plan, tasks))
	}
}
