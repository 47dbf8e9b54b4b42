// Interruptions: every process is killed in the middle of a transfer, and the fleet goes on by itself.

package itest_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// large is the size of the stream that is interrupted, and cut how much of it has passed by then.
const (
	large = 64 << 20
	cut   = 16 << 20
)

// interrupted is a fleet in the middle of its first transfer: zfs send hangs after cut bytes.
type interrupted struct {
	*pair

	coordinator, sender, receiver *testfleet.Process
	plan                          protocol.PlanID
	fault                         *zfsfake.Injection
}

// byEachWay interrupts a transfer over a connection, and one through the object store.
func byEachWay(t *testing.T, test func(*interrupted)) {
	t.Helper()
	for _, transport := range []protocol.Transport{protocol.TransportTCP, protocol.TransportObject} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			test(interruptTransferBy(t, transport))
		})
	}
}

func interruptTransferBy(t *testing.T, transport protocol.Transport) *interrupted {
	t.Helper()
	return newPair(t).interruptTransfer(transport)
}

// interruptTransfer starts a coordinator and a worker for each host, and their first transfer.
func (p *pair) interruptTransfer(transport protocol.Transport) *interrupted {
	t := p.t
	t.Helper()
	p.zfs(p.alpha, "create", "tank/data")
	require.NoError(t, p.alpha.Generate("tank/data", "large", 7, large))
	p.zfs(p.alpha, "snapshot", "tank/data@s1")
	i := &interrupted{pair: p, coordinator: p.StartCoordinator(), sender: p.StartWorker(p.hostA), receiver: p.StartWorker(p.hostB)}
	i.fault = p.alpha.Inject(zfsfake.Fault{Match: isStream, HangAfter: cut, Times: 1})
	job := p.job("prod")
	job.Replication.Transport = transport
	if transport == protocol.TransportObject {
		// Nobody's end breaks a connection, so that it shows by silence only.
		job.Replication.Deadlines.Stall = protocol.Duration(3 * time.Second)
		job.Replication.Objects = protocol.Objects{Segment: 1 << 20, Window: 4 << 20}
	}
	p.Submit(job)
	i.plan = p.Request("prod")
	select {
	case <-i.fault.Reached():
	case <-time.After(testfleet.Timeout):
		t.Fatal("the transfer did not begin")
	}
	return i
}

// isStream matches the zfs send that makes a stream, and no estimate or decoding of a token.
func isStream(args []string) bool {
	if len(args) < 2 || args[0] != "zfs" || args[1] != "send" {
		return false
	}
	for _, arg := range args[2:] {
		if arg == "-nP" || arg == "-nvt" || arg == "-nvP" {
			return false
		}
	}
	return true
}

// streamed is how many bytes the sends have made that began after the first.
func (i *interrupted) streamedAgain() int64 {
	var sum int64
	first := true
	for _, record := range i.alpha.Commands() {
		if !isStream(record.Args()) {
			continue
		}
		if !first {
			sum += record.Bytes()
		}
		first = false
	}
	return sum
}

// requireResumed requires that the plan ends well, and that less than the whole was sent after the interruption.
func (i *interrupted) requireResumed() {
	i.t.Helper()
	detail := i.Wait(i.plan)
	i.requireReplicated(detail)
	again := i.streamedAgain()
	require.Positive(i.t, again, "something is sent after the interruption")
	require.LessOrEqual(i.t, again, int64(large-cut/2), "the transfer is resumed, not started again")
}

func (i *interrupted) requireReplicated(detail fleet.PlanDetail) {
	i.t.Helper()
	require.Equal(i.t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	i.requireEqual([]string{"tank/data"}, "backup/alpha")
	i.requireAbstractions("tank/data", "backup/alpha", "prod.bravo")
}

func TestReceivingWorkerKilled(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.receiver.Kill()
		i.fault.Release()
		i.StartWorker(i.hostB)
		i.requireResumed()
	})
}

func TestSendingWorkerKilled(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.sender.Kill()
		i.StartWorker(i.hostA)
		i.requireResumed()
	})
}

func TestBothWorkersKilled(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.sender.Kill()
		i.receiver.Kill()
		i.StartWorker(i.hostA)
		i.StartWorker(i.hostB)
		i.requireResumed()
	})
}

func TestSendingWorkerStoppedGracefully(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.sender.Stop()
		i.StartWorker(i.hostA)
		i.requireResumed()
	})
}

func TestCoordinatorKilledLeavesTheTransferAlone(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.coordinator.Kill()
		i.fault.Release()
		i.StartCoordinator()
		i.requireReplicated(i.Wait(i.plan))
		require.Zero(i.t, i.streamedAgain(), "the transfer in flight goes on undisturbed")
	})
}

func TestServerRestartedLeavesTheTransferAlone(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		require.NoError(i.t, i.Server.Restart(i.t.Context()))
		i.fault.Release()
		i.requireReplicated(i.Wait(i.plan))
		require.Zero(i.t, i.streamedAgain(), "the transfer in flight goes on undisturbed")
	})
}

// TestItemOfAnEndedTryTakesNoPlace has a worker that has just been started claim a try that is over, which the worker before it
// had claimed when it was killed. It must not wait for a sender in the only slot that there is.
func TestItemOfAnEndedTryTakesNoPlace(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	items, err := p.Conn.SubscribeSync(protocol.WorkSubject("bravo", protocol.RoleRecv))
	require.NoError(t, err)
	p.hostB.Slots.Recv = 1
	i := p.interruptTransfer(protocol.TransportTCP)
	first, err := items.NextMsg(testfleet.Timeout)
	require.NoError(t, err)
	i.receiver.Kill()
	i.fault.Release()
	require.Eventually(t, func() bool {
		detail, err := p.Client.Plan(t.Context(), i.plan)
		return err == nil && detail.Tasks[0].State != protocol.TaskSending
	}, testfleet.Timeout, 10*time.Millisecond, "the try has failed")
	first.Header.Del(jetstream.MsgIDHeader)
	_, err = p.Resources.JetStream.PublishMsg(t.Context(), &nats.Msg{Subject: first.Subject, Header: first.Header, Data: first.Data})
	require.NoError(t, err, "its item comes again")
	p.StartWorker(p.hostB)
	i.requireResumed()
}

func TestEverythingKilledAtOnce(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		i.sender.Kill()
		i.receiver.Kill()
		i.coordinator.Kill()
		require.NoError(i.t, i.Server.Restart(i.t.Context()))
		i.startAll()
		i.requireResumed()
	})
}

func TestCancelledInTheMiddleAndResumedByTheNextRun(t *testing.T) {
	t.Parallel()
	byEachWay(t, func(i *interrupted) {
		require.NoError(i.t, i.Client.Cancel(i.t.Context(), i.plan))
		detail := i.Wait(i.plan)
		require.Equal(i.t, protocol.PlanCancelled, detail.Plan.State, "%s", testfleet.Explain(detail))
		i.plan = i.Request("prod")
		i.requireResumed()
	})
}

// A run that was cancelled while it waited for another of its job has ended, also for a leader that finds it waiting.
func TestANewLeaderPassesOverACancelledRunThatWaited(t *testing.T) {
	t.Parallel()
	i := interruptTransferBy(t, protocol.TransportTCP)
	cancelled, last := i.Request("prod"), i.Request("prod")
	require.NoError(t, i.Client.Cancel(t.Context(), cancelled))
	require.Equal(t, protocol.PlanCancelled, i.Wait(cancelled).Plan.State)
	i.coordinator.Kill()
	i.StartCoordinator()
	i.fault.Release()
	require.Equal(t, protocol.PlanDone, i.Wait(i.plan).Plan.State)
	detail := i.Wait(last)
	require.Equal(t, protocol.PlanDone, detail.Plan.State, testfleet.Explain(detail))
}
