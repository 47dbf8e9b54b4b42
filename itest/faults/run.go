// A run: the fleet of a seed, what happens to it, and what becomes of it.

package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	zfleet "github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// Options are what a run needs beside its schedule.
type Options struct {
	// Servers are the NATS servers, one or a cluster. They are the run's alone, until it ends.
	Servers []Server
	// Dir is an empty directory of the run's.
	Dir string
	// Histories is where pages are written that show histories without an explanation; empty is nowhere.
	Histories string
	// Verbose adds the logs of all processes to the timeline.
	Verbose bool
}

// Outcome is what came of a run.
type Outcome struct {
	// Violations are the invariants that did not hold, in order; none if all did.
	Violations []string
	// Injected counts what was done to the fleet.
	Injected map[Kind]int
	// Steps is how many steps were completed, Snapshots how many arrived at a target, and Plans how many runs there were.
	Steps, Snapshots, Plans int
	// Streams is how many streams were sent, Resumed how many of them went on with a partial state, and Abandoned how many
	// partial states were given up.
	Streams, Resumed, Abandoned int
	// Undecided is how many of the run's two histories were too involved for a verdict.
	Undecided int
	Timeline  string
	Elapsed   time.Duration
}

// fleet is the fleet of one run.
type fleet struct {
	schedule Schedule
	options  Options
	timeline *timeline
	observer *observer
	// undecided counts histories without a verdict.
	undecided int
	servers   *servers
	leases    *leaseHistory
	clocks    []*clock
	hosts     map[protocol.Host]*host
	counter   atomic.Int64

	conn      *nats.Conn
	resources *protocol.Resources
	client    *zfleet.Client

	running sync.WaitGroup // the processes
	acting  sync.WaitGroup // the faults

	mu           sync.Mutex
	coordinators []*process
	workers      map[protocol.Host][]*process
	all          []*process // that ever were
	jobs         []protocol.Job
	plans        map[int][]protocol.PlanID
	injected     map[Kind]int
	steps        int
}

// Run plays the schedule. Its error says that the harness itself failed.
func Run(ctx context.Context, schedule Schedule, options Options) (Outcome, error) {
	t := newTimeline()
	f := &fleet{
		schedule: schedule, options: options, timeline: t, observer: newObserver(t, schedule.Jobs),
		servers: &servers{all: options.Servers, timeline: t, down: map[int]bool{}},
		leases:  newLeaseHistory(),
		clocks:  []*clock{{}, {}}, hosts: map[protocol.Host]*host{}, workers: map[protocol.Host][]*process{},
		jobs: slices.Clone(schedule.Jobs), plans: map[int][]protocol.PlanID{}, injected: map[Kind]int{},
	}
	err := f.play(ctx)
	if err == nil {
		f.checkHistories()
	}
	return Outcome{
		Violations: t.failures(), Injected: f.injected, Steps: f.steps, Snapshots: f.observer.snapshotsReceived(),
		Streams: f.observer.streams, Resumed: f.observer.resumed, Abandoned: f.observer.abandoned, Plans: f.planCount(),
		Undecided: f.undecided,
		Timeline:  t.String(), Elapsed: time.Since(t.began),
	}, err
}

func (f *fleet) planCount() int {
	count := 0
	for _, plans := range f.plans {
		count += len(plans)
	}
	return count
}

func (f *fleet) play(ctx context.Context) (err error) {
	f.conn, f.resources, err = f.servers.connect(ctx, len(f.options.Servers))
	if err != nil {
		return fmt.Errorf("preparing NATS: %w", err)
	}
	defer f.conn.Close()
	f.client = zfleet.New(f.conn, f.resources, zfleet.Options{By: "harness"})
	stopListening, err := f.listen()
	if err != nil {
		return err
	}
	defer stopListening()
	if err := f.build(ctx); err != nil {
		return err
	}
	defer func() {
		if closeErr := f.close(); err == nil {
			err = closeErr
		}
	}()
	for _, job := range f.jobs {
		if _, err := f.client.SubmitJob(ctx, job); err != nil {
			return fmt.Errorf("submitting job %s: %w", job.Name, err)
		}
	}
	// In the storm it may fail for any reason, but nothing may come of it.
	f.acting.Go(func() {
		if _, err := f.client.SubmitJob(ctx, f.forbidden()); err == nil {
			_, _ = f.client.Run(ctx, f.forbidden().Name)
		}
	})
	f.storm(ctx)
	if err := f.settle(ctx); err != nil {
		return err
	}
	f.steps, err = f.countSteps(ctx)
	return err
}

// countSteps counts the tries of which an event tells that they were done.
func (f *fleet) countSteps(ctx context.Context) (int, error) {
	info, err := f.resources.Events.Info(ctx, jetstream.WithSubjectFilter(protocol.EventSubjects))
	if err != nil {
		return 0, fmt.Errorf("counting events: %w", err)
	}
	count := 0
	for subject := range info.State.Subjects {
		if strings.HasSuffix(subject, "."+string(protocol.EventDone)) {
			count++
		}
	}
	return count, nil
}

// listen puts the events of the steps into the timeline.
func (f *fleet) listen() (stop func(), err error) {
	subscription, err := f.conn.Subscribe(protocol.EventSubjects, func(message *nats.Msg) {
		var event protocol.Event
		if err := protocol.ReadMessage(message.Header, message.Data, &event); err != nil || event.Kind == protocol.EventProgress {
			return
		}
		text := event.Note
		if event.Failure != nil {
			text = string(event.Failure.Kind) + ": " + event.Failure.Message
		}
		f.timeline.add("event", "%s %s %s by %s (item %d, delivery %d): %s → %s %s", event.Ref, event.Role, event.Kind, event.Worker,
			event.Item, event.Delivery, event.Filesystem, event.Target, text)
	})
	if err != nil {
		return nil, fmt.Errorf("listening to events: %w", err)
	}
	return func() { _ = subscription.Unsubscribe() }, nil
}

// build makes the pools and starts the processes.
func (f *fleet) build(ctx context.Context) error {
	f.observer.building(true)
	for i, name := range hostNames() {
		claims := filepath.Join(f.options.Dir, string(name))
		if err := os.Mkdir(claims, 0o700); err != nil {
			return err
		}
		h := newHost(name, f.schedule.Seed*16+uint64(i)+1, f.schedule.Jobs, claims, f.observer)
		f.hosts[name] = h
		h.build(ctx, f.schedule.Jobs, f.schedule.Snapshots)
	}
	f.buildForbidden(ctx)
	f.observer.building(false)
	for number := range f.clocks {
		f.coordinators = append(f.coordinators, f.startCoordinator(number)) //nolint:contextcheck // a process has a life of its own
	}
	f.all = append(f.all, f.coordinators...)
	for _, name := range hostNames() {
		for number := range 2 {
			p, err := f.startWorker(f.hosts[name], number) //nolint:contextcheck // as above
			if err != nil {
				return err
			}
			f.workers[name] = append(f.workers[name], p)
			f.all = append(f.all, p)
		}
	}
	return nil
}

// storm has the faults happen, and returns when all are over.
func (f *fleet) storm(ctx context.Context) {
	began := time.Now()
	for _, fault := range f.schedule.Faults {
		wait(ctx, fault.At-time.Since(began))
		if ctx.Err() != nil {
			break
		}
		f.timeline.add("fault", "%s", fault)
		f.injected[fault.Kind]++
		f.acting.Go(func() { f.inject(ctx, fault) })
	}
	f.acting.Wait()
	for _, h := range f.hosts {
		h.calm()
	}
	f.mu.Lock()
	for _, p := range f.all {
		p.wire.calm()
		p.points.calm()
	}
	f.mu.Unlock()
	f.acting.Wait() // what commands have brought about until now
}

// close ends all processes.
func (f *fleet) close() error {
	f.mu.Lock()
	all := slices.Clone(f.all)
	f.mu.Unlock()
	for _, p := range all {
		p.cancel()
	}
	for _, p := range all {
		if err := p.close(); err != nil {
			return err
		}
	}
	f.running.Wait()
	return nil
}

// clock is a coordinator's, which jumps.
type clock struct{ offset atomic.Int64 }

// now has no monotonic part, as a clock that is set has none.
func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())).Round(0) }

func (c *clock) jump(d time.Duration) { c.offset.Add(int64(d)) }
