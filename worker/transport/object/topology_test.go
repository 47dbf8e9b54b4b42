package object

// Streams between hosts that share nothing but NATS: across leaf nodes, within and between clusters.

import (
	"bytes"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// at is the object store as a worker that is connected to the server has it.
func at(t *testing.T, server nats.InProcessConnProvider, domain string) *Store {
	t.Helper()
	conn, _ := natstest.Connect(t, server)
	js, err := protocol.JetStream(conn, domain)
	require.NoError(t, err)
	objects, err := js.ObjectStore(t.Context(), protocol.BucketStreams)
	require.NoError(t, err)
	return Open(conn, js, objects)
}

// crosses sends a stream from one worker to others.
func crosses(t *testing.T, js jetstream.JetStream, sender *Store, receivers ...*Store) {
	t.Helper()
	s := &stand{t: t, js: js}
	sent := content(5<<20 + 1)
	options := s.options(len(receivers))
	options.Segment, options.Window, options.Stall = 1<<20, 4<<20, natstest.Patience
	stream := s.send(sender, options)
	var results []<-chan *received
	var outgoing []*Outgoing
	for task, store := range receivers {
		r := s.receiver(store, task)
		results = append(results, r.taking(t.Context(), nil, transport.CopyOptions{}))
		outgoing = append(outgoing, s.call(stream, r))
	}
	_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
	require.NoError(t, err)
	for task := range receivers {
		_, err := outgoing[task].Confirmation(t.Context())
		require.NoError(t, err)
		got := result(t, results[task])
		require.NoError(t, got.copied)
		require.NoError(t, got.confirmed)
		sameBytes(t, sent, got.bytes)
	}
	require.NoError(t, stream.Close())
	s.nothingLeft()
}

func TestStreamsCrossLeafNodes(t *testing.T) {
	t.Parallel()
	const domain = "hub"
	hub := natstest.Hub(t, domain)
	own, none := natstest.Leaf(t, hub, "edge"), natstest.Leaf(t, hub, "")
	_, js := natstest.Connect(t, hub)
	_, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{StreamsMaxBytes: 64 << 20})
	require.NoError(t, err)
	crosses(t, js, at(t, hub, domain), at(t, own, domain), at(t, none, domain))
	crosses(t, js, at(t, own, domain), at(t, hub, ""), at(t, none, domain))
	crosses(t, js, at(t, none, domain), at(t, own, domain), at(t, hub, domain))
}

func TestStreamsGoThroughAReplicatedBucket(t *testing.T) {
	t.Parallel()
	nodes := natstest.Cluster(t, 3)
	_, js := natstest.Connect(t, nodes[0])
	_, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{StreamsMaxBytes: 64 << 20, Replicas: 3})
	require.NoError(t, err)
	crosses(t, js, at(t, nodes[0], ""), at(t, nodes[1], ""), at(t, nodes[2], ""))
}

func TestStreamsCrossGateways(t *testing.T) {
	t.Parallel()
	first, second := natstest.Clusters(t, 1, 1)
	_, js := natstest.Connect(t, first[0])
	_, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{StreamsMaxBytes: 64 << 20})
	require.NoError(t, err)
	crosses(t, js, at(t, first[0], ""), at(t, second[0], ""))
	crosses(t, js, at(t, second[0], ""), at(t, first[0], ""))
}
