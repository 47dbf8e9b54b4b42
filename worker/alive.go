// Alive: what a supervisor may know of a worker – whether it serves, what it does, and whether its loops still turn.

package worker

import (
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// Serving is closed once the worker asks for work and answers requests.
func (w *Worker) Serving() <-chan struct{} { return w.serving }

// Steps is how many items the worker works on at the moment, for each role. A step within one host is one that is sent.
func (w *Worker) Steps() (sending, receiving int) { return w.loops.working() }

// LastTurn is when the loop that is furthest behind has last come round: of those that ask for items, and of those that keep the
// claims of running steps. A worker that is well turns each of them every 35 seconds, whatever NATS and the pools do; how long a
// step takes does not matter. It is zero before the worker serves, and after it has stopped. The time has a monotonic part.
func (w *Worker) LastTurn() time.Time { return w.loops.lastTurn() }

// loops watches the worker's loops. The zero value has none.
type loops struct {
	mu     sync.Mutex
	turned map[*loop]time.Time
	steps  map[protocol.Role]int
}

// loop is one of them. It counts only between turn and rest.
type loop struct{ of *loops }

func (l *loops) begin() *loop { return &loop{l} }

// turn says that the loop has come round.
func (o *loop) turn() {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	if o.of.turned == nil {
		o.of.turned = map[*loop]time.Time{}
	}
	o.of.turned[o] = time.Now()
}

// rest says that the loop has ended, or does something that may take any time.
func (o *loop) rest() {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	delete(o.of.turned, o)
}

func (l *loops) lastTurn() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var last time.Time
	for _, turned := range l.turned {
		if last.IsZero() || turned.Before(last) {
			last = turned
		}
	}
	return last
}

// step counts an item that is worked on, until ended is called.
func (l *loops) step(role protocol.Role) (ended func()) {
	l.add(role, 1)
	return func() { l.add(role, -1) }
}

func (l *loops) add(role protocol.Role, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.steps == nil {
		l.steps = map[protocol.Role]int{}
	}
	l.steps[role] += n
}

func (l *loops) working() (sending, receiving int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.steps[protocol.RoleSend], l.steps[protocol.RoleRecv]
}
