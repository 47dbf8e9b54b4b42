// zctl nats-config: the configuration of the fleet's NATS servers, and the keys of all who connect to them.

package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet/natsconfig"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) natsConfigCommand() *cobra.Command {
	var output outputFormat
	var file, dir string
	command := &cobra.Command{
		Use:     "nats-config -f FLEETFILE [--dir DIR]",
		GroupID: groupRoles,
		Short:   "Write configurations of NATS servers in which each role may do what it needs and nothing else",
		Long: `Nats-config reads a fleet file, which says who is in the fleet and where its NATS servers are
(docs/configuration.md), and writes below the directory: a configuration for each server, with an
account for the fleet and a user with permissions for each host, coordinator and operator; and for
each user a file with its seed. Nothing is sent anywhere. docs/security.md says what to put where.

Seeds that are there are kept, and never shown. Run it again after a change of the fleet file: only
what follows from the change is written.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if file == "" {
				return protocol.Usagef("name the fleet file with -f; docs/configuration.md has an example")
			}
			fleet, err := natsconfig.Read(file)
			if err != nil {
				return err
			}
			result, err := natsconfig.Generate(fleet, dir)
			if err != nil {
				return err
			}
			return p.print(output, result, func(w io.Writer) { writeNATSConfig(w, dir, result) })
		},
	}
	command.Flags().StringVarP(&file, "file", "f", "", "fleet file")
	command.Flags().StringVar(&dir, "dir", "nats", "directory to write to; it is made where it is not there")
	output.add(command)
	return command
}

func writeNATSConfig(w io.Writer, dir string, result natsconfig.Result) {
	var rows [][]string
	for _, file := range result.Files {
		who := "public"
		if file.Private {
			who = "private"
		}
		rows = append(rows, []string{string(file.Change), filepath.Join(dir, file.Path), who, file.For})
	}
	table.Write(w, []string{"CHANGE", "FILE", "ACCESS", "WHAT IT IS"}, rows)
	rows = nil
	for _, user := range result.Users {
		rows = append(rows, []string{string(user.Role), user.Name, user.URL, user.Domain, user.Key})
	}
	_, _ = fmt.Fprintln(w)
	table.Write(w, []string{"ROLE", "NAME", "NATS", "DOMAIN", "PUBLIC KEY"}, rows)
	_, _ = fmt.Fprintf(w, `
Put each server's .conf, accounts.conf and, in a cluster, cluster.conf on that server, and each seed where it is
used: nats.nkey in host files, --nkey or a context for operators. Coordinators: replicas: %d.
`, result.Replicas)
}
