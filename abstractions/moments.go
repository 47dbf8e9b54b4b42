// The moments of a step as pure functions: what has to be created and what can be removed, from the step and a listing
// of its filesystem. The Manager carries it out, creation first.

package abstractions

import (
	"slices"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// needs is what a protection keeps on disk.
type needs struct {
	step         bool // step holds and step bookmarks while a step runs
	tentative    bool // tentative cursors while a step runs
	cursor       bool // the cursor
	lastReceived bool // the last-received hold
}

func needsOf(protection protocol.Protection) needs {
	switch protection {
	case protocol.GuaranteeResumability:
		return needs{step: true, cursor: true, lastReceived: true}
	case protocol.GuaranteeIncremental:
		return needs{tentative: true, cursor: true, lastReceived: true}
	case protocol.GuaranteeNothing:
	}
	return needs{}
}

// bookmarking is one bookmark to be made of a version.
type bookmarking struct {
	source zfs.Version
	// name is the bookmark's, without the filesystem.
	name string
}

// creation is what protects a step while it runs.
type creation struct {
	hold     []zfs.Version
	bookmark []bookmarking
	// unprotected is set where the step starts from a bookmark that cannot be cloned, and that is not itself one of ours.
	unprotected bool
}

// removal is what is not needed any more.
type removal struct {
	// held are snapshots that have the tag of the moment, since we have put it there.
	held []zfs.Version
	// release are snapshots that may have it: a listing has shown that they have some hold.
	release []zfs.Version
	// likely is set where one of release is expected to have it.
	likely bool
	// destroy are names of bookmarks, without the filesystem.
	destroy []string
}

// protectStep is what has to be created before a step is sent. What the listing shows to be there already is left out,
// except for holds, of which a listing shows only the number.
func protectStep(step SendStep, dataset zfs.Dataset, canClone bool) creation {
	var create creation
	want := needsOf(step.Protection)
	if !want.step && !want.tentative {
		return create
	}
	if want.step {
		if step.From != nil && step.From.Type == zfs.Snapshot {
			create.hold = append(create.hold, *step.From)
		}
		create.hold = append(create.hold, intermediates(step, dataset)...)
		create.hold = append(create.hold, step.To)
	}

	kind := StepBookmark
	if want.tentative {
		kind = TentativeCursor
	}
	ours := bookmarksOf(dataset, step.JobID)
	has := func(kind Kind, guid uint64) bool {
		return slices.ContainsFunc(ours, func(a Abstraction) bool { return a.Kind == kind && a.GUID == guid })
	}
	wanted := func(version zfs.Version) {
		if !has(kind, version.GUID) {
			name := BookmarkName(kind, version.GUID, step.JobID)
			create.bookmark = append(create.bookmark, bookmarking{source: version, name: name})
		}
	}
	switch {
	case step.From == nil:
	case step.From.Type == zfs.Snapshot && !want.tentative: // it is held
	case step.From.Type == zfs.Snapshot || canClone:
		wanted(*step.From)
	default:
		// A bookmark that cannot be cloned; its snapshot may still be there.
		snapshot := slices.IndexFunc(dataset.Versions, func(v zfs.Version) bool {
			return v.Type == zfs.Snapshot && v.GUID == step.From.GUID
		})
		if snapshot >= 0 {
			wanted(dataset.Versions[snapshot])
		} else {
			create.unprotected = !slices.ContainsFunc(ours, func(a Abstraction) bool { return a.GUID == step.From.GUID })
		}
	}
	if want.tentative {
		for _, version := range intermediates(step, dataset) {
			wanted(version)
		}
		wanted(step.To)
	}
	return create
}

// intermediates are the snapshots that the step carries between its from and its to, oldest first.
func intermediates(step SendStep, dataset zfs.Dataset) []zfs.Version {
	if !step.Intermediate || step.From == nil {
		return nil
	}
	var between []zfs.Version
	for _, version := range dataset.Versions {
		if version.Type == zfs.Snapshot && version.CreateTXG > step.From.CreateTXG && version.CreateTXG < step.To.CreateTXG {
			between = append(between, version)
		}
	}
	return between
}

// obsoleteBeforeSend is what earlier, failed steps left behind, and what the step's protection does not need: so that
// neither a series of failures nor a change of the setting leaves anything that pins space until a step succeeds. All
// bookmarks of the versions that the step itself sends stay until it is confirmed; so does everything when the step does not start
// where the cursor is, as a late duplicate of an earlier step would.
func obsoleteBeforeSend(step SendStep, dataset zfs.Dataset) removal {
	var obsolete removal
	if newest := newestCursor(dataset, step.JobID); newest != nil && step.From != nil && newest.CreateTXG > step.From.CreateTXG {
		return obsolete
	}
	carried := intermediates(step, dataset)
	ofStep := func(guid uint64) bool {
		return guid == step.To.GUID || step.From != nil && guid == step.From.GUID ||
			slices.ContainsFunc(carried, func(v zfs.Version) bool { return v.GUID == guid })
	}
	for _, version := range heldSnapshots(dataset) {
		if !needsOf(step.Protection).step || !ofStep(version.GUID) {
			obsolete.release = append(obsolete.release, version)
		}
	}
	for _, abstraction := range bookmarksOf(dataset, step.JobID) {
		if abstraction.Kind != Cursor && !ofStep(abstraction.GUID) {
			obsolete.destroy = append(obsolete.destroy, abstraction.Name)
		}
	}
	return obsolete
}

// obsoleteAfterConfirmation is all that a confirmed step leaves to remove: everything of its JobID except the bookmark
// to keep, which is empty where the protection needs no cursor.
func obsoleteAfterConfirmation(step SendStep, dataset zfs.Dataset, canClone bool, keep string) removal {
	var obsolete removal
	created := protectStep(step, dataset, canClone)
	obsolete.held = created.hold
	for _, version := range heldSnapshots(dataset) {
		if !slices.ContainsFunc(created.hold, func(v zfs.Version) bool { return v.Name == version.Name }) {
			obsolete.release = append(obsolete.release, version)
		}
	}
	for _, bookmarking := range created.bookmark {
		if bookmarking.name != keep {
			obsolete.destroy = append(obsolete.destroy, bookmarking.name)
		}
	}
	for _, abstraction := range bookmarksOf(dataset, step.JobID) {
		if abstraction.Name != keep {
			obsolete.destroy = append(obsolete.destroy, abstraction.Name)
		}
	}
	return obsolete
}

// obsoleteAfterReceive are the snapshots that may still have a last-received hold, those older than what was received and
// those newer, which only a repeated step finds. A listing made before the receive does not have the received snapshot;
// everything in it is then older. The createtxg of the step is not looked at: it may be the sender's.
func obsoleteAfterReceive(step ReceiveStep, dataset zfs.Dataset) (older, newer []zfs.Version) {
	received, listed := dataset.Version(zfs.Snapshot, step.To.Name)
	for _, version := range heldSnapshots(dataset) {
		switch {
		case version.Name == step.To.Name:
		case listed && version.CreateTXG > received.CreateTXG:
			newer = append(newer, version)
		default:
			older = append(older, version)
		}
	}
	return older, newer
}

// cursorMove says whether the cursor may be set to the step's to: an error is a *CursorBackwards.
func cursorMove(step SendStep, dataset zfs.Dataset) error {
	newest := newestCursor(dataset, step.JobID)
	if newest == nil || newest.GUID == step.To.GUID {
		return nil
	}
	createTXG := step.To.CreateTXG
	if listed, ok := dataset.Version(zfs.Snapshot, step.To.Name); ok {
		createTXG = listed.CreateTXG
	}
	if newest.CreateTXG < createTXG {
		return nil
	}
	return &CursorBackwards{
		Filesystem: step.Filesystem, JobID: step.JobID, Current: *newest,
		Wanted: step.To.Full(step.Filesystem), WantedGUID: step.To.GUID, WantedCreateTXG: createTXG,
	}
}

// newestCursor is the newest cursor of a JobID in the listing, nil if there is none.
func newestCursor(dataset zfs.Dataset, id protocol.JobID) *Abstraction {
	var newest *Abstraction
	for _, abstraction := range bookmarksOf(dataset, id) {
		if abstraction.Kind == Cursor && (newest == nil || abstraction.CreateTXG > newest.CreateTXG) {
			newest = &abstraction
		}
	}
	return newest
}

// heldSnapshots are the snapshots of the listing that have any hold, ours or not.
func heldSnapshots(dataset zfs.Dataset) []zfs.Version {
	var held []zfs.Version
	for _, version := range dataset.Versions {
		if version.Type == zfs.Snapshot && version.UserRefs > 0 {
			held = append(held, version)
		}
	}
	return held
}
