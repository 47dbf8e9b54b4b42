// zctl run: a plan of a submitted job.

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/protocol"
)

// requestedPlan is the result of zctl run.
type requestedPlan struct {
	Plan protocol.PlanID `json:"plan"`
	Job  string          `json:"job"`
}

func (p *program) runCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var following followFlags
	var wait bool
	command := &cobra.Command{
		Use:     "run JOB [--wait]",
		GroupID: groupReplicate,
		Short:   "Run a submitted job now",
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			ctx, s, err := p.open(command.Context(), "run", connection)
			if err != nil {
				return err
			}
			defer s.close()
			id, err := s.Run(ctx, args[0])
			if err != nil {
				return err
			}
			if wait {
				return p.follow(ctx, s, id, output, following)
			}
			return p.print(output, requestedPlan{Plan: id, Job: args[0]}, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "plan %s of job %s is requested; follow it with: zctl plans %s --wait\n", id, args[0], id)
			})
		},
	}
	command.Flags().BoolVar(&wait, "wait", false, "show progress and wait until the plan is done")
	following.add(command)
	connection.add(command)
	output.add(command)
	return command
}
