// Transports: every way of a stream from host to host, for every kind of stream, on fake and on real pools.

package itest_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
)

func TestTransports(t *testing.T) {
	t.Parallel()
	onFakes(t, transportScenarios())
}

func TestRealTransports(t *testing.T) { onRealPools(t, transportScenarios()) }

// wayTo is a way that a test has streams go.
type wayTo struct {
	transport   protocol.Transport
	compression protocol.Compression
	// plain turns TLS off; unreachable has the named hosts advertise an address where nobody listens.
	plain       bool
	unreachable []protocol.Host
	// expected is what the events must say of the way.
	expected protocol.Path
	// because is part of the reason that the events must give.
	because string
}

func ways() map[string]wayTo {
	tcp := func(path protocol.Path) protocol.Path {
		path.Transport = protocol.TransportTCP
		return path
	}
	objects := protocol.Path{Transport: protocol.TransportObject}
	return map[string]wayTo{
		"tcp":       {transport: protocol.TransportTCP, expected: tcp(protocol.Path{TLS: true})},
		"plain tcp": {transport: protocol.TransportTCP, plain: true, expected: tcp(protocol.Path{})},
		"tcp from the receiver": {
			transport: protocol.TransportAuto, unreachable: []protocol.Host{"bravo"},
			expected: tcp(protocol.Path{TLS: true, Reverse: true}), because: "connection refused",
		},
		"tcp with zstd": {
			transport: protocol.TransportTCP, compression: "zstd-1", plain: true,
			expected: tcp(protocol.Path{Compression: protocol.CompressionZstd}),
		},
		"objects": {transport: protocol.TransportObject, expected: objects},
		"objects with zstd": {
			transport: protocol.TransportObject, compression: "zstd",
			expected: protocol.Path{Transport: protocol.TransportObject, Compression: protocol.CompressionZstd},
		},
		"auto without a network": {
			transport: protocol.TransportAuto, unreachable: []protocol.Host{"alpha", "bravo"}, expected: objects,
			because: "connection refused",
		},
		"local": {transport: protocol.TransportAuto, expected: protocol.Path{Transport: protocol.TransportLocal}},
	}
}

func transportScenarios() map[string]scenario {
	scenarios := map[string]scenario{}
	for name, way := range ways() {
		scenarios[name] = func(c *scene) { c.replicateBy(way) }
	}
	return scenarios
}

// interruptedBytes is the size of the stream that is interrupted after three quarters.
const interruptedBytes = 8 << 20

// replicateBy replicates a filesystem in full, by a range of snapshots, and by a step that is interrupted and resumed, and an
// encrypted one as it is.
func (c *scene) replicateBy(way wayTo) {
	c.goBy(way)
	plain, secret := c.data+"/plain", c.data+"/secret"
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.command(c.source, "create", plain)
	c.encryptionRoot(c.source, secret)
	c.snapshot(plain, "s1", 1)
	c.snapshot(secret, "s1", 2)
	c.Submit(c.jobBy(way, "prod", plain))
	c.Submit(c.jobBy(way, "raw", secret))

	c.requireWay(way, c.MustRun("prod"))
	c.requireWay(way, c.MustRun("raw"))
	for n := uint64(2); n <= 4; n++ {
		c.snapshot(plain, fmt.Sprint("s", n), n)
	}
	detail := c.MustRun("prod")
	require.Equal(c.t, 2, c.task(detail, plain).Steps[0].Intermediates, "one step carries the range")

	c.write(plain, 5, interruptedBytes)
	c.command(c.source, "snapshot", plain+"@s5")
	reached := c.stopSource.Stop(testfleet.Point{Match: isStream, Bytes: interruptedBytes * 3 / 4})
	id := c.Request("prod")
	c.await(reached, "the transfer begins")
	c.workers[0].Kill() // the receiver finds out by itself, and keeps what has come
	c.startWorker("alpha")
	detail = c.Wait(id)
	c.requireDone(detail)
	done, failures := c.tries(id)
	require.NotEmpty(c.t, done)
	require.True(c.t, done[len(done)-1].Resumed, "%+v\n%s", done, failures)
	require.Positive(c.t, done[len(done)-1].Bytes)

	c.requireReceived(plain, secret)
	require.Equal(c.t, c.content(c.source, plain), c.content(c.target, c.received(plain)), "the contents")
	require.Equal(c.t, "unavailable", c.property(c.target, c.received(secret), "keystatus"), "it is encrypted as it was")
	c.requireNoSegments()
}

// goBy starts the workers again, so that their streams go that way.
func (c *scene) goBy(way wayTo) {
	c.t.Helper()
	for _, w := range c.workers {
		w.Stop()
	}
	local := way.expected.Transport == protocol.TransportLocal
	if local {
		c.target, c.stopTarget, c.root = c.source, c.stopSource, c.sourcePool+"/received"
	}
	nowhere := closedPort(c.t)
	c.configure = func(host *testfleet.Host) {
		host.PlainTCP = way.plain
		for _, name := range way.unreachable {
			if name == host.Name {
				host.Advertise = []string{nowhere}
			}
		}
	}
	c.startWorkers()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

func (c *scene) jobBy(way wayTo, name, filesystem string) protocol.Job {
	target := protocol.JobTarget{Host: "bravo", Root: c.root}
	if c.target == c.source {
		target.Host = "alpha"
	}
	job := testfleet.Job(name, "alpha", protocol.Filter{filesystem: true}, target)
	job.Send.Encrypted = name == "raw"
	job.Replication.Attempts = 20
	job.Replication.Deadlines.Stall = protocol.Duration(5 * time.Second)
	job.Replication.Transport = way.transport
	job.Replication.Objects = protocol.Objects{Segment: 256 << 10, Window: 1 << 20}
	if way.compression != "" {
		job.Replication.Compression = way.compression
	}
	return job
}

// requireWay requires that every step of the plan has taken the way.
func (c *scene) requireWay(way wayTo, detail fleet.PlanDetail) {
	c.t.Helper()
	paths := c.paths(detail.Plan.ID)
	require.NotEmpty(c.t, paths)
	for _, path := range paths {
		if way.because != "" {
			require.Contains(c.t, path.Reason, way.because)
		} else {
			require.Empty(c.t, path.Reason)
		}
		path.Address, path.Reason, path.Receivers, path.Reused = "", "", 0, false
		require.Equal(c.t, way.expected, path)
	}
}

// paths are the ways that the finished steps of the plan have taken.
func (c *scene) paths(id protocol.PlanID) []protocol.Path {
	c.t.Helper()
	var paths []protocol.Path
	for record, err := range c.Client.Events(c.t.Context(), fleet.EventQuery{Plan: id}) {
		require.NoError(c.t, err)
		if record.Event != nil && record.Event.Kind == protocol.EventDone {
			require.NotNil(c.t, record.Event.Path)
			paths = append(paths, *record.Event.Path)
		}
	}
	return paths
}

// requireNoSegments requires that nothing is left in the object store, not even what says that something was deleted.
func (c *scene) requireNoSegments() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		stream, err := c.Resources.JetStream.Stream(c.t.Context(), "OBJ_"+protocol.BucketStreams)
		require.NoError(c.t, err)
		info, err := stream.Info(c.t.Context())
		require.NoError(c.t, err)
		return info.State.Msgs == 0
	}, testfleet.Timeout, 20*time.Millisecond, "segments are left in the object store")
}

func (c *scene) await(reached <-chan struct{}, what string) {
	c.t.Helper()
	select {
	case <-reached:
	case <-time.After(testfleet.Timeout):
		require.Fail(c.t, what+": it did not")
	}
}
