// zctl demo: a whole replication in one process.

package main

import (
	"log/slog"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/demo"
	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/telemetry"
)

// demoPace is how fast the demo's pools in memory send, in bytes per second: slow enough to be seen.
const demoPace = 24 << 20

func (p *program) demoCommand() *cobra.Command {
	var filePools, logs bool
	command := &cobra.Command{
		Use:   "demo",
		Short: "See a whole replication in this process: nothing needs to be installed, nothing is left behind",
		Long: `Demo runs a NATS server, a coordinator and the workers of two hosts in this process, with pools in
memory. It replicates a few filesystems and a volume, first everything, then what has changed; kills a
worker in the middle of a transfer and lets another resume it; compares both sides; and shows the
cursors and the trace. With --real it does the same on two pools in files, which needs root and ZFS.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			options := demo.Options{
				Out: p.out, Real: filePools, Pace: demoPace, Logger: slog.New(slog.DiscardHandler),
				Display: func() progress.Display { return progress.NewLines(p.out, time.Second) },
			}
			if filePools {
				options.Pace = 0
				options.Display = func() progress.Display { return progress.NewLines(p.out, 10*time.Second) }
			}
			if p.isTerminal(p.out) {
				options.Display = func() progress.Display { return progress.NewLive(p.out, p.environ) }
				options.Heading = func(text string) string { return lipgloss.NewStyle().Bold(true).Render(text) }
			}
			if logs {
				logger, err := telemetry.NewLogger(p.errOut, telemetry.LogOptions{Level: "debug", Color: p.isTerminal(p.errOut)})
				if err != nil {
					return err
				}
				options.Logger = logger
			}
			return demo.Run(command.Context(), options)
		},
	}
	command.Flags().BoolVar(&filePools, "real", false, "play on two real pools in files; needs root and OpenZFS")
	command.Flags().BoolVar(&logs, "logs", false, "write the logs of all processes to standard error")
	return command
}
