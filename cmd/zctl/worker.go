// zctl worker: sends and receives for one host.

package main

import (
	"github.com/spf13/cobra"
)

func (p *program) workerCommand() *cobra.Command {
	var flags daemonFlags
	var work workerFlags
	command := &cobra.Command{
		Use:     "worker",
		GroupID: groupRoles,
		Short:   "Work for this host: send and receive its filesystems, within its own policy",
		Long: `Worker claims the steps that are for this host and sends and receives. It does nothing that its
own policy (worker.allow in the host file, or --allow-send and --allow-recv) does not allow, whoever
asks. Several may run on one host. It needs OpenZFS, and root or delegated permissions.`,
		Example: `  zctl worker --config /etc/zfleet/host.yaml
  zctl worker --host alpha --nats nats://10.0.0.1:4222 --allow-send 'tank<' --allow-recv backup`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx := command.Context()
			file, err := p.hostFile(flags)
			if err != nil {
				return err
			}
			work.apply(&file)
			if err := file.Validate(); err != nil {
				return err
			}
			d, err := p.startDaemon(ctx, "worker", file)
			if err != nil {
				return err
			}
			defer d.stop()
			conn, js, err := d.connect(ctx, "worker")
			if err != nil {
				return ended(ctx, err)
			}
			defer conn.Close()
			resources, err := d.awaitResources(ctx, js)
			if err != nil {
				return ended(ctx, err)
			}
			return ended(ctx, d.runWorker(ctx, conn, resources, p.runner(file.Host)))
		},
	}
	flags.add(command)
	work.add(command)
	flags.connection.add(command)
	return command
}
