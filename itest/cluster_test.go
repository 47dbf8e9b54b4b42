// Clusters: three NATS servers that keep every stream and bucket three times, and what transfers in flight notice of losing
// them.

package itest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// clustered is a fleet in the middle of its first transfer, on a cluster of three.
type clustered struct {
	*interrupted

	nodes []*natstest.Node
}

// newClusteredPair is a fleet on a cluster of three, whose processes are connected to different servers of it.
func newClusteredPair(t *testing.T) (*pair, []*natstest.Node) {
	t.Helper()
	nodes := natstest.Cluster(t, 3)
	from := func(n int) *testfleet.Site {
		return &testfleet.Site{
			Server:    natstest.Any(append(nodes[n:len(nodes):len(nodes)], nodes[:n]...)),
			Resources: protocol.ResourceOptions{Replicas: 3},
		}
	}
	p := newPairOn(t, testfleet.NewAt(t, *from(0)))
	p.hostA.Site, p.hostB.Site = from(1), from(2)
	return p, nodes
}

// lead is the server that leads the stream.
func (c *clustered) lead(stream string) *natstest.Node {
	c.t.Helper()
	return natstest.LeaderOf(c.t, c.nodes, stream)
}

func (c *clustered) restart(nodes ...*natstest.Node) {
	c.t.Helper()
	for _, node := range nodes {
		node.Shutdown()
	}
	for _, node := range nodes {
		node.Start(c.t)
	}
	natstest.AwaitJetStream(c.t, c.nodes)
	natstest.AwaitReplicas(c.t, c.Resources.JetStream)
}

func TestALostServerOfAClusterLeavesTheTransferAlone(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*clustered){
		"the leader of the work":   func(c *clustered) { c.lead(protocol.StreamWork).Shutdown() },
		"the leader of the events": func(c *clustered) { c.lead(protocol.StreamEvents).Shutdown() },
		"the leader of the plans":  func(c *clustered) { c.lead("KV_" + protocol.BucketPlans).Shutdown() },
		"the leader of the lease":  func(c *clustered) { c.lead("KV_" + protocol.BucketLeader).Shutdown() },
		"the coordinator's":        func(c *clustered) { c.nodes[0].Shutdown() },
		"the sender's":             func(c *clustered) { c.nodes[1].LameDuck() },
		"the receiver's":           func(c *clustered) { c.nodes[2].Shutdown() },
		"one after another, and back": func(c *clustered) {
			for _, node := range c.nodes {
				c.restart(node)
			}
		},
		"all at once, and back": func(c *clustered) { c.restart(c.nodes...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, nodes := newClusteredPair(t)
			c := &clustered{p.interruptTransfer(protocol.TransportTCP), nodes}
			lose(c)
			c.fault.Release()
			c.requireReplicated(c.Wait(c.plan))
			require.Zero(t, c.streamedAgain(), "the transfer in flight goes on undisturbed")
			letters, err := c.Resources.DeadLetters.Info(t.Context())
			require.NoError(t, err)
			require.Zero(t, letters.State.Msgs, "dead letters")
		})
	}
}

func TestAPlanComesToItsEndWhileServersOfAClusterComeAndGo(t *testing.T) {
	t.Parallel()
	p, nodes := newClusteredPair(t)
	c := &clustered{&interrupted{pair: p}, nodes}
	names := p.tree(12, 4)
	p.startAll()
	job := p.job("prod")
	job.Replication.Concurrency.Steps = 2
	p.Submit(job)
	id := p.Request("prod")
	for _, node := range nodes {
		c.restart(node)
	}
	detail := p.Wait(id)
	require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	p.requireEqual(names, "backup/alpha")
	steps := 0
	for _, task := range detail.Tasks {
		steps += len(task.Steps)
	}
	sends := 0
	for _, record := range p.alpha.Commands() {
		if isStream(record.Args()) {
			sends++
		}
	}
	require.Equal(t, steps, sends, "one zfs send for each step: nothing is sent twice")
	for _, name := range names {
		p.requireAbstractions(name, "backup/alpha", "prod.bravo")
	}
}
