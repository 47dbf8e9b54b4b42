// Claims: of the workers of a host, one at a time works on a filesystem, and what comes late or twice has no effect.

package itest_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// claimed is a fleet in the middle of a transfer, whose sender or receiver can be cut off from NATS.
type claimed struct {
	*interrupted

	host  protocol.Host
	role  protocol.Role
	cable *testfleet.Cable
}

// onEitherSide cuts off the sender in one test, and the receiver in another.
func onEitherSide(t *testing.T, test func(*claimed)) {
	t.Helper()
	for _, role := range protocol.Roles() {
		t.Run(string(role), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			c := &claimed{role: role, host: "alpha", cable: testfleet.NewCable(p.Server)}
			site := &testfleet.Site{Server: c.cable}
			if role == protocol.RoleRecv {
				c.host, p.hostB.Site = "bravo", site
			} else {
				p.hostA.Site = site
			}
			c.interrupted = p.interruptTransfer(protocol.TransportTCP)
			p.hostA.Site, p.hostB.Site = nil, nil
			test(c)
		})
	}
}

// another starts another worker of the host that is cut off.
func (c *claimed) another() *testfleet.Process {
	c.t.Helper()
	if c.role == protocol.RoleRecv {
		return c.StartWorker(c.hostB)
	}
	return c.StartWorker(c.hostA)
}

// awaitRedelivery waits until an item of the host was delivered a second time.
func (c *claimed) awaitRedelivery() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		consumer, err := c.Resources.JetStream.Consumer(c.t.Context(), protocol.StreamWork, protocol.WorkConsumer(c.host, c.role))
		require.NoError(c.t, err)
		return consumer.CachedInfo().NumRedelivered > 0
	}, testfleet.Timeout, 50*time.Millisecond, "the item comes to another worker")
}

// requireOnce requires that the plan ends well, and that its one step was sent and received once, and is done once.
func (c *claimed) requireOnce() {
	c.t.Helper()
	c.requireReplicated(c.Wait(c.plan))
	require.Equal(c.t, 1, count(c.alpha, isStream), "one zfs send")
	require.Equal(c.t, 1, count(c.bravo, zfsfake.Command("zfs", "recv")), "one zfs recv")
	done := c.doneEvents(c.plan)
	require.Len(c.t, done, 1)
	require.Equal(c.t, 1, done[0].Ref.Attempt)
	c.requireNoItems()
}

// count is how many of the commands that have been begun match.
func count(fake *zfsfake.Fake, match func(args []string) bool) int {
	n := 0
	for _, record := range fake.Commands() {
		if match(record.Args()) {
			n++
		}
	}
	return n
}

func TestAWorkerThatIsCutOffFinishesItsStep(t *testing.T) {
	t.Parallel()
	onEitherSide(t, func(c *claimed) {
		c.cable.Cut()
		c.fault.Release()
		c.awaitReceived()
		c.cable.Mend()
		c.requireOnce()
	})
}

// awaitReceived waits until the target has the snapshot.
func (c *claimed) awaitReceived() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		versions, err := c.bravo.Versions("backup/alpha/tank/data")
		return err == nil && len(versions) == 1
	}, testfleet.Timeout, 20*time.Millisecond, "the snapshot arrives")
}

func TestARedeliveredItemWaitsForTheWorkerThatIsCutOff(t *testing.T) {
	t.Parallel()
	onEitherSide(t, func(c *claimed) {
		c.another()
		c.cable.Cut()
		c.awaitRedelivery()
		c.fault.Release()
		c.awaitReceived()
		c.cable.Mend()
		c.requireOnce()
	})
}

func TestTheNextRunStopsAWorkerThatIsCutOff(t *testing.T) {
	t.Parallel()
	onEitherSide(t, func(c *claimed) {
		c.another()
		c.cable.Cut()
		require.NoError(t, c.Client.Cancel(c.t.Context(), c.plan))
		require.Equal(c.t, protocol.PlanCancelled, c.Wait(c.plan).Plan.State)
		c.plan = c.Request("prod")
		c.requireResumed()
		c.cable.Mend()
		c.requireNoItems()
		c.requireAbstractions("tank/data", "backup/alpha", "prod.bravo")
	})
}

// dieOnce kills the first process that comes by the point.
func dieOnce(point string) testfleet.Dies {
	var died atomic.Bool
	return func(at string) bool { return at == point && died.CompareAndSwap(false, true) }
}

func TestAWorkerThatDiesAfterTheConfirmationLeavesNothingToSend(t *testing.T) {
	t.Parallel()
	for _, point := range []string{
		"send.cursor.before", "send.cursor.after", "send.release.after", "send.done.before", "send.done.after", "send.ack.before",
		"recv.confirm.after", "recv.received.before", "recv.received.after", "recv.ack.before",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			names := p.tree(1, 1)
			p.hostA.Dies, p.hostB.Dies = dieOnce(point), dieOnce(point)
			p.StartCoordinator()
			alpha, bravo := p.StartWorker(p.hostA), p.StartWorker(p.hostB)
			p.Submit(p.job("prod"))
			plan := p.Request("prod")
			select {
			case <-alpha.Killed():
				p.StartWorker(p.hostA)
			case <-bravo.Killed():
				p.StartWorker(p.hostB)
			case <-time.After(testfleet.Timeout):
				t.Fatal("nobody was killed")
			}
			require.Equal(t, protocol.PlanDone, p.Wait(plan).Plan.State)
			p.requireNoItems()
			require.Equal(t, 1, count(p.alpha, isStream), "the stream was sent once")
			p.requireEqual(names, "backup/alpha")
			p.requireAbstractions("tank/data", "backup/alpha", "prod.bravo")
		})
	}
}

func TestAnItemThatKillsItsWorkersIsGivenUp(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.hostB.Dies = func(point string) bool { return point == "recv.offered.before" }
	p.hostB.MaxDeliveries = 3
	p.StartCoordinator()
	p.StartWorker(p.hostA)
	bravo := p.StartWorker(p.hostB)
	p.Submit(p.job("prod"))
	plan := p.Request("prod")
	for range p.hostB.MaxDeliveries {
		select {
		case <-bravo.Killed():
		case <-time.After(testfleet.Timeout):
			t.Fatal("the worker was not killed")
		}
		bravo = p.StartWorker(p.hostB)
	}
	detail := p.Wait(plan)
	require.Equal(t, protocol.PlanFailed, detail.Plan.State)
	failure := detail.Tasks[0].Failure
	require.Equal(t, protocol.Permanent, failure.Kind)
	require.Contains(t, failure.Message, "tank/data: the recv item was delivered 4 times and never finished")
	require.Contains(t, failure.Message, "zctl deadletters")
	letters, err := p.Client.DeadLetters(t.Context(), fleet.DeadLetterQuery{})
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, protocol.WorkSubject("bravo", protocol.RoleRecv), letters[0].Letter.Subject)
	require.EqualValues(t, 4, letters[0].Letter.Deliveries)
	require.Contains(t, letters[0].Letter.Reason, "never finished")
	p.requireNoItems()
	select {
	case <-bravo.Killed():
		t.Fatal("the item was worked on once more")
	default:
	}
}

func TestStoppingWorkersInOrderIsNotHeldAgainstAnItem(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.hostA.MaxDeliveries = 2
	i := p.interruptTransfer(protocol.TransportTCP)
	for range 2 * p.hostA.MaxDeliveries {
		fault := p.alpha.Inject(zfsfake.Fault{Match: isStream, HangAfter: 1 << 20, Times: 1})
		i.sender.Stop()
		i.sender = p.StartWorker(p.hostA)
		select {
		case <-fault.Reached():
		case <-time.After(testfleet.Timeout):
			t.Fatal("the step did not go on")
		}
		t.Cleanup(fault.Release)
	}
	i.sender.Stop()
	p.StartWorker(p.hostA)
	require.Equal(t, protocol.PlanDone, p.Wait(i.plan).Plan.State)
}

// localItem is the item of a step within host alpha.
func (p *pair) localItem(attempt int) protocol.WorkItem {
	to := snapshotsOf(p.t, p.alpha, "tank/data")[0]
	item := p.forged(protocol.RoleSend, protocol.Step{
		Filesystem: "tank/data", TargetFilesystem: "tank/copy/tank/data", Initial: true,
		To: protocol.Version{Type: protocol.Snapshot, Name: to.Name, GUID: to.GUID, CreateTXG: to.CreateTXG, Creation: time.Now()},
	})
	item.Ref.Attempt, item.Target, item.TargetRoot, item.Transport = attempt, "alpha", "tank/copy", protocol.TransportLocal
	item.JobID = "prod.alpha"
	return item
}

// kindsOf are the kinds of the events of a try, but for its progress.
func (p *pair) kindsOf(ref protocol.StepRef) (kinds []protocol.EventKind) {
	p.t.Helper()
	for record, err := range p.Client.Events(p.t.Context(), fleet.EventQuery{Plan: ref.Plan}) {
		require.NoError(p.t, err)
		if record.Event != nil && record.Event.Ref == ref && record.Event.Kind != protocol.EventProgress {
			kinds = append(kinds, record.Event.Kind)
		}
	}
	return kinds
}

func TestItemsThatComeLateOrTwiceChangeNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tree(1, 1)
	p.zfs(p.alpha, "create", "tank/copy")
	p.StartWorker(p.hostA)
	publish := func(item protocol.WorkItem, id string) {
		message, err := protocol.NewMessage(t.Context(), protocol.WorkSubject("alpha", protocol.RoleSend), item)
		require.NoError(t, err)
		_, err = protocol.Publish(t.Context(), p.Resources.JetStream, message, id)
		require.NoError(t, err)
		p.requireNoItems()
	}
	newer, older := p.localItem(2), p.localItem(1)
	publish(newer, "")
	require.Contains(t, p.kindsOf(newer.Ref), protocol.EventDone)
	told := p.kindsOf(newer.Ref)
	commands := len(p.alpha.Commands())
	publish(older, "")
	publish(newer, "")
	require.Equal(t, []protocol.EventKind{protocol.EventDropped}, p.kindsOf(older.Ref))
	require.Equal(t, told, p.kindsOf(newer.Ref), "an end is told once")
	after := p.alpha.Commands()[commands:]
	require.False(t, slices.ContainsFunc(after, func(record *zfsfake.Record) bool { return isStream(record.Args()) }), "%v", after)
}

func TestAWorkStreamThatWasMadeAnewCountsFromOneAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(1, 1)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")
	p.snapshots(names, 2, 2)
	p.MustRun("prod")
	require.NoError(t, p.Resources.JetStream.DeleteStream(t.Context(), protocol.StreamWork))
	_, err := protocol.EnsureResources(t.Context(), p.Resources.JetStream, protocol.ResourceOptions{})
	require.NoError(t, err)
	p.snapshots(names, 3, 3)
	p.MustRun("prod")
	p.requireEqual(names, "backup/alpha")
	stream, err := p.Resources.JetStream.Stream(t.Context(), protocol.StreamWork)
	require.NoError(t, err)
	require.LessOrEqual(t, stream.CachedInfo().State.LastSeq, uint64(2), "the items of the last run are the first of the new stream")
}
