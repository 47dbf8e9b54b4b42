// Fake is the host: its pools, its clock, its log of commands and the faults that are to happen.

package zfsfake

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/zfleet/zfleet/zfs"
)

// Fake is one host with pools in memory. It implements zfs.Runner. All methods are safe for concurrent use.
type Fake struct {
	clock   Clock
	seed    uint64
	version string

	programsRefused bool // the caller is not root
	observe         func(Change)

	state sync.Mutex // guards pools and all that hangs below them
	pools map[string]*pool

	journal sync.Mutex // guards what follows
	log     []*Record
	faults  []*Injection
	watches []*Watch
}

var _ zfs.Runner = (*Fake)(nil)

// Clock is the fake's time: creation times, hold times, snapshots_changed, and the pace of slowed streams.
type Clock interface {
	Now() time.Time
	// After answers a channel that receives once d has passed.
	After(d time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Option changes how New makes a Fake.
type Option func(*Fake)

// WithClock replaces the system's clock.
func WithClock(clock Clock) Option { return func(f *Fake) { f.clock = clock } }

// WithSeed makes guids reproducible. Without it every Fake draws a seed of its own, so that no two hosts of a test
// share guids that they did not replicate; with it the caller must give each host a different seed.
func WithSeed(seed uint64) Option { return func(f *Fake) { f.seed = seed } }

// WithVersion sets what zfs version prints, such as "2.3.2-2". A host older than 2.2 does not know the property
// snapshots_changed nor zfs holds -p; everything else is as in OpenZFS 2.3 whatever the version says.
func WithVersion(version string) Option { return func(f *Fake) { f.version = version } }

// WithoutChannelPrograms refuses zfs program, as where the caller is not root.
func WithoutChannelPrograms() Option { return func(f *Fake) { f.programsRefused = true } }

// New makes a host without pools.
func New(options ...Option) *Fake {
	f := &Fake{clock: systemClock{}, version: "2.3.2-2", pools: map[string]*pool{}}
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand)
	f.seed = binary.LittleEndian.Uint64(seed[:])
	for _, option := range options {
		option(f)
	}
	return f
}

// olderThan says whether the host's version is older than major.minor.
func (f *Fake) olderThan(major, minor int) bool {
	var has, hasMinor int
	_, err := fmt.Sscanf(f.version, "%d.%d", &has, &hasMinor)
	return err == nil && (has < major || has == major && hasMinor < minor)
}

// PoolOption changes how CreatePool makes a pool.
type PoolOption func(*pool)

// WithoutFeature makes a pool that lacks a feature flag, such as "bookmark_v2" or "extensible_dataset".
func WithoutFeature(feature string) PoolOption {
	return func(p *pool) { p.features[feature] = "disabled" }
}

// WithSize sets a pool's capacity in bytes. A receive or a write that does not fit fails for want of space.
func WithSize(bytes uint64) PoolOption { return func(p *pool) { p.size = bytes } }

// CreatePool makes an empty pool, as zpool create does. It panics when the pool is there already or the name is not
// one that a pool can have, since that is a mistake in the test.
func (f *Fake) CreatePool(name string, options ...PoolOption) {
	f.state.Lock()
	defer f.state.Unlock()
	if _, taken := f.pools[name]; taken {
		panic(fmt.Sprintf("zfsfake: pool %q exists already", name))
	}
	if strings.ContainsAny(name, "/@#%") || nameProblem(name) != "" {
		panic(fmt.Sprintf("zfsfake: %q is no name of a pool", name))
	}
	p := newPool(name, f.seed, f.clock)
	p.observe = f.observe
	for _, option := range options {
		option(p)
	}
	f.pools[name] = p
}

// DestroyPool removes a pool with all that is in it. Streams that run end with an error.
func (f *Fake) DestroyPool(name string) {
	f.state.Lock()
	defer f.state.Unlock()
	delete(f.pools, name)
}

// SetPoolReadOnly makes a pool refuse changes, as one that was imported with readonly=on.
func (f *Fake) SetPoolReadOnly(name string, readOnly bool) error {
	f.state.Lock()
	defer f.state.Unlock()
	p, ok := f.pools[name]
	if !ok {
		return fmt.Errorf("zfsfake: no pool %q", name)
	}
	p.readOnly = readOnly
	return nil
}

// Version is a snapshot or a bookmark, as Versions answers it.
type Version struct {
	Type      string // "snapshot" or "bookmark"
	Name      string // what follows @ or #
	GUID      uint64
	CreateTXG uint64
	Creation  time.Time
	UserRefs  uint64
	Holds     []string // tags, sorted
}

// Versions answers a dataset's snapshots and bookmarks by createtxg, bookmarks before the snapshot of the same txg.
// It is no command and not in the log.
func (f *Fake) Versions(dataset string) ([]Version, error) {
	f.state.Lock()
	defer f.state.Unlock()
	d := f.dataset(dataset)
	if d == nil {
		return nil, fmt.Errorf("zfsfake: no dataset %q", dataset)
	}
	versions := make([]Version, 0, len(d.bookmarks)+len(d.snapshots))
	for _, b := range d.bookmarks {
		versions = append(versions, Version{
			Type: "bookmark", Name: b.name, GUID: b.guid, CreateTXG: b.createTXG, Creation: time.Unix(b.creation, 0),
		})
	}
	sort.Slice(versions, func(i, j int) bool { return versions[i].Name < versions[j].Name })
	for _, s := range d.snapshots {
		v := Version{
			Type: "snapshot", Name: s.name, GUID: s.guid, CreateTXG: s.createTXG, Creation: time.Unix(s.creation, 0),
			UserRefs: uint64(len(s.holds)),
		}
		for tag := range s.holds {
			v.Holds = append(v.Holds, tag)
		}
		sort.Strings(v.Holds)
		versions = append(versions, v)
	}
	sort.SliceStable(versions, func(i, j int) bool { return versions[i].CreateTXG < versions[j].CreateTXG })
	return versions, nil
}

// Datasets answers the names of all filesystems and volumes below root and root itself, sorted; none when root does
// not exist. It is no command and not in the log.
func (f *Fake) Datasets(root string) []string {
	f.state.Lock()
	defer f.state.Unlock()
	d := f.dataset(root)
	if d == nil {
		return nil
	}
	var names []string
	d.walk(func(d *dataset) { names = append(names, d.name) })
	sort.Strings(names)
	return names
}

// dataset finds a filesystem or volume; the caller holds f.state.
func (f *Fake) dataset(name string) *dataset {
	poolName, rest, nested := strings.Cut(name, "/")
	p := f.pools[poolName]
	if p == nil {
		return nil
	}
	d := p.root
	for nested && d != nil {
		var component string
		component, rest, nested = strings.Cut(rest, "/")
		d = d.children[component]
	}
	return d
}

// snapshot finds a snapshot by its full name; the caller holds f.state.
func (f *Fake) snapshot(full string) *snapshot {
	name, snap, ok := strings.Cut(full, "@")
	if !ok {
		return nil
	}
	if d := f.dataset(name); d != nil {
		return d.byName[snap]
	}
	return nil
}

// poolNames answers the pools' names, sorted; the caller holds f.state.
func (f *Fake) poolNames() []string {
	names := make([]string, 0, len(f.pools))
	for name := range f.pools {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
