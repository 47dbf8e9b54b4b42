package testfleet

import (
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// Cable is a way to a NATS server that can be cut. It is the Server of a Site.
type Cable struct {
	server nats.InProcessConnProvider

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

// NewCable makes a Cable to the server.
func NewCable(server nats.InProcessConnProvider) *Cable { return &Cable{server: server} }

// InProcessConn connects to the server, unless the cable is cut.
func (c *Cable) InProcessConn() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil, errors.New("the cable is cut")
	}
	conn, err := c.server.InProcessConn()
	if err == nil {
		c.conns = append(c.conns, conn)
	}
	return conn, err
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
