// zctl jobs: the submitted jobs.

package main

import (
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) jobsCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	command := &cobra.Command{
		Use:     "jobs [JOB]",
		GroupID: groupLook,
		Short:   "List the submitted jobs; with -o yaml, all of what they say",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			ctx, s, err := p.open(command.Context(), "jobs", connection)
			if err != nil {
				return err
			}
			defer s.close()
			if len(args) == 1 {
				job, err := s.Job(ctx, args[0])
				if err != nil {
					return err
				}
				// The job itself and no list of one, so that "zctl submit -f" takes it back.
				return p.print(output, job, func(w io.Writer) { writeJobs(w, []protocol.Job{job}) })
			}
			jobs, err := s.Jobs(ctx)
			if jobs == nil {
				return err
			}
			return printed(p.print(output, jobs, func(w io.Writer) { writeJobs(w, jobs) }), err)
		},
	}
	connection.add(command)
	output.add(command)
	return command
}

func writeJobs(w io.Writer, jobs []protocol.Job) {
	var rows [][]string
	for _, job := range jobs {
		var targets []string
		for _, target := range job.Targets {
			targets = append(targets, string(target.Host)+":"+target.Root)
		}
		rows = append(rows, []string{job.Name, string(job.Source.Host), filterText(job.Source.Filesystems), strings.Join(targets, " ")})
	}
	table.Write(w, []string{"JOB", "SOURCE", "FILESYSTEMS", "TARGETS"}, rows)
}

// filterText is a filter in one line; what is left out has a "!".
func filterText(filter protocol.Filter) string {
	var parts []string
	for _, pattern := range slices.Sorted(maps.Keys(filter)) {
		if !filter[pattern] {
			pattern = "!" + pattern
		}
		parts = append(parts, pattern)
	}
	return strings.Join(parts, " ")
}
