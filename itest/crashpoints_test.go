// Crash points: a process is killed at each of its fail points, before and after every durable action of worker and coordinator,
// and another one takes its place. What the protection guarantees holds at the moment of the kill, and in the end everything is
// equal and nothing is left behind.

package itest_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/coordinator"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

func TestCrashPoints(t *testing.T) {
	t.Parallel()
	var cases []crashCase
	for _, point := range append(worker.FailPoints(), coordinator.FailPoints()...) {
		how := crashAt(point)
		for _, initial := range how.steps {
			cases = append(cases, crashCase{point: point, initial: initial, how: how})
		}
	}
	runCrashes(t, 8, newFakeCrash, cases)
}

// TestRealCrashPoints goes to the points that matter most.
func TestRealCrashPoints(t *testing.T) {
	zfstest.RequireReal(t)
	var cases []crashCase
	for _, point := range []string{
		"send.protect.before", "send.protect.after", "send.cursor.before", "send.cursor.after", "send.done.before",
		"send.ack.before", "recv.last-received.before", "recv.last-received.after", "recv.confirm.before", "recv.confirm.after",
		"recv.received.before", "task.save.after", "item.publish.before", "item.publish.after", "cursor.record.before",
	} {
		cases = append(cases, crashCase{point: point})
	}
	runCrashes(t, 4, newRealCrash, cases)
}

// crashCase is a fail point that is reached in an initial or in an incremental step.
type crashCase struct {
	point   string
	initial bool
	how     crash
}

// runCrashes runs so many cases at once, whatever the number of processors: most of the time, each waits for a lease or a claim
// to expire.
func runCrashes(t *testing.T, atOnce int, newScene func(*testing.T, crashCase) *crashScene, cases []crashCase) {
	t.Helper()
	var running errgroup.Group
	running.SetLimit(atOnce)
	for _, c := range cases {
		running.Go(func() error {
			t.Run(c.point+"/"+stepKind(c.initial), func(t *testing.T) { newScene(t, c).play() })
			return nil
		})
	}
	require.NoError(t, running.Wait())
}

func stepKind(initial bool) string {
	return map[bool]string{true: "initial", false: "incremental"}[initial]
}

// crash is how a process gets to a fail point.
type crash struct {
	// steps are those in which it does: true is the initial one, false an incremental one.
	steps []bool
	// prepare, where it is not nil, changes things before the plan is asked for in which the process gets there.
	prepare func(*crashScene)
	// provoke, where it is not nil, does what brings the process there, once the plan has been asked for.
	provoke func(*crashScene)
	// denied is the host whose policy allows nothing until it is killed.
	denied protocol.Host
}

// crashAt is how a process gets to the fail point.
func crashAt(point string) crash {
	initial, incremental, each := []bool{true}, []bool{false}, []bool{true, false}
	action := strings.TrimSuffix(strings.TrimSuffix(point, ".before"), ".after")
	switch action {
	case "lease.acquire", "lease.renew", "plan.create":
		return crash{steps: initial}
	case "plan.save", "task.create":
		return crash{steps: incremental}
	case "lease.release":
		return crash{steps: incremental, provoke: func(c *crashScene) { c.coordinator.Stop() }}
	case "plan.remove":
		return crash{steps: incremental}
	case "item.withdraw":
		return crash{steps: each, prepare: (*crashScene).failReceive}
	case "send.dropped":
		return crash{steps: incremental, provoke: func(c *crashScene) { c.repeatCancelled("alpha", protocol.RoleSend) }}
	case "recv.dropped":
		return crash{steps: incremental, provoke: func(c *crashScene) { c.repeatCancelled("bravo", protocol.RoleRecv) }}
	case "send.nak":
		return crash{steps: each, prepare: (*crashScene).hangStream, provoke: func(c *crashScene) {
			c.awaitHang()
			c.alpha.Stop()
		}}
	case "recv.nak":
		return crash{steps: each, prepare: (*crashScene).hangStream, provoke: func(c *crashScene) {
			c.awaitHang()
			c.bravo.Stop()
		}}
	case "send.failed", "send.term":
		return crash{steps: initial, denied: "alpha"}
	case "recv.failed", "recv.term":
		return crash{steps: initial, denied: "bravo"}
	case "send.deadletter":
		return crash{steps: initial, provoke: func(c *crashScene) { c.publishGarbage("alpha", protocol.RoleSend) }}
	case "recv.deadletter":
		return crash{steps: initial, provoke: func(c *crashScene) { c.publishGarbage("bravo", protocol.RoleRecv) }}
	case "send.tidy":
		return crash{steps: incremental, prepare: (*crashScene).leaveStaleHold}
	case "recv.abandon":
		return crash{steps: initial, prepare: (*crashScene).leavePartialState}
	case "recv.placeholder":
		return crash{steps: initial}
	case "recv.unmark":
		return crash{steps: initial, prepare: (*crashScene).leavePlaceholder}
	case "recv.release-received":
		return crash{steps: incremental}
	default:
		return crash{steps: each}
	}
}

// crashScene is a stand on which one process is killed at a fail point.
type crashScene struct {
	*stand

	crashCase

	// armed is set while the process that gets to the point is killed there.
	armed atomic.Bool
	// fake is the source's pools, and copied the target's; nil with real pools.
	fake, copied       *zfsfake.Fake
	data, root         string
	coordinator        *testfleet.Process
	alpha, bravo       *testfleet.Process
	plan               protocol.PlanID
	hang               *zfsfake.Injection
	generation         uint64
	items              *nats.Subscription
	deniedHostIsKilled bool
}

func newFakeCrash(t *testing.T, of crashCase) *crashScene {
	t.Helper()
	c := &crashScene{crashCase: of, fake: zfsfake.New(), copied: zfsfake.New()}
	c.fake.CreatePool("tank")
	c.copied.CreatePool("backup")
	c.stand = newIdleStand(t, c.fake, c.copied)
	c.sourcePool, c.targetPool = "tank", "backup"
	c.write = func(filesystem string, generation uint64, bytes int) {
		require.NoError(t, c.fake.Generate(filesystem, "data", generation, uint64(bytes)))
	}
	c.set()
	return c
}

func newRealCrash(t *testing.T, of crashCase) *crashScene {
	t.Helper()
	c := &crashScene{crashCase: of, stand: newIdleRealStand(t)}
	c.set()
	return c
}

func (c *crashScene) set() {
	c.data, c.root = c.sourcePool+"/data", c.targetPool+"/alpha"
	if strings.HasPrefix(c.point, "plan.remove.") {
		c.KeepPlans = 1
	}
	var err error
	c.items, err = c.Conn.SubscribeSync("zfleet.work.>")
	require.NoError(c.t, err)
	c.configure = func(host *testfleet.Host) {
		host.Dies = c.dies
		if host.Name == c.how.denied && !c.deniedHostIsKilled {
			host.Policy = testfleet.AllowAll("elsewhere")
		}
	}
}

// dies is asked by every process at every fail point.
func (c *crashScene) dies(point string) bool {
	return point == c.point && c.armed.CompareAndSwap(true, false)
}

func (c *crashScene) start() {
	c.t.Helper()
	c.coordinator = c.StartCoordinatorThat(c.dies)
	c.alpha, c.bravo = c.startWorker("alpha"), c.startWorker("bravo")
}

func (c *crashScene) snapshot() {
	c.t.Helper()
	c.generation++
	c.write(c.data, c.generation, scenarioBytes/4)
	run(c.t, c.stopSource, "snapshot", fmt.Sprintf("%s@s%d", c.data, c.generation))
}

// play replicates an initial or an incremental snapshot, has a process killed on the way, and lets another one take its place.
func (c *crashScene) play() {
	c.t.Helper()
	run(c.t, c.stopSource, "create", c.data)
	run(c.t, c.stopTarget, "create", c.root)
	job := testfleet.Job("prod", "alpha", protocol.Filter{c.data: true}, protocol.JobTarget{Host: "bravo", Root: c.root})
	job.Replication.Attempts = 20
	c.Submit(job)
	c.snapshot()
	if c.initial {
		if c.how.prepare != nil {
			c.how.prepare(c)
		}
		c.armed.Store(true)
		c.start()
	} else {
		c.start()
		c.MustRun("prod")
		c.snapshot()
		if c.how.prepare != nil {
			c.how.prepare(c)
		}
		c.armed.Store(true)
	}
	c.plan = c.Request("prod")
	if c.how.provoke != nil {
		c.how.provoke(c)
	}
	c.replace()
	if c.hang != nil {
		c.hang.Remove()
	}
	c.Wait(c.plan)
	c.converge()
	c.snapshot()
	c.converge()
}

// replace waits until a process has died at the point, looks at the pools, and starts another one in its place.
func (c *crashScene) replace() {
	c.t.Helper()
	var victim **testfleet.Process
	var start func() *testfleet.Process
	select {
	case <-c.coordinator.Killed():
		victim, start = &c.coordinator, c.StartCoordinator
	case <-c.alpha.Killed():
		victim, start = &c.alpha, func() *testfleet.Process { return c.startWorker("alpha") }
	case <-c.bravo.Killed():
		victim, start = &c.bravo, func() *testfleet.Process { return c.startWorker("bravo") }
	case <-time.After(testfleet.Timeout):
		require.Fail(c.t, "no process came by "+c.point)
	}
	(*victim).Kill()
	c.deniedHostIsKilled = true
	c.requireProtected()
	*victim = start()
}

// converge requires that the next run of the job replicates everything, and leaves nothing but what is to be kept.
func (c *crashScene) converge() {
	c.t.Helper()
	c.MustRun("prod")
	received := c.root + "/" + c.data
	c.requireExpectedSet(protocol.GuaranteeResumability, c.data, received)
	source, err := c.source.Get(c.t.Context(), c.data)
	require.NoError(c.t, err)
	target, err := c.target.Get(c.t.Context(), received)
	require.NoError(c.t, err)
	require.Equal(c.t, snapshotGUIDs(source), snapshotGUIDs(target), "snapshots on both sides")
	if c.fake != nil {
		for _, v := range source.Versions {
			if v.Type != zfs.Snapshot {
				continue
			}
			want, err := c.fake.ContentHash(v.Full(c.data))
			require.NoError(c.t, err)
			got, err := c.copied.ContentHash(v.Full(received))
			require.NoError(c.t, err)
			require.Equal(c.t, want, got, "contents of %s", v.Name)
		}
	}
	// What a killed worker had claimed comes again after its claim, and an acknowledgement after the event that ends a plan.
	require.Eventually(c.t, func() bool {
		info, err := c.Resources.Work.Info(c.t.Context())
		return err == nil && info.State.Msgs == 0
	}, testfleet.Timeout, 20*time.Millisecond, "no work item is left")
}

// requireProtected requires what must hold at every instant: the receiver has what each cursor stands for; the sender protects
// the newest version that both have; and once there is a cursor, both sides protect a version that both have.
func (c *crashScene) requireProtected() {
	c.t.Helper()
	for {
		source := c.protection(c.source, c.data)
		target := c.protection(c.target, c.root+"/"+c.data)
		if !source.equal(c.protection(c.source, c.data)) {
			continue // the others go on; the two sides must be of the same instant
		}
		common, protectedOnBoth := uint64(0), false
		for _, guid := range target.snapshots {
			if source.has[guid] {
				common = guid
			}
			protectedOnBoth = protectedOnBoth || source.protected[guid] && target.protected[guid]
		}
		for _, cursor := range source.cursors {
			require.Contains(c.t, target.snapshots, cursor, "the receiver has what a cursor stands for")
		}
		if common != 0 {
			require.True(c.t, source.protected[common], "the sender protects the newest version that both sides have: %+v %+v",
				source, target)
		}
		if len(source.cursors) > 0 {
			require.True(c.t, protectedOnBoth, "both sides protect a version that both have: %+v %+v", source, target)
		}
		return
	}
}

// sideProtection is what one side has, and what of it is protected for the job.
type sideProtection struct {
	snapshots, cursors []uint64
	has, protected     map[uint64]bool
	text               string
}

func (p sideProtection) equal(other sideProtection) bool { return p.text == other.text }

func (c *crashScene) protection(system *zfs.System, filesystem string) sideProtection {
	c.t.Helper()
	p := sideProtection{has: map[uint64]bool{}, protected: map[uint64]bool{}}
	dataset, err := system.Get(c.t.Context(), filesystem)
	if err != nil {
		require.ErrorIs(c.t, err, zfs.ErrDatasetDoesNotExist)
		return p
	}
	byName := map[string]uint64{}
	for _, v := range dataset.Versions {
		p.has[v.GUID] = true
		if v.Type == zfs.Snapshot {
			p.snapshots = append(p.snapshots, v.GUID)
			byName[v.Full(filesystem)] = v.GUID
			continue
		}
		if kind, _, id, ours := abstractions.ParseBookmarkName(v.Name); ours && id == "prod.bravo" {
			p.protected[v.GUID] = true
			if kind == abstractions.Cursor {
				p.cursors = append(p.cursors, v.GUID)
			}
		}
	}
	holds := c.holds(system, dataset)
	for _, hold := range holds {
		snapshot, tag, _ := strings.Cut(hold, " ")
		if strings.HasSuffix(tag, "_J_prod.bravo") {
			p.protected[byName[snapshot]] = true
		}
	}
	p.text = fmt.Sprint(dataset.Versions, holds)
	return p
}

// failReceive has the next zfs recv fail.
func (c *crashScene) failReceive() {
	c.copied.Inject(zfsfake.Fault{Match: isRecv, Times: 1, Before: &zfsfake.Failure{
		ExitCode: 1, Stderr: "cannot receive: dataset is busy\n",
	}})
}

// hangStream stops the next stream in its middle.
func (c *crashScene) hangStream() {
	c.hang = c.fake.Inject(zfsfake.Fault{Match: isStream, HangAfter: scenarioBytes / 8, Times: 1})
}

func (c *crashScene) awaitHang() {
	c.t.Helper()
	select {
	case <-c.hang.Reached():
	case <-time.After(testfleet.Timeout):
		require.Fail(c.t, "the transfer did not begin")
	}
}

// publishGarbage puts something into a host's queue that no worker can work on.
func (c *crashScene) publishGarbage(host protocol.Host, role protocol.Role) {
	c.t.Helper()
	_, err := c.Resources.JetStream.PublishMsg(c.t.Context(), &nats.Msg{
		Subject: protocol.WorkSubject(host, role), Data: []byte("garbage"),
	})
	require.NoError(c.t, err)
}

// repeatCancelled has the host's first work item come again, and its plan be cancelled, so that nobody works on it.
func (c *crashScene) repeatCancelled(host protocol.Host, role protocol.Role) {
	c.t.Helper()
	for {
		item, err := c.items.NextMsg(testfleet.Timeout)
		require.NoError(c.t, err)
		if item.Subject != protocol.WorkSubject(host, role) {
			continue
		}
		var decoded protocol.WorkItem
		require.NoError(c.t, protocol.ReadMessage(item.Header, item.Data, &decoded))
		_, err = c.Resources.Plans.Put(c.t.Context(), protocol.PlanCancelKey(decoded.Ref.Plan), []byte("by the test"))
		require.NoError(c.t, err)
		item.Header.Del(jetstream.MsgIDHeader)
		_, err = c.Resources.JetStream.PublishMsg(c.t.Context(), &nats.Msg{Subject: item.Subject, Header: item.Header, Data: item.Data})
		require.NoError(c.t, err)
		return
	}
}

// leaveStaleHold leaves the hold of a step that is long over.
func (c *crashScene) leaveStaleHold() {
	c.MustRun("prod")
	run(c.t, c.stopSource, "hold", "zrepl_STEP_J_prod.bravo", c.data+"@s1")
	c.snapshot()
}

// leavePartialState leaves on the target what an interrupted send of a snapshot left there that is gone.
func (c *crashScene) leavePartialState() {
	run(c.t, c.stopTarget, "create", c.root+"/"+c.sourcePool)
	run(c.t, c.stopSource, "snapshot", c.data+"@gone")
	(&scene{stand: c.stand}).forge(c.root+"/"+c.data, c.data+"@gone")
	run(c.t, c.stopSource, "destroy", c.data+"@gone")
}

// leavePlaceholder leaves a placeholder where the filesystem is going to be.
func (c *crashScene) leavePlaceholder() {
	for _, name := range []string{c.root + "/" + c.sourcePool, c.root + "/" + c.data} {
		run(c.t, c.stopTarget, "create", "-o", zfs.PlaceholderProperty+"=on", name)
	}
}
