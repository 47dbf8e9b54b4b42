package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// never is a time to live that no test lives to see the end of.
const never = 10 * time.Hour

// candidates are coordinators' leases at one server.
type candidates struct {
	t         *testing.T
	server    *natsserver.Server
	resources *protocol.Resources
}

func newCandidates(t *testing.T) *candidates {
	t.Helper()
	server, _, js := natstest.Run(t)
	resources, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)
	return &candidates{t, server, resources}
}

// lease is the lease of a coordinator with a connection of its own.
func (c *candidates) lease(name string, ttl time.Duration, way nats.InProcessConnProvider) *lease {
	c.t.Helper()
	_, js := natstest.Connect(c.t, way)
	resources, err := protocol.OpenResources(c.t.Context(), js)
	require.NoError(c.t, err)
	return &lease{
		resources: resources, value: protocol.Lease{Holder: name, Host: "test"}, ttl: ttl, logger: slog.New(slog.DiscardHandler),
		now: time.Now, failPoint: func(context.Context, string) {}, turn: func() {},
	}
}

// holder is who has the lease now; empty if nobody has.
func (c *candidates) holder() string {
	c.t.Helper()
	entry, err := c.resources.Leader.Get(c.t.Context(), protocol.LeaderKey)
	if err != nil {
		require.ErrorIs(c.t, err, jetstream.ErrKeyNotFound)
		return ""
	}
	var held protocol.Lease
	require.NoError(c.t, protocol.DecodeValue(entry.Value(), &held))
	return held.Holder
}

func TestALeaseIsOverForItsHolderBeforeAnotherHasIt(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	way := &natstest.Freezer{Server: c.server}
	first, second := c.lease("first", 2*time.Second, way), c.lease("second", 2*time.Second, c.server)
	require.True(t, first.acquire(t.Context()))
	term := during(t.Context(), first)
	require.NoError(t, leading(term))

	kept, expired := make(chan error, 1), make(chan error, 1)
	thaw := way.Freeze()
	t.Cleanup(thaw)
	go func() { kept <- first.keep(term) }()
	go func() { expired <- first.expire(term) }()
	require.True(t, second.acquire(t.Context()))
	require.ErrorIs(t, leading(term), errLeaseOver, "nothing is published or written any more when the second one can lead")
	require.ErrorIs(t, <-expired, errLeaseOver)
	require.NoError(t, leading(during(t.Context(), second)))

	thaw()
	require.Error(t, <-kept)
	first.release(t.Context())
	require.Equal(t, "second", c.holder(), "the one that was cut off does not take the lease from its successor")
}

func TestARenewedLeaseStaysItsHolders(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	first, second := c.lease("first", time.Second, c.server), c.lease("second", time.Second, c.server)
	require.True(t, first.acquire(t.Context()))
	ctx, stop := context.WithCancel(during(t.Context(), first))
	kept := make(chan error, 1)
	go func() { kept <- first.keep(ctx) }()
	waiting, give := context.WithTimeout(t.Context(), 3*time.Second)
	defer give()
	require.False(t, second.acquire(waiting))
	require.Equal(t, "first", c.holder())
	stop()
	require.NoError(t, <-kept)
}

func TestALeaseThatIsGivenUpIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	first, second := c.lease("first", never, c.server), c.lease("second", never, c.server)
	require.True(t, first.acquire(t.Context()))
	acquired := make(chan bool, 1)
	go func() { acquired <- second.acquire(t.Context()) }()
	// The second one watches the key when the server has a consumer for it, and has been refused by then or will be let in.
	require.Eventually(t, func() bool {
		stream, err := c.resources.JetStream.Stream(t.Context(), "KV_"+protocol.BucketLeader)
		return err == nil && stream.CachedInfo().State.Consumers > 0
	}, time.Minute, 10*time.Millisecond)
	first.release(t.Context())
	require.True(t, <-acquired, "and not only hours later")
	require.Equal(t, "second", c.holder())
}

func TestOneOfManyCandidatesLeads(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	ctx, cancel := context.WithCancel(t.Context())
	acquired := make(chan string)
	var asking sync.WaitGroup
	for n := range 5 {
		candidate := c.lease(fmt.Sprint("candidate-", n), never, c.server)
		asking.Go(func() {
			if candidate.acquire(ctx) {
				acquired <- candidate.value.Holder
			}
		})
	}
	require.Equal(t, <-acquired, c.holder())
	cancel()
	asking.Wait() // one more that had the lease would hang here
}

func TestARenewalWhoseAnswerIsLostDoesNotEndATerm(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	held := c.lease("first", time.Second, c.server)
	require.True(t, held.acquire(t.Context()))
	heard := held.revision
	require.NoError(t, held.write(t.Context(), &heard))
	held.revision = heard // as if the answer to this renewal had not come
	ctx, stop := context.WithTimeout(during(t.Context(), held), 3*time.Second)
	defer stop()
	require.NoError(t, held.keep(ctx))
	require.NoError(t, leading(during(t.Context(), held)))
	require.Greater(t, held.revision, heard+1)
}

func TestALeaseThatWasGrantedUnheardIsTaken(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	require.NoError(t, c.lease("first", never, c.server).take(t.Context()))
	require.True(t, c.lease("first", never, c.server).acquire(t.Context()))
	require.ErrorIs(t, c.lease("second", never, c.server).take(t.Context()), protocol.ErrRevision)
}

// A request to a stream can have its answer sent to the lease's key, by whoever may make one.
func TestAKeyThatHoldsNoLeaseIsTakenOver(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	_, err := c.resources.Leader.PutString(t.Context(), protocol.LeaderKey, `{"stream":"ZFLEET_EVENTS","seq":1}`)
	require.NoError(t, err)
	first := c.lease("first", time.Second, c.server)
	require.ErrorIs(t, first.take(t.Context()), protocol.ErrRevision, "somebody whose lease was overwritten may lead still")
	require.True(t, first.acquire(t.Context()))
	require.Equal(t, "first", c.holder())
}

func TestATermEndsWhenAnotherHasTheLease(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	first, second := c.lease("first", time.Second, c.server), c.lease("second", never, c.server)
	require.True(t, first.acquire(t.Context()))
	require.NoError(t, c.resources.Leader.Delete(t.Context(), protocol.LeaderKey)) // as an operator may
	require.True(t, second.acquire(t.Context()))
	require.ErrorContains(t, first.keep(t.Context()), "another coordinator's")
	first.release(t.Context())
	require.Equal(t, "second", c.holder())
}

// term is a runner with a lease that is not over yet.
type term struct {
	*runner

	ctx  context.Context //nolint:containedctx // the term's
	held *lease
	// asleep is how long the machine has slept so far.
	asleep time.Duration
}

func (c *candidates) term() *term {
	c.t.Helper()
	held := c.lease("first", never, c.server)
	t := &term{held: held}
	held.now = func() time.Time { return time.Now().Add(t.asleep) }
	require.True(c.t, held.acquire(c.t.Context()))
	t.ctx = during(c.t.Context(), held)
	t.runner = newRunner(New(Config{Name: "first", Conn: c.resources.JetStream.Conn(), Resources: c.resources}), nil,
		protocol.PlanRequest{Plan: "20261123t010000-abcde", Job: "prod"})
	return t
}

// workItem is an item of the term's plan.
func workItem() protocol.WorkItem {
	to := protocol.Version{Type: protocol.Snapshot, Name: "s1", GUID: 7, CreateTXG: 10}
	return protocol.WorkItem{
		Ref: protocol.StepRef{Plan: "20261123t010000-abcde", Attempt: 1}, Role: protocol.RoleRecv, Job: "prod", JobID: "prod.bravo",
		Source: "alpha", Target: "bravo", TargetRoot: "backup", Step: protocol.Step{Filesystem: "tank/data", To: to},
		Transport: protocol.TransportTCP,
	}
}

func cursorAt(guid uint64, at time.Time) protocol.Cursor {
	return protocol.Cursor{
		Job: "prod", JobID: "prod.bravo", Source: "alpha", Target: "bravo", Filesystem: "tank/data", At: at,
		Version: protocol.Version{Type: protocol.Bookmark, Name: "b", GUID: guid, CreateTXG: guid},
	}
}

func TestNothingIsPublishedOrWrittenAfterTheLease(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*term){
		"the process was stopped":   func(t *term) { t.held.renewedAt(time.Now().Add(-never), time.Now().Round(0)) },
		"the machine was asleep":    func(t *term) { t.asleep = never },
		"it is almost over":         func(t *term) { t.asleep = never * 9 / 10 },
		"a clock was set back then": func(t *term) { t.held.renewedAt(time.Now().Add(-never), time.Now().Round(0).Add(never)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCandidates(t)
			r := c.term()
			tk := &task{Task: protocol.Task{Plan: r.request.Plan, Attempt: 1}}
			require.NoError(t, r.publish(r.ctx, tk, workItem()))
			require.NoError(t, r.store.put(r.ctx, "x.y", "held"))
			require.NoError(t, r.recordCursor(r.ctx, cursorAt(1, time.Unix(1, 0))))

			end(r)
			other := workItem()
			other.Ref.Attempt = 2
			require.ErrorIs(t, r.publish(r.ctx, tk, other), errLeaseOver)
			require.ErrorIs(t, r.store.put(r.ctx, "x.y", "over"), errLeaseOver)
			require.ErrorIs(t, r.recordCursor(r.ctx, cursorAt(2, time.Unix(2, 0))), errLeaseOver)
			r.withdraw(r.ctx, tk, false)

			info, err := c.resources.Work.Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, uint64(1), info.State.Msgs, "the first item is there, and no other")
			require.Equal(t, uint64(1), info.State.LastSeq)
			var kept string
			entry, err := c.resources.Plans.Get(t.Context(), "x.y")
			require.NoError(t, err)
			require.NoError(t, protocol.DecodeValue(entry.Value(), &kept))
			require.Equal(t, "held", kept)
			require.Equal(t, uint64(1), c.cursor())
		})
	}
}

// cursor is the guid of the cursor that is recorded.
func (c *candidates) cursor() uint64 {
	c.t.Helper()
	entry, err := c.resources.Cursors.Get(c.t.Context(), protocol.CursorKey("prod", "prod.bravo", "tank/data"))
	require.NoError(c.t, err)
	var cursor protocol.Cursor
	require.NoError(c.t, protocol.DecodeValue(entry.Value(), &cursor))
	return cursor.Version.GUID
}

func TestADeposedLeaderDoesNotOverwriteItsSuccessorsRecords(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	deposed, successor := c.term().runner, newRunner(New(Config{Name: "second", Resources: c.resources}), nil, protocol.PlanRequest{})
	ctx := t.Context()
	require.NoError(t, deposed.store.create(ctx, "x.y", "first"))
	var read string
	found, err := successor.store.load(ctx, "x.y", &read)
	require.NoError(t, err)
	require.True(t, found)
	require.NoError(t, successor.store.put(ctx, "x.y", "second"))
	require.ErrorIs(t, deposed.store.put(ctx, "x.y", "first again"), errDeposed)
	require.ErrorIs(t, deposed.store.create(ctx, "x.y", "first again"), errDeposed)
	_, err = successor.store.load(ctx, "x.y", &read)
	require.NoError(t, err)
	require.Equal(t, "second", read)
}

func TestACursorIsNotOverwrittenByAnEarlierOne(t *testing.T) {
	t.Parallel()
	c := newCandidates(t)
	r := c.term()
	require.NoError(t, r.recordCursor(r.ctx, cursorAt(3, time.Unix(3, 0))))
	require.NoError(t, r.recordCursor(r.ctx, cursorAt(2, time.Unix(2, 0))), "a leader that was stopped in between tells an old event")
	require.Equal(t, uint64(3), c.cursor())
	require.NoError(t, r.recordCursor(r.ctx, cursorAt(4, time.Unix(1, 0))), "the source's clock was set back")
	require.Equal(t, uint64(4), c.cursor())
	require.NoError(t, r.recordCursor(r.ctx, cursorAt(1, time.Unix(5, 0))), "the filesystem was made anew")
	require.Equal(t, uint64(1), c.cursor())
	require.NoError(t, c.resources.Cursors.Delete(t.Context(), protocol.CursorKey("prod", "prod.bravo", "tank/data")))
	require.NoError(t, r.recordCursor(r.ctx, cursorAt(6, time.Unix(6, 0))), "an operator has removed it")
	require.Equal(t, uint64(6), c.cursor())
}
