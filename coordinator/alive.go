// Alive: what a supervisor may know of a coordinator – whether it leads, and whether its loop still turns.

package coordinator

import (
	"sync/atomic"
	"time"
)

// turnEvery is how often the leader's loop comes round where nothing happens.
const turnEvery = 10 * time.Second

// standing is where a coordinator stands. The zero value has not begun.
type standing struct {
	turned, leads atomic.Pointer[time.Time]
}

// Leads tells whether this coordinator leads, and since when.
func (c *Coordinator) Leads() (since time.Time, leads bool) {
	if since := c.standing.leads.Load(); since != nil {
		return *since, true
	}
	return time.Time{}, false
}

// LastTurn is when the coordinator's loop has last come round: the one that asks for the lease, or the one that leads. It does so
// every minute or more often, whatever hosts and NATS do. It is zero before Run. The time has a monotonic part.
func (c *Coordinator) LastTurn() time.Time {
	if turned := c.standing.turned.Load(); turned != nil {
		return *turned
	}
	return time.Time{}
}

// turn says that the loop has come round.
func (s *standing) turn() {
	now := time.Now()
	s.turned.Store(&now)
}

// begin says that a term begins, and end that it has ended.
func (s *standing) begin(since time.Time) { s.leads.Store(&since) }

func (s *standing) end() { s.leads.Store(nil) }
