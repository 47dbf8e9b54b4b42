// Injection: how each fault is brought about.

package faults

import (
	"context"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// inject has the fault happen, and returns when it is over, as far as it has a time of its own.
func (f *fleet) inject(ctx context.Context, fault Fault) {
	h := f.hosts[fault.Host]
	job := f.schedule.Jobs[fault.Job]
	filesystems := filesystemsOf(job)
	filesystem := filesystems[fault.Filesystem%len(filesystems)]
	source := f.hosts[job.Source.Host]
	target := job.Targets[fault.Number%len(job.Targets)]
	switch fault.Kind {
	case RunJob:
		_ = f.request(ctx, fault.Job) // it is in the timeline
	case CancelPlan:
		f.cancelPlan(ctx, fault.Job)
	case ChangeJob:
		f.changeJob(ctx, fault)
	case TakeSnapshot:
		source.takeSnapshot(ctx, filesystem, uint64(fault.Number))
	case PruneSource:
		// Without guarantees, the operator has to leave the last common snapshot alone.
		if job.Replication.Protection.Incremental != protocol.GuaranteeNothing {
			source.prune(ctx, filesystem, fault.Number)
		}
	case PruneTarget:
		f.hosts[target.Host].prune(ctx, target.Filesystem(filesystem), fault.Number)
	case ForeignHold:
		source.foreignHold(ctx, filesystem, fault.Number)
	case KillWorker:
		f.replaceWorker(ctx, f.worker(fault), fault)
	case KillLeader:
		f.replaceCoordinator(ctx, f.coordinator(fault), fault)
	case KillServer:
		if err := f.servers.kill(ctx, fault.Process, fault.For); err != nil {
			f.timeline.violate("%v", err)
		}
	case PauseWorker:
		f.worker(fault).pause(ackWait + fault.For)
	case PauseLeader:
		f.coordinator(fault).pause(leaseTTL/2 + fault.For)
	case CutWorker:
		cutFor(ctx, f.worker(fault).wire, fault.For)
	case CutLeader:
		cutFor(ctx, f.coordinator(fault).wire, fault.For)
	case HoldWorker:
		holdFor(ctx, f.worker(fault).wire.network, fault.For)
	case HoldLeader:
		holdFor(ctx, f.coordinator(fault).wire.network, fault.For)
	case CutData:
		cutFor(ctx, f.worker(fault).data, fault.For)
	case HoldData:
		holdFor(ctx, f.worker(fault).data.network, fault.For)
	case KillAtPoint:
		p := f.worker(fault)
		p.points.arm(fault, func() { f.acting.Go(func() { f.replaceWorker(ctx, p, fault) }) })
	case KillLeaderAt:
		p := f.coordinator(fault)
		p.points.arm(fault, func() { f.acting.Go(func() { f.replaceCoordinator(ctx, p, fault) }) })
	case KillCommand:
		h.arm(fault, func(p *process) {
			p.kill()
			f.acting.Go(func() { f.replaceWorker(ctx, p, fault) })
		})
	case FailBefore, FailAfter, HangBefore, HangAfter:
		h.arm(fault, nil)
	case TruncateStream, HangStream, CorruptStream:
		h.armStream(fault)
	case DropMessage, DoubleMessage, DelayMessage:
		f.worker(fault).wire.arm(fault)
		if fault.Command == "lease" || fault.Number%2 == 0 {
			f.coordinator(fault).wire.arm(fault)
		}
	case JumpClock:
		f.clocks[fault.Process].jump(fault.For)
	}
}

func (f *fleet) request(ctx context.Context, job int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	id, err := f.client.Run(ctx, f.schedule.Jobs[job].Name)
	if err != nil {
		f.timeline.add("operator", "could not run job %d: %v", job, err)
		return err
	}
	f.timeline.add("operator", "plan %s of job %s", id, f.schedule.Jobs[job].Name)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans[job] = append(f.plans[job], id)
	return nil
}

func (f *fleet) cancelPlan(ctx context.Context, job int) {
	f.mu.Lock()
	plans := f.plans[job]
	f.mu.Unlock()
	if len(plans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := f.client.Cancel(ctx, plans[len(plans)-1]); err != nil {
		f.timeline.add("operator", "could not cancel: %v", err)
	}
}

func (f *fleet) changeJob(ctx context.Context, fault Fault) {
	f.mu.Lock()
	job := changed(f.jobs[fault.Job], fault.Number)
	f.jobs[fault.Job] = job
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := f.client.SubmitJob(ctx, job); err != nil {
		f.timeline.add("operator", "could not change job %s: %v", job.Name, err)
	}
}

func (f *fleet) worker(fault Fault) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.workers[fault.Host][fault.Process]
}

func (f *fleet) coordinator(fault Fault) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.coordinators[fault.Process]
}

// replaceWorker kills a worker and starts another in its place after a while.
func (f *fleet) replaceWorker(ctx context.Context, p *process, fault Fault) {
	p.kill()
	f.timeline.add(p.name, "killed")
	p.killed()
	wait(ctx, fault.For)
	f.mu.Lock()
	defer f.mu.Unlock()
	for number, current := range f.workers[fault.Host] {
		if current != p {
			continue
		}
		replacement, err := f.startWorker(p.host, number) //nolint:contextcheck // a process has a life of its own
		if err != nil {
			f.timeline.violate("%v", err)
			return
		}
		f.timeline.add(replacement.name, "takes the place of %s", p.name)
		f.workers[fault.Host][number] = replacement
		f.all = append(f.all, replacement)
	}
}

func (f *fleet) replaceCoordinator(ctx context.Context, p *process, fault Fault) {
	p.kill()
	f.timeline.add(p.name, "killed")
	wait(ctx, fault.For)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.coordinators[fault.Process] == p {
		f.coordinators[fault.Process] = f.startCoordinator(fault.Process) //nolint:contextcheck // as above
		f.all = append(f.all, f.coordinators[fault.Process])
	}
}

// cuttable is a connection, or many.
type cuttable interface {
	cutOff()
	mend()
}

func cutFor(ctx context.Context, c cuttable, d time.Duration) {
	c.cutOff()
	defer c.mend()
	wait(ctx, d)
}

func holdFor(ctx context.Context, g *gate, d time.Duration) {
	g.close()
	defer g.open()
	wait(ctx, d)
}
