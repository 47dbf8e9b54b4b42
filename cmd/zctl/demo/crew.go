// The crew: the processes of a fleet, in one.

package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/coordinator"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/telemetry"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/worker/transport/tcp"
	"github.com/zfleet/zfleet/zfs"
)

// crew is a NATS server, a coordinator, workers, and the operator's client.
type crew struct {
	client *fleet.Client

	server    *natsserver.Server
	conn      *nats.Conn
	recorder  *telemetry.Recorder
	logger    *slog.Logger
	tracings  []*telemetry.Tracing
	processes map[string]*process
	started   int
	// claims is the workers' directory of claims.
	claims string
	// ackWait is how long a claim outlives a killed worker.
	ackWait time.Duration
}

// streamsQuota is more than the demo's streams need, and less than any disk has.
const streamsQuota = 256 << 20

// process is a coordinator or worker with a connection of its own.
type process struct {
	conn *nats.Conn
	stop context.CancelFunc
	done chan error
}

// startCrew starts everything but the workers. Its processes end with stop, whatever becomes of ctx.
func startCrew(ctx context.Context, dir string, recorder *telemetry.Recorder, logger *slog.Logger, ackWait time.Duration) (_ *crew, err error) {
	c := &crew{recorder: recorder, logger: logger, processes: map[string]*process{}, ackWait: ackWait, claims: filepath.Join(dir, "claims")}
	defer func() {
		if err != nil {
			_ = c.stop() // the first error is the one to tell
		}
	}()
	if c.server, err = natsserver.Start(ctx, natsserver.Options{StoreDir: filepath.Join(dir, "nats"), ServerName: "demo", Logger: logger}); err != nil {
		return nil, err
	}
	var js jetstream.JetStream
	if c.conn, js, err = c.connect(ctx, "operator"); err != nil {
		return nil, err
	}
	resources, err := protocol.EnsureResources(ctx, js, protocol.ResourceOptions{StreamsMaxBytes: streamsQuota})
	if err != nil {
		return nil, err
	}
	c.client = fleet.New(c.conn, resources, fleet.Options{By: "zctl demo"})
	provider, err := c.providerOf(ctx, "coordinator", "")
	if err != nil {
		return nil, err
	}
	err = c.start(ctx, "coordinator", func(ctx context.Context, conn *nats.Conn, resources *protocol.Resources) error {
		return coordinator.New(coordinator.Config{
			Name: "demo", Host: "demo", Conn: conn, Resources: resources, Logger: logger, TracerProvider: provider,
		}).Run(ctx)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *crew) connect(ctx context.Context, name string) (*nats.Conn, jetstream.JetStream, error) {
	return protocol.Connect(ctx, protocol.ConnectOptions{InProcess: c.server.InProcess(), Name: "zctl demo " + name, Logger: c.logger})
}

// providerOf makes the tracer provider of one process; all record into one place.
func (c *crew) providerOf(ctx context.Context, role string, host protocol.Host) (trace.TracerProvider, error) {
	tracing, err := telemetry.StartTracing(ctx, telemetry.TraceOptions{
		// The demo exports nothing, so it reads no variables.
		Role: role, Host: host, Recorder: c.recorder, Getenv: func(string) string { return "" },
	})
	if err != nil {
		return nil, err
	}
	c.tracings = append(c.tracings, tracing)
	return tracing.Provider(), nil
}

// start starts a process.
func (c *crew) start(ctx context.Context, name string, run func(context.Context, *nats.Conn, *protocol.Resources) error) error {
	conn, js, err := c.connect(ctx, name)
	if err != nil {
		return err
	}
	resources, err := protocol.OpenResources(ctx, js)
	if err != nil {
		conn.Close()
		return err
	}
	// What a process does of its own accord belongs to no trace.
	running, stop := context.WithCancel(trace.ContextWithSpanContext(context.WithoutCancel(ctx), trace.SpanContext{}))
	p := &process{conn: conn, stop: stop, done: make(chan error, 1)}
	go func() { p.done <- run(running, conn, resources) }()
	c.processes[name] = p
	return nil
}

// startWorker starts a worker of the host.
func (c *crew) startWorker(ctx context.Context, host protocol.Host, runner zfs.Runner, policy worker.Policy) error {
	provider, err := c.providerOf(ctx, "worker", host)
	if err != nil {
		return err
	}
	c.started++
	name := fmt.Sprintf("%s-%d", host, c.started)
	return c.start(ctx, string(host), func(ctx context.Context, conn *nats.Conn, resources *protocol.Resources) error {
		w, err := worker.New(worker.Config{
			Host: host, Name: name, Version: "demo", Conn: conn, Resources: resources,
			ZFS:  zfs.New(zfs.Observe(runner, c.logger, provider)),
			Data: tcp.Config{Listen: "127.0.0.1:0", TLS: true, Logger: c.logger}, Policy: policy, AckWait: c.ackWait,
			ClaimsDir: c.claims,
			Logger:    c.logger, TracerProvider: provider,
		})
		if err != nil {
			return err
		}
		return w.Run(ctx)
	})
}

// awaitWorkers waits until so many workers are there.
func (c *crew) awaitWorkers(ctx context.Context, number int) error {
	for {
		present, err := c.client.Hosts(ctx)
		if err != nil {
			return err
		}
		if len(present) >= number {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the workers: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// killWorker ends the host's worker without letting it say anything to anybody: its connection is cut first.
func (c *crew) killWorker(host protocol.Host) {
	p := c.processes[string(host)]
	delete(c.processes, string(host))
	p.conn.Close()
	p.stop()
	if err := <-p.done; err != nil {
		c.logger.Debug("the killed worker ended with an error", "error", err)
	}
}

// stop ends everything in the order in which it needs each other. Doing it again does nothing.
func (c *crew) stop() error {
	var failures []error
	for name, p := range c.processes {
		p.stop()
		if err := <-p.done; err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
		p.conn.Close()
		delete(c.processes, name)
	}
	if c.conn != nil {
		c.conn.Close()
	}
	if c.server != nil {
		c.server.Shutdown()
	}
	for _, tracing := range c.tracings {
		failures = append(failures, tracing.Shutdown(time.Second))
	}
	c.tracings = nil
	return errors.Join(failures...)
}

func sendPolicy(source string) worker.Policy {
	return worker.Policy{Send: protocol.Filter{source + "<": true}}
}

func recvPolicy(root string) worker.Policy {
	return worker.Policy{Recv: []worker.RecvRule{{Root: root, Jobs: []string{jobName}}}}
}
