// zctl plan: what a run of a job would do, without doing it.

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) planCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var file string
	var job jobFlags
	var timeout time.Duration
	command := &cobra.Command{
		Use:     "plan (JOB | -f FILE | --from HOST:FILESYSTEM[<] --to HOST:ROOT)",
		GroupID: groupReplicate,
		Short:   "Show what a run would do, with sizes and explained conflicts; nothing is changed",
		Long: `Plan asks the coordinator for a plan of a submitted job, or of one that is not submitted,
and shows its steps with their estimated sizes. Filesystems that cannot be replicated are explained,
with what can be done about them. Nothing is changed on any host.

Exit codes: 0 everything can be replicated, 3 some filesystems are in conflict, 1 all are.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			described := file != "" || job.given()
			if described == (len(args) == 1) {
				return protocol.Usagef("say which job: either the name of a submitted one, or -f FILE, or --from and --to")
			}
			var spec protocol.Job
			if described {
				var err error
				if spec, err = p.jobOf(file, job); err != nil {
					return err
				}
			}
			ctx, s, err := p.open(command.Context(), "plan", connection)
			if err != nil {
				return err
			}
			defer s.close()
			var id protocol.PlanID
			if described {
				id, err = s.DryRunOf(ctx, spec)
			} else {
				id, err = s.DryRun(ctx, args[0])
			}
			if err != nil {
				return err
			}
			return p.showDryRun(ctx, s, id, output, timeout)
		},
	}
	command.Flags().StringVarP(&file, "file", "f", "", `job file; "-" is standard input`)
	job.add(command)
	command.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "give up after this time")
	connection.add(command)
	output.add(command)
	return command
}

// dryRunPatience is how long a dry run waits for a coordinator to appear: an operator sits in front of it.
const dryRunPatience = 20 * time.Second

func (p *program) showDryRun(ctx context.Context, s *session, id protocol.PlanID, output outputFormat, timeout time.Duration) error {
	ctx, cancel := followFlags{timeout: timeout}.bound(ctx)
	defer cancel()
	waiting := &waitingNotes{out: p.errOut}
	last, err := progress.Follow(s.Watch(ctx, id, fleet.WatchOptions{Patience: dryRunPatience}), waiting)
	if err != nil {
		return err
	}
	detail := fleet.PlanDetail{Plan: last.Plan, Tasks: []protocol.Task{}}
	for _, task := range last.Tasks {
		detail.Tasks = append(detail.Tasks, task.Task)
	}
	if err := p.print(output, detail, func(w io.Writer) { writeDryRun(w, detail) }); err != nil {
		return err
	}
	return verdict(last)
}

// waitingNotes tells on standard error what a plan waits for, when it does so for longer than a moment.
type waitingNotes struct {
	out  io.Writer
	text string
	from time.Time
	told bool
}

func (n *waitingNotes) Show(shot fleet.Snapshot) error {
	if shot.Waiting != n.text {
		n.text, n.from, n.told = shot.Waiting, shot.At, false
	}
	if n.text == "" || n.told || shot.At.Sub(n.from) < 2*time.Second {
		return nil
	}
	n.told = true
	_, err := fmt.Fprintf(n.out, "waiting: %s\n", n.text)
	return err
}

func (n *waitingNotes) Close() error { return nil }

// writeDryRun writes the plan for people. Writing to a buffer cannot fail, and the buffer is what it is given.
func writeDryRun(w io.Writer, detail fleet.PlanDetail) {
	plan := detail.Plan
	var rows [][]string
	var conflicts []protocol.Task
	var total uint64
	known := true
	for _, task := range detail.Tasks {
		if task.State == protocol.TaskConflict || task.State == protocol.TaskFailed {
			conflicts = append(conflicts, task)
			continue
		}
		for i, step := range task.Steps {
			filesystem, target := task.Filesystem, string(task.TargetHost)+":"+task.TargetFilesystem
			if i > 0 {
				filesystem, target = " ", " "
			}
			total += step.Estimate
			known = known && step.Estimate > 0
			rows = append(rows, []string{filesystem, target, describeStep(step), strconv.Itoa(step.Snapshots()), estimate(step.Estimate)})
		}
	}
	size := ""
	if total > 0 {
		size = ", about " + progress.Bytes(total)
		if !known {
			size = ", more than " + progress.Bytes(total)
		}
	}
	_, _ = fmt.Fprintf(w, "job %s: %s to replicate%s; %d up to date; %s\n", plan.Job,
		progress.Count(len(detail.Tasks)-len(conflicts), "filesystem"), size, plan.UpToDate, progress.Count(len(conflicts), "conflict"))
	if plan.Failure != nil {
		_, _ = fmt.Fprintf(w, "\nthe planning failed: %s\n", plan.Failure.Error())
	}
	if len(rows) > 0 {
		_, _ = fmt.Fprintln(w)
		table.Write(w, []string{"FILESYSTEM", "TARGET", "STEP", "SNAPSHOTS", "SIZE"}, rows)
	}
	for _, task := range conflicts {
		why := "no reason was given"
		if task.Failure != nil {
			why = task.Failure.Error()
		}
		_, _ = fmt.Fprintf(w, "\nCONFLICT %s → %s:%s\n  %s\n", task.Filesystem, task.TargetHost, task.TargetFilesystem,
			strings.ReplaceAll(strings.TrimSpace(why), "\n", "\n  "))
	}
	_, _ = fmt.Fprintln(w, "\nNothing was changed.")
}

func describeStep(step protocol.Step) string {
	if step.Resume {
		return step.String() + ", resumed"
	}
	return step.String()
}

func estimate(bytes uint64) string {
	if bytes == 0 {
		return "unknown"
	}
	return progress.Bytes(bytes)
}
