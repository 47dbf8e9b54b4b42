// Version lists: their order, and what both sides have in common.

package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

// inOrder gives the versions in the order in which the pool made them. The list is copied only if it has to be sorted.
func inOrder(versions []protocol.Version) []protocol.Version {
	if !slices.IsSortedFunc(versions, compareVersions) {
		versions = slices.Clone(versions)
		slices.SortFunc(versions, compareVersions)
	}
	return versions
}

// compareVersions orders the versions of one dataset on one pool. createtxg alone orders snapshots: OpenZFS never takes
// two snapshots of a dataset in one transaction group (dsl_dataset_snapshot_check_impl, dsl_dataset.c). A bookmark shares
// the createtxg of its snapshot and comes before it; the rest only makes the order total.
func compareVersions(a, b protocol.Version) int {
	if order := cmp.Compare(a.CreateTXG, b.CreateTXG); order != 0 {
		return order
	}
	return cmp.Or(
		a.Creation.Compare(b.Creation),
		cmp.Compare(a.GUID, b.GUID),
		cmp.Compare(a.Type, b.Type),
		cmp.Compare(a.Name, b.Name),
	)
}

// snapshotsOf keeps the snapshots of an ordered list.
func snapshotsOf(versions []protocol.Version) []protocol.Version {
	if !slices.ContainsFunc(versions, isBookmark) {
		return versions
	}
	snapshots := make([]protocol.Version, 0, len(versions))
	for _, version := range versions {
		if version.IsSnapshot() {
			snapshots = append(snapshots, version)
		}
	}
	return snapshots
}

func isBookmark(version protocol.Version) bool { return !version.IsSnapshot() }

// newest is the last of an ordered list; nil of an empty one.
func newest(versions []protocol.Version) *protocol.Version {
	if len(versions) == 0 {
		return nil
	}
	version := versions[len(versions)-1]
	return &version
}

// common finds the newest version of the source that is among the receiver's snapshots, and its index there. Both lists
// are ordered.
func common(source, receiver []protocol.Version, id protocol.JobID) (from protocol.Version, index int, found bool) {
	if len(source) == 0 || len(receiver) == 0 {
		return from, 0, false
	}
	indexes := make(map[uint64]int, len(receiver))
	for i := range receiver {
		indexes[receiver[i].GUID] = i
	}
	for i := len(source) - 1; i >= 0; i-- {
		if index, found = indexes[source[i].GUID]; found {
			return preferred(source, source[i].GUID, id), index, true
		}
	}
	return from, 0, false
}

// preferred is the version of the given guid to send from: the snapshot if there is one, since only a snapshot can begin
// a range; else the target's own cursor, since other bookmarks may be moved by others while the step runs; else the first
// by name.
func preferred(source []protocol.Version, guid uint64, id protocol.JobID) protocol.Version {
	var best protocol.Version
	rank := func(version protocol.Version) int {
		switch {
		case version.IsSnapshot():
			return 0
		case isCursorOf(version, id):
			return 1
		}
		return 2
	}
	for _, version := range source {
		if version.GUID != guid {
			continue
		}
		if best.GUID == 0 || cmp.Or(cmp.Compare(rank(version), rank(best)), cmp.Compare(version.Name, best.Name)) < 0 {
			best = version
		}
	}
	return best
}

// isCursorOf tells whether the bookmark is named like a replication cursor of the JobID: zrepl_CURSOR_G_<guid>_J_<jobid>.
func isCursorOf(bookmark protocol.Version, id protocol.JobID) bool {
	return strings.HasPrefix(bookmark.Name, "zrepl_CURSOR_G_") && strings.HasSuffix(bookmark.Name, "_J_"+string(id))
}

// after are the snapshots of an ordered list that are newer than the version.
func after(snapshots []protocol.Version, version protocol.Version) []protocol.Version {
	i, _ := slices.BinarySearchFunc(snapshots, version.CreateTXG+1, func(snapshot protocol.Version, txg uint64) int {
		return cmp.Compare(snapshot.CreateTXG, txg)
	})
	return snapshots[i:]
}
