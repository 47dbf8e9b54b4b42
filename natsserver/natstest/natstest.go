// Package natstest gives each test a NATS server of its own.
package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

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
	server, err := natsserver.Start(t.Context(), options)
	require.NoError(t, err, "starting a NATS server for the test")
	t.Cleanup(server.Shutdown)
	return server
}

// Connect connects to the server until the test ends. The connection reconnects for ever, quickly.
func Connect(t testing.TB, server *natsserver.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	closed := make(chan struct{})
	connection, err := nats.Connect("",
		nats.InProcessServer(server.InProcess()),
		nats.Name(t.Name()),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectJitter(0, 0),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
	)
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
