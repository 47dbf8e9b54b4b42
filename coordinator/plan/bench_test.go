package plan_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// BenchmarkPlan plans 10,000 filesystems with 100 snapshots each, on both sides. The design's budget for this is 2 s of
// CPU.
func BenchmarkPlan(b *testing.B) {
	const filesystems, snapshots = 10_000, 100
	for _, bench := range []struct {
		name     string
		received int // how many of the snapshots the target has
		include  string
		steps    int // for each filesystem
	}{
		{name: "up to date", received: snapshots},
		{name: "one new snapshot each", received: snapshots - 1, steps: 1},
		{name: "half of them new", received: snapshots / 2, steps: 1},
		{name: "half of them new, every second wanted", received: snapshots / 2, include: "[02468]$", steps: snapshots / 4},
		{name: "first replication of all", received: 0, steps: 2},
	} {
		b.Run(bench.name, func(b *testing.B) {
			in := fleet(filesystems, snapshots, bench.received)
			in.Job.Snapshots.Include = bench.include
			b.ReportAllocs()
			for b.Loop() {
				results, err := plan.Plan(in)
				require.NoError(b, err)
				require.Len(b, results, filesystems)
				require.Len(b, results[filesystems-1].Steps, bench.steps)
			}
		})
	}
}

// fleet is a source with many filesystems in a tree of two levels, and a target that has the first of their snapshots.
func fleet(filesystems, snapshots, received int) plan.Input {
	in := plan.Input{Job: job()}
	in.Job.Replication.Initial = protocol.InitialAll
	for i := range filesystems {
		name := fmt.Sprintf("tank/group%03d/data%05d", i/100, i)
		dataset := protocol.Dataset{Name: name, GUID: uint64(i + 1)}
		for j := range snapshots {
			dataset.Versions = append(dataset.Versions, protocol.Version{
				Type:      protocol.Snapshot,
				Name:      fmt.Sprintf("auto_%s_%d", began.Add(time.Duration(j)*time.Hour).Format("20060102_1504"), j),
				GUID:      uint64(i)<<32 | uint64(j+1),
				CreateTXG: uint64(1000 + 10*j),
				Creation:  began.Add(time.Duration(j) * time.Hour),
			})
		}
		in.Source = append(in.Source, dataset)
		if received > 0 {
			dataset.Name = "backup/alpha/" + name
			dataset.Versions = append([]protocol.Version(nil), dataset.Versions[:received]...)
			in.Receiver = append(in.Receiver, dataset)
		}
	}
	return in
}
