// Policy: a worker does nothing that its own host does not allow, whoever asks.

package itest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
)

// requireRefused requires that the run fails with a policy error of the host, and that the target has nothing.
func (p *pair) requireRefused(host protocol.Host, fragments ...string) {
	p.t.Helper()
	detail := p.Run("prod")
	require.Equal(p.t, protocol.PlanFailed, detail.Plan.State, "%s", testfleet.Explain(detail))
	require.Len(p.t, detail.Tasks, 1)
	failure := detail.Tasks[0].Failure
	require.NotNil(p.t, failure)
	require.Equal(p.t, protocol.Policy, failure.Kind)
	require.Equal(p.t, host, failure.Host)
	for _, fragment := range fragments {
		require.Contains(p.t, failure.Message, fragment)
	}
	require.Equal(p.t, []string{"backup", "backup/alpha"}, p.bravo.Datasets("backup"))
}

func TestSenderRefusesWhatItsPolicyDoesNotAllow(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.hostA.Policy.Send = protocol.Filter{"tank/other<": true}
	p.startAll()
	p.Submit(p.job("prod"))
	p.requireRefused("alpha", "does not allow to send tank/data", "worker.allow.send")
}

func TestReceiverRefusesWhatItsPolicyDoesNotAllow(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.hostB.Policy.Recv = []worker.RecvRule{{Root: "backup/other"}}
	p.startAll()
	p.Submit(p.job("prod"))
	p.requireRefused("bravo", "does not allow to receive below backup/alpha", "worker.allow.recv")
}

func TestReceiverRefusesOtherJobs(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.hostB.Policy.Recv = []worker.RecvRule{{Root: "backup", Jobs: []string{"staging-*"}}}
	p.startAll()
	p.Submit(p.job("prod"))
	p.requireRefused("bravo", "does not allow job prod")
}

// forged is a work item as somebody with access to NATS might publish it.
func (p *pair) forged(role protocol.Role, step protocol.Step) protocol.WorkItem {
	job := p.job("prod")
	return protocol.WorkItem{
		Ref:  protocol.StepRef{Plan: "20261123t000000-forged", Attempt: 1},
		Role: role, Job: "prod", JobID: "prod.bravo", Source: "alpha", Target: "bravo", TargetRoot: "backup/alpha", Step: step,
		Transport: protocol.TransportTCP, Protection: job.Replication.Protection, Send: job.Send, Recv: job.Recv,
		Deadlines: job.Replication.Deadlines,
	}
}

func TestForgedItemsAreRefused(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.hostA.Policy.Send = protocol.Filter{"tank/other<": true}
	p.hostB.Policy.Recv = []worker.RecvRule{{Root: "backup/other"}}
	p.startAll()
	to := snapshotsOf(t, p.alpha, "tank/data")[0]
	step := protocol.Step{
		Filesystem: "tank/data", TargetFilesystem: "backup/alpha/tank/data", Initial: true,
		To: protocol.Version{Type: protocol.Snapshot, Name: to.Name, GUID: to.GUID, CreateTXG: to.CreateTXG},
	}
	send := p.forged(protocol.RoleSend, step)
	send.Offer = &protocol.Offer{Addresses: []string{"127.0.0.1:1"}, Secret: make([]byte, 32)}
	recv := p.forged(protocol.RoleRecv, step)
	recv.Ref.Task = 1
	for _, item := range []protocol.WorkItem{send, recv} {
		_, err := protocol.PublishWork(t.Context(), p.Resources.JetStream, item)
		require.NoError(t, err)
		event := p.waitForEvent(item.Ref, protocol.EventFailed)
		require.Equal(t, protocol.Policy, event.Failure.Kind, "%+v", event.Failure)
	}
	require.Equal(t, []string{"backup", "backup/alpha"}, p.bravo.Datasets("backup"))
	versions, err := p.alpha.Versions("tank/data")
	require.NoError(t, err)
	require.Len(t, versions, 1, "no bookmark was made")
	require.Empty(t, versions[0].Holds)
}

func TestAForgedItemCannotReplaceAFilesystemOfSomebodyElse(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.zfs(p.bravo, "create", "backup/alpha/tank")
	p.zfs(p.bravo, "create", "backup/alpha/tank/data")
	require.NoError(t, p.bravo.Write("backup/alpha/tank/data", "precious", []byte("the only copy")))
	p.startAll()
	to := snapshotsOf(t, p.alpha, "tank/data")[0]
	item := p.forged(protocol.RoleRecv, protocol.Step{
		Filesystem: "tank/data", TargetFilesystem: "backup/alpha/tank/data", Initial: true,
		To: protocol.Version{Type: protocol.Snapshot, Name: to.Name, GUID: to.GUID, CreateTXG: to.CreateTXG},
	})
	item.Recv.ForceRollback = true
	_, err := protocol.PublishWork(t.Context(), p.Resources.JetStream, item)
	require.NoError(t, err)
	event := p.waitForEvent(item.Ref, protocol.EventFailed)
	require.Equal(t, protocol.Conflict, event.Failure.Kind, "%+v", event.Failure)
	kept, err := p.bravo.Read("backup/alpha/tank/data", "precious")
	require.NoError(t, err)
	require.Equal(t, "the only copy", string(kept))
}
