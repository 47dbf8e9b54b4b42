// Delivery: what jobs can say about how streams are carried, seen from outside.

package itest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
)

// doneEvents are the events of the plan's finished steps, in order.
func (p *pair) doneEvents(id protocol.PlanID) []protocol.Event {
	p.t.Helper()
	var events []protocol.Event
	for record, err := range p.Client.Events(p.t.Context(), fleet.EventQuery{Plan: id}) {
		require.NoError(p.t, err)
		if record.Event != nil && record.Event.Kind == protocol.EventDone {
			events = append(events, *record.Event)
		}
	}
	return events
}

func TestConsecutiveStepsShareAConnection(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		t.Run(map[bool]string{false: "TLS", true: "plain"}[plain], func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.hostB.PlainTCP = plain
			names := p.tree(1, 1)
			p.startAll()
			p.Submit(p.job("prod"))
			first := p.doneEvents(p.MustRun("prod").Plan.ID)
			require.Len(t, first, 1)
			require.NotNil(t, first[0].Path)
			p.snapshots(names, 2, 2)
			second := p.doneEvents(p.MustRun("prod").Plan.ID)
			require.Len(t, second, 1)
			require.True(t, second[0].Path.Reused, "%s", second[0].Path)
			p.requireEqual(names, "backup/alpha")
		})
	}
}

func TestAChangedLimitTakesEffectOnTransfersInFlight(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*protocol.Job, protocol.ByteSize){
		"on the sender":   func(job *protocol.Job, l protocol.ByteSize) { job.Send.BandwidthLimit.Default = l },
		"on the receiver": func(job *protocol.Job, l protocol.ByteSize) { job.Recv.BandwidthLimit.Default = l },
	} {
		for _, transport := range []protocol.Transport{protocol.TransportTCP, protocol.TransportObject} {
			t.Run(name+" by "+string(transport), func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				p.zfs(p.alpha, "create", "tank/data")
				require.NoError(t, p.alpha.Generate("tank/data", "large", 7, large))
				p.zfs(p.alpha, "snapshot", "tank/data@s1")
				p.startAll()
				job := p.job("prod")
				job.Replication.Transport = transport
				job.Replication.Objects = protocol.Objects{Segment: 64 << 10, Window: 256 << 10}
				limit(&job, 16<<10) // more than an hour for the whole
				p.Submit(job)
				id := p.Request("prod")
				p.awaitProgress(id)
				limit(&job, 0)
				p.Submit(job)
				require.Equal(t, protocol.PlanDone, p.Wait(id).Plan.State)
				p.requireEqual([]string{"tank/data"}, "backup/alpha")
				require.Equal(t, 1, p.doneEvents(id)[0].Ref.Attempt, "the transfer in flight went on")
			})
		}
	}
}

// awaitProgress waits until a stream of the plan moves.
func (p *pair) awaitProgress(id protocol.PlanID) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		for record, err := range p.Client.Events(p.t.Context(), fleet.EventQuery{Plan: id}) {
			require.NoError(p.t, err)
			if record.Event != nil && record.Event.Kind == protocol.EventProgress && record.Event.Progress.Bytes > 0 {
				return true
			}
		}
		return false
	}, testfleet.Timeout, 50*time.Millisecond, "the stream moves")
}

func TestAStreamThatDoesNotShrinkGoesAsItIs(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.zfs(p.alpha, "create", "tank/data")
	require.NoError(t, p.alpha.Generate("tank/data", "noise", 7, 4<<20))
	p.zfs(p.alpha, "snapshot", "tank/data@s1")
	p.startAll()
	job := p.job("prod")
	job.Replication.Compression = protocol.CompressionZstd
	p.Submit(job)
	done := p.doneEvents(p.MustRun("prod").Plan.ID)
	require.Len(t, done, 1)
	require.Contains(t, done[0].Note, "as it is")
	require.Equal(t, protocol.CompressionZstd, done[0].Path.Compression, "it was asked for")
	p.requireEqual([]string{"tank/data"}, "backup/alpha")
}

func TestProgressSaysHowMuchHowFastAndHowLong(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(1, 1)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")
	require.NoError(t, p.alpha.Generate("tank/data", "large", 7, large))
	p.snapshots(names, 2, 2)
	job := p.job("prod")
	job.Send.BandwidthLimit.Default = large / 4
	p.Submit(job)
	id := p.MustRun("prod").Plan.ID
	var told protocol.Progress
	for record, err := range p.Client.Events(t.Context(), fleet.EventQuery{Plan: id}) {
		require.NoError(t, err)
		if e := record.Event; e != nil && e.Kind == protocol.EventProgress && e.Progress.Remaining > 0 {
			told = *e.Progress
		}
	}
	require.Positive(t, told.Rate)
	require.Greater(t, told.Expected, uint64(large), "an increment has an expected size as well, from zfs send itself")
	require.Positive(t, told.Bytes)
}
