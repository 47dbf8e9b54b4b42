// Leftovers: stale holds, bookmarks and cursors of ours, planted by hand on both sides, go with the next step, whether the
// workers have just started or know the filesystem already; everybody else's stay.

package itest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

func leftoverScenarios(each func(name string, protection protocol.Protection, warm bool)) {
	for _, protection := range []protocol.Protection{
		protocol.GuaranteeResumability, protocol.GuaranteeIncremental, protocol.GuaranteeNothing,
	} {
		for _, warm := range []bool{false, true} {
			each(fmt.Sprintf("%s/warm=%t", protection, warm), protection, warm)
		}
	}
}

func TestLeftoversGoWithTheNextStep(t *testing.T) {
	t.Parallel()
	leftoverScenarios(func(name string, protection protocol.Protection, warm bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newFakeStand(t).cleanLeftovers(protection, warm)
		})
	})
}

func TestRealLeftoversGoWithTheNextStep(t *testing.T) {
	t.Parallel()
	zfstest.RequireReal(t)
	leftoverScenarios(func(name string, protection protocol.Protection, warm bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newRealStand(t).cleanLeftovers(protection, warm)
		})
	})
}

// cleanLeftovers runs the scenario.
func (s *stand) cleanLeftovers(protection protocol.Protection, warm bool) {
	s.t.Helper()
	data, root := s.sourcePool+"/data", s.targetPool+"/alpha"
	received := root + "/" + data
	run(s.t, s.stopSource, "create", data)
	run(s.t, s.stopTarget, "create", root)
	job := testfleet.Job("prod", "alpha", protocol.Filter{data: true}, protocol.JobTarget{Host: "bravo", Root: root})
	job.Replication.Protection = protocol.ProtectionPolicy{Initial: protection, Incremental: protection}
	s.Submit(job)
	s.startWorkers()
	for n := range 3 {
		s.write(data, uint64(n+1), 64<<10)
		run(s.t, s.stopSource, "snapshot", fmt.Sprintf("%s@s%d", data, n))
	}
	s.MustRun("prod")
	if !warm {
		s.killWorkers()
	}

	source := s.dataset(s.source, data)
	guid := source.Versions[0].GUID
	for _, v := range source.Versions {
		if v.Type == zfs.Snapshot && v.Name == "s0" {
			guid = v.GUID
		}
	}
	foreign := map[string]bool{}
	keep := func(name string) string {
		foreign[name] = true
		return name
	}
	for _, id := range []string{"prod.bravo", "other.job"} {
		for _, form := range []string{"zrepl_STEP_G_%016x_J_%s", "zrepl_CURSOR_G_%016x_J_%s", "zrepl_CURSORTENTATIVE_G_%016x_J_%s"} {
			name := fmt.Sprintf(form, guid, id)
			run(s.t, s.stopSource, "bookmark", data+"@s0", data+"#"+name)
			if id == "other.job" {
				keep(name)
			}
		}
		run(s.t, s.stopSource, "hold", "zrepl_STEP_J_"+id, data+"@s0", data+"@s1")
		run(s.t, s.stopTarget, "hold", "zrepl_last_received_J_"+id, received+"@s0", received+"@s1")
	}
	run(s.t, s.stopSource, "bookmark", data+"@s0", data+"#"+keep("somebody-elses"))
	run(s.t, s.stopSource, "hold", "keep", data+"@s0")
	run(s.t, s.stopTarget, "hold", "keep", received+"@s0")
	for _, hold := range []string{
		data + "@s0 keep", received + "@s0 keep", data + "@s0 zrepl_STEP_J_other.job", data + "@s1 zrepl_STEP_J_other.job",
		received + "@s0 zrepl_last_received_J_other.job", received + "@s1 zrepl_last_received_J_other.job",
	} {
		keep(hold)
	}

	if !warm {
		s.startWorkers()
	}
	s.write(data, 9, 64<<10)
	run(s.t, s.stopSource, "snapshot", data+"@s3")
	s.MustRun("prod")

	source, target := s.dataset(s.source, data), s.dataset(s.target, received)
	newest := newestSnapshot(source)
	require.Equal(s.t, newest.GUID, newestSnapshot(target).GUID)
	var found []string
	for _, v := range source.Versions {
		if v.Type == zfs.Bookmark {
			found = append(found, v.Name)
		}
	}
	found = append(append(found, s.holds(s.source, source)...), s.holds(s.target, target)...)
	var want []string
	for name := range foreign {
		want = append(want, name)
	}
	if protection != protocol.GuaranteeNothing {
		want = append(want, fmt.Sprintf("zrepl_CURSOR_G_%016x_J_prod.bravo", newest.GUID),
			received+"@s3 zrepl_last_received_J_prod.bravo")
	}
	require.ElementsMatch(s.t, want, found)
}

func (s *stand) dataset(system *zfs.System, name string) zfs.Dataset {
	s.t.Helper()
	dataset, err := system.Get(s.t.Context(), name)
	require.NoError(s.t, err)
	return dataset
}
