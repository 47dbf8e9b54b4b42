// Protection: every setting, interrupted at every point of an initial and of an incremental step. Everything that the
// setting lets a pruner destroy is destroyed, and then what the setting guarantees must hold.

package itest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

// stand is a fleet of two hosts on which the same scenario runs with fake and with real pools.
type stand struct {
	*testfleet.Fleet

	t                      *testing.T
	source, target         *zfs.System
	sourcePool, targetPool string
	stopSource, stopTarget *testfleet.Stopper
	// write replaces the contents of a filesystem by so many bytes.
	write func(filesystem string, generation uint64, bytes int)
	// configure changes a host before its worker is started, unless it is nil.
	configure func(*testfleet.Host)

	workers []*testfleet.Process
}

func newFakeStand(t *testing.T) *stand {
	t.Helper()
	alpha, bravo := zfsfake.New(), zfsfake.New()
	alpha.CreatePool("tank")
	bravo.CreatePool("backup")
	s := newStand(t, alpha, bravo)
	s.sourcePool, s.targetPool = "tank", "backup"
	s.write = func(filesystem string, generation uint64, bytes int) {
		require.NoError(t, alpha.Generate(filesystem, "data", generation, uint64(bytes)))
	}
	return s
}

func newRealStand(t *testing.T) *stand {
	t.Helper()
	s := newIdleRealStand(t)
	s.StartCoordinator()
	return s
}

func newIdleRealStand(t *testing.T) *stand {
	t.Helper()
	zfstest.RequireReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	s := newIdleStand(t, zfs.NewExecRunner(), zfs.NewExecRunner())
	s.sourcePool, s.targetPool = source, target
	s.write = func(filesystem string, generation uint64, bytes int) {
		writeNoise(t, filepath.Join(zfstest.Mountpoint(t, source), strings.TrimPrefix(filesystem, source), "data"), generation, bytes)
	}
	return s
}

// writeNoise replaces the file's contents by so many bytes that do not compress: what compresses away makes no stream.
func writeNoise(t *testing.T, path string, generation uint64, bytes int) {
	t.Helper()
	data := make([]byte, bytes)
	state := generation*2654435761 + 1
	for i := range data { // xorshift
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		data[i] = byte(state)
	}
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

func newStand(t *testing.T, source, target zfs.Runner) *stand {
	t.Helper()
	s := newIdleStand(t, source, target)
	s.StartCoordinator()
	return s
}

// newIdleStand makes a stand on which no coordinator runs yet.
func newIdleStand(t *testing.T, source, target zfs.Runner) *stand {
	t.Helper()
	return &stand{
		Fleet: testfleet.New(t), t: t, source: zfs.New(source), target: zfs.New(target),
		stopSource: testfleet.NewStopper(source), stopTarget: testfleet.NewStopper(target),
	}
}

func (s *stand) startWorkers() {
	s.t.Helper()
	s.workers = []*testfleet.Process{s.startWorker("alpha"), s.startWorker("bravo")}
}

func (s *stand) startWorker(name protocol.Host) *testfleet.Process {
	s.t.Helper()
	host := testfleet.Host{Name: name, Runner: s.stopSource, Policy: testfleet.AllowAll(s.sourcePool)}
	if name == "bravo" {
		host.Runner, host.Policy = s.stopTarget, testfleet.AllowAll(s.targetPool)
	}
	if s.configure != nil {
		s.configure(&host)
	}
	return s.StartWorker(host)
}

func (s *stand) killWorkers() {
	for _, w := range s.workers {
		w.Kill()
	}
}

// interruption is a point of a step at which both workers are killed.
type interruption struct {
	name string
	// onTarget says that the command is one of the receiver's.
	onTarget bool
	point    testfleet.Point
	// only lists the protections under which the point exists; none is all.
	only []protocol.Protection
	// incrementalOnly says that an initial step does not come by there.
	incrementalOnly bool
}

const scenarioBytes = 2 << 20

func commandWith(words ...string) func([]string) bool {
	return func(args []string) bool {
		line := strings.Join(args, " ")
		for _, word := range words {
			if !strings.Contains(line, word) {
				return false
			}
		}
		return true
	}
}

func interruptions() []interruption {
	withCursor := []protocol.Protection{protocol.GuaranteeResumability, protocol.GuaranteeIncremental}
	return []interruption{
		{name: "after protection", point: testfleet.Point{Match: isStream}},
		{name: "early in the stream", point: testfleet.Point{Match: isStream, Bytes: scenarioBytes / 8}},
		{name: "in the middle of the stream", point: testfleet.Point{Match: isStream, Bytes: scenarioBytes / 2}},
		{name: "late in the stream", point: testfleet.Point{Match: isStream, Bytes: scenarioBytes}},
		{name: "after the receive", onTarget: true, point: testfleet.Point{Match: commandWith("zfs recv"), After: true}},
		{
			name: "after the last-received hold", onTarget: true, only: withCursor,
			point: testfleet.Point{Match: commandWith("zfs hold zrepl_last_received"), After: true},
		},
		{
			name: "after confirmation, before the cursor", only: withCursor,
			point: testfleet.Point{Match: commandWith("zfs bookmark", "#zrepl_CURSOR_G_")},
		},
		{
			name: "between the new cursor and the old one's end", only: withCursor, incrementalOnly: true,
			point: testfleet.Point{Match: commandWith("zfs destroy", "#zrepl_CURSOR_G_")},
		},
		{
			name: "before the release of the step holds", only: []protocol.Protection{protocol.GuaranteeResumability},
			point: testfleet.Point{Match: commandWith("zfs release zrepl_STEP")},
		},
	}
}

func (s *stand) scenarios(each func(name string, protection protocol.Protection, initial bool, at interruption)) {
	for _, protection := range []protocol.Protection{
		protocol.GuaranteeResumability, protocol.GuaranteeIncremental, protocol.GuaranteeNothing,
	} {
		for _, initial := range []bool{true, false} {
			for _, at := range interruptions() {
				if at.incrementalOnly && initial || len(at.only) > 0 && !slices.Contains(at.only, protection) {
					continue
				}
				kind := map[bool]string{true: "initial", false: "incremental"}[initial]
				each(fmt.Sprintf("%s/%s/%s", protection, kind, at.name), protection, initial, at)
			}
		}
	}
}

func TestProtectionHoldsAtEveryInterruption(t *testing.T) {
	t.Parallel()
	(*stand)(nil).scenarios(func(name string, protection protocol.Protection, initial bool, at interruption) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newFakeStand(t).interrupt(protection, initial, at)
		})
	})
}

// TestRealProtectionHoldsAtEveryInterruption leaves out what would take long on an emulated machine and shows nothing more:
// two of the three offsets in the stream, and most of the setting that guarantees nothing.
func TestRealProtectionHoldsAtEveryInterruption(t *testing.T) {
	t.Parallel()
	zfstest.RequireReal(t)
	(*stand)(nil).scenarios(func(name string, protection protocol.Protection, initial bool, at interruption) {
		middle := at.point.Bytes == scenarioBytes/2
		if !middle && (at.point.Bytes > 0 || protection == protocol.GuaranteeNothing) {
			return
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newRealStand(t).interrupt(protection, initial, at)
		})
	})
}

// interrupt runs the scenario.
func (s *stand) interrupt(protection protocol.Protection, initial bool, at interruption) {
	s.t.Helper()
	ctx := s.t.Context()
	data, root := s.sourcePool+"/data", s.targetPool+"/alpha"
	received := root + "/" + data
	run(s.t, s.stopSource, "create", data)
	run(s.t, s.stopTarget, "create", root)
	job := testfleet.Job("prod", "alpha", protocol.Filter{data: true}, protocol.JobTarget{Host: "bravo", Root: root})
	job.Replication.Protection = protocol.ProtectionPolicy{Initial: protection, Incremental: protection}
	job.Replication.Attempts = 20
	s.Submit(job)

	s.startWorkers()
	generation := uint64(1)
	snapshot := func() {
		s.write(data, generation, scenarioBytes)
		require.NoError(s.t, s.source.Snapshot(ctx, fmt.Sprintf("%s@s%d", data, generation)))
		generation++
	}
	snapshot()
	if !initial {
		s.MustRun("prod")
		snapshot()
	}

	stopper := s.stopSource
	if at.onTarget {
		stopper = s.stopTarget
	}
	reached := stopper.Stop(at.point)
	plan := s.Request("prod")
	select {
	case <-reached:
	case <-time.After(testfleet.Timeout):
		s.t.Fatal("the step did not come by the point")
	}
	s.killWorkers()
	if protection != protocol.GuaranteeNothing {
		s.prune(data)
	}
	snapshot()
	s.startWorkers()

	s.requireDone(s.Wait(plan))
	s.MustRun("prod")
	s.requireExpectedSet(protection, data, received)
	snapshot()
	s.MustRun("prod")
	s.requireExpectedSet(protection, data, received)
}

func (s *stand) requireDone(detail fleet.PlanDetail) {
	s.t.Helper()
	require.Equal(s.t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
}

// prune destroys every snapshot of the source that can be destroyed, as a pruner without mercy.
func (s *stand) prune(filesystem string) {
	s.t.Helper()
	dataset, err := s.source.Get(s.t.Context(), filesystem)
	require.NoError(s.t, err)
	for _, v := range dataset.Versions {
		if v.Type == zfs.Snapshot {
			_ = s.source.Destroy(s.t.Context(), v.Full(filesystem)) // what is held stays
		}
	}
}

// requireExpectedSet requires that the target's newest snapshot is the source's, and exactly the abstractions that the
// protection keeps between steps.
func (s *stand) requireExpectedSet(protection protocol.Protection, filesystem, received string) {
	s.t.Helper()
	source, err := s.source.Get(s.t.Context(), filesystem)
	require.NoError(s.t, err)
	target, err := s.target.Get(s.t.Context(), received)
	require.NoError(s.t, err)
	newest := newestSnapshot(source)
	require.Equal(s.t, newest.GUID, newestSnapshot(target).GUID, "the newest snapshot is replicated")
	require.Empty(s.t, target.ReceiveResumeToken, "no partial state is left")

	var bookmarks, holds []string
	for _, v := range source.Versions {
		if v.Type == zfs.Bookmark {
			bookmarks = append(bookmarks, v.Name)
		}
	}
	holds = append(s.holds(s.source, source), s.holds(s.target, target)...)
	if protection == protocol.GuaranteeNothing {
		require.Empty(s.t, bookmarks)
		require.Empty(s.t, holds)
		return
	}
	require.Equal(s.t, []string{fmt.Sprintf("zrepl_CURSOR_G_%016x_J_prod.bravo", newest.GUID)}, bookmarks)
	require.Equal(s.t, []string{received + "@" + newest.Name + " zrepl_last_received_J_prod.bravo"}, holds)
}

func newestSnapshot(dataset zfs.Dataset) zfs.Version {
	var newest zfs.Version
	for _, v := range dataset.Versions {
		if v.Type == zfs.Snapshot {
			newest = v
		}
	}
	return newest
}

func (s *stand) holds(system *zfs.System, dataset zfs.Dataset) []string {
	s.t.Helper()
	var snapshots, holds []string
	for _, v := range dataset.Versions {
		if v.UserRefs > 0 {
			snapshots = append(snapshots, v.Full(dataset.Name))
		}
	}
	if len(snapshots) == 0 {
		return nil
	}
	found, err := system.Holds(s.t.Context(), snapshots...)
	require.NoError(s.t, err)
	for _, hold := range found {
		holds = append(holds, hold.Snapshot+" "+hold.Tag)
	}
	return holds
}
