// Sites: hosts that reach the fleet's NATS through a leaf node, or through another cluster.

package itest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// sites are the places where a coordinator with host alpha is, and host bravo.
var sites = map[string]func(*testing.T) (centre, remote testfleet.Site){
	"a leaf node with a domain of its own": func(t *testing.T) (centre, remote testfleet.Site) {
		t.Helper()
		hub := natstest.Hub(t, "hub")
		return testfleet.Site{Server: hub}, testfleet.Site{Server: natstest.Leaf(t, hub, "site"), Domain: "hub"}
	},
	"a leaf node without JetStream": func(t *testing.T) (centre, remote testfleet.Site) {
		t.Helper()
		hub := natstest.Hub(t, "hub")
		return testfleet.Site{Server: hub}, testfleet.Site{Server: natstest.Leaf(t, hub, ""), Domain: "hub"}
	},
	"another cluster": func(t *testing.T) (centre, remote testfleet.Site) {
		t.Helper()
		first, second := natstest.Clusters(t, 1, 2)
		return testfleet.Site{Server: first[0]}, testfleet.Site{Server: second[1]}
	},
}

func TestReplicateAcrossSites(t *testing.T) {
	t.Parallel()
	for place, build := range sites {
		for _, transport := range []protocol.Transport{protocol.TransportAuto, protocol.TransportTCP, protocol.TransportObject} {
			t.Run(place+"/"+string(transport), func(t *testing.T) {
				t.Parallel()
				centre, remote := build(t)
				p := newPairOn(t, testfleet.NewAt(t, centre))
				p.hostB.Site = &remote
				names := p.tree(3, 2)
				p.startAll()

				job := p.job("prod")
				job.Replication.Transport = transport
				p.Submit(job)
				p.MustRun("prod")
				p.snapshots(names, 3, 3)
				p.MustRun("prod")
				p.requireEqual(names, "backup/alpha")
				for _, name := range names {
					p.requireAbstractions(name, "backup/alpha", "prod.bravo")
				}

				// Back again, from behind the leaf node: what the remote host sends has to find its way too.
				p.zfs(p.alpha, "create", "tank/back")
				back := testfleet.Job("back", "bravo", protocol.Filter{"backup/alpha/tank/data": true},
					protocol.JobTarget{Host: "alpha", Root: "tank/back"})
				back.Replication.Transport = transport
				p.Submit(back)
				p.MustRun("back")
				require.Equal(t, guids(snapshotsOf(t, p.bravo, "backup/alpha/tank/data")),
					guids(snapshotsOf(t, p.alpha, "tank/back/backup/alpha/tank/data")))
			})
		}
	}
}
