package abstractions_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// step is a step from and to versions of tank/d, with a listing as it is now.
func (h *host) step(protection protocol.Protection, from *zfs.Version, to zfs.Version) abstractions.SendStep {
	return abstractions.SendStep{
		Filesystem: filesystem, JobID: job, Protection: protection, From: from, To: to, Dataset: h.listing(),
	}
}

func TestStepOnTheSender(t *testing.T) {
	t.Parallel()
	for _, protection := range []protocol.Protection{
		protocol.GuaranteeResumability, protocol.GuaranteeIncremental, protocol.GuaranteeNothing,
	} {
		t.Run(string(protection), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			a := h.snapshot("a")
			b := h.snapshot("b")

			full := h.step(protection, nil, a)
			require.NoError(t, h.manager.BeforeSend(t.Context(), full))
			duringFull := map[protocol.Protection][]string{
				protocol.GuaranteeResumability: {stepHold(a, job)},
				protocol.GuaranteeIncremental:  {tentativeOf(a, job)},
				protocol.GuaranteeNothing:      {},
			}
			require.Equal(t, duringFull[protection], h.kept())

			cursor, err := h.manager.AfterConfirmation(t.Context(), full)
			require.NoError(t, err)
			if protection == protocol.GuaranteeNothing {
				require.Nil(t, cursor)
				require.Empty(t, h.kept())
				return
			}
			require.Equal(t, cursorOf(a, job), "#"+cursor.Name)
			require.Equal(t, abstractions.Cursor, cursor.Kind)
			require.Equal(t, a.GUID, cursor.GUID)
			require.Equal(t, []string{cursorOf(a, job)}, h.kept())

			incremental := h.step(protection, &a, b)
			require.NoError(t, h.manager.BeforeSend(t.Context(), incremental))
			during := map[protocol.Protection][]string{
				protocol.GuaranteeResumability: {cursorOf(a, job), stepHold(a, job), stepHold(b, job)},
				protocol.GuaranteeIncremental:  {cursorOf(a, job), tentativeOf(a, job), tentativeOf(b, job)},
			}
			require.ElementsMatch(t, during[protection], h.kept())
			require.NoError(t, h.manager.BeforeSend(t.Context(), incremental), "it can be repeated")
			require.ElementsMatch(t, during[protection], h.kept())

			for range 2 { // it can be repeated
				_, err = h.manager.AfterConfirmation(t.Context(), incremental)
				require.NoError(t, err)
				require.Equal(t, []string{cursorOf(b, job)}, h.kept())
			}

			incremental.Dataset = nil
			_, err = h.manager.AfterConfirmation(t.Context(), incremental)
			require.NoError(t, err, "without a listing one is made")
			require.Equal(t, []string{cursorOf(b, job)}, h.kept())
		})
	}
}

// A range that is interrupted may have brought the receiver to any of its snapshots.
func TestARangeIsProtectedAsAWhole(t *testing.T) {
	t.Parallel()
	for _, protection := range []protocol.Protection{
		protocol.GuaranteeResumability, protocol.GuaranteeIncremental, protocol.GuaranteeNothing,
	} {
		t.Run(string(protection), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			a, b, c, d := h.snapshot("a"), h.snapshot("b"), h.snapshot("c"), h.snapshot("d")
			h.snapshot("e")
			during := map[protocol.Protection][]string{
				protocol.GuaranteeResumability: {stepHold(a, job), stepHold(b, job), stepHold(c, job), stepHold(d, job)},
				protocol.GuaranteeIncremental: {
					tentativeOf(a, job), tentativeOf(b, job), tentativeOf(c, job), tentativeOf(d, job),
				},
			}
			step := h.step(protection, &a, d)
			step.Intermediate = true
			for range 2 { // it can be repeated
				require.NoError(t, h.manager.BeforeSend(t.Context(), step))
				require.ElementsMatch(t, during[protection], h.kept())
				step.Dataset = h.listing()
			}
			_, err := h.manager.AfterConfirmation(t.Context(), step)
			require.NoError(t, err)
			if protection == protocol.GuaranteeNothing {
				require.Empty(t, h.kept())
			} else {
				require.Equal(t, []string{cursorOf(d, job)}, h.kept())
			}
		})
	}
}

func TestStepFromABookmark(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.snapshot("a")
	h.zfs("bookmark", filesystem+"@a", filesystem+cursorOf(a, job))
	h.zfs("destroy", filesystem+"@a")
	b := h.snapshot("b")
	cursor := h.version(cursorOf(a, job))

	step := h.step(protocol.GuaranteeResumability, &cursor, b)
	require.NoError(t, h.manager.BeforeSend(t.Context(), step))
	bookmark := bookmarkOf(abstractions.StepBookmark, a, job)
	require.ElementsMatch(t, []string{cursorOf(a, job), bookmark, stepHold(b, job)}, h.kept())
	require.Equal(t, a.GUID, h.version(bookmark).GUID)

	_, err := h.manager.AfterConfirmation(t.Context(), step)
	require.NoError(t, err)
	require.Equal(t, []string{cursorOf(b, job)}, h.kept())
}

// Before OpenZFS 2.0 bookmarks cannot be copied: the step goes on, and what is there is kept.
func TestStepFromABookmarkThatCannotBeCloned(t *testing.T) {
	t.Parallel()
	for _, protection := range []protocol.Protection{protocol.GuaranteeResumability, protocol.GuaranteeIncremental} {
		h := newHost(t, zfsfake.WithVersion("0.8.6-1"))
		a := h.snapshot("a")
		h.zfs("bookmark", filesystem+"@a", filesystem+tentativeOf(a, job))
		h.zfs("destroy", filesystem+"@a")
		b := h.snapshot("b")
		from := h.version(tentativeOf(a, job))

		step := h.step(protection, &from, b)
		require.NoError(t, h.manager.BeforeSend(t.Context(), step))
		require.Contains(t, h.kept(), tentativeOf(a, job), "it alone protects what the receiver has")
		require.NotContains(t, h.kept(), bookmarkOf(abstractions.StepBookmark, a, job))

		_, err := h.manager.AfterConfirmation(t.Context(), step)
		require.NoError(t, err)
		require.Equal(t, []string{cursorOf(b, job)}, h.kept())
	}
}

// Under guarantee_incremental a pruner may destroy what is being sent; the tentative cursor then becomes the cursor.
func TestCursorOfADestroyedSnapshot(t *testing.T) {
	t.Parallel()
	for version, wanted := range map[string]abstractions.Kind{
		"2.3.2-1": abstractions.Cursor,
		"0.8.6-1": abstractions.TentativeCursor, // which cannot be copied, and stays
	} {
		h := newHost(t, zfsfake.WithVersion(version))
		a, b := h.snapshot("a"), h.snapshot("b")
		step := h.step(protocol.GuaranteeIncremental, &a, b)
		require.NoError(t, h.manager.BeforeSend(t.Context(), step))
		h.zfs("destroy", filesystem+"@a,b")
		h.snapshot("b") // another one of the same name

		cursor, err := h.manager.AfterConfirmation(t.Context(), step)
		if wanted == abstractions.TentativeCursor {
			var mismatch *abstractions.GUIDMismatch
			require.ErrorAs(t, err, &mismatch, "the wrong snapshot is no cursor")
			require.ElementsMatch(t, []string{tentativeOf(a, job), tentativeOf(b, job)}, h.kept())
			h.zfs("destroy", filesystem+"@b")
			cursor, err = h.manager.AfterConfirmation(t.Context(), step)
		}
		require.NoError(t, err)
		require.Equal(t, wanted, cursor.Kind)
		require.Equal(t, b.GUID, h.version("#"+cursor.Name).GUID)
		require.Equal(t, []string{bookmarkOf(wanted, b, job)}, h.kept())
	}
}

func TestChangedProtectionRemovesWhatIsNotNeeded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a, b, c := h.snapshot("a"), h.snapshot("b"), h.snapshot("c")
	h.zfs("bookmark", filesystem+"@a", filesystem+cursorOf(a, job))

	require.NoError(t, h.manager.BeforeSend(t.Context(), h.step(protocol.GuaranteeResumability, &a, b)))
	require.NoError(t, h.manager.BeforeSend(t.Context(), h.step(protocol.GuaranteeIncremental, &a, b)))
	require.ElementsMatch(t, []string{cursorOf(a, job), tentativeOf(a, job), tentativeOf(b, job)}, h.kept(),
		"holds of a stuck step no longer pin its snapshots")

	require.NoError(t, h.manager.BeforeSend(t.Context(), h.step(protocol.GuaranteeResumability, &a, c)))
	require.ElementsMatch(t, []string{cursorOf(a, job), tentativeOf(a, job), stepHold(a, job), stepHold(c, job)}, h.kept(),
		"what an abandoned attempt left behind goes, what is of this step's versions stays until it is confirmed")

	step := h.step(protocol.GuaranteeNothing, &a, c)
	require.NoError(t, h.manager.BeforeSend(t.Context(), step))
	require.ElementsMatch(t, []string{cursorOf(a, job), tentativeOf(a, job)}, h.kept())
	cursor, err := h.manager.AfterConfirmation(t.Context(), step)
	require.NoError(t, err)
	require.Nil(t, cursor)
	require.Empty(t, h.kept())
}

func TestNothingOfOthersIsTouched(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a, b := h.snapshot("a"), h.snapshot("b")
	for _, name := range []string{
		"#mine", "#zrepl_replication_cursor", cursorOf(a, otherJob), tentativeOf(a, otherJob),
		bookmarkOf(abstractions.StepBookmark, a, otherJob), "#zrepl_CURSOR_G_00000000000000ff_J_" + string(job),
	} {
		h.zfs("bookmark", filesystem+"@a", filesystem+name)
	}
	h.zfs("hold", "keep", filesystem+"@a")
	h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, otherJob), filesystem+"@a", filesystem+"@b")
	h.zfs("hold", abstractions.HoldTag(abstractions.LastReceivedHold, job), filesystem+"@a")
	before := h.kept()

	for _, protection := range []protocol.Protection{
		protocol.GuaranteeResumability, protocol.GuaranteeIncremental, protocol.GuaranteeNothing,
	} {
		step := h.step(protection, &a, b)
		require.NoError(t, h.manager.BeforeSend(t.Context(), step))
		cursor, err := h.manager.AfterConfirmation(t.Context(), step)
		require.NoError(t, err)
		wanted := before
		if cursor != nil {
			wanted = append([]string{"#" + cursor.Name}, before...)
		}
		require.ElementsMatch(t, wanted, h.kept())
	}
}

func TestCursorOnlyMovesForward(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a, b := h.snapshot("a"), h.snapshot("b")
	h.zfs("bookmark", filesystem+"@b", filesystem+cursorOf(b, job))
	before := h.kept()

	step := h.step(protocol.GuaranteeResumability, nil, a)
	for _, err := range []error{
		h.manager.BeforeSend(t.Context(), step),
		func() error { _, err := h.manager.AfterConfirmation(t.Context(), step); return err }(),
	} {
		var backwards *abstractions.CursorBackwards
		require.ErrorAs(t, err, &backwards)
		require.ErrorContains(t, err, filesystem)
		require.ErrorContains(t, err, cursorOf(b, job), "the error names the old version")
		require.ErrorContains(t, err, "tank/d@a", "the error names the new version")
		require.Equal(t, protocol.Conflict, protocol.KindOf(err, protocol.Transient))
	}
	require.Equal(t, before, h.kept())

	cursor, err := h.manager.AfterConfirmation(t.Context(), h.step(protocol.GuaranteeResumability, nil, b))
	require.NoError(t, err, "a cursor that is there already is a success")
	require.Equal(t, b.GUID, cursor.GUID)
}

func TestGUIDMismatches(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a, b := h.snapshot("a"), h.snapshot("b")
	wrong := b
	wrong.GUID++

	var mismatch *abstractions.GUIDMismatch
	require.ErrorAs(t, h.manager.BeforeSend(t.Context(), h.step(protocol.GuaranteeResumability, &a, wrong)), &mismatch)
	_, err := h.manager.AfterConfirmation(t.Context(), h.step(protocol.GuaranteeResumability, &a, wrong))
	require.ErrorAs(t, err, &mismatch)
	require.Empty(t, h.kept())
	require.ErrorAs(t, h.manager.AfterReceive(t.Context(), abstractions.ReceiveStep{
		Filesystem: filesystem, JobID: job, Protection: protocol.GuaranteeResumability, To: wrong,
	}), &mismatch)
	require.Empty(t, h.kept())

	h.zfs("bookmark", filesystem+"@a", filesystem+cursorOf(b, job)) // somebody tinkered
	_, err = h.manager.AfterConfirmation(t.Context(), h.step(protocol.GuaranteeResumability, &a, b))
	require.ErrorAs(t, err, &mismatch)
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
	require.Equal(t, a.GUID, mismatch.Found)
	require.Equal(t, []string{cursorOf(b, job)}, h.kept())
}

func TestStepsThatCannotBe(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := h.snapshot("a")
	for name, change := range map[string]func(*abstractions.SendStep){
		"job id":                 func(s *abstractions.SendStep) { s.JobID = "a/b" },
		"protection":             func(s *abstractions.SendStep) { s.Protection = "guarantee_much" },
		"ends in a snapshot":     func(s *abstractions.SendStep) { s.To.Type = zfs.Bookmark },
		"the listing given":      func(s *abstractions.SendStep) { s.Dataset = &zfs.Dataset{Name: "tank"} },
		"tank/gone":              func(s *abstractions.SendStep) { s.Filesystem, s.Dataset = "tank/gone", nil },
		"dataset does not exist": func(s *abstractions.SendStep) { s.To.Name = "gone" },
	} {
		step := h.step(protocol.GuaranteeResumability, nil, a)
		change(&step)
		err := h.manager.BeforeSend(t.Context(), step)
		require.Error(t, err, name)
		if name != "dataset does not exist" {
			require.ErrorContains(t, err, name)
		} else {
			require.ErrorIs(t, err, zfs.ErrDatasetDoesNotExist)
		}
	}
	require.Empty(t, h.kept())
}

func TestAfterReceive(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.zfs("snapshot", filesystem+"@old")
	h.zfs("hold", abstractions.HoldTag(abstractions.LastReceivedHold, otherJob), filesystem+"@old")
	h.zfs("hold", "keep", filesystem+"@old")
	others := h.kept()
	receive := func(protection protocol.Protection, name string, listing *zfs.Dataset) zfs.Version {
		t.Helper()
		to := h.version("@" + name)
		to.CreateTXG = 1 // the sender's means nothing here
		require.NoError(t, h.manager.AfterReceive(t.Context(), abstractions.ReceiveStep{
			Filesystem: filesystem, JobID: job, Protection: protection, To: to, Dataset: listing,
		}))
		return to
	}

	before := h.listing()
	h.snapshot("a")
	a := receive(protocol.GuaranteeResumability, "a", before)
	require.ElementsMatch(t, append([]string{lastReceivedHold(a, job)}, others...), h.kept())

	before = h.listing()
	h.snapshot("b")
	b := receive(protocol.GuaranteeIncremental, "b", before)
	require.ElementsMatch(t, append([]string{lastReceivedHold(b, job)}, others...), h.kept())

	receive(protocol.GuaranteeResumability, "b", nil)
	require.ElementsMatch(t, append([]string{lastReceivedHold(b, job)}, others...), h.kept(), "it can be repeated")

	receive(protocol.GuaranteeResumability, "a", h.listing())
	require.ElementsMatch(t, append([]string{lastReceivedHold(b, job)}, others...), h.kept(),
		"a late repetition does not undo what came after")

	h.zfs("hold", abstractions.HoldTag(abstractions.LastReceivedHold, job), filesystem+"@a")
	receive(protocol.GuaranteeResumability, "a", h.listing())
	require.ElementsMatch(t, append([]string{lastReceivedHold(b, job)}, others...), h.kept())

	receive(protocol.GuaranteeNothing, "b", h.listing())
	require.ElementsMatch(t, others, h.kept())
}

// More snapshots have holds than a tag is released from on suspicion.
func TestManyHeldSnapshots(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, name := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"} {
		h.snapshot(name)
		h.zfs("hold", "keep", filesystem+"@"+name)
	}
	h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, job), filesystem+"@4")
	others := h.keptByOthers(job)
	a, b := h.snapshot("a"), h.snapshot("b")
	step := h.step(protocol.GuaranteeResumability, &a, b)
	require.NoError(t, h.manager.BeforeSend(t.Context(), step))
	require.ElementsMatch(t, []string{stepHold(a, job), stepHold(b, job)}, h.keptBy(job))
	_, err := h.manager.AfterConfirmation(t.Context(), step)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{cursorOf(b, job)}, h.keptBy(job))
	require.Equal(t, others, h.keptByOthers(job))
}

// The work item of a step may be delivered again when the next step is already on its way.
func TestLateDuplicateLeavesTheNextStepAlone(t *testing.T) {
	t.Parallel()
	for _, protection := range protections()[:2] {
		h := newHost(t)
		a, b, c := h.snapshot("a"), h.snapshot("b"), h.snapshot("c")
		h.zfs("bookmark", filesystem+"@b", filesystem+cursorOf(b, job))
		require.NoError(t, h.manager.BeforeSend(t.Context(), h.step(protection, &b, c)))
		protectsC := map[protocol.Protection]string{
			protocol.GuaranteeResumability: stepHold(c, job),
			protocol.GuaranteeIncremental:  tentativeOf(c, job),
		}[protection]
		require.NoError(t, h.manager.BeforeSend(t.Context(), h.step(protection, &a, b)))
		require.Contains(t, h.kept(), protectsC, "the receiver may have c, although it was not confirmed yet")
	}
}
