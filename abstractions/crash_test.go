// Whatever happens to steps, and wherever a process crashes: what the receiver has is protected at every instant, and one
// step that succeeds leaves exactly what is expected.

package abstractions_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// history is a sender with a receiver of which only its last version is known.
type history struct {
	*host

	t        *rapid.T
	canClone bool
	taken    int
	// received is the guid of the last version that the receiver has, 0 for none.
	received uint64
	// guaranteed is set while a protection promises that received is protected.
	guaranteed bool
}

func protections() []protocol.Protection {
	return []protocol.Protection{protocol.GuaranteeResumability, protocol.GuaranteeIncremental, protocol.GuaranteeNothing}
}

func (h *history) take() zfs.Version {
	h.taken++
	return h.snapshot(fmt.Sprintf("s%d", h.taken))
}

// protected tells whether something of the job's protects the version.
func (h *history) protected(guid uint64) bool {
	versions, err := h.fake.Versions(filesystem)
	require.NoError(h.t, err)
	for _, version := range versions {
		if version.GUID != guid {
			continue
		}
		_, _, id, ours := abstractions.ParseBookmarkName(version.Name)
		if version.Type == "bookmark" && ours && id == job ||
			slices.Contains(version.Holds, abstractions.HoldTag(abstractions.StepHold, job)) {
			return true
		}
	}
	return false
}

func (h *history) checkProtected(when string) {
	if h.guaranteed && h.received != 0 {
		require.True(h.t, h.protected(h.received), "%s: nothing protects guid %d, which the receiver has, in %v",
			when, h.received, h.kept())
	}
}

// nextStep is what a planner would make: from the version that the receiver has to a newer snapshot.
func (h *history) nextStep(protection protocol.Protection) *abstractions.SendStep {
	versions := h.versions()
	var from *zfs.Version
	if h.received != 0 {
		common := slices.DeleteFunc(slices.Clone(versions), func(v zfs.Version) bool { return v.GUID != h.received })
		if len(common) == 0 {
			require.False(h.t, h.guaranteed, "an incremental step is impossible")
			h.received = 0 // the operator has the receiver start over
		} else {
			version := rapid.SampledFrom(common).Draw(h.t, "from")
			from = &version
		}
	}
	newer := slices.DeleteFunc(slices.Clone(versions), func(v zfs.Version) bool {
		return v.Type != zfs.Snapshot || from != nil && v.CreateTXG <= from.CreateTXG
	})
	if from == nil {
		newest := uint64(0) // a planner starts over with the newest
		for _, v := range newer {
			newest = max(newest, v.CreateTXG)
		}
		newer = slices.DeleteFunc(newer, func(v zfs.Version) bool { return v.CreateTXG != newest })
	}
	if len(newer) == 0 {
		return nil
	}
	step := &abstractions.SendStep{
		Filesystem: filesystem, JobID: job, Protection: protection, From: from,
		To: rapid.SampledFrom(newer).Draw(h.t, "to"),
	}
	if rapid.Bool().Draw(h.t, "listing is given") {
		step.Dataset = h.listing()
	}
	return step
}

// run runs a step until it is done or the process crashes, and tells which.
func (h *history) run(step abstractions.SendStep, arrives, pruned bool) bool {
	h.t.Logf("step %s → %s under %s", describe(step.From), describe(&step.To), step.Protection)
	fromOurs := step.From == nil || step.From.Type == zfs.Snapshot || strings.HasSuffix(step.From.Name, "_J_"+string(job))
	if step.Protection == protocol.GuaranteeNothing {
		h.guaranteed = false
	}
	if err := h.manager.BeforeSend(h.t.Context(), step); err != nil {
		require.ErrorIs(h.t, err, errCrashed)
		return false
	}
	if step.Protection != protocol.GuaranteeNothing && (h.canClone || fromOurs) {
		h.guaranteed = true
	}
	if pruned {
		h.prune()
	}
	h.checkProtected("while the step runs")
	if !arrives {
		return false
	}
	h.received = step.To.GUID
	h.checkProtected("when it has arrived")
	cursor, err := h.manager.AfterConfirmation(h.t.Context(), step)
	if h.process.crashed {
		return false
	}
	require.NoError(h.t, err)
	wanted := []string{}
	if step.Protection != protocol.GuaranteeNothing {
		wanted = append(wanted, "#"+cursor.Name)
		require.Equal(h.t, step.To.GUID, h.version("#"+cursor.Name).GUID)
	}
	require.Equal(h.t, wanted, h.keptBy(job), "after a step that succeeded")
	return true
}

// prune destroys every snapshot that nothing holds, except the newest.
func (h *history) prune() {
	versions := h.versions()
	for _, version := range versions[:len(versions)-1] {
		if version.Type == zfs.Snapshot && version.UserRefs == 0 {
			h.zfs("destroy", version.Full(filesystem))
		}
	}
}

// plant leaves something behind that no step of ours would.
func (h *history) plant() {
	versions := slices.DeleteFunc(h.versions(), func(v zfs.Version) bool { return v.Type != zfs.Snapshot })
	if len(versions) == 0 {
		return
	}
	version := rapid.SampledFrom(versions).Draw(h.t, "planted on")
	names := map[string]string{
		"step hold":          abstractions.HoldTag(abstractions.StepHold, job),
		"step bookmark":      bookmarkOf(abstractions.StepBookmark, version, job),
		"tentative cursor":   tentativeOf(version, job),
		"foreign hold":       "keep",
		"foreign bookmark":   "#mine-" + version.Name,
		"other job's hold":   abstractions.HoldTag(abstractions.StepHold, otherJob),
		"other job's cursor": cursorOf(version, otherJob),
	}
	what := rapid.SampledFrom([]string{
		"step hold", "step bookmark", "tentative cursor", "foreign hold", "foreign bookmark", "other job's hold", "other job's cursor",
	}).Draw(h.t, "planted")
	if slices.ContainsFunc(h.kept(), func(kept string) bool { return kept == names[what] || kept == version.Rel()+" "+names[what] }) {
		return
	}
	if strings.HasPrefix(names[what], "#") {
		h.zfs("bookmark", version.Full(filesystem), filesystem+names[what])
	} else {
		h.zfs("hold", names[what], version.Full(filesystem))
	}
}

func TestCrashesOnTheSender(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.SampledFrom([]string{"2.3.2-1", "0.8.6-1"}).Draw(t, "OpenZFS")
		h := &history{host: newHost(t, zfsfake.WithVersion(version)), t: t, canClone: version != "0.8.6-1"}
		h.take()
		settings := rapid.SampledFrom([][]protocol.Protection{
			protections(), protections()[:2], protections()[:1], protections()[1:2],
		}).Draw(t, "settings")
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			h.process.observe = nil
			switch rapid.SampledFrom([]string{"step", "step", "step", "snapshot", "prune", "plant"}).Draw(t, "event") {
			case "snapshot":
				h.take()
			case "prune":
				h.prune()
			case "plant":
				h.plant()
			case "step":
				step := h.nextStep(rapid.SampledFrom(settings).Draw(t, "protection"))
				if step == nil {
					h.take()
					continue
				}
				others := h.keptByOthers(job)
				h.process.observe = h.checkProtected
				h.process.crash(rapid.IntRange(0, 8).Draw(t, "crash at"), rapid.Bool().Draw(t, "after its effect"))
				h.run(*step, rapid.Bool().Draw(t, "arrives"), rapid.Bool().Draw(t, "is pruned"))
				require.Equal(t, others, h.keptByOthers(job), "what is not ours is not touched")
				if rapid.Bool().Draw(t, "restarts") || h.process.crashed {
					h.restart()
				}
			}
			h.checkProtected("afterwards")
		}

		h.process.observe = nil
		h.process.crash(0, false)
		h.take()
		others := h.keptByOthers(job)
		step := h.nextStep(rapid.SampledFrom(settings).Draw(t, "last protection"))
		require.NotNil(t, step)
		require.True(t, h.run(*step, true, false), "a step that nothing disturbs succeeds")
		require.Equal(t, others, h.keptByOthers(job), "what is not ours is not touched")
	})
}

func TestCrashesOnTheReceiver(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := newHost(t)
		taken := 0
		var last *zfs.Version // the last that was confirmed, protected from then on
		protected := func(string) {
			if last == nil {
				return
			}
			held := slices.ContainsFunc(h.keptBy(job), func(kept string) bool {
				name, _, _ := strings.Cut(kept, " ")
				return h.version(name).CreateTXG >= last.CreateTXG
			})
			require.True(t, held, "nothing protects %s", describe(last))
		}
		steps := rapid.IntRange(1, 8).Draw(t, "steps")
		for i := range steps {
			if rapid.Bool().Draw(t, "somebody else holds") && taken > 0 {
				h.zfs("hold", fmt.Sprintf("keep%d", i), fmt.Sprintf("%s@s%d", filesystem, taken))
			}
			before := h.listing()
			taken++
			to := h.snapshot(fmt.Sprintf("s%d", taken))
			step := abstractions.ReceiveStep{
				Filesystem: filesystem, JobID: job, To: to,
				Protection: rapid.SampledFrom(protections()).Draw(t, "protection"),
			}
			if i == steps-1 || rapid.Bool().Draw(t, "listing is given") {
				step.Dataset = before
			}
			if step.Protection == protocol.GuaranteeNothing {
				last = nil
			}
			others := h.keptByOthers(job)
			h.process.observe = protected
			if i < steps-1 {
				h.process.crash(rapid.IntRange(0, 3).Draw(t, "crash at"), rapid.Bool().Draw(t, "after its effect"))
			} else {
				h.process.crash(0, false)
			}
			err := h.manager.AfterReceive(t.Context(), step)
			require.Equal(t, others, h.keptByOthers(job))
			if h.process.crashed {
				h.restart()
				if !rapid.Bool().Draw(t, "is repeated") {
					continue
				}
				step.Dataset = nil
				err = h.manager.AfterReceive(t.Context(), step)
			}
			require.NoError(t, err)
			if step.Protection == protocol.GuaranteeNothing {
				require.Empty(t, h.keptBy(job))
				continue
			}
			last = &to
			require.Equal(t, []string{lastReceivedHold(to, job)}, h.keptBy(job))
		}
	})
}
