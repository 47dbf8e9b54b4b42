// Signs of life: what a watchdog is fed by.

package itest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
)

func TestProcessesGiveSignsOfLifeHoweverLongAStepTakes(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	// The one slot of each is taken by the step, so that only what keeps its claim can tell.
	p.hostA.Slots, p.hostB.Slots = worker.Slots{Send: 1, Recv: -1}, worker.Slots{Send: -1, Recv: 1}
	i := p.interruptTransfer(protocol.TransportTCP)
	hung := time.Now()
	for _, process := range []*testfleet.Process{i.coordinator, i.sender, i.receiver} {
		require.Eventually(t, func() bool { return process.LastTurn().After(hung) }, testfleet.Timeout, 20*time.Millisecond,
			"%s gives signs of life while the step hangs", process.Name)
	}
	i.fault.Release()
	i.requireReplicated(i.Wait(i.plan))
	for _, process := range []*testfleet.Process{i.sender, i.receiver} {
		process.Stop()
		require.Zero(t, process.LastTurn(), "%s has no loops any more", process.Name)
	}
}
