// Following: showing a plan while it runs, and what its end means to the caller.

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// followFlags say how long a plan is followed.
type followFlags struct{ timeout, patience time.Duration }

func (f *followFlags) add(command *cobra.Command) {
	command.Flags().DurationVar(&f.timeout, "timeout", 0, "with --wait: stop waiting after this time; the plan goes on (0: wait until it ends)")
	command.Flags().DurationVar(&f.patience, "patience", 2*time.Minute,
		"with --wait: how long to go on while no coordinator runs or NATS cannot be reached")
}

// follow shows the plan until it ends. The error says how it ended.
func (p *program) follow(ctx context.Context, s *session, id protocol.PlanID, format outputFormat, flags followFlags) error {
	ctx, cancel := flags.bound(ctx)
	defer cancel()
	last, err := progress.Follow(s.Watch(ctx, id, fleet.WatchOptions{Patience: flags.patience}), p.display(format))
	if err != nil {
		return stoppedFollowing(err, id)
	}
	return verdict(last)
}

func (f followFlags) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, f.timeout, protocol.Failf(protocol.Transient, "it took longer than %s", f.timeout))
}

func stoppedFollowing(err error, id protocol.PlanID) error {
	if protocol.KindOf(err, protocol.Permanent) != protocol.Cancelled {
		return err
	}
	return protocol.Failf(protocol.Cancelled, "%w; follow it again with: zctl plans %s --wait, or stop it with: zctl cancel %s", err, id, id)
}

// display is the display that fits the format and the output.
func (p *program) display(format outputFormat) progress.Display {
	switch format {
	case outputJSON:
		return progress.NewJSONLines(p.out)
	case outputYAML:
		return progress.NewRecords(func(record progress.Record) error { return writeYAMLDocument(p.out, record) })
	case outputTable:
	}
	if p.isTerminal(p.out) {
		return progress.NewLive(p.out, p.environ)
	}
	return progress.NewLines(p.out, 10*time.Second)
}

func writeYAMLDocument(w io.Writer, value any) error {
	text, err := toYAML(value)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "---\n%s", text)
	return err
}

// verdict is what the end of a plan means: nil when all went well, and otherwise the exit code.
func verdict(last fleet.Snapshot) error {
	switch last.Plan.State {
	case protocol.PlanDone:
		return nil
	case protocol.PlanPartial:
		return &outcome{exitPartial}
	case protocol.PlanPlanned:
		conflicts := last.Count(protocol.TaskConflict, protocol.TaskFailed)
		switch {
		case conflicts == 0:
			return nil
		case conflicts < len(last.Tasks):
			return &outcome{exitPartial}
		}
	case protocol.PlanFailed, protocol.PlanCancelled, protocol.PlanPlanning, protocol.PlanRunning:
	}
	return &outcome{exitFailed}
}
