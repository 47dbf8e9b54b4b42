// Take-over: the coordinator that leads is lost in the middle of a transfer, and another one goes on.

package itest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// awaitLeader waits until a coordinator leads that is none of the given ones.
func awaitLeader(t testing.TB, f *testfleet.Fleet, others ...*testfleet.Process) string {
	t.Helper()
	name := ""
	require.Eventually(t, func() bool {
		lease, err := f.Client.Leader(t.Context())
		if err != nil || lease == nil {
			return false
		}
		name = lease.Holder
		for _, other := range others {
			if other.Name == name {
				return false
			}
		}
		return true
	}, testfleet.Timeout, 10*time.Millisecond, "another coordinator leads")
	return name
}

func TestAnotherCoordinatorTakesOverInTheMiddleOfATransfer(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(i *interrupted, way *natstest.Freezer) (later func()){
		"the leader is killed": func(i *interrupted, _ *natstest.Freezer) func() {
			i.coordinator.Kill()
			return func() {}
		},
		"the leader is stopped": func(i *interrupted, _ *natstest.Freezer) func() {
			i.coordinator.Stop()
			return func() {}
		},
		"the leader is cut off, and comes back": func(i *interrupted, way *natstest.Freezer) func() {
			thaw := way.Freeze()
			i.t.Cleanup(thaw)
			return thaw
		},
	} {
		for _, others := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, of %d", name, others+1), func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				way := &natstest.Freezer{Server: p.Server}
				p.Coordinators = &testfleet.Site{Server: way}
				i := p.interruptTransfer(protocol.TransportTCP)
				p.Coordinators = nil
				for range others {
					p.StartCoordinator()
				}
				require.Equal(t, i.coordinator.Name, awaitLeader(t, p.Fleet))
				later := lose(i, way)
				awaitLeader(t, p.Fleet, i.coordinator)
				later()
				i.fault.Release()
				i.requireUndisturbed()

				p.snapshots([]string{"tank/data"}, 2, 2)
				p.MustRun("prod")
				p.requireEqual([]string{"tank/data"}, "backup/alpha")
			})
		}
	}
}

// BenchmarkTakeOver measures for how long nobody leads, in times to live of the lease.
func BenchmarkTakeOver(b *testing.B) {
	for name, lose := range map[string]func(*testfleet.Process){
		"killed": (*testfleet.Process).Kill, "stopped": (*testfleet.Process).Stop,
	} {
		b.Run(name, func(b *testing.B) {
			f := testfleet.New(b)
			leader := f.StartCoordinator()
			require.Equal(b, leader.Name, awaitLeader(b, f))
			var longest, sum time.Duration
			rounds := 0
			for b.Loop() {
				b.StopTimer()
				next := f.StartCoordinator()
				// It watches the lease when it was refused once.
				require.Eventually(b, func() bool { return !next.LastTurn().IsZero() }, testfleet.Timeout, time.Millisecond)
				b.StartTimer()
				lost := time.Now()
				lose(leader)
				require.Equal(b, next.Name, awaitLeader(b, f, leader))
				took := time.Since(lost)
				longest, sum = max(longest, took), sum+took
				rounds++
				leader = next
			}
			b.ReportMetric(sum.Seconds()/float64(rounds)/testfleet.LeaseTTL.Seconds(), "TTLs/take-over")
			b.ReportMetric(longest.Seconds()/testfleet.LeaseTTL.Seconds(), "TTLs-at-most")
		})
	}
}
