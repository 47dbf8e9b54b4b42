// Fail points: processes are killed at a chosen one of their durable actions.

package faults

import (
	"context"
	"slices"
	"sync"
)

// failPoints are where one process is going to be killed.
type failPoints struct {
	process *process

	mu    sync.Mutex
	armed []*pointFault
}

// pointFault is a kill at the next passing of a point, after those that it lets pass.
type pointFault struct {
	point  string
	left   int
	killed func()
}

// arm has the process killed when it comes by the fault's point; killed is called then.
func (f *failPoints) arm(fault Fault, killed func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = append(f.armed, &pointFault{point: fault.Command, left: fault.Number, killed: killed})
}

func (f *failPoints) calm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = nil
}

// pass is the process's FailPoint. A paused process waits here, and a killed one goes on to its end without effect.
func (f *failPoints) pass(ctx context.Context, point string) {
	_ = f.process.gate.pass(ctx)
	fault := f.take(point)
	if fault == nil {
		return
	}
	f.process.wire.timeline.add(f.process.name, "comes by the fail point %s", point)
	f.process.kill()
	fault.killed()
}

func (f *failPoints) take(point string) *pointFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, armed := range f.armed {
		if armed.point != point {
			continue
		}
		if armed.left > 0 {
			armed.left--
			continue
		}
		f.armed = slices.Delete(f.armed, i, i+1)
		return armed
	}
	return nil
}
