// Gates: what everything that a process does passes through, so that it can be stopped at once and as a whole.

package faults

import (
	"context"
	"errors"
	"sync"
)

var (
	errKilled = errors.New("the process was killed")
	errCut    = errors.New("the network is cut")
)

// gate is open, closed for a while, or shut for good. It is safe for concurrent use.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // closed while the gate is open
	closed int           // how many keep it closed
	shut   chan struct{} // closed once the gate is shut
}

func newGate() *gate {
	opened := make(chan struct{})
	close(opened)
	return &gate{opened: opened, shut: make(chan struct{})}
}

// close closes the gate until open is called as often.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed++; g.closed == 1 {
		g.opened = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed--; g.closed == 0 {
		close(g.opened)
	}
}

// shutForGood lets nobody pass any more.
func (g *gate) shutForGood() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.shut:
	default:
		close(g.shut)
	}
}

// pass waits until the gate is open. Its error is errKilled once it is shut, or that of ctx.
func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	select {
	case <-g.shut:
		return errKilled
	default:
	}
	select {
	case <-opened:
		return nil
	case <-g.shut:
		return errKilled
	case <-ctx.Done():
		return ctx.Err()
	}
}
