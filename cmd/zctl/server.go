// zctl server: a whole fleet's centre in one process – NATS, a coordinator and this host's worker.

package main

import (
	"context"
	"math"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/cmd/zctl/hostfile"
	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/protocol"
)

// The embedded NATS server's settings where neither file nor flags say more.
const (
	defaultStoreDir   = "/var/lib/zfleet/nats"
	defaultNATSListen = "127.0.0.1:4222"
)

func (p *program) serverCommand() *cobra.Command {
	var flags daemonFlags
	var work workerFlags
	var storeDir, natsListen string
	command := &cobra.Command{
		Use:     "server",
		GroupID: groupRoles,
		Short:   "Run NATS, a coordinator and this host's worker in one process",
		Long: `Server is the simplest fleet: a NATS server with its store, a coordinator and this host's worker
in one process. Other hosts join with: zctl worker --nats nats://THIS-HOST:4222

The store outlives the process, so a restarted server goes on where it was. The NATS server asks
its clients for no credentials: give it an address that only trusted machines reach, or run
nats-server with accounts beside zctl coordinator and zctl worker.

When it is told to stop, its worker ends its steps first, as zctl worker does. NATS and the coordinator go
on until then, for the other hosts too.`,
		Example: `  zctl server --config /etc/zfleet/host.yaml
  zctl server --host alpha --store /var/lib/zfleet/nats --nats-listen 10.0.0.1:4222 --allow-send 'tank<'`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			file, err := p.hostFile(flags)
			if err != nil {
				return err
			}
			work.apply(&file)
			if err := embed(&file, storeDir, natsListen); err != nil {
				return err
			}
			if err := file.Validate(); err != nil {
				return err
			}
			return p.runDaemon(command.Context(), "server", file, p.serve)
		},
	}
	command.Flags().StringVar(&storeDir, "store", "", "directory of the NATS server's store (default "+defaultStoreDir+")")
	command.Flags().StringVar(&natsListen, "nats-listen", "", "address of the NATS server (default "+defaultNATSListen+")")
	flags.add(command)
	work.add(command)
	return command
}

// embed settles the embedded server's settings.
func embed(file *hostfile.File, storeDir, listen string) error {
	if file.NATS.URL != "" || file.NATS.Context != "" {
		return protocol.Usagef("zctl server runs its own NATS server, but nats.url, nats.context or ZFLEET_NATS names another:" +
			" leave it out, or use zctl coordinator and zctl worker")
	}
	if file.NATS.Embedded == nil {
		file.NATS.Embedded = &hostfile.Embedded{StoreDir: defaultStoreDir, Listen: defaultNATSListen}
	}
	if storeDir != "" {
		file.NATS.Embedded.StoreDir = storeDir
	}
	if listen != "" {
		file.NATS.Embedded.Listen = listen
	}
	return nil
}

// memoryFor is how much memory the server's JetStream may use, in bytes; 0 is its own default, which is enough where streams
// are kept in files.
func memoryFor(streams hostfile.Streams) int64 {
	const others = 64 << 20
	if streams.Storage != hostfile.StorageMemory {
		return 0
	}
	return int64(min(streams.MaxBytes, math.MaxInt64-others)) + others
}

// serve runs all three until asked ends or one of them fails. They stop in the order in which they need each other: the worker when
// its steps have ended, then the coordinator, then the NATS server.
func (p *program) serve(asked, working context.Context, d *daemon) error {
	d.supervisor.awaits("starts the NATS server")
	server, err := natsserver.Start(asked, natsserver.Options{
		StoreDir: d.file.NATS.Embedded.StoreDir, Listen: d.file.NATS.Embedded.Listen, ServerName: string(d.file.Host),
		MaxMemory: memoryFor(d.file.Coordinator.Streams), Logger: d.logger,
	})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	d.logger.InfoContext(asked, "NATS server runs", "url", server.ClientURL(), "store", d.file.NATS.Embedded.StoreDir)
	conn, js, err := protocol.Connect(asked, protocol.ConnectOptions{
		InProcess: server.InProcess(), Name: "zctl server " + string(d.file.Host), Logger: d.logger,
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	resources, err := d.ensureResources(asked, js)
	if err != nil {
		return err
	}
	coordinating, stopCoordinating := context.WithCancel(context.WithoutCancel(asked))
	defer stopCoordinating()
	group, running := errgroup.WithContext(working)
	defer context.AfterFunc(running, stopCoordinating)() // where one of them has failed, and at the second signal
	if d.file.Coordinator.Enabled {
		group.Go(func() error { return d.runCoordinator(coordinating, conn, resources) })
	}
	group.Go(func() error {
		defer stopCoordinating()
		return d.runWorker(asked, running, conn, resources, p.runner(d.file.Host))
	})
	return group.Wait()
}
