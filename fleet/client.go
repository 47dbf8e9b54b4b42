// The client: where an operator's program begins.

package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
)

// Options are what a client may be told.
type Options struct {
	// By is who asks, for people; it is kept in plans. Empty is "zctl".
	By string
	// Timeout bounds each request to NATS; 0 is 10 seconds.
	Timeout time.Duration
	// HostTimeout bounds the wait for each page of a host's answer, for which it may have to list large pools; 0 is 2 minutes.
	HostTimeout time.Duration
}

// Client does an operator's work with one fleet. It is safe for concurrent use. It owns neither the connection nor the
// resources.
type Client struct {
	conn      *nats.Conn
	resources *protocol.Resources
	by        string
	timeout   time.Duration
	// hostTimeout is for what hosts are asked.
	hostTimeout time.Duration
}

// New makes a client for the fleet behind the connection.
func New(conn *nats.Conn, resources *protocol.Resources, options Options) *Client {
	client := &Client{conn: conn, resources: resources, by: options.By, timeout: options.Timeout, hostTimeout: options.HostTimeout}
	if client.hostTimeout <= 0 {
		client.hostTimeout = 2 * time.Minute
	}
	if client.by == "" {
		client.by = "zctl"
	}
	if client.timeout <= 0 {
		client.timeout = 10 * time.Second
	}
	return client
}

// ErrNoCoordinator says that nobody leads the fleet, so nothing is planned.
var ErrNoCoordinator = errors.New("no coordinator is running: start one with: zctl coordinator")

// ErrDisconnected says that NATS cannot be reached at the moment.
var ErrDisconnected = errors.New("the connection to NATS is lost; trying to reconnect")

// get is the value of a key, as the last acknowledged write has left it.
func (c *Client) get(ctx context.Context, bucket, key string) (value []byte, revision uint64, err error) {
	return protocol.GetKey(ctx, c.resources.JetStream, bucket, key)
}

// bounded is ctx with the client's timeout.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

// explain makes a failure of what went wrong with a request to NATS: transient where it may go better next time.
func (c *Client) explain(err error, format string, args ...any) error {
	what := protocol.Failf(protocol.Transient, format, args...).Message
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
	denied := protocol.Denied(c.conn)
	switch {
	case late && denied != nil:
		return protocol.Failf(protocol.Permanent, "%s: %w", what, denied)
	case late:
		return protocol.Failf(protocol.Transient, "%s: NATS did not answer within %s; check that the server is up"+
			" and that JetStream has a leader: %w", what, c.timeout, err)
	case errors.Is(err, nats.ErrConnectionClosed):
		return protocol.Failf(protocol.Permanent, "%s: the connection to NATS is closed: %w", what, err)
	}
	return protocol.Failf(protocol.KindOf(err, protocol.Permanent), "%s: %w", what, err)
}
