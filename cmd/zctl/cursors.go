// zctl cursors: how far each filesystem has been replicated.

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) cursorsCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	command := &cobra.Command{
		Use:     "cursors [JOB]",
		GroupID: groupLook,
		Short:   "List what the targets have confirmed, by job, target and filesystem",
		Long: `Cursors lists, for each filesystem and target, the last snapshot that the target has confirmed.
It is the fleet's view; the authority is the bookmark on the source ("zctl abstractions list").`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			job := ""
			if len(args) == 1 {
				job = args[0]
			}
			ctx, s, err := p.open(command.Context(), "cursors", connection)
			if err != nil {
				return err
			}
			defer s.close()
			cursors, err := s.Cursors(ctx, job)
			if cursors == nil {
				return err
			}
			return printed(p.print(output, cursors, func(w io.Writer) { p.writeCursors(w, cursors) }), err)
		},
	}
	connection.add(command)
	output.add(command)
	return command
}

func (p *program) writeCursors(w io.Writer, cursors []protocol.Cursor) {
	var rows [][]string
	for _, cursor := range cursors {
		rows = append(rows, []string{
			cursor.Job, string(cursor.Target), cursor.Filesystem, cursor.Version.Rel(), fmt.Sprintf("%016x", cursor.Version.GUID),
			p.when(cursor.At), string(cursor.Plan),
		})
	}
	table.Write(w, []string{"JOB", "TARGET", "FILESYSTEM", "SNAPSHOT", "GUID", "CONFIRMED", "PLAN"}, rows)
}
