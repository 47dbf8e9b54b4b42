// zctl worker: sends and receives for one host.

package main

import (
	"context"

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
asks. Several may run on one host. It needs OpenZFS, and root or delegated permissions.

On the first SIGTERM or Ctrl-C it takes no more steps, and ends when those under way have ended, at the
latest after worker.grace (1m). Steps that have not ended by then, or at the second signal, are stopped
and resumed by another worker, or by this one when it runs again.`,
		Example: `  zctl worker --config /etc/zfleet/host.yaml
  zctl worker --host alpha --nats nats://10.0.0.1:4222 --allow-send 'tank<' --allow-recv backup`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			file, err := p.hostFile(flags)
			if err != nil {
				return err
			}
			work.apply(&file)
			if err := file.Validate(); err != nil {
				return err
			}
			return p.runDaemon(command.Context(), "worker", file, func(asked, working context.Context, d *daemon) error {
				conn, js, err := d.connect(asked, "worker")
				if err != nil {
					return err
				}
				defer conn.Close()
				resources, err := d.awaitResources(asked, js)
				if err != nil {
					return err
				}
				return d.runWorker(asked, working, conn, resources, p.runner(file.Host))
			})
		},
	}
	flags.add(command)
	work.add(command)
	flags.connection.add(command)
	return command
}
