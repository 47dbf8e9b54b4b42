// zctl coordinator: turns jobs into plans and plans into work items.

package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (p *program) coordinatorCommand() *cobra.Command {
	var flags daemonFlags
	var replicas int
	command := &cobra.Command{
		Use:     "coordinator",
		GroupID: groupRoles,
		Short:   "Coordinate the fleet: turn jobs into plans, and plans into work for the hosts",
		Long: `Coordinator makes the fleet's streams and buckets where they are missing, and coordinates. Any
number may run: one leads, and another takes over when it dies, or at once when it is told to stop.
It needs no ZFS.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			file, err := p.hostFile(flags)
			if err != nil {
				return err
			}
			if replicas != 0 {
				file.Coordinator.Replicas = replicas
			}
			if err := file.Validate(); err != nil {
				return err
			}
			return p.runDaemon(command.Context(), "coordinator", file, func(asked, _ context.Context, d *daemon) error {
				conn, js, err := d.connect(asked, "coordinator")
				if err != nil {
					return err
				}
				defer conn.Close()
				resources, err := d.ensureResources(asked, js)
				if err != nil {
					return err
				}
				stops := context.AfterFunc(asked, func() { d.supervisor.stops("gives up the lease", extendBy) })
				defer stops()
				d.supervisor.ready()
				return d.runCoordinator(asked, conn, resources)
			})
		},
	}
	command.Flags().IntVar(&replicas, "replicas", 0, "how many NATS servers keep each stream: 1, 3 or 5 (default: as it is, 1 for new ones)")
	flags.add(command)
	flags.connection.add(command)
	return command
}
