// Versions: the snapshots and bookmarks of a dataset, which is what replication compares.

package zfs

import (
	"cmp"
	"time"
)

// VersionType tells snapshots from bookmarks, in the words of the zfs command's type column.
type VersionType string

// The types of versions.
const (
	Snapshot VersionType = "snapshot"
	Bookmark VersionType = "bookmark"
)

// separator is what stands between the dataset and the version's name.
func (t VersionType) separator() string {
	if t == Bookmark {
		return "#"
	}
	return "@"
}

// Version is a snapshot or a bookmark of a dataset.
type Version struct {
	Type VersionType

	// Name is the part after "@" or "#".
	Name string

	// GUID identifies the snapshot in all pools that it has been replicated to; a bookmark has its snapshot's.
	GUID uint64

	// CreateTXG is the transaction group of creation. It orders the versions of one dataset in one pool; a bookmark has its
	// snapshot's.
	CreateTXG uint64

	// Creation is when the snapshot was taken, in whole seconds.
	Creation time.Time

	// UserRefs is the number of holds on a snapshot; always 0 for a bookmark.
	UserRefs uint64
}

// Rel is the version's name relative to its dataset: "@name" or "#name".
func (v Version) Rel() string { return v.Type.separator() + v.Name }

// Full is the version's full name in the dataset: "dataset@name" or "dataset#name".
func (v Version) Full(dataset string) string { return dataset + v.Rel() }

// compareVersions orders by createtxg, a bookmark before the snapshot of the same createtxg, then by name.
func compareVersions(a, b Version) int {
	return cmp.Or(
		cmp.Compare(a.CreateTXG, b.CreateTXG),
		cmp.Compare(a.Type, b.Type), // "bookmark" < "snapshot"
		cmp.Compare(a.Name, b.Name),
	)
}
