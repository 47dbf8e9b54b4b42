// Draining: a worker that is asked to end finishes what it works on, and takes nothing more.

package itest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
)

// awaitPresence waits until the worker's presence is as wanted; a worker that is not there has none.
func (p *pair) awaitPresence(worker string, wanted func(*protocol.Presence) bool, what string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		hosts, err := p.Client.Hosts(p.t.Context())
		require.NoError(p.t, err)
		for _, presence := range hosts {
			if presence.Worker == worker {
				return wanted(&presence)
			}
		}
		return wanted(nil)
	}, testfleet.Timeout, 20*time.Millisecond, what)
}

func TestDrainingWorkersFinishTheirStepsAndTakeNoMore(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		senderEnds, receiverEnds := i.sender.Drain(), i.receiver.Drain()
		i.sender.Drain() // as often as one likes
		for _, p := range []*testfleet.Process{i.sender, i.receiver} {
			i.awaitPresence(p.Name, func(presence *protocol.Presence) bool { return presence != nil && presence.Draining },
				"the fleet is told that "+p.Name+" drains")
		}
		_, err := i.Client.Abstractions(i.t.Context(), protocol.AbstractionsRequest{Roots: []string{"tank"}}, "alpha")
		require.NoError(i.t, err, "a draining worker still answers")
		for _, ended := range []<-chan struct{}{senderEnds, receiverEnds} {
			select {
			case <-ended:
				i.t.Fatal("a worker ended although its step runs")
			default:
			}
		}

		later := i.job("later")
		later.Source.Filesystems = protocol.Filter{"tank/other": true}
		i.zfs(i.alpha, "create", "tank/other")
		i.zfs(i.alpha, "snapshot", "tank/other@s1")
		i.Submit(later)
		laterPlan := i.Request("later")

		i.fault.Release()
		<-senderEnds
		<-receiverEnds
		for _, p := range []*testfleet.Process{i.sender, i.receiver} {
			i.awaitPresence(p.Name, func(presence *protocol.Presence) bool { return presence == nil },
				p.Name+" has taken its leave")
		}
		i.requireReplicated(i.Wait(i.plan))
		require.Zero(i.t, i.streamedAgain(), "the step was finished, not interrupted")

		i.StartWorker(i.hostA)
		i.StartWorker(i.hostB)
		require.Equal(i.t, protocol.PlanDone, i.Wait(laterPlan).Plan.State, "others do what a draining worker leaves")
	})
}

func TestDrainingAnIdleWorkerEndsIt(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	worker := p.StartWorker(p.hostA)
	p.awaitPresence(worker.Name, func(presence *protocol.Presence) bool { return presence != nil }, "the worker runs")
	<-worker.Drain()
}

func TestStoppingADrainingWorkerEndsItAtOnce(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.sender.Drain()
		i.sender.Stop()
		i.StartWorker(i.hostA)
		i.requireResumed()
	})
}
