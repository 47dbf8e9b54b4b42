// Processes: the fleet's coordinators and workers, which are killed, paused, and started again.

package faults

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/coordinator"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/worker/transport/tcp"
	"github.com/zfleet/zfleet/zfs"
)

const (
	ackWait  = time.Second
	leaseTTL = 2 * time.Second
	// presenceTTL is how long a killed worker seems to be there.
	presenceTTL = 3 * time.Second
	// patience bounds what must end by itself. Only a hang reaches it.
	patience = 30 * time.Second
)

// process is one that runs, or has run: a killed one is never started again, another takes its place.
type process struct {
	name string
	host *host // nil for a coordinator
	gate *gate
	wire *wire
	data *dataPort // nil for a coordinator
	// points are where the process is going to be killed.
	points *failPoints

	ctx      context.Context //nolint:containedctx // the process's life
	cancel   context.CancelFunc
	commands sync.WaitGroup // zfs commands under way
	done     chan struct{}
}

// runner is the process's zfs.Runner: a paused process starts no command and sees no result, and a killed one's are gone.
type runner struct{ process *process }

func (r runner) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	p := r.process
	p.commands.Add(1)
	defer p.commands.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)() //nolint:contextcheck // it ends with the process as well
	if err := p.gate.pass(ctx); err != nil {
		closeFiles(command)
		return zfs.Result{ExitCode: -1}, fmt.Errorf("not run: %w", err)
	}
	result, err := p.host.run(ctx, p, command)
	if passErr := p.gate.pass(ctx); passErr != nil && err == nil {
		return zfs.Result{ExitCode: -1}, fmt.Errorf("its result is not seen: %w", passErr)
	}
	return result, err
}

func (f *fleet) newProcess(name string) *process {
	p := &process{name: name, gate: newGate(), done: make(chan struct{})}
	p.points = &failPoints{process: p}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wire = newWire(name, f.timeline, f.leases, p.gate, f.servers.dial)
	return p
}

// run connects and runs the process's work until it ends; what fails at its start is tried again, as an init system would.
func (f *fleet) run(p *process, work func(*nats.Conn, *protocol.Resources) error) {
	f.running.Go(func() {
		defer close(p.done)
		for p.ctx.Err() == nil {
			err := connected(p, work)
			if p.ctx.Err() == nil {
				f.timeline.add(p.name, "ended by itself: %v", err)
				wait(p.ctx, 200*time.Millisecond)
			}
		}
	})
}

func connected(p *process, work func(*nats.Conn, *protocol.Resources) error) error {
	conn, err := nats.Connect("", nats.InProcessServer(p.wire), nats.Name(p.name), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			p.wire.timeline.add(p.name, "its NATS client reports: %v", err)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := protocol.JetStream(conn, "")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	resources, err := protocol.OpenResources(ctx, js)
	if err != nil {
		return err
	}
	return work(conn, resources)
}

func (f *fleet) startCoordinator(number int) *process {
	p := f.newProcess(fmt.Sprintf("coordinator-%d.%d", number, f.counter.Add(1)))
	f.run(p, func(conn *nats.Conn, resources *protocol.Resources) error {
		return coordinator.New(coordinator.Config{
			Name: p.name, Host: "test", Conn: conn, Resources: resources, LeaseTTL: leaseTTL, Logger: f.logger(p),
			CollectEvery: 300 * time.Millisecond, CollectGrace: time.Second, Now: f.clocks[number].now,
			FailPoint: p.points.pass,
		}).Run(p.ctx)
	})
	return p
}

func (f *fleet) startWorker(h *host, number int) (*process, error) {
	p := f.newProcess(fmt.Sprintf("%s-%d.%d", h.name, number, f.counter.Add(1)))
	p.host = h
	var err error
	if p.data, err = newDataPort(p.gate); err != nil {
		return nil, fmt.Errorf("opening the data port of %s: %w", p.name, err)
	}
	f.run(p, func(conn *nats.Conn, resources *protocol.Resources) error {
		w, err := worker.New(worker.Config{
			Host: h.name, Name: p.name, Version: "test", Conn: conn, Resources: resources, ZFS: zfs.New(runner{p}),
			Slots: worker.Slots{Send: 2, Recv: 2}, Policy: h.policy, AckWait: ackWait, ClaimsDir: h.claims, Logger: f.logger(p),
			PresenceTTL: presenceTTL, FailPoint: p.points.pass,
			Data: tcp.Config{Listen: p.data.backend, Advertise: []string{p.data.advertised()}, TLS: true},
		})
		if err != nil {
			return err
		}
		return w.Run(p.ctx)
	})
	return p, nil
}

func (f *fleet) logger(p *process) *slog.Logger {
	level := slog.LevelInfo
	switch {
	case f.options.Verbose:
		level = slog.LevelDebug
	case p.host != nil:
		level = slog.LevelWarn // the rest is in the events and in the commands
	}
	withoutTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	handler := slog.NewTextHandler(f.timeline, &slog.HandlerOptions{Level: level, ReplaceAttr: withoutTime})
	return slog.New(handler).With(slog.String("process", p.name))
}

// kill ends the process at once: nothing that it does from now on has an effect, and its zfs commands are killed with it. What
// is left of it inside this process ends in its own time.
func (p *process) kill() {
	p.gate.shutForGood()
	p.wire.cutOff()
	p.cancel()
	if p.data != nil {
		p.data.cutOff()
	}
}

// killed waits until the commands of a killed process have ended.
func (p *process) killed() { p.commands.Wait() }

// pause stops the process for a while, as SIGSTOP and SIGCONT do.
func (p *process) pause(d time.Duration) {
	p.gate.close()
	defer p.gate.open()
	wait(p.ctx, d)
}

// close waits for all that is left of the process, which has been killed or whose context has been ended.
func (p *process) close() error {
	p.cancel()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		return fmt.Errorf("%s does not end", p.name)
	}
	p.wire.close()
	if p.data != nil {
		p.data.close()
	}
	return nil
}
