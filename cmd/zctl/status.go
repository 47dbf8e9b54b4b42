// zctl status: the fleet at a glance.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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

func (p *program) statusCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var watch bool
	var interval time.Duration
	command := &cobra.Command{
		Use:     "status [-w]",
		GroupID: groupLook,
		Short:   "Show the fleet at a glance: leader, hosts, running plans, jobs; with -w, again and again",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if interval <= 0 {
				return protocol.Usagef("--interval %s: use a positive time", interval)
			}
			ctx, s, err := p.open(command.Context(), "status", connection)
			if err != nil {
				return err
			}
			defer s.close()
			if watch {
				return p.watchStatus(ctx, s, output, interval)
			}
			status, err := s.Status(ctx)
			return printed(p.print(output, status, func(w io.Writer) { p.writeStatus(w, status) }), err)
		},
	}
	command.Flags().BoolVarP(&watch, "watch", "w", false, "go on until interrupted")
	command.Flags().DurationVar(&interval, "interval", 2*time.Second, "with -w: time between two looks")
	connection.add(command)
	output.add(command)
	return command
}

// watchStatus shows the status again and again: in place on a terminal, one after the other elsewhere. What goes wrong in
// one look is shown in its place. The end of ctx is how it ends.
func (p *program) watchStatus(ctx context.Context, s *session, output outputFormat, interval time.Duration) (err error) {
	show := func(status fleet.Status, problem error) error {
		if output == outputTable {
			_, err := io.WriteString(p.out, p.statusText(status, problem)+"\n")
			return err
		}
		return errors.Join(p.print(output, status, nil), problem)
	}
	if output == outputTable && p.isTerminal(p.out) {
		screen := progress.NewScreen(p.out, p.environ)
		defer func() { err = errors.Join(err, screen.Close()) }()
		show = func(status fleet.Status, problem error) error {
			text := p.statusText(status, problem)
			screen.Draw(func(size progress.Size) string { return cut(text, size) })
			return nil
		}
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		status, problem := s.Status(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := show(status, problem); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *program) statusText(status fleet.Status, problem error) string {
	var text strings.Builder
	p.writeStatus(&text, status)
	if problem != nil {
		fmt.Fprintf(&text, "\n%v\n", problem)
	}
	return text.String()
}

// cut leaves out the lines that the terminal has no room for.
func cut(text string, size progress.Size) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if size.Height > 2 && len(lines) > size.Height-1 {
		lines = append(lines[:size.Height-2], "…")
	}
	return strings.Join(lines, "\n")
}

// writeStatus writes the status for people. Writing to a buffer cannot fail, and the buffer is what it is given.
func (p *program) writeStatus(w io.Writer, status fleet.Status) {
	if status.Leader == nil {
		_, _ = fmt.Fprintln(w, fleet.ErrNoCoordinator)
	} else {
		_, _ = fmt.Fprintf(w, "coordinator: %s on %s since %s\n", status.Leader.Holder, status.Leader.Host, p.when(status.Leader.Since))
	}
	if len(status.Hosts) == 0 {
		_, _ = fmt.Fprintln(w, "no worker is running: start one on every host with: zctl worker")
	} else {
		_, _ = fmt.Fprintf(w, "workers: %s\n", hostNames(status.Hosts))
	}
	var away []string
	for _, host := range status.Absent {
		away = append(away, fmt.Sprintf("%s (last seen %s)", host.Host, p.when(host.Seen)))
	}
	if len(away) > 0 {
		_, _ = fmt.Fprintf(w, "away: %s\n", strings.Join(away, ", "))
	}
	for _, detail := range status.Running {
		p.writeRunning(w, detail)
	}
	if len(status.Jobs) == 0 {
		_, _ = fmt.Fprintln(w, "no job is submitted: submit one with: zctl submit -f FILE")
		return
	}
	_, _ = fmt.Fprintln(w)
	var rows [][]string
	for _, job := range status.Jobs {
		row := []string{job.Job.Name, string(job.Job.Source.Host), "never run", "", ""}
		if last := job.Last; last != nil {
			row[2], row[3] = string(last.State), p.when(last.Started)
			if last.State.Final() {
				row[4] = fmt.Sprintf("%d replicated, %d failed, %d up to date", last.Done, last.Failed, last.UpToDate)
			}
		}
		rows = append(rows, row)
	}
	table.Write(w, []string{"JOB", "SOURCE", "LAST PLAN", "STARTED", "FILESYSTEMS"}, rows)
}

// hostNames are the hosts, with their number of workers where that is more than one, and with how many of them are draining.
func hostNames(present []protocol.Presence) string {
	counts, draining := map[protocol.Host]int{}, map[protocol.Host]int{}
	for _, presence := range present {
		counts[presence.Host]++
		if presence.Draining {
			draining[presence.Host]++
		}
	}
	var names []string
	for host, count := range counts {
		var notes []string
		if count > 1 {
			notes = append(notes, strconv.Itoa(count))
		}
		switch n := draining[host]; {
		case n == count:
			notes = append(notes, "draining")
		case n > 0:
			notes = append(notes, strconv.Itoa(n)+" draining")
		}
		name := string(host)
		if len(notes) > 0 {
			name += " (" + strings.Join(notes, ", ") + ")"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (p *program) writeRunning(w io.Writer, detail fleet.PlanDetail) {
	plan := detail.Plan
	states := map[protocol.TaskState]int{}
	for _, task := range detail.Tasks {
		states[task.State]++
	}
	_, _ = fmt.Fprintf(w, "plan %s of job %s: %s since %s", plan.ID, plan.Job, plan.State, p.when(plan.Started))
	if plan.Waiting != "" {
		_, _ = fmt.Fprintf(w, ", waiting: %s", plan.Waiting)
	}
	for _, state := range []protocol.TaskState{
		protocol.TaskSending, protocol.TaskOffering, protocol.TaskReady, protocol.TaskWaiting, protocol.TaskBackoff, protocol.TaskDone,
		protocol.TaskFailed, protocol.TaskConflict, protocol.TaskCancelled,
	} {
		if states[state] > 0 {
			_, _ = fmt.Fprintf(w, ", %d %s", states[state], state)
		}
	}
	_, _ = fmt.Fprintln(w)
	for _, line := range waitedFor(detail.Tasks) {
		_, _ = fmt.Fprintf(w, "  %s\n", line)
	}
}

// waitedFor says what tasks wait for, and how many of them.
func waitedFor(tasks []protocol.Task) []string {
	counts := map[string]int{}
	for _, task := range tasks {
		if task.Waiting != "" && !task.State.Final() {
			counts[task.Waiting]++
		}
	}
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		lines = append(lines, progress.Count(counts[what], "filesystem")+" "+what)
	}
	return lines
}
