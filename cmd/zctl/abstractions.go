// zctl abstractions: the holds and bookmarks that replication keeps on the hosts' disks.

package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) abstractionsCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "abstractions",
		GroupID: groupLook,
		Short:   "Look at the holds and bookmarks that replication keeps on disk",
		Args:    cobra.NoArgs,
		RunE:    func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	group.AddCommand(p.abstractionsListCommand())
	return group
}

func (p *program) abstractionsListCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var request protocol.AbstractionsRequest
	var jobID string
	command := &cobra.Command{
		Use:   "list [HOST...]",
		Short: "List step holds, cursors and last-received holds as they are on disk",
		Long: `List asks the workers of the given hosts, or of all that are there, for the holds and bookmarks
that replication keeps on their pools. The kinds are step-hold, step-bookmark, cursor, cursor-v1,
tentative-cursor and last-received-hold.`,
		RunE: func(command *cobra.Command, args []string) error {
			hosts := make([]protocol.Host, 0, len(args))
			for _, arg := range args {
				host, err := protocol.ParseHost(arg)
				if err != nil {
					return err
				}
				hosts = append(hosts, host)
			}
			if jobID != "" {
				var err error
				if request.JobID, err = protocol.ParseJobID(jobID); err != nil {
					return err
				}
			}
			ctx, s, err := p.open(command.Context(), "abstractions list", connection)
			if err != nil {
				return err
			}
			defer s.close()
			found, err := s.Abstractions(ctx, request, hosts...)
			if found == nil {
				found = []protocol.AbstractionInfo{}
			}
			return printed(p.print(output, found, func(w io.Writer) { writeAbstractions(w, found) }), err)
		},
	}
	command.Flags().StringVar(&jobID, "job-id", "", `only those of this JobID ("<job>.<target host>" unless the job sets it)`)
	command.Flags().StringArrayVar(&request.Kinds, "kind", nil, "only those of this kind; may be repeated")
	command.Flags().StringArrayVar(&request.Roots, "root", nil, "only those at or below this filesystem; may be repeated")
	connection.add(command)
	output.add(command)
	return command
}

func writeAbstractions(w io.Writer, found []protocol.AbstractionInfo) {
	var rows [][]string
	for _, info := range found {
		rows = append(rows, []string{string(info.Host), info.Kind, string(info.JobID), info.Name, info.Tag})
	}
	table.Write(w, []string{"HOST", "KIND", "JOB ID", "NAME", "TAG"}, rows)
}
