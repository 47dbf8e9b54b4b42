// zctl migrate: bringing what older formats left on disk up to date.

package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/protocol"
)

func (p *program) migrateCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "migrate",
		GroupID: groupReplicate,
		Short:   "Bring what older formats left on disk up to date",
		Args:    cobra.NoArgs,
		RunE:    func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	group.AddCommand(p.migrateCursorsCommand())
	return group
}

func (p *program) migrateCursorsCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var flags ownerFlags
	var dryRun bool
	command := &cobra.Command{
		Use:   "replication-cursor:v1-v2 [--host HOST] (--job JOB | --job-id ID)",
		Short: "Destroy replication cursors of v1 that cursors of v2 have superseded",
		Long: `Old versions of zrepl kept one replication cursor for each filesystem, #zrepl_replication_cursor,
which belonged to no job. This destroys it wherever each JobID has a cursor of its own, of the same
or a newer version, and keeps it elsewhere: there, run the job once, and migrate again.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			owner, err := flags.parse(nil)
			if err != nil {
				return err
			}
			switch {
			case owner.job == "" && len(owner.ids) == 0:
				return protocol.Usagef("say whose cursors they were, with --job or --job-id")
			case owner.job == "" && len(owner.hosts) == 0:
				return protocol.Usagef("say on which host the source's filesystems are, with --host")
			}
			ctx, s, err := p.open(command.Context(), "migrate", connection)
			if err != nil {
				return err
			}
			defer s.close()
			if owner.job != "" {
				given := owner.hosts
				job, err := owner.ofJob(ctx, s)
				if err != nil {
					return err
				}
				if owner.hosts = given; len(given) == 0 {
					owner.hosts = []protocol.Host{job.Source.Host}
				}
			}
			results, err := s.Migrate(ctx, protocol.MigrateRequest{
				JobIDs: owner.ids, Roots: owner.roots, Filter: owner.filter, DryRun: dryRun,
			}, owner.hosts...)
			if results == nil {
				results = []protocol.ReleaseResult{}
			}
			printing := p.print(output, results, func(w io.Writer) { writeReleases(w, results, dryRun) })
			return printed(printing, p.releaseVerdict(results, err))
		},
	}
	flags.add(command)
	command.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would go")
	connection.add(command)
	output.add(command)
	return command
}
