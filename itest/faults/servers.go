// Servers: the NATS servers of a fleet.

package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// Server is a NATS server that can be stopped and started again with what it has stored.
type Server interface {
	nats.InProcessConnProvider
	// Shutdown stops it and waits until it is down.
	Shutdown()
	// Restart starts it again.
	Restart(ctx context.Context) error
}

// servers are one server, or a cluster.
type servers struct {
	all      []Server
	timeline *timeline

	mu   sync.Mutex
	down map[int]bool
	next int
}

// dial connects to the next server that runs.
func (s *servers) dial() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.all {
		s.next = (s.next + 1) % len(s.all)
		if !s.down[s.next] {
			return s.all[s.next].InProcessConn()
		}
	}
	return nil, errors.New("no NATS server runs")
}

// InProcessConn lets the harness itself connect.
func (s *servers) InProcessConn() (net.Conn, error) { return s.dial() }

// kill stops a server and starts it again after a while.
func (s *servers) kill(ctx context.Context, number int, d time.Duration) error {
	s.mu.Lock()
	if s.down[number] {
		s.mu.Unlock()
		return nil
	}
	s.down[number] = true
	s.mu.Unlock()
	s.all[number].Shutdown()
	wait(ctx, d)
	err := s.all[number].Restart(context.WithoutCancel(ctx))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down[number] = false
	if err != nil {
		return fmt.Errorf("starting NATS server %d again: %w", number, err)
	}
	s.timeline.add("NATS", "server %d is there again", number)
	return nil
}

// clear removes everything, so that the servers can be used again.
func clearServers(ctx context.Context, js jetstream.JetStream) error {
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("removing stream %s: %w", name, err)
		}
	}
	return names.Err()
}

// connect connects the harness itself, past all faults.
func (s *servers) connect(ctx context.Context, replicas int) (*nats.Conn, *protocol.Resources, error) {
	conn, err := nats.Connect("", nats.InProcessServer(s), nats.Name("harness"), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.timeline.add("harness", "its NATS client reports: %v", err)
		}))
	if err != nil {
		return nil, nil, err
	}
	js, err := protocol.JetStream(conn, "")
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	// Servers that were used before may still be about to remove what is removed here, or to find each other.
	var resources *protocol.Resources
	err = eventually(ctx, func(ctx context.Context) error {
		if err := clearServers(ctx, js); err != nil {
			return err
		}
		var err error
		resources, err = protocol.EnsureResources(ctx, js, protocol.ResourceOptions{Replicas: replicas, StreamsMaxBytes: 64 << 20})
		return err
	})
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, resources, nil
}
