// Scenario benchmarks: what a cycle of replication costs in zfs commands, stream bytes and stored messages. The numbers do
// not depend on the machine; docs/benchmarks.md has them, with how to repeat them.

package itest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// benchFleet is two hosts with so many filesystems of 64 KiB and five snapshots each, as in docs/comparison.md.
type benchFleet struct {
	*testfleet.Fleet

	b            *testing.B
	alpha, bravo *zfsfake.Fake
	names        []string
	snapshots    int
}

func newBenchFleet(b *testing.B, filesystems int) *benchFleet {
	b.Helper()
	f := &benchFleet{Fleet: testfleet.New(b), b: b, alpha: zfsfake.New(), bravo: zfsfake.New()}
	f.alpha.CreatePool("tank")
	f.bravo.CreatePool("backup")
	run(b, f.bravo, "create", "backup/alpha")
	for n := range filesystems {
		f.names = append(f.names, fmt.Sprintf("tank/fs%d", n))
		run(b, f.alpha, "create", f.names[n])
	}
	f.StartCoordinator()
	f.StartWorker(testfleet.Host{Name: "alpha", Runner: f.alpha, Policy: testfleet.AllowAll("tank")})
	f.StartWorker(testfleet.Host{Name: "bravo", Runner: f.bravo, Policy: testfleet.AllowAll("backup")})
	job := testfleet.Job("bench", "alpha", protocol.Filter{"tank<": true, "tank": false},
		protocol.JobTarget{Host: "bravo", Root: "backup/alpha"})
	f.Submit(job)
	return f
}

// snapshot writes 64 KiB to every filesystem and takes a snapshot of each.
func (f *benchFleet) snapshot() {
	f.b.Helper()
	f.snapshots++
	for n, name := range f.names {
		require.NoError(f.b, f.alpha.Generate(name, fmt.Sprint("file", f.snapshots), uint64(n*1000+f.snapshots), 64<<10))
	}
	run(f.b, f.alpha, "snapshot", "-r", fmt.Sprintf("tank@s%d", f.snapshots))
}

// measure runs the job once for each iteration, after prepare, and reports the costs of a run.
func (f *benchFleet) measure(steps int, prepare func()) {
	f.b.Helper()
	var commands int
	var bytes int64
	var messages uint64
	for f.b.Loop() {
		f.b.StopTimer()
		prepare()
		f.alpha.ResetCommands()
		f.bravo.ResetCommands()
		before := f.messages()
		f.b.StartTimer()
		f.MustRun("bench")
		f.b.StopTimer()
		commands += len(f.alpha.Commands()) + len(f.bravo.Commands())
		for _, record := range f.alpha.Commands() {
			if isStream(record.Args()) {
				bytes += record.Bytes()
			}
		}
		messages += f.messages() - before
		f.b.StartTimer()
	}
	f.b.StopTimer()
	runs := float64(f.b.N)
	f.b.ReportMetric(float64(commands)/runs, "commands/run")
	if steps > 0 {
		f.b.ReportMetric(float64(commands)/runs/float64(steps), "commands/step")
	}
	f.b.ReportMetric(float64(bytes)/runs, "stream-bytes/run")
	f.b.ReportMetric(float64(messages)/runs, "messages/run")
}

// messages is how many messages the streams and buckets have ever stored.
func (f *benchFleet) messages() uint64 {
	f.b.Helper()
	var sum uint64
	for _, name := range []string{
		protocol.StreamWork, protocol.StreamEvents, "KV_" + protocol.BucketPlans, "KV_" + protocol.BucketCursors,
	} {
		stream, err := f.Resources.JetStream.Stream(f.b.Context(), name)
		require.NoError(f.b, err)
		sum += stream.CachedInfo().State.LastSeq
	}
	return sum
}

func BenchmarkInitialAllSnapshots(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		f := newBenchFleet(b, 11)
		for range 5 {
			f.snapshot()
		}
		f.alpha.ResetCommands()
		f.bravo.ResetCommands()
		b.StartTimer()
		f.MustRun("bench")
		b.ReportMetric(float64(len(f.alpha.Commands())+len(f.bravo.Commands())), "commands/run")
	}
}

func BenchmarkNothingToDo(b *testing.B) {
	f := newBenchFleet(b, 11)
	for range 5 {
		f.snapshot()
	}
	f.MustRun("bench")
	b.ResetTimer()
	f.measure(0, func() {})
}

func BenchmarkOneNewSnapshotEach(b *testing.B) {
	f := newBenchFleet(b, 11)
	f.snapshot()
	f.MustRun("bench")
	b.ResetTimer()
	f.measure(11, f.snapshot)
}
