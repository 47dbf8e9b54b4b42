package natsserver_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerWithoutNetwork(t *testing.T) {
	t.Parallel()
	server, connection, js := natstest.Run(t)
	require.True(t, connection.IsConnected())
	account, err := js.AccountInfo(t.Context())
	require.NoError(t, err)
	require.Zero(t, account.Streams)
	server.Shutdown()
	server.Shutdown()
	_, err = server.InProcessConn()
	require.ErrorContains(t, err, "is stopped")
	require.Empty(t, server.ClientURL())
}

func TestServerKeepsItsStoreAndPortOverARestart(t *testing.T) {
	t.Parallel()
	server, _, js := natstest.RunListening(t)
	url := server.ClientURL()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "s", []byte("kept"))
	require.NoError(t, err)

	natstest.Restart(t, server)
	require.Equal(t, url, server.ClientURL())
	connection, err := nats.Connect(url)
	require.NoError(t, err)
	defer connection.Close()
	again, err := jetstream.New(connection)
	require.NoError(t, err)
	stream, err := again.Stream(t.Context(), "S")
	require.NoError(t, err)
	message, err := stream.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "kept", string(message.Data))
}

func TestStartSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) })
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, test := range map[string]struct {
		options natsserver.Options
		says    string
	}{
		"no store":         {natsserver.Options{}, "needs a store directory"},
		"a file as store":  {natsserver.Options{StoreDir: file}, file},
		"no address":       {natsserver.Options{Listen: "localhost"}, `listen address "localhost": write it like`},
		"no port":          {natsserver.Options{Listen: "localhost:http"}, "the port is no number"},
		"a port too large": {natsserver.Options{Listen: "localhost:65536"}, "the port is no number"},
		"a port in use":    {natsserver.Options{Listen: taken.Addr().String()}, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.options.StoreDir == "" && name != "no store" {
				test.options.StoreDir = t.TempDir()
			}
			server, err := natsserver.Start(t.Context(), test.options)
			require.ErrorContains(t, err, test.says)
			require.Nil(t, server)
		})
	}
}

func TestStartStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := natsserver.Start(ctx, natsserver.Options{StoreDir: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
}

func TestTwoServersDoNotShareAStore(t *testing.T) {
	t.Parallel()
	first, second := natstest.Start(t, natsserver.Options{}), natstest.Start(t, natsserver.Options{})
	_, js := natstest.Connect(t, first)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	require.NoError(t, err)
	_, other := natstest.Connect(t, second)
	_, err = other.Stream(t.Context(), "S")
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}
