// What a pool holds: datasets in a tree, with their snapshots, bookmarks, holds and properties.

package zfsfake

import (
	"sort"
	"strings"
)

type pool struct {
	name     string
	guid     uint64
	size     uint64
	readOnly bool
	features map[string]string // feature name → "disabled", "enabled" or "active"

	clock    Clock
	root     *dataset
	txg      uint64
	sequence uint64 // of what random draws from
	seed     uint64
	observe  func(Change) // nil where nobody does
}

const defaultPoolSize = 1 << 50

func newPool(name string, seed uint64, clock Clock) *pool {
	p := &pool{name: name, size: defaultPoolSize, features: map[string]string{}, clock: clock, txg: 3}
	for _, feature := range poolFeatures {
		p.features[feature] = "enabled"
	}
	for _, feature := range activePoolFeatures {
		p.features[feature] = "active"
	}
	p.seed = seed
	for _, c := range []byte(name) {
		p.seed = splitmix(p.seed ^ uint64(c))
	}
	p.guid = p.random()
	p.root = &dataset{name: name, pool: p, live: newContent(), mounted: true}
	p.stamp(p.root)
	return p
}

// random draws the next guid, never zero.
func (p *pool) random() uint64 {
	for {
		p.sequence++
		if guid := splitmix(p.seed + p.sequence*0x9e3779b97f4a7c15); guid != 0 {
			return guid
		}
	}
}

// nextTXG syncs a transaction group and answers its number.
func (p *pool) nextTXG() uint64 {
	p.txg++
	return p.txg
}

func (p *pool) now() int64 { return p.clock.Now().Unix() }

// stamp gives a new dataset its identity.
func (p *pool) stamp(d *dataset) {
	d.guid = p.random()
	d.createTXG = p.nextTXG()
	d.creation = p.now()
	d.objset = 54 + p.sequence*3
	d.children = map[string]*dataset{}
	d.byName = map[string]*snapshot{}
	d.bookmarks = map[string]*bookmark{}
}

// used answers the bytes that all datasets of the pool reference, each file of each head and snapshot once per dataset.
func (p *pool) used() uint64 { return p.root.usedRecursively() }

func (p *pool) free() uint64 {
	if used := p.used(); used < p.size {
		return p.size - used
	}
	return 0
}

// room answers how many bytes can be stored yet. Counting what is used takes time, so pools of the default size, which
// no test fills, are not counted and not limited.
func (p *pool) room() (bytes uint64, limited bool) {
	if p.size == defaultPoolSize {
		return 0, false
	}
	return p.free(), true
}

func (p *pool) fits(bytes uint64) bool {
	room, limited := p.room()
	return !limited || bytes <= room
}

type dataset struct {
	name     string // full; renames keep it up to date
	pool     *pool
	parent   *dataset
	children map[string]*dataset

	volume    bool
	guid      uint64
	createTXG uint64
	creation  int64
	objset    uint64
	origin    *snapshot
	props     properties
	mounted   bool

	live             *content
	snapshots        []*snapshot // by createtxg
	byName           map[string]*snapshot
	bookmarks        map[string]*bookmark
	snapshotsChanged int64

	encryption string   // "" is off; else the cipher
	keyRoot    *dataset // the encryption root; nil when off
	keyLoaded  bool     // of the encryption root
	keyGUID    uint64   // of the encryption root; travels with raw streams

	largeBlocks  bool     // has received them, and takes no increments without them any more
	inconsistent bool     // made by a receive that has not ended well
	receive      *receive // running or partial receive into this dataset
	owners       int      // sends of the live filesystem
}

type snapshot struct {
	dataset      *dataset
	name         string
	guid         uint64
	createTXG    uint64
	creation     int64
	objset       uint64
	content      *content
	holds        map[string]int64 // tag → when, seconds since the epoch
	props        properties
	clones       []*dataset
	deferDestroy bool
	senders      int // sends that read it: a long hold
}

func (s *snapshot) full() string { return s.dataset.name + "@" + s.name }

type bookmark struct {
	name       string
	guid       uint64
	createTXG  uint64
	creation   int64
	referenced uint64
}

func (d *dataset) kind() string {
	if d.volume {
		return "volume"
	}
	return "filesystem"
}

func (d *dataset) base() string { return d.name[strings.LastIndexByte(d.name, '/')+1:] }

// walk calls visit for d and everything below it, parents first, children by name.
func (d *dataset) walk(visit func(*dataset)) {
	visit(d)
	for _, name := range d.childNames() {
		d.children[name].walk(visit)
	}
}

// visit is walk where a command is recursive, and calls visit for d alone where it is not.
func (d *dataset) visit(recursive bool, visit func(*dataset)) {
	if recursive {
		d.walk(visit)
		return
	}
	visit(d)
}

func (d *dataset) childNames() []string {
	names := make([]string, 0, len(d.children))
	for name := range d.children {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (d *dataset) newest() *snapshot {
	if len(d.snapshots) == 0 {
		return nil
	}
	return d.snapshots[len(d.snapshots)-1]
}

// modifiedSince says whether the head holds anything that s does not (dsl_dataset_modified_since_snap).
func (d *dataset) modifiedSince(s *snapshot) bool { return d.live.changed > s.createTXG }

func (d *dataset) addSnapshot(name string, guid, txg uint64, creation int64) *snapshot {
	s := &snapshot{
		dataset: d, name: name, guid: guid, createTXG: txg, creation: creation, content: d.live.share(),
		objset: d.objset + txg,
	}
	d.snapshots = append(d.snapshots, s)
	d.byName[name] = s
	d.snapshotsChanged = d.pool.now()
	return s
}

// removeSnapshot takes s away, whatever holds it: the caller has checked.
func (d *dataset) removeSnapshot(s *snapshot) {
	delete(d.byName, s.name)
	for i, other := range d.snapshots {
		if other == s {
			d.snapshots = append(d.snapshots[:i:i], d.snapshots[i+1:]...)
			break
		}
	}
	d.snapshotsChanged = d.pool.now()
	s.tell(SnapshotDestroyed, "")
}

// detach takes d out of the tree.
func (d *dataset) detach() {
	d.tell(Change{Kind: DatasetDestroyed})
	if d.parent != nil {
		delete(d.parent.children, d.base())
	}
	if d.origin != nil {
		for i, clone := range d.origin.clones {
			if clone == d {
				d.origin.clones = append(d.origin.clones[:i:i], d.origin.clones[i+1:]...)
				break
			}
		}
		d.origin.settle()
	}
}

// attach makes a new dataset below parent.
func (p *pool) attach(parent *dataset, base string, volume bool) *dataset {
	d := &dataset{name: parent.name + "/" + base, pool: p, parent: parent, volume: volume, live: newContent()}
	p.stamp(d)
	parent.children[base] = d
	return d
}

const emptyDatasetBytes = 24 << 10

// referenced is the space of the head.
func (d *dataset) referenced() uint64 { return d.live.bytes + emptyDatasetBytes }

// usedRecursively is the head's, the snapshots' and the descendants' space.
func (d *dataset) usedRecursively() uint64 {
	used := d.referenced() + d.usedBySnapshots()
	for _, child := range d.children {
		used += child.usedRecursively()
	}
	return used
}

// usedBySnapshots counts what only snapshots still reference: each content the head does not share.
func (d *dataset) usedBySnapshots() uint64 {
	var used uint64
	var previous *content
	for i := len(d.snapshots) - 1; i >= 0; i-- {
		c := d.snapshots[i].content
		if c == d.live || c == previous {
			continue
		}
		later := d.live
		if previous != nil {
			later = previous
		}
		used += c.bytesMissingFrom(later)
		previous = c
	}
	return used
}

// keyAvailable says whether the dataset's data can be read and written here.
func (d *dataset) keyAvailable() bool { return d.keyRoot == nil || d.keyRoot.keyLoaded }

// splitmix is the finalizer of splitmix64: a good mix of one word, for guids and generated contents.
func splitmix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// poolFeatures are the feature flags of OpenZFS 2.3 by their short names, in zpool get's order.
var poolFeatures = []string{
	"async_destroy", "empty_bpobj", "lz4_compress", "multi_vdev_crash_dump", "spacemap_histogram", "enabled_txg",
	"hole_birth", "extensible_dataset", "embedded_data", "bookmarks", "filesystem_limits", "large_blocks",
	"large_dnode", "sha512", "skein", "edonr", "userobj_accounting", "encryption", "project_quota", "device_removal",
	"obsolete_counts", "zpool_checkpoint", "spacemap_v2", "allocation_classes", "resilver_defer", "bookmark_v2",
	"redaction_bookmarks", "redacted_datasets", "bookmark_written", "log_spacemap", "livelist", "device_rebuild",
	"zstd_compress", "draid", "zilsaxattr", "head_errlog", "blake3", "block_cloning", "vdev_zaps_v2",
	"redaction_list_spill", "raidz_expansion", "fast_dedup", "longname", "large_microzap",
}

var activePoolFeatures = []string{
	"empty_bpobj", "lz4_compress", "spacemap_histogram", "enabled_txg", "hole_birth", "extensible_dataset",
	"embedded_data", "userobj_accounting", "project_quota", "spacemap_v2", "log_spacemap", "head_errlog",
	"vdev_zaps_v2",
}
