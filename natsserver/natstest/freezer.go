package natstest

import (
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// Freezer is a way to a server on which everything can be held up, as by a network that loses all packets, or a process that
// is stopped: nothing passes in either direction, and neither side is told. It is safe for concurrent use.
type Freezer struct {
	Server nats.InProcessConnProvider

	mu     sync.Mutex
	frozen chan struct{} // nil while all passes; closed when it does again
}

var _ nats.InProcessConnProvider = (*Freezer)(nil)

// InProcessConn is a new connection to the server, for the NATS client.
func (f *Freezer) InProcessConn() (net.Conn, error) {
	conn, err := f.Server.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &freezable{conn, f}, nil
}

// Freeze holds everything up from now on, until thaw is called. What is held up then goes on its way.
func (f *Freezer) Freeze() (thaw func()) {
	frozen := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = frozen
	return sync.OnceFunc(func() { close(frozen) })
}

func (f *Freezer) pass() {
	f.mu.Lock()
	frozen := f.frozen
	f.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

type freezable struct {
	net.Conn

	freezer *Freezer
}

func (c *freezable) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	c.freezer.pass()
	return n, err
}

func (c *freezable) Write(data []byte) (int, error) {
	c.freezer.pass()
	return c.Conn.Write(data)
}
