// zctl cancel: stopping a plan.

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/protocol"
)

func (p *program) cancelCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var following followFlags
	var wait bool
	command := &cobra.Command{
		Use:     "cancel PLAN [--wait]",
		GroupID: groupReplicate,
		Short:   "Stop a plan; what is half received is kept and resumed by the next run",
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			id := protocol.PlanID(args[0])
			ctx, s, err := p.open(command.Context(), "cancel", connection)
			if err != nil {
				return err
			}
			defer s.close()
			if err := s.Cancel(ctx, id); err != nil {
				return err
			}
			if wait {
				// That the plan ends as cancelled, or was done before the request came, is what was asked for.
				err := p.follow(ctx, s, id, output, following)
				var ended *outcome
				if errors.As(err, &ended) {
					return nil
				}
				return err
			}
			return p.print(output, map[string]any{"plan": id, "cancel": "requested"}, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "plan %s is asked to stop\n", id)
			})
		},
	}
	command.Flags().BoolVar(&wait, "wait", false, "wait until the plan has stopped")
	following.add(command)
	connection.add(command)
	output.add(command)
	return command
}
