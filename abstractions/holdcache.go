// The cache of sender abstractions: which snapshots have which of our holds.
//
// A step looks for everything that its JobID has on the filesystem. The listing that validates the step shows bookmarks
// as they are, and how many holds each snapshot has: remembering any of that would save nothing. What it does not show
// is the tags, which cost a zfs holds. That is all that is remembered here, so that holds which stay, an operator's for
// example, are read once and not on every step. One zfs holds tells the tags of all kinds: what is filled is filled for
// all of them.

package abstractions

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/zfleet/zfleet/zfs"
)

// holdCache remembers the tags of ours on snapshots that have holds, by filesystem. It is filled when a step asks for what
// it does not know, by one reading at a time for each filesystem; others who ask meanwhile wait for that one. A reading that
// fails fills nothing: whoever asked is told what is known all the same, and the next one reads again.
//
// A listing shows how many holds a snapshot has: what is remembered counts only as long as that number is the same, so that a
// hold which another process made or released is noticed; one that was replaced by another is not (see
// [Manager.Invalidate]). It is safe for concurrent use.
type holdCache struct {
	mu          sync.Mutex
	filesystems map[string]*filesystemHolds
}

// filesystemHolds is guarded by the cache's mutex. When a filesystem is forgotten it is replaced as a whole, so that a
// reading in progress fills what nobody looks at.
type filesystemHolds struct {
	snapshots map[string]rememberedHolds // by the snapshot's name
	changes   uint64                     // counts what was forgotten
	reading   *reading                   // in progress, nil without one
}

type rememberedHolds struct {
	guid     uint64
	userRefs uint64
	ours     []string // tags
}

// reading is a zfs holds in progress. What it finds is not remembered if something was forgotten since it began: it may have
// read what was there before.
type reading struct {
	of      *filesystemHolds
	changes uint64
	ended   chan struct{}
}

// readHolds reads the holds of snapshots from the pool.
type readHolds func(ctx context.Context, filesystem string, snapshots []zfs.Version) ([]zfs.Hold, error)

// read divides snapshots, as a listing has just shown them, into those that have the tag and those of which nothing is
// known, and reads what is not known: unknown is empty unless the error tells why that failed.
func (c *holdCache) read(
	ctx context.Context, filesystem, tag string, snapshots []zfs.Version, read readHolds,
) (tagged, unknown []zfs.Version, err error) {
	for {
		tagged, unknown, own, others := c.begin(filesystem, tag, snapshots)
		switch {
		case len(unknown) == 0:
			return tagged, nil, nil
		case others != nil:
			select {
			case <-others.ended:
				continue
			case <-ctx.Done():
				return tagged, unknown, ctx.Err()
			}
		}
		holds, err := read(ctx, filesystem, unknown)
		c.end(own, filesystem, unknown, holds, err)
		if err != nil {
			return tagged, unknown, err
		}
		for _, snapshot := range unknown {
			if slices.ContainsFunc(holds, func(h zfs.Hold) bool { return h.Tag == tag && h.Snapshot == snapshot.Full(filesystem) }) {
				tagged = append(tagged, snapshot)
			}
		}
		return tagged, nil, nil
	}
}

// begin looks snapshots up. Where something is unknown, it begins a reading of the caller's own, to be ended with end, or
// answers another's that is in progress.
func (c *holdCache) begin(filesystem, tag string, snapshots []zfs.Version) (tagged, unknown []zfs.Version, own, others *reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tagged, unknown = c.find(filesystem, tag, snapshots)
	if len(unknown) == 0 {
		return tagged, nil, nil, nil
	}
	if c.filesystems == nil {
		c.filesystems = make(map[string]*filesystemHolds)
	}
	of := c.filesystems[filesystem]
	if of == nil {
		of = &filesystemHolds{snapshots: make(map[string]rememberedHolds)}
		c.filesystems[filesystem] = of
	}
	if of.reading != nil {
		return tagged, unknown, nil, of.reading
	}
	of.reading = &reading{of: of, changes: of.changes, ended: make(chan struct{})}
	return tagged, unknown, of.reading, nil
}

// end remembers what a reading has found out about all holds of the snapshots, and lets others go on.
func (c *holdCache) end(own *reading, filesystem string, snapshots []zfs.Version, holds []zfs.Hold, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own.of.reading = nil
	close(own.ended)
	if err != nil || own.changes != own.of.changes {
		return
	}
	for _, snapshot := range snapshots {
		remembered := rememberedHolds{guid: snapshot.GUID}
		for _, hold := range holds {
			if hold.Snapshot != snapshot.Full(filesystem) {
				continue
			}
			remembered.userRefs++
			if _, _, ours := ParseHoldTag(hold.Tag); ours {
				remembered.ours = append(remembered.ours, hold.Tag)
			}
		}
		own.of.snapshots[snapshot.Name] = remembered
	}
}

// lookup divides snapshots, as a listing has just shown them, into those that have the tag and those of which nothing is
// known, and reads nothing.
func (c *holdCache) lookup(filesystem, tag string, snapshots []zfs.Version) (tagged, unknown []zfs.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(filesystem, tag, snapshots)
}

// find is lookup with the mutex held.
func (c *holdCache) find(filesystem, tag string, snapshots []zfs.Version) (tagged, unknown []zfs.Version) {
	var known map[string]rememberedHolds
	if of := c.filesystems[filesystem]; of != nil {
		known = of.snapshots
	}
	for _, snapshot := range snapshots {
		remembered, ok := known[snapshot.Name]
		switch {
		case !ok || remembered.guid != snapshot.GUID || remembered.userRefs != snapshot.UserRefs:
			unknown = append(unknown, snapshot)
		case slices.Contains(remembered.ours, tag):
			tagged = append(tagged, snapshot)
		}
	}
	return tagged, unknown
}

// forget is called with the full names of snapshots after the command that has changed their holds, whether it failed or
// not.
func (c *holdCache) forget(snapshots []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, full := range snapshots {
		filesystem, name, _ := strings.Cut(full, "@")
		if of := c.filesystems[filesystem]; of != nil {
			of.changes++
			delete(of.snapshots, name)
		}
	}
}

// retain drops what is remembered of snapshots that are not in the listing any more, or have no holds.
func (c *holdCache) retain(dataset zfs.Dataset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.filesystems[dataset.Name]
	if of == nil {
		return
	}
	held := make(map[string]bool)
	for _, snapshot := range heldSnapshots(dataset) {
		held[snapshot.Name] = true
	}
	for name := range of.snapshots {
		if !held[name] {
			delete(of.snapshots, name)
		}
	}
	if len(of.snapshots) == 0 && of.reading == nil {
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
