package natstest_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store makes a stream of so many replicas.
func store(t *testing.T, js jetstream.JetStream, replicas int) {
	t.Helper()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: replicas})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "s", []byte("kept"))
	require.NoError(t, err)
}

func requireStored(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "S")
	require.NoError(t, err)
	message, err := stream.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "kept", string(message.Data))
}

func TestAClusterKeepsAStreamWithoutOneOfItsServers(t *testing.T) {
	t.Parallel()
	nodes := natstest.Cluster(t, 3)
	require.Len(t, nodes, 3)
	_, js := natstest.Connect(t, nodes[0])
	store(t, js, 3)
	nodes[0].Shutdown()
	nodes[0].Shutdown()
	_, other := natstest.Connect(t, nodes[1])
	require.Eventually(t, func() bool {
		_, err := other.Publish(t.Context(), "s", nil)
		return err == nil
	}, natstest.Patience, 20*time.Millisecond, "two of three servers must elect another leader of the stream")
	requireStored(t, other)
}

func TestClustersShareAJetStream(t *testing.T) {
	t.Parallel()
	first, second := natstest.Clusters(t, 1, 2)
	_, js := natstest.Connect(t, first[0])
	store(t, js, 1)
	connection, other := natstest.Connect(t, second[1])
	requireStored(t, other)
	require.Equal(t, second[1].Name(), connection.ConnectedServerName())
}

func TestALeafNodeReachesTheHub(t *testing.T) {
	t.Parallel()
	for name, domain := range map[string]string{"with a domain of its own": "site", "with no JetStream": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := natstest.Hub(t, "hub")
			leaf := natstest.Leaf(t, hub, domain)
			_, js := natstest.Connect(t, hub)
			store(t, js, 1)

			connection, own := natstest.Connect(t, leaf)
			_, err := own.Stream(t.Context(), "S")
			require.Error(t, err, "without the domain, a client of the leaf node must not reach the hub's streams")
			through, err := jetstream.NewWithDomain(connection, "hub")
			require.NoError(t, err)
			requireStored(t, through)

			remote, err := nats.Connect(leaf.ClientURL())
			require.NoError(t, err)
			defer remote.Close()
			require.NotEqual(t, hub.ClientURL(), leaf.ClientURL())
		})
	}
}
