// zctl hosts: the workers that are there.

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) hostsCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	command := &cobra.Command{
		Use:     "hosts",
		GroupID: groupLook,
		Short:   "List the hosts: workers that are there, with pools and addresses, and hosts that are away",
		Long: `Hosts lists the workers that are there, with their hosts' pools and data addresses. A worker that is
draining takes no more steps, and ends when those under way have ended. A host is away when none of
its workers is there; it is listed for 30 days after it was last seen.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, s, err := p.open(command.Context(), "hosts", connection)
			if err != nil {
				return err
			}
			defer s.close()
			present, err := s.Hosts(ctx)
			if present == nil {
				return err
			}
			absent, absentError := s.AbsentHosts(ctx)
			hosts := hostRows(present, absent)
			return printed(p.print(output, hosts, func(w io.Writer) { p.writeHosts(w, hosts) }), errors.Join(err, absentError))
		},
	}
	connection.add(command)
	output.add(command)
	return command
}

// hostRow is a worker that is there, or a host of which none is.
type hostRow struct {
	protocol.Presence
	// Away says that no worker of the host is there. Host and Seen are then all that is known.
	Away bool `json:"away,omitempty"`
}

func hostRows(present []protocol.Presence, absent []fleet.AbsentHost) []hostRow {
	rows := make([]hostRow, 0, len(present)+len(absent))
	for _, presence := range present {
		rows = append(rows, hostRow{Presence: presence})
	}
	for _, host := range absent {
		rows = append(rows, hostRow{Presence: protocol.Presence{Host: host.Host, Seen: host.Seen}, Away: true})
	}
	return rows
}

func (h hostRow) state() string {
	switch {
	case h.Away:
		return "away"
	case h.Draining:
		return "draining"
	}
	return "here"
}

func (p *program) writeHosts(w io.Writer, hosts []hostRow) {
	var rows [][]string
	for _, host := range hosts {
		if host.Away {
			rows = append(rows, []string{string(host.Host), host.state(), "", "", "", "", "", "", "", p.when(host.Seen)})
			continue
		}
		var pools []string
		for _, pool := range host.Pools {
			text := fmt.Sprintf("%s (%s free of %s)", pool.Name, progress.Bytes(pool.Free), progress.Bytes(pool.Size))
			if pool.Health != "ONLINE" {
				text += " " + pool.Health
			}
			if pool.ReadOnly {
				text += " read-only"
			}
			pools = append(pools, text)
		}
		encryption := "off"
		if host.TLS {
			encryption = "on"
		}
		rows = append(rows, []string{
			string(host.Host), host.state(), host.Worker, host.ZFS, strings.Join(pools, ", "), strings.Join(host.Addresses, " "), encryption,
			fmt.Sprintf("%d/%d", host.SendSlots, host.RecvSlots), host.Version, p.when(host.Seen),
		})
	}
	table.Write(w, []string{"HOST", "STATE", "WORKER", "ZFS", "POOLS", "DATA", "TLS", "SEND/RECV", "VERSION", "SEEN"}, rows)
}
