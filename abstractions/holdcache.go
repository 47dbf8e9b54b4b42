// What is known about which snapshots have which of our holds, so that holds which never change, an operator's for
// example, are not read again on every step.

package abstractions

import (
	"slices"
	"sync"

	"github.com/zfleet/zfleet/zfs"
)

// holdCache remembers the tags of ours on snapshots that have holds. A listing shows how many holds a snapshot has: what is
// remembered counts only as long as that number is the same, so that a hold which another process made or released is
// noticed. It is safe for concurrent use.
type holdCache struct {
	mu          sync.Mutex
	filesystems map[string]map[uint64]rememberedHolds // by filesystem and by the guid of the snapshot
}

type rememberedHolds struct {
	userRefs uint64
	ours     []string // tags
}

// lookup divides snapshots, as a listing has just shown them, into those that have the tag and those of which nothing is known.
func (c *holdCache) lookup(filesystem, tag string, snapshots []zfs.Version) (tagged, unknown []zfs.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, snapshot := range snapshots {
		remembered, ok := c.filesystems[filesystem][snapshot.GUID]
		switch {
		case !ok || remembered.userRefs != snapshot.UserRefs:
			unknown = append(unknown, snapshot)
		case slices.Contains(remembered.ours, tag):
			tagged = append(tagged, snapshot)
		}
	}
	return tagged, unknown
}

// remember stores what one zfs holds command has told about all holds of the snapshots.
func (c *holdCache) remember(filesystem string, snapshots []zfs.Version, holds []zfs.Hold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filesystems == nil {
		c.filesystems = make(map[string]map[uint64]rememberedHolds)
	}
	if c.filesystems[filesystem] == nil {
		c.filesystems[filesystem] = make(map[uint64]rememberedHolds)
	}
	for _, snapshot := range snapshots {
		var remembered rememberedHolds
		for _, hold := range holds {
			if hold.Snapshot != snapshot.Full(filesystem) {
				continue
			}
			remembered.userRefs++
			if _, _, ours := ParseHoldTag(hold.Tag); ours {
				remembered.ours = append(remembered.ours, hold.Tag)
			}
		}
		c.filesystems[filesystem][snapshot.GUID] = remembered
	}
}

// forget is called after we have changed the holds of snapshots.
func (c *holdCache) forget(filesystem string, snapshots []zfs.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, snapshot := range snapshots {
		delete(c.filesystems[filesystem], snapshot.GUID)
	}
}

// retain drops what is remembered of snapshots that are not in the listing any more, or have no holds.
func (c *holdCache) retain(dataset zfs.Dataset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	remembered := c.filesystems[dataset.Name]
	if len(remembered) == 0 {
		return
	}
	held := make(map[uint64]bool, len(remembered))
	for _, snapshot := range heldSnapshots(dataset) {
		held[snapshot.GUID] = true
	}
	for guid := range remembered {
		if !held[guid] {
			delete(remembered, guid)
		}
	}
	if len(remembered) == 0 {
		delete(c.filesystems, dataset.Name)
	}
}

// invalidate forgets whole filesystems; without any it forgets everything.
func (c *holdCache) invalidate(filesystems ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(filesystems) == 0 {
		c.filesystems = nil
	}
	for _, filesystem := range filesystems {
		delete(c.filesystems, filesystem)
	}
}
