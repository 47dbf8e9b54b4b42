// Package testfleet runs a whole fleet in one process for tests: an embedded NATS server, coordinators, and the workers of
// hosts whose pools are fake or real. Every part can be killed and started again.
package testfleet

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/zfleet/zfleet/coordinator"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/worker/transport/tcp"
	"github.com/zfleet/zfleet/zfs"
)

// Timeout bounds what a test waits for. It is generous: it is not a measure of anything, and only a hang reaches it.
const Timeout = 4 * time.Minute

// Site is a place from which the fleet's NATS is reached.
type Site struct {
	// Server is the NATS server that processes connect to.
	Server nats.InProcessConnProvider
	// Domain is the JetStream domain of the fleet, where the server is a leaf node.
	Domain string
	// Resources are the options of the fleet's streams and buckets, where the fleet is made at this site.
	Resources protocol.ResourceOptions
	// Options are for the connections of processes, such as their credentials.
	Options []nats.Option
}

// Fleet is a running fleet. It ends with its test.
type Fleet struct {
	// Server is the fleet's NATS server; nil where the fleet was made with NewAt.
	Server    *natsserver.Server
	Conn      *nats.Conn
	Resources *protocol.Resources
	Client    *fleet.Client

	t    testing.TB
	site Site
	// claims is the directory in which the workers of each host keep one another from the same filesystems.
	claims  string
	counter atomic.Int64
	// Coordinators is where coordinators are that are started from now on; nil is where the fleet is.
	Coordinators *Site
	// Logger is given to all processes started from now on. At first it writes to the standard error where ZFLEET_TEST_LOG is set,
	// for looking at a failing test, and nowhere otherwise.
	Logger *slog.Logger
	// TracerProvider is given to all processes started from now on; at first it traces nothing.
	TracerProvider trace.TracerProvider
	// KeepPlans is how many ended plans of each job the coordinators keep that are started from now on; 0 is their own default.
	KeepPlans int
}

// New starts a NATS server with the fleet's resources, and nothing else.
func New(t testing.TB) *Fleet {
	t.Helper()
	server := natstest.Start(t, natsserver.Options{})
	f := NewAt(t, Site{Server: server})
	f.Server = server
	return f
}

// NewAt makes the fleet's resources in NATS servers that run, at the given site, and nothing else. It is where coordinators, the
// fleet's own client, and hosts without a site of their own are.
func NewAt(t testing.TB, site Site) *Fleet {
	t.Helper()
	f := &Fleet{t: t, site: site, claims: t.TempDir(), Logger: logger(t), TracerProvider: noop.NewTracerProvider()}
	conn, _ := natstest.Connect(t, site.Server, site.Options...)
	js, err := protocol.JetStream(conn, site.Domain)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	resources, err := protocol.EnsureResources(ctx, js, site.Resources)
	for protocol.Passing(ctx, err) { // the servers of a cluster may not know all others yet
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
		resources, err = protocol.EnsureResources(ctx, js, site.Resources)
	}
	require.NoError(t, err)
	f.Conn, f.Resources = conn, resources
	f.Client = fleet.New(conn, resources, fleet.Options{By: "test"})
	return f
}

// logger is the Logger of a fleet at first.
func logger(t testing.TB) *slog.Logger {
	t.Helper()
	if os.Getenv("ZFLEET_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	handler := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
	return slog.New(handler).With(slog.String("test", t.Name()))
}

// Process is a coordinator or worker of the fleet.
type Process struct {
	Name string

	t      testing.TB
	conn   *nats.Conn
	runner runner
	// commands runs a worker's zfs commands; nil for a coordinator.
	commands *mortal
	stop     context.CancelFunc
	once     sync.Once
	killed   chan struct{}
	done     chan struct{}
	err      error
}

// runner is a coordinator or a worker.
type runner interface {
	Run(ctx context.Context) error
	LastTurn() time.Time
}

// start runs a process with a connection of its own, at the site. commands is nil for one that runs no zfs commands.
func (f *Fleet) start(
	site Site, name string, commands *mortal, prepare func(*Process, *protocol.Resources) (runner, error),
) *Process {
	f.t.Helper()
	conn, err := nats.Connect("", append([]nats.Option{
		nats.InProcessServer(site.Server), nats.Name(name), nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
	}, site.Options...)...)
	require.NoError(f.t, err)
	resources, err := openResources(f.t, conn, site.Domain)
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Process{
		Name: name, t: f.t, conn: conn, commands: commands, stop: cancel, killed: make(chan struct{}), done: make(chan struct{}),
	}
	p.runner, err = prepare(p, resources)
	require.NoError(f.t, err)
	go func() {
		defer close(p.done)
		p.err = p.runner.Run(ctx)
	}()
	f.t.Cleanup(p.Stop)
	return p
}

// Drain has a worker take no more items and end once its steps have; the channel is closed when it has ended.
func (p *Process) Drain() (ended <-chan struct{}) {
	p.t.Helper()
	w, isWorker := p.runner.(*worker.Worker)
	require.True(p.t, isWorker, "%s is no worker", p.Name)
	w.Drain()
	return p.done
}

// LastTurn is the process's last sign of life.
func (p *Process) LastTurn() time.Time { return p.runner.LastTurn() }

// Stop asks the process to end, and waits until it has.
func (p *Process) Stop() {
	p.stop()
	<-p.done
	p.conn.Close()
	select {
	case <-p.killed:
	default:
		if p.err != nil {
			p.t.Errorf("%s ended with: %v", p.Name, p.err)
		}
	}
}

// Kill ends the process without letting it say anything to anybody, as far as that is possible inside one process: its
// connection is cut first, and its zfs commands end, so that nothing more of it has an effect.
func (p *Process) Kill() {
	p.die()
	<-p.done
}

// Killed is closed when the process is being killed: by Kill, which waits for its end, or at a fail point.
func (p *Process) Killed() <-chan struct{} { return p.killed }

// die is Kill from within the process.
func (p *Process) die() {
	p.once.Do(func() {
		p.conn.Close()
		if p.commands != nil {
			p.commands.kill()
		}
		p.stop()
		close(p.killed)
	})
}

// failPoint is what the process does when it comes by a fail point; nil where it dies at none. The goroutine that is killed there
// does nothing more either, such as to go on as after a failure, and to tell a peer so.
func (p *Process) failPoint(dies Dies) func(context.Context, string) {
	if dies == nil {
		return nil
	}
	return func(_ context.Context, point string) {
		if dies(point) {
			p.die()
			runtime.Goexit()
		}
	}
}

// LeaseTTL is how long the lease outlives a killed coordinator.
const LeaseTTL = 3 * time.Second

// StartCoordinator starts a coordinator with a short lease.
func (f *Fleet) StartCoordinator() *Process {
	f.t.Helper()
	return f.StartCoordinatorThat(nil)
}

// StartCoordinatorThat starts a coordinator that is killed where dies says so; nil is nowhere.
func (f *Fleet) StartCoordinatorThat(dies Dies) *Process {
	f.t.Helper()
	name := fmt.Sprintf("coordinator-%d", f.counter.Add(1))
	site := f.site
	if f.Coordinators != nil {
		site = *f.Coordinators
	}
	return f.start(site, name, nil, func(p *Process, resources *protocol.Resources) (runner, error) {
		return coordinator.New(coordinator.Config{
			Name: name, Host: "test", Conn: p.conn, Resources: resources, LeaseTTL: LeaseTTL, Logger: f.Logger,
			CollectEvery: 200 * time.Millisecond, CollectGrace: time.Second, KeepPlans: f.KeepPlans,
			TracerProvider: f.TracerProvider, FailPoint: p.failPoint(dies),
		}), nil
	})
}

// Host is a host of the fleet.
type Host struct {
	Name   protocol.Host
	Runner zfs.Runner
	Policy worker.Policy
	Slots  worker.Slots
	// Site is where the host is; nil is where the fleet is.
	Site *Site
	// PlainTCP turns TLS off on the data port.
	PlainTCP bool
	// Advertise are addresses that others are told in the place of the data port's own.
	Advertise []string
	// Bandwidth bounds the host's transfers.
	Bandwidth worker.Bandwidth
	// ShareWindow is the worker's.
	ShareWindow int
	// MaxDeliveries is the workers'.
	MaxDeliveries int
	// Dies tells where the host's workers are killed; nil is nowhere.
	Dies Dies
}

// AckWait is how long a claim outlives a killed worker.
const AckWait = 2 * time.Second

// PresenceTTL is how long a killed worker seems to be there.
const PresenceTTL = 5 * time.Second

// StartWorker starts a worker of the host.
func (f *Fleet) StartWorker(host Host) *Process {
	f.t.Helper()
	name := fmt.Sprintf("%s-%d", host.Name, f.counter.Add(1))
	site := f.site
	if host.Site != nil {
		site = *host.Site
	}
	commands := newMortal(host.Runner)
	return f.start(site, name, commands, func(p *Process, resources *protocol.Resources) (runner, error) {
		return worker.New(worker.Config{
			Host: host.Name, Name: name, Version: "test", Conn: p.conn, Resources: resources,
			ZFS: zfs.New(zfs.Observe(commands, f.Logger, f.TracerProvider)), Slots: host.Slots,
			Data: tcp.Config{
				Listen: "127.0.0.1:0", Advertise: host.Advertise, TLS: !host.PlainTCP, Logger: f.Logger,
			},
			Bandwidth: host.Bandwidth, ShareWindow: host.ShareWindow, Policy: host.Policy, AckWait: AckWait, PresenceTTL: PresenceTTL,
			ClaimsDir: f.claims, MaxDeliveries: host.MaxDeliveries,
			FailPoint: p.failPoint(host.Dies), Logger: f.Logger, TracerProvider: f.TracerProvider,
		})
	})
}

// AllowAll is a policy that allows everything below the given datasets.
func AllowAll(datasets ...string) worker.Policy {
	policy := worker.Policy{Send: protocol.Filter{}}
	for _, dataset := range datasets {
		policy.Send[dataset+"<"] = true
		policy.Recv = append(policy.Recv, worker.RecvRule{Root: dataset})
	}
	return policy
}

// Submit submits the job.
func (f *Fleet) Submit(job protocol.Job) {
	f.t.Helper()
	_, err := f.Client.SubmitJob(f.t.Context(), job)
	require.NoError(f.t, err)
}

// Request asks for a run of the job.
func (f *Fleet) Request(job string) protocol.PlanID {
	f.t.Helper()
	id, err := f.Client.Run(f.t.Context(), job)
	require.NoError(f.t, err)
	return id
}

// Wait waits for the plan's end.
func (f *Fleet) Wait(id protocol.PlanID) fleet.PlanDetail {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), Timeout)
	defer cancel()
	for snapshot, err := range f.Client.Watch(ctx, id, fleet.WatchOptions{}) {
		require.NoError(f.t, err, "waiting for plan %s: %+v", id, snapshot)
	}
	detail, err := f.Client.Plan(ctx, id)
	require.NoError(f.t, err)
	return detail
}

// Run runs the job and waits for its end.
func (f *Fleet) Run(job string) fleet.PlanDetail {
	f.t.Helper()
	return f.Wait(f.Request(job))
}

// MustRun runs the job and requires that everything is replicated.
func (f *Fleet) MustRun(job string) fleet.PlanDetail {
	f.t.Helper()
	detail := f.Run(job)
	require.Equal(f.t, protocol.PlanDone, detail.Plan.State, "%s", Explain(detail))
	return detail
}

// Explain is a plan's outcome in words, for messages of failed tests.
func Explain(detail fleet.PlanDetail) string {
	text := fmt.Sprintf("plan %s is %s", detail.Plan.ID, detail.Plan.State)
	if detail.Plan.Failure != nil {
		text += ": " + detail.Plan.Failure.Error()
	}
	for _, task := range detail.Tasks {
		text += fmt.Sprintf("\n  %s → %s: %s", task.Filesystem, task.TargetHost, task.State)
		if task.Failure != nil {
			text += fmt.Sprintf(" (%s: %s)", task.Failure.Kind, task.Failure.Error())
		}
	}
	return text
}

// Job is a job with short deadlines for tests, from one host's tree to roots on others.
func Job(name string, source protocol.Host, filesystems protocol.Filter, targets ...protocol.JobTarget) protocol.Job {
	job := protocol.DefaultJob()
	job.Name = name
	job.Source = protocol.JobSource{Host: source, Filesystems: filesystems}
	job.Targets = targets
	job.Replication.Initial = protocol.InitialAll
	return job
}
