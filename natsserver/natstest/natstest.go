// Package natstest gives each test NATS servers of its own: one (Run), a cluster, two clusters joined by gateways, or a hub
// with leaf nodes. All of them end with their test, listen on ports of the loopback interface that the system chooses, and
// are ready when they are returned: what they must know of each other, they know.
package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver"
)

// Run starts a server without a network port in a directory of the test, and connects to it. Both end with the test.
func Run(t testing.TB) (*natsserver.Server, *nats.Conn, jetstream.JetStream) {
	t.Helper()
	server := Start(t, natsserver.Options{})
	connection, js := Connect(t, server)
	return server, connection, js
}

// RunListening is Run with a free port of the loopback interface, for clients that need a URL.
func RunListening(t testing.TB) (*natsserver.Server, *nats.Conn, jetstream.JetStream) {
	t.Helper()
	server := Start(t, natsserver.Options{Listen: "127.0.0.1:0"})
	connection, js := Connect(t, server)
	return server, connection, js
}

// Start starts a server that ends with the test. Without a store directory it gets one of the test's.
func Start(t testing.TB, options natsserver.Options) *natsserver.Server {
	t.Helper()
	if options.StoreDir == "" {
		options.StoreDir = t.TempDir()
	}
	if options.MaxStore == 0 {
		options.MaxStore = maxStore // the default is a share of the free space, which tests must not depend on
	}
	server, err := natsserver.Start(t.Context(), options)
	require.NoError(t, err, "starting a NATS server for the test")
	t.Cleanup(server.Shutdown)
	return server
}

// Connect connects to the server until the test ends. The connection reconnects for ever, quickly. Options, such as credentials,
// come to those.
func Connect(t testing.TB, server nats.InProcessConnProvider, options ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	closed := make(chan struct{})
	connection, err := nats.Connect("", append([]nats.Option{
		nats.InProcessServer(server),
		nats.Name(t.Name()),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(10 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
	}, options...)...)
	require.NoError(t, err, "connecting to the test's NATS server")
	t.Cleanup(func() {
		connection.Close()
		<-closed
	})
	js, err := jetstream.New(connection)
	require.NoError(t, err)
	return connection, js
}

// Restart stops the server and starts it again with what it has stored. Connections reconnect by themselves; requests that
// are under way fail.
func Restart(t testing.TB, server *natsserver.Server) {
	t.Helper()
	require.NoError(t, server.Restart(t.Context()), "restarting the test's NATS server")
}

// ClientLeak lets a test's check for leaked goroutines pass over one that is the NATS client's: the goroutine with which an asynchronous
// publisher follows the connection's state never ends where the publisher is cleaned up before it has begun to run.
func ClientLeak() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect")
}

// StoreLeaks pass over the goroutines of a stream's files that a NATS server was about to open when it was shut down: it forgets
// to close them. For tests that shut down servers at any moment.
func StoreLeaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	}
}
