// zctl hosts: the workers that are there.

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) hostsCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	command := &cobra.Command{
		Use:     "hosts",
		GroupID: groupLook,
		Short:   "List the hosts whose workers are there, with their pools and addresses",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, s, err := p.open(command.Context(), "hosts", connection)
			if err != nil {
				return err
			}
			defer s.close()
			hosts, err := s.Hosts(ctx)
			if hosts == nil {
				return err
			}
			return printed(p.print(output, hosts, func(w io.Writer) { p.writeHosts(w, hosts) }), err)
		},
	}
	connection.add(command)
	output.add(command)
	return command
}

func (p *program) writeHosts(w io.Writer, hosts []protocol.Presence) {
	var rows [][]string
	for _, host := range hosts {
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
			string(host.Host), host.Worker, host.ZFS, strings.Join(pools, ", "), strings.Join(host.Addresses, " "), encryption,
			fmt.Sprintf("%d/%d", host.SendSlots, host.RecvSlots), host.Version, p.when(host.Seen),
		})
	}
	table.Write(w, []string{"HOST", "WORKER", "ZFS", "POOLS", "DATA", "TLS", "SEND/RECV", "VERSION", "SEEN"}, rows)
}
