// Daemons: what server, coordinator and worker share – the host file, logs, traces, and the connection.

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"

	"github.com/zfleet/zfleet/cmd/zctl/hostfile"
	"github.com/zfleet/zfleet/coordinator"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/telemetry"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/worker/transport/tcp"
	"github.com/zfleet/zfleet/zfs"
)

// daemonFlags are the flags of all daemons. What is given wins over the host file.
type daemonFlags struct {
	config     string
	host       string
	logLevel   string
	logFormat  string
	connection connectionFlags
}

func (f *daemonFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVarP(&f.config, "config", "c", "", "host file (docs/configuration.md)")
	flags.StringVar(&f.host, "host", "", "name of this host in the fleet (default: the machine's name up to the first dot)")
	flags.StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (default info)")
	flags.StringVar(&f.logFormat, "log-format", "", "human or json (default human)")
}

// workerFlags are the flags of the daemons that hold a worker.
type workerFlags struct {
	allowSend []string
	allowRecv []string
	listen    string
	advertise []string
	tls       string
	sendSlots int
	recvSlots int
	runDir    string
}

func (f *workerFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringArrayVar(&f.allowSend, "allow-send", nil,
		`filesystem that may be sent, with "<" at the end for all below it too, "!" before it to forbid; may be repeated`)
	flags.StringArrayVar(&f.allowRecv, "allow-recv", nil, "filesystem that may be received into, at it and below; may be repeated")
	flags.StringVar(&f.listen, "listen", "", "address of the data port (default :8410)")
	flags.StringArrayVar(&f.advertise, "advertise", nil, "address that senders are told (default: the machine's own); may be repeated")
	flags.StringVar(&f.tls, "tls", "", "required, or off on a network that you trust (default required)")
	flags.IntVar(&f.sendSlots, "send-slots", 0, "how many steps are sent at once (default 4)")
	flags.IntVar(&f.recvSlots, "recv-slots", 0, "how many steps are received at once (default 4)")
	flags.StringVar(&f.runDir, "run-dir", "", "directory that all workers of this host share (default /run/zfleet)")
}

func (f *workerFlags) apply(file *hostfile.File) {
	for _, pattern := range f.allowSend {
		if file.Worker.Allow.Send == nil {
			file.Worker.Allow.Send = protocol.Filter{}
		}
		pattern, forbidden := strings.CutPrefix(pattern, "!")
		file.Worker.Allow.Send[pattern] = !forbidden
	}
	for _, root := range f.allowRecv {
		file.Worker.Allow.Recv = append(file.Worker.Allow.Recv, worker.RecvRule{Root: root})
	}
	if f.listen != "" {
		file.Worker.Data.Listen = f.listen
	}
	if len(f.advertise) > 0 {
		file.Worker.Data.Advertise = f.advertise
	}
	if f.tls != "" {
		file.Worker.Data.TLS = hostfile.TLS(f.tls)
	}
	if f.sendSlots != 0 {
		file.Worker.Slots.Send = f.sendSlots
	}
	if f.recvSlots != 0 {
		file.Worker.Slots.Recv = f.recvSlots
	}
	if f.runDir != "" {
		file.Worker.RunDir = f.runDir
	}
}

// hostFile reads the host file, if there is one, and applies flags and environment. The caller validates it.
func (p *program) hostFile(flags daemonFlags) (hostfile.File, error) {
	file := hostfile.Default()
	if flags.config != "" {
		var err error
		if file, err = hostfile.Read(flags.config); err != nil {
			return file, err
		}
	}
	if flags.host != "" {
		file.Host = protocol.Host(flags.host)
	}
	if file.Host == "" {
		name, err := p.hostname()
		if err != nil {
			return file, protocol.Usagef("name this host with --host: %w", err)
		}
		short, _, _ := strings.Cut(strings.ToLower(name), ".")
		file.Host = protocol.Host(short)
	}
	if flags.logLevel != "" {
		file.Telemetry.Logs.Level = flags.logLevel
	}
	if flags.logFormat != "" {
		file.Telemetry.Logs.Format = flags.logFormat
	}
	connection := flags.connection.resolve(p.getenv)
	if connection.url != "" {
		file.NATS.URL = connection.url
	}
	if connection.context != "" {
		file.NATS.Context = connection.context
	}
	if connection.creds != "" {
		file.NATS.Creds = connection.creds
	}
	if connection.nkey != "" {
		file.NATS.NKey = connection.nkey
	}
	if connection.domain != "" {
		file.NATS.Domain = connection.domain
	}
	return file, nil
}

// daemon is a running daemon's surroundings.
type daemon struct {
	file       hostfile.File
	name       string
	logger     *slog.Logger
	tracing    *telemetry.Tracing
	supervisor *supervisor
}

// runDaemon runs a daemon with logs, traces and a supervisor; the host file is valid. run is given two contexts: asked ends when
// the process is asked to stop, and working when what it still does has to end too. Being asked to stop is no failure.
func (p *program) runDaemon(
	asked context.Context, role string, file hostfile.File, run func(asked, working context.Context, d *daemon) error,
) error {
	file.Telemetry.Logs.Color = p.isTerminal(p.errOut) && p.getenv("NO_COLOR") == ""
	logger, err := telemetry.NewLogger(p.errOut, file.Telemetry.Logs)
	if err != nil {
		return err
	}
	tracing, err := telemetry.StartTracing(asked, telemetry.TraceOptions{
		Role: role, Host: file.Host, Version: programVersion().Version, Getenv: p.getenv,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err := tracing.Shutdown(5 * time.Second); err != nil {
			logger.WarnContext(asked, "some spans are lost", "error", err)
		}
	}()
	// OpenTelemetry knows no other way to tell that spans cannot be sent.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.WarnContext(asked, "traces cannot be sent; check OTEL_EXPORTER_OTLP_ENDPOINT", "error", err)
	}))
	working, release := p.untilStopped(asked, file.Worker.Grace.Std())
	defer release()
	supervisor := supervise(asked, logger)
	defer supervisor.end()
	name := fmt.Sprintf("%s-%d-%s", file.Host, os.Getpid(), strings.ToLower(rand.Text()[:4]))
	err = run(asked, working, &daemon{file: file, name: name, logger: logger, tracing: tracing, supervisor: supervisor})
	if asked.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// connect connects to the fleet's NATS, for as long as it takes.
func (d *daemon) connect(ctx context.Context, role string) (*nats.Conn, jetstream.JetStream, error) {
	options := connectOptions(d.file, role, -1, d.logger)
	d.supervisor.awaits("waits for " + options.Where())
	conn, js, err := protocol.Connect(ctx, options)
	if err != nil {
		return nil, nil, err
	}
	d.supervisor.add(part{lastTurn: func() time.Time { return time.Time{} }, doing: func() string {
		if conn.IsConnected() {
			return ""
		}
		return "waits for " + options.Where()
	}})
	return conn, js, nil
}

// connectOptions say how the host reaches NATS, or the server that it runs itself.
func connectOptions(file hostfile.File, role string, wait time.Duration, logger *slog.Logger) protocol.ConnectOptions {
	settings := file.NATS
	options := protocol.ConnectOptions{
		URL: settings.URL, Context: settings.Context, Creds: settings.Creds, NKey: settings.NKey,
		CA: settings.CA, Cert: settings.Cert, Key: settings.Key, Domain: settings.Domain,
		Name: "zctl " + role + " " + string(file.Host), Logger: logger, Wait: wait,
	}
	if settings.Embedded != nil && options.URL == "" {
		options.URL = "nats://" + settings.Embedded.Listen
	}
	return options
}

const setupTimeout = time.Minute

// ensureResources makes sure that the fleet's streams and buckets are there, and are as the host file says.
func (d *daemon) ensureResources(ctx context.Context, js jetstream.JetStream) (*protocol.Resources, error) {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	return protocol.EnsureResources(ctx, js, resourceOptions(d.file.Coordinator))
}

func resourceOptions(settings hostfile.Coordinator) protocol.ResourceOptions {
	storage := jetstream.FileStorage
	if settings.Streams.Storage == hostfile.StorageMemory {
		storage = jetstream.MemoryStorage
	}
	return protocol.ResourceOptions{
		Replicas: settings.Replicas, StreamsMaxBytes: int64(settings.Streams.MaxBytes), StreamsStorage: storage, //nolint:gosec // validated
	}
}

// awaitResources waits until a coordinator has made the fleet's streams and buckets.
func (d *daemon) awaitResources(ctx context.Context, js jetstream.JetStream) (*protocol.Resources, error) {
	told := ""
	for {
		resources, err := openResources(ctx, js)
		if err == nil {
			return resources, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var missing *protocol.MissingResources
		if !errors.As(err, &missing) && protocol.KindOf(err, protocol.Permanent) != protocol.Transient {
			return nil, err
		}
		if err.Error() != told {
			told = err.Error()
			d.supervisor.awaits("waits until the fleet is there: " + told)
			d.logger.WarnContext(ctx, "waiting until the fleet is there", "reason", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

// runCoordinator coordinates until ctx ends.
func (d *daemon) runCoordinator(ctx context.Context, conn *nats.Conn, resources *protocol.Resources) error {
	c := coordinator.New(coordinator.Config{
		Name: d.name, Host: string(d.file.Host), Conn: conn, Resources: resources,
		Logger: d.logger, TracerProvider: d.tracing.Provider(),
	})
	d.supervisor.add(part{doing: func() string { return leading(c.Leads()) }, lastTurn: c.LastTurn})
	return c.Run(ctx)
}

func leading(since time.Time, leads bool) string {
	if !leads {
		return "asks for the lease"
	}
	return "leads since " + since.Format(time.RFC3339)
}

// runWorker works for the host. Once asked ends, it takes no more items, and ends when its steps have ended, or working has.
func (d *daemon) runWorker(asked, working context.Context, conn *nats.Conn, resources *protocol.Resources, runner zfs.Runner) error {
	settings := d.file.Worker
	if len(settings.Allow.Send) == 0 && len(settings.Allow.Recv) == 0 {
		d.logger.WarnContext(asked, "this host's policy allows nothing: set worker.allow in the host file, or use --allow-send and --allow-recv")
	}
	w, err := worker.New(worker.Config{
		Host: d.file.Host, Name: d.name, Version: programVersion().Version, Conn: conn, Resources: resources,
		ZFS:   zfs.New(zfs.Observe(runner, d.logger, d.tracing.Provider())),
		Slots: worker.Slots{Send: settings.Slots.Send, Recv: settings.Slots.Recv},
		Data: tcp.Config{
			Listen: settings.Data.Listen, Advertise: settings.Data.Advertise, TLS: settings.Data.TLS == hostfile.TLSRequired, Logger: d.logger,
		},
		Policy:             settings.Allow,
		Bandwidth:          worker.Bandwidth{Send: settings.BandwidthLimit.Send, Recv: settings.BandwidthLimit.Recv},
		CompressionThreads: settings.Compression.Threads,
		ClaimsDir:          settings.RunDir,
		MaxDeliveries:      settings.MaxDeliveries,
		Logger:             d.logger, TracerProvider: d.tracing.Provider(),
	})
	if err != nil {
		return err
	}
	d.supervisor.add(part{doing: func() string { return steps(w.Steps()) }, lastTurn: w.LastTurn})
	over := make(chan struct{})
	var announcing sync.WaitGroup
	announcing.Go(func() {
		select {
		case <-w.Serving():
			d.supervisor.ready()
		case <-over:
		}
	})
	defer announcing.Wait()
	defer close(over)
	drained := context.AfterFunc(asked, func() { d.drain(asked, w) })
	defer drained()
	err = w.Run(working)
	if asked.Err() != nil && working.Err() != nil {
		d.logger.WarnContext(asked, "steps were stopped and given back; they are resumed", slog.Any("reason", context.Cause(working)))
	}
	return err
}

// drain lets the worker finish its steps.
func (d *daemon) drain(ctx context.Context, w *worker.Worker) {
	grace := d.file.Worker.Grace.Std()
	d.supervisor.stops("stops", grace+extendBy)
	sending, receiving := w.Steps()
	if sending+receiving > 0 && grace > 0 {
		d.logger.InfoContext(ctx, "asked to stop: no more steps are taken, and those under way are waited for; signal again to stop at once",
			slog.Int("sending", sending), slog.Int("receiving", receiving), slog.Duration("at_most", grace))
	}
	w.Drain()
}

func steps(sending, receiving int) string {
	switch {
	case sending > 0 && receiving > 0:
		return fmt.Sprintf("%d sending, %d receiving", sending, receiving)
	case sending > 0:
		return fmt.Sprintf("%d sending", sending)
	case receiving > 0:
		return fmt.Sprintf("%d receiving", receiving)
	}
	return "no steps under way"
}
