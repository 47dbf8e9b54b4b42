// Versions: the snapshots and bookmarks of a filesystem or volume, as planning sees them.

package protocol

import (
	"fmt"
	"time"
)

// VersionType tells a snapshot from a bookmark.
type VersionType string

// The two types of version.
const (
	Snapshot VersionType = "snapshot"
	Bookmark VersionType = "bookmark"
)

// Version is a snapshot or bookmark of one filesystem or volume.
type Version struct {
	Type VersionType `msgpack:"t" json:"type" yaml:"type"`
	// Name is what stands behind the "@" or "#".
	Name string `msgpack:"n" json:"name" yaml:"name"`
	// GUID is the same for a snapshot, its bookmarks, and its copies on other pools. It alone identifies a version.
	GUID uint64 `msgpack:"g" json:"guid,string" yaml:"guid"`
	// CreateTXG orders the versions of one filesystem on one pool; it says nothing across pools. A bookmark has that of
	// the snapshot it was made from.
	CreateTXG uint64 `msgpack:"x" json:"createtxg,string" yaml:"createtxg"`
	// Creation is when the snapshot was taken, to the second.
	Creation time.Time `msgpack:"c" json:"creation" yaml:"creation"`
	// UserRefs is the number of holds on a snapshot.
	UserRefs uint64 `msgpack:"u,omitempty" json:"userrefs,omitempty" yaml:"userrefs,omitempty"`
}

// IsSnapshot tells whether v is a snapshot.
func (v Version) IsSnapshot() bool { return v.Type == Snapshot }

// Rel is the name with its mark: "@name" or "#name".
func (v Version) Rel() string {
	if v.Type == Bookmark {
		return "#" + v.Name
	}
	return "@" + v.Name
}

// Full is the whole name on the given filesystem.
func (v Version) Full(filesystem string) string { return filesystem + v.Rel() }

// Validate tells whether v could come from a pool.
func (v Version) Validate() error {
	switch {
	case v.Type != Snapshot && v.Type != Bookmark:
		return Usagef("version %q: unknown type %q", v.Name, v.Type)
	case v.Name == "":
		return Usagef("a version has no name")
	case v.GUID == 0:
		return Usagef("version %q has no guid", v.Name)
	}
	return nil
}

// String is for logs: the relative name and the guid.
func (v Version) String() string { return fmt.Sprintf("%s (guid %d)", v.Rel(), v.GUID) }
