// What steps find and did not make: planted by hand, left behind by steps that failed, or by a zrepl that went before. With
// what is known of holds cold and warm.

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

// asZreplSpells is the name of a tentative cursor as released versions of zrepl spell it, with two underscores.
func asZreplSpells(version zfs.Version, id protocol.JobID) string {
	return strings.Replace(tentativeOf(version, id), "#zrepl_CURSORTENTATIVE_G_", "#zrepl_CURSORTENTATIVE__G_", 1)
}

func TestLeftoversAreCleanedOnTheNextStep(t *testing.T) {
	t.Parallel()
	planted := map[string]func(h *host, old zfs.Version){
		"step hold": func(h *host, old zfs.Version) {
			h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, job), filesystem+old.Rel())
		},
		"step bookmark": func(h *host, old zfs.Version) {
			h.zfs("bookmark", filesystem+old.Rel(), filesystem+bookmarkOf(abstractions.StepBookmark, old, job))
		},
		"tentative cursor": func(h *host, old zfs.Version) {
			h.zfs("bookmark", filesystem+old.Rel(), filesystem+tentativeOf(old, job))
		},
		"tentative cursor of zrepl": func(h *host, old zfs.Version) {
			h.zfs("bookmark", filesystem+old.Rel(), filesystem+asZreplSpells(old, job))
		},
		"old cursor": func(h *host, old zfs.Version) {
			h.zfs("bookmark", filesystem+old.Rel(), filesystem+cursorOf(old, job))
		},
	}
	for _, protection := range protections() {
		for _, warm := range []bool{false, true} {
			for name, plant := range planted {
				t.Run(fmt.Sprintf("%s/%s/warm=%t", protection, name, warm), func(t *testing.T) {
					t.Parallel()
					checkLeftovers(t, protection, warm, func(h *host, old zfs.Version) { plant(h, old) })
				})
			}
			t.Run(fmt.Sprintf("%s/everything/warm=%t", protection, warm), func(t *testing.T) {
				t.Parallel()
				checkLeftovers(t, protection, warm, func(h *host, old zfs.Version) {
					for _, plant := range planted {
						plant(h, old)
					}
				})
			})
		}
	}
}

// checkLeftovers plants on a snapshot that is older than the step's from, and on from itself.
func checkLeftovers(t *testing.T, protection protocol.Protection, warm bool, plant func(h *host, old zfs.Version)) {
	t.Helper()
	h := newHost(t)
	old, from := h.snapshot("old"), h.snapshot("from")
	for _, tag := range []string{
		"keep", abstractions.HoldTag(abstractions.StepHold, otherJob), abstractions.HoldTag(abstractions.LastReceivedHold, job),
	} {
		h.zfs("hold", tag, filesystem+"@old", filesystem+"@from")
	}
	for _, name := range []string{
		"#mine", "#zrepl_replication_cursor", "#zrepl_CURSOR_x", cursorOf(old, otherJob), tentativeOf(old, otherJob),
		asZreplSpells(old, otherJob), bookmarkOf(abstractions.StepBookmark, old, otherJob), cursorOf(old, "prod.bravo2"),
	} {
		h.zfs("bookmark", filesystem+"@old", filesystem+name)
	}
	lastReceived := abstractions.HoldTag(abstractions.LastReceivedHold, job) // the filesystem is also a receiver
	others := append(h.keptByOthers(job), "@old "+lastReceived, "@from "+lastReceived)

	for i := range 3 {
		to := h.snapshot(fmt.Sprintf("to%d", i))
		if !warm {
			h.restart()
		}
		if i > 0 { // the first step only fills what is known
			plant(h, old)
			if protection != protocol.GuaranteeNothing || i == 2 {
				h.plantIfAbsent(stepHold(from, job), tentativeOf(from, job), asZreplSpells(from, job))
			}
		}
		step := h.step(protection, &from, to)
		require.NoError(t, h.manager.BeforeSend(t.Context(), step))
		if !warm {
			h.restart()
		}
		_, err := h.manager.AfterConfirmation(t.Context(), step)
		require.NoError(t, err)
		wanted := slices.Clone(others)
		if protection != protocol.GuaranteeNothing {
			wanted = append(wanted, cursorOf(to, job))
		}
		require.ElementsMatch(t, wanted, h.kept(), "after step %d", i)
		from = to
	}
}

// plantIfAbsent plants holds ("@snapshot tag") and bookmarks of the version that their name tells ("#name").
func (h *host) plantIfAbsent(names ...string) {
	h.t.Helper()
	for _, name := range names {
		if slices.Contains(h.kept(), name) {
			continue
		}
		if snapshot, tag, ok := strings.Cut(name, " "); ok {
			h.zfs("hold", tag, filesystem+snapshot)
			continue
		}
		_, guid, _, ok := abstractions.ParseBookmarkName(name[1:])
		require.True(h.t, ok, "%s", name)
		for _, version := range h.versions() {
			if version.GUID == guid && version.Type == zfs.Snapshot {
				h.zfs("bookmark", filesystem+version.Rel(), filesystem+name)
			}
		}
	}
}

// When the holds cannot be read the step goes on, what is suspected to be held is released on suspicion, and the next step
// reads again, once.
func TestHoldsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	old, from := h.snapshot("old"), h.snapshot("from")
	h.zfs("hold", "keep", filesystem+"@old")
	h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, job), filesystem+"@old")
	fault := h.fake.Inject(zfsfake.Fault{
		Match: zfsfake.Command("zfs", "holds"), Before: &zfsfake.Failure{ExitCode: 1, Stderr: "I/O error\n"},
	})
	for i, readings := range []int{1, 1, 0} {
		if i == 1 {
			fault.Remove()
		}
		to := h.snapshot(fmt.Sprintf("to%d", i))
		h.fake.ResetCommands()
		step := h.step(protocol.GuaranteeResumability, &from, to)
		require.NoError(t, h.manager.BeforeSend(t.Context(), step))
		require.NotContains(t, h.kept(), stepHold(old, job))
		require.Equal(t, readings, h.fake.Count(zfsfake.Command("zfs", "holds")), "step %d: %v", i, h.commands())
		_, err := h.manager.AfterConfirmation(t.Context(), step)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"@old keep", cursorOf(to, job)}, h.kept())
		from = to
	}
}

// Filesystems whose holds are not known read them with one command.
func TestColdHoldsAreReadTogether(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	f := newFleet(t, h.fake, protocol.GuaranteeNothing)
	for _, name := range f.filesystems {
		h.zfs("snapshot", name+"@held")
		h.zfs("hold", "keep", name+"@held")
		h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, job), name+"@held")
	}
	f.step()
	h.fake.ResetCommands()
	f.step()
	require.Zero(t, h.fake.Count(zfsfake.Command("zfs", "holds")), "they are known by now")
	for _, name := range f.filesystems {
		versions, err := h.fake.Versions(name)
		require.NoError(t, err)
		for _, version := range versions {
			if version.Name == "held" {
				require.Equal(t, []string{"keep"}, version.Holds)
			}
		}
	}
	f.close()
}

// A manager that remembers does what one does that never knows anything, whatever steps, people and failures have left. A hold
// that replaces another is what has to be said with Invalidate.
func TestMemoryChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cached, uncached := newHost(t, zfsfake.WithSeed(7)), newHost(t, zfsfake.WithSeed(7))
		both := []*host{cached, uncached}
		taken := 0
		take := func() {
			taken++
			for _, h := range both {
				h.snapshot(fmt.Sprintf("s%d", taken))
			}
		}
		take()
		take()
		var current *abstractions.SendStep
		received := "@s1"
		// lighter are snapshots on which a hold planted now would replace another, and heavier those on which one that is released
		// now would be replaced by what was planted.
		lighter, heavier := map[string]bool{}, map[string]bool{}
		for range rapid.IntRange(1, 15).Draw(t, "events") {
			version := cached.version(fmt.Sprintf("@s%d", rapid.IntRange(1, taken).Draw(t, "snapshot")))
			switch rapid.SampledFrom([]string{
				"snapshot", "hold", "release", "plant", "before send", "before send", "confirmed", "receive",
			}).Draw(t, "event") {
			case "snapshot":
				take()
			case "hold":
				tag := rapid.SampledFrom([]string{"keep", abstractions.HoldTag(abstractions.StepHold, otherJob)}).Draw(t, "tag")
				for _, h := range both {
					h.plantIfAbsent(version.Rel() + " " + tag)
				}
			case "release":
				for _, h := range both {
					if slices.Contains(h.kept(), version.Rel()+" keep") {
						h.zfs("release", "keep", filesystem+version.Rel())
						lighter[version.Rel()] = true
					}
				}
				if lighter[version.Rel()] && heavier[version.Rel()] {
					cached.manager.Invalidate(filesystem)
					clear(lighter)
					clear(heavier)
				}
			case "plant":
				name := rapid.SampledFrom([]string{
					stepHold(version, job), bookmarkOf(abstractions.StepBookmark, version, job), tentativeOf(version, job),
					asZreplSpells(version, job), lastReceivedHold(version, job),
				}).Draw(t, "planted")
				current = nil // it acts on the listing that it was validated with
				if lighter[version.Rel()] {
					cached.manager.Invalidate(filesystem)
					clear(lighter)
					clear(heavier)
				}
				heavier[version.Rel()] = true
				for _, h := range both {
					h.plantIfAbsent(name)
				}
			case "before send":
				protection := rapid.SampledFrom(protections()).Draw(t, "protection")
				from, to := cached.version(received), cached.version(fmt.Sprintf("@s%d", taken))
				if from.GUID == to.GUID {
					continue
				}
				uncached.manager.Invalidate()
				current = nil
				for _, h := range both {
					step := h.step(protection, &from, to)
					require.NoError(t, h.manager.BeforeSend(t.Context(), step))
					current = &step
				}
			case "confirmed":
				if current == nil {
					continue
				}
				uncached.manager.Invalidate(filesystem)
				for _, h := range both {
					_, err := h.manager.AfterConfirmation(t.Context(), *current)
					require.NoError(t, err)
				}
				received, current = current.To.Rel(), nil
			case "receive":
				uncached.manager.Invalidate()
				for _, h := range both {
					require.NoError(t, h.manager.AfterReceive(t.Context(), abstractions.ReceiveStep{
						Filesystem: filesystem, JobID: job, Protection: protocol.GuaranteeResumability, To: version, Dataset: h.listing(),
					}))
				}
			}
			require.Equal(t, uncached.kept(), cached.kept())
		}
	})
}
