// zctl plan: what a run of a job would do, without doing it.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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
	plan := dryRun{PlanDetail: fleet.PlanDetail{Plan: last.Plan, Tasks: []protocol.Task{}}}
	for _, task := range last.Tasks {
		plan.Tasks = append(plan.Tasks, task.Task)
	}
	if plan.Abstractions, err = s.protecting(ctx, plan.PlanDetail); err != nil {
		_, _ = fmt.Fprintf(p.errOut, "zctl: not all that protects the filesystems is known: %v\n", err) // the plan itself is whole
	}
	if err := p.print(output, plan, func(w io.Writer) { plan.write(w) }); err != nil {
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

// dryRun is a plan that was only looked at.
type dryRun struct {
	fleet.PlanDetail

	// Abstractions are what protects the plan's filesystems on both sides.
	Abstractions []protocol.AbstractionInfo `json:"abstractions"`
}

// protecting asks the hosts of a plan what replication keeps on its filesystems for its JobIDs.
func (s *session) protecting(ctx context.Context, detail fleet.PlanDetail) ([]protocol.AbstractionInfo, error) {
	type place struct {
		host       protocol.Host
		filesystem string
	}
	spec := detail.Plan.Spec
	planned, begun := map[place]bool{}, map[int]bool{}
	for _, task := range detail.Tasks {
		planned[place{spec.Source.Host, task.Filesystem}] = true
		planned[place{task.TargetHost, task.TargetFilesystem}] = true
		begun[task.Target] = begun[task.Target] || task.Common != nil
	}
	request := protocol.AbstractionsRequest{Roots: spec.Source.Filesystems.Roots(), Filter: spec.Source.Filesystems}
	for _, target := range spec.Targets {
		request.JobIDs = append(request.JobIDs, target.JobIDOf(spec.Name))
	}
	found := []protocol.AbstractionInfo{}
	if len(begun) == 0 {
		return found, nil
	}
	of, err := s.Abstractions(ctx, request, spec.Source.Host)
	found, failures := append(found, of...), []error{err}
	for n, target := range spec.Targets {
		if !begun[n] {
			continue // it has nothing that is common to both sides, and maybe not even its root
		}
		of, err := s.Abstractions(ctx, protocol.AbstractionsRequest{
			JobIDs: []protocol.JobID{target.JobIDOf(spec.Name)}, Roots: []string{target.Root},
		}, target.Host)
		found, failures = append(found, of...), append(failures, err)
	}
	return slices.DeleteFunc(found, func(info protocol.AbstractionInfo) bool {
		return !planned[place{info.Host, info.Filesystem}]
	}), errors.Join(failures...)
}

// write writes the plan for people. Writing to a buffer cannot fail, and the buffer is what it is given.
func (d dryRun) write(w io.Writer) {
	plan := d.Plan
	var rows [][]string
	var conflicts []protocol.Task
	var total uint64
	known, upToDate := true, 0
	for _, task := range d.Tasks {
		if task.State == protocol.TaskConflict || task.State == protocol.TaskFailed {
			conflicts = append(conflicts, task)
			continue
		}
		filesystem, target := task.Filesystem, string(task.TargetHost)+":"+task.TargetFilesystem
		if len(task.Steps) == 0 {
			upToDate++
			rows = append(rows, []string{filesystem, target, commonVersion(task), "nothing to do", "0", ""})
		}
		for i, step := range task.Steps {
			common := commonVersion(task)
			if i > 0 {
				filesystem, target, common = " ", " ", " "
			}
			what := describeStep(step)
			if step.Resume && task.Partial != nil {
				what += " after " + progress.Bytes(task.Partial.Bytes)
			}
			total += step.Estimate
			known = known && step.Estimate > 0
			rows = append(rows, []string{
				filesystem, target, common, what, strconv.Itoa(step.Snapshots()), estimate(step.Estimate),
			})
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
		progress.Count(len(d.Tasks)-len(conflicts)-upToDate, "filesystem"), size, plan.UpToDate, progress.Count(len(conflicts), "conflict"))
	if plan.Failure != nil {
		_, _ = fmt.Fprintf(w, "\nthe planning failed: %s\n", plan.Failure.Error())
	}
	if len(rows) > 0 {
		_, _ = fmt.Fprintln(w)
		table.Write(w, []string{"FILESYSTEM", "TARGET", "COMMON VERSION", "STEP", "SNAPSHOTS", "SIZE"}, rows)
	}
	d.writeProtection(w)
	for _, task := range d.Tasks {
		where := fmt.Sprintf("%s → %s:%s", task.Filesystem, task.TargetHost, task.TargetFilesystem)
		if task.Note != "" {
			_, _ = fmt.Fprintf(w, "\nNOTE %s\n  %s\n", where, indented(task.Note))
		}
		if task.Partial != nil && !resumes(task) {
			_, _ = fmt.Fprintf(w, "\nNOTE %s\n  %s\n", where, uselessPartial(*task.Partial))
		}
	}
	for _, task := range conflicts {
		why := "no reason was given"
		if task.Failure != nil {
			why = task.Failure.Error()
		}
		_, _ = fmt.Fprintf(w, "\nCONFLICT %s → %s:%s (common version: %s)\n  %s\n", task.Filesystem, task.TargetHost,
			task.TargetFilesystem, commonVersion(task), indented(why))
	}
	_, _ = fmt.Fprintln(w, "\nNothing was changed.")
}

func indented(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") }

// commonVersion is the newest version that both sides have, with its kind.
func commonVersion(task protocol.Task) string {
	if task.Common == nil {
		return "none"
	}
	return string(task.Common.Type) + " " + task.Common.Rel()
}

// resumes tells whether a step goes on with what the target has half received.
func resumes(task protocol.Task) bool {
	return slices.ContainsFunc(task.Steps, func(step protocol.Step) bool { return step.Resume })
}

func uselessPartial(partial protocol.ResumeState) string {
	if partial.Unreadable != "" {
		return "the target has a partial state that cannot be read (" + partial.Unreadable + "); the next step abandons it"
	}
	return fmt.Sprintf("the target has %s of %s half received, which fits no step; the next step abandons it",
		progress.Bytes(partial.Bytes), partial.ToName)
}

// writeProtection writes which version is protected by what.
func (d dryRun) writeProtection(w io.Writer) {
	type version struct {
		filesystem string
		guid       uint64
	}
	names := map[version]string{}
	for _, task := range d.Tasks {
		know := func(v *protocol.Version) {
			if v != nil && v.IsSnapshot() {
				names[version{task.Filesystem, v.GUID}] = v.Full(task.Filesystem)
			}
		}
		know(task.Common)
		for _, step := range task.Steps {
			know(step.From)
			know(&step.To)
		}
	}
	rows := make([][]string, 0, len(d.Abstractions))
	for _, info := range d.Abstractions {
		protected := info.Name
		if info.Tag == "" {
			if protected = names[version{info.Filesystem, info.GUID}]; protected == "" {
				protected = fmt.Sprintf("%s, guid %016x", info.Filesystem, info.GUID)
			}
		}
		rows = append(rows, []string{string(info.Host), protected, info.Kind, string(info.JobID)})
	}
	if len(rows) > 0 {
		_, _ = fmt.Fprintln(w)
		table.Write(w, []string{"HOST", "PROTECTED VERSION", "BY", "JOB ID"}, rows)
	}
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
