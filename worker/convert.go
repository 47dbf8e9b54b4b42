// Conversion between the pool's types and the protocol's.

package worker

import (
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

func toProtocol(v zfs.Version) protocol.Version {
	versionType := protocol.Snapshot
	if v.Type == zfs.Bookmark {
		versionType = protocol.Bookmark
	}
	return protocol.Version{
		Type: versionType, Name: v.Name, GUID: v.GUID, CreateTXG: v.CreateTXG, Creation: v.Creation, UserRefs: v.UserRefs,
	}
}

func fromProtocol(v protocol.Version) zfs.Version {
	versionType := zfs.Snapshot
	if v.Type == protocol.Bookmark {
		versionType = zfs.Bookmark
	}
	return zfs.Version{
		Type: versionType, Name: v.Name, GUID: v.GUID, CreateTXG: v.CreateTXG, Creation: v.Creation, UserRefs: v.UserRefs,
	}
}

func reference(v zfs.Version) zfs.VersionRef {
	return zfs.VersionRef{Type: v.Type, Name: v.Name, GUID: v.GUID}
}

// snapshotByGUID finds the dataset's snapshot with the guid.
func snapshotByGUID(dataset zfs.Dataset, guid uint64) (zfs.Version, bool) {
	for _, v := range dataset.Versions {
		if v.Type == zfs.Snapshot && v.GUID == guid {
			return v, true
		}
	}
	return zfs.Version{}, false
}

// versionByGUID finds the version that the protocol's means: by guid, since names change; the very one that was named if it
// is there, and otherwise a snapshot rather than a bookmark. A range (snapshotOnly) can begin at a snapshot only.
func versionByGUID(dataset zfs.Dataset, wanted protocol.Version, snapshotOnly bool) (zfs.Version, bool) {
	var found *zfs.Version
	for i, v := range dataset.Versions {
		if v.GUID != wanted.GUID || snapshotOnly && v.Type != zfs.Snapshot {
			continue
		}
		if toProtocol(v).Type == wanted.Type && v.Name == wanted.Name {
			return v, true
		}
		if found == nil || v.Type == zfs.Snapshot && found.Type == zfs.Bookmark {
			found = &dataset.Versions[i]
		}
	}
	if found == nil {
		return zfs.Version{}, false
	}
	return *found, true
}
