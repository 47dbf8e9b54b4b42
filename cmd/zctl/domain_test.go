package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func TestAnOperatorBehindALeafNode(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	hub := natstest.Hub(t, "hub")
	_, js := natstest.Connect(t, hub)
	_, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)
	b.env["ZFLEET_NATS"] = natstest.Leaf(t, hub, "").ClientURL()

	result := b.zctl("jobs")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.err, "a host behind a leaf node names the domain")

	require.Contains(t, b.must("submit", "--domain", "hub", "--from", "alpha:tank/data", "--to", "bravo:backup",
		"--transport", "object", "--compression", "zstd", "--limit", "20MiB"), "created")
	b.env["ZFLEET_DOMAIN"] = "hub"
	written := b.must("jobs", "alpha-tank-data-to-bravo", "-o", "yaml")
	job, err := protocol.ParseJob([]byte(written))
	require.NoError(t, err)
	require.Equal(t, protocol.TransportObject, job.Replication.Transport)
	require.Equal(t, protocol.CompressionZstd, job.Replication.Compression)
	require.Equal(t, protocol.ByteSize(20<<20), job.Send.BandwidthLimit.Default)
}
