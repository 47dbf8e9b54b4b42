// zctl coordinator: turns jobs into plans and plans into work items.

package main

import (
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
number may run: one leads, and another takes over when it dies. It needs no ZFS.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx := command.Context()
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
			d, err := p.startDaemon(ctx, "coordinator", file)
			if err != nil {
				return err
			}
			defer d.stop()
			conn, js, err := d.connect(ctx, "coordinator")
			if err != nil {
				return ended(ctx, err)
			}
			defer conn.Close()
			resources, err := d.ensureResources(ctx, js)
			if err != nil {
				return ended(ctx, err)
			}
			return ended(ctx, d.runCoordinator(ctx, conn, resources))
		},
	}
	command.Flags().IntVar(&replicas, "replicas", 0, "how many NATS servers keep each stream: 1, 3 or 5 (default: as it is, 1 for new ones)")
	flags.add(command)
	flags.connection.add(command)
	return command
}
