// Abstraction: one hold or bookmark that replication keeps on disk.

package abstractions

import (
	"encoding/json"
	"fmt"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// Form tells holds from bookmarks.
type Form string

// The forms that abstractions have on disk.
const (
	FormHold     Form = "hold"
	FormBookmark Form = "bookmark"
)

// Abstraction is one hold or bookmark on disk. It is a plain value: two of them are == when they are the same
// abstraction of the same version.
type Abstraction struct {
	Kind       Kind   `json:"kind"`
	Filesystem string `json:"filesystem"`
	// Name is the name of the snapshot that is held, or of the bookmark, without the filesystem.
	Name string `json:"name"`
	// Tag is the tag of a hold, and empty for bookmarks.
	Tag string `json:"tag,omitempty"`
	// JobID is empty for cursors of v1, which belong to all jobs.
	JobID protocol.JobID `json:"job_id,omitempty"`
	// GUID and CreateTXG are those of the version that is held or bookmarked.
	GUID      uint64 `json:"guid,string"`
	CreateTXG uint64 `json:"createtxg,string"`
}

// IsHold tells whether the abstraction is a hold; the others are bookmarks.
func (a Abstraction) IsHold() bool { return a.Kind.IsHold() }

// Form is whether the abstraction is a hold or a bookmark.
func (a Abstraction) Form() Form {
	if a.IsHold() {
		return FormHold
	}
	return FormBookmark
}

// FullName is the whole name of the snapshot that is held, or of the bookmark.
func (a Abstraction) FullName() string {
	if a.IsHold() {
		return a.Filesystem + "@" + a.Name
	}
	return a.Filesystem + "#" + a.Name
}

// String is the text form: the kind, the whole name, and the tag of a hold.
func (a Abstraction) String() string {
	if a.IsHold() {
		return fmt.Sprintf("%s %s tag %q", a.Kind, a.FullName(), a.Tag)
	}
	return fmt.Sprintf("%s %s", a.Kind, a.FullName())
}

// MarshalJSON adds what a reader of the JSON form would otherwise have to know: the form and the whole name.
func (a Abstraction) MarshalJSON() ([]byte, error) {
	type plain Abstraction
	return json.Marshal(struct {
		plain
		Form     Form   `json:"form"`
		FullName string `json:"full_name"`
	}{plain(a), a.Form(), a.FullName()})
}

// Hold is the abstraction that a tag on a snapshot is. It is false for tags that are not ours.
func Hold(filesystem string, snapshot zfs.Version, tag string) (Abstraction, bool) {
	kind, id, ok := ParseHoldTag(tag)
	if !ok || snapshot.Type != zfs.Snapshot {
		return Abstraction{}, false
	}
	return Abstraction{
		Kind:       kind,
		Filesystem: filesystem,
		Name:       snapshot.Name,
		Tag:        tag,
		JobID:      id,
		GUID:       snapshot.GUID,
		CreateTXG:  snapshot.CreateTXG,
	}, true
}

// Bookmark is the abstraction that a bookmark is. It is false for bookmarks that are not ours. A bookmark of ours that
// does not have the guid in its name is a *GUIDMismatch: somebody tinkered with it, and it protects nothing.
func Bookmark(filesystem string, bookmark zfs.Version) (Abstraction, bool, error) {
	kind, guid, id, ok := ParseBookmarkName(bookmark.Name)
	if !ok || bookmark.Type != zfs.Bookmark {
		return Abstraction{}, false, nil
	}
	if kind != CursorV1 && guid != bookmark.GUID {
		return Abstraction{}, false, &GUIDMismatch{Version: bookmark.Full(filesystem), Wanted: guid, Found: bookmark.GUID}
	}
	return Abstraction{
		Kind:       kind,
		Filesystem: filesystem,
		Name:       bookmark.Name,
		JobID:      id,
		GUID:       bookmark.GUID,
		CreateTXG:  bookmark.CreateTXG,
	}, true, nil
}

// bookmarksOf are the abstractions of a JobID among the bookmarks of a listing. Bookmarks with a guid other than the one
// in their name are left out: they are not ours to touch.
func bookmarksOf(dataset zfs.Dataset, id protocol.JobID) []Abstraction {
	var found []Abstraction
	for _, version := range dataset.Versions {
		abstraction, ok, err := Bookmark(dataset.Name, version)
		if ok && err == nil && abstraction.Kind != CursorV1 && abstraction.JobID == id {
			found = append(found, abstraction)
		}
	}
	return found
}
