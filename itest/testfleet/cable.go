package testfleet

import (
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// Cable is a way to a NATS server that can be cut, or lead nothing from the server any more. It is the Server of a Site.
type Cable struct {
	server nats.InProcessConnProvider

	mu     sync.Mutex
	cut    bool
	conns  []net.Conn
	passes chan struct{} // closed while what the server says goes through
}

// NewCable makes a Cable to the server.
func NewCable(server nats.InProcessConnProvider) *Cable {
	c := &Cable{server: server, passes: make(chan struct{})}
	close(c.passes)
	return c
}

// heldConn is a connection of which the client reads nothing while its cable is held.
type heldConn struct {
	net.Conn

	cable *Cable
}

func (h heldConn) Read(data []byte) (int, error) {
	h.cable.mu.Lock()
	passes := h.cable.passes
	h.cable.mu.Unlock()
	<-passes
	return h.Conn.Read(data)
}

// InProcessConn connects to the server, unless the cable is cut.
func (c *Cable) InProcessConn() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil, errors.New("the cable is cut")
	}
	conn, err := c.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	c.conns = append(c.conns, conn)
	return heldConn{conn, c}, nil
}

// Hold lets nothing through from the server, as with a client that is too busy to read, until release is called. What a read
// that has begun gets goes through.
func (c *Cable) Hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	passes := make(chan struct{})
	c.passes = passes
	return sync.OnceFunc(func() { close(passes) })
}

// Cut ends all connections, and lets none come about until Mend.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, conn := range c.conns {
		_ = conn.Close() // one that has ended already is as good
	}
	c.conns = nil
}

// Mend lets connections come about again.
func (c *Cable) Mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}
