// Changes: what the fake tells an observer, as it happens, of all that replication keeps on a pool.

package zfsfake

// ChangeKind is what has changed.
type ChangeKind string

// The kinds of changes.
const (
	SnapshotCreated   ChangeKind = "snapshot created"
	SnapshotReceived  ChangeKind = "snapshot received"
	SnapshotDestroyed ChangeKind = "snapshot destroyed"
	BookmarkCreated   ChangeKind = "bookmark created"
	BookmarkDestroyed ChangeKind = "bookmark destroyed"
	HoldPlaced        ChangeKind = "hold placed"
	HoldReleased      ChangeKind = "hold released"
	// PartialKept says that a receive broke off and left what it had got; PartialGone that it was finished or given up, or
	// that there was none.
	PartialKept ChangeKind = "partial state kept"
	PartialGone ChangeKind = "partial state gone"
	// DatasetDestroyed takes all that is in the filesystem or volume with it; nothing is below it.
	DatasetDestroyed ChangeKind = "dataset destroyed"
)

// Change is one change of a pool.
type Change struct {
	Kind    ChangeKind
	Dataset string
	// Name is the snapshot's or bookmark's, without its dataset.
	Name string
	// GUID and CreateTXG are the version's; the GUID of a partial state is that of the snapshot that it is to become, and
	// FromGUID that of the version which the increment starts from, 0 for a full stream.
	GUID, CreateTXG, FromGUID uint64
	// Tag is the hold's.
	Tag string
}

// WithObserver tells every change of snapshots, bookmarks, holds and partial states in the order in which they happen, one
// after another. The fake is locked meanwhile, so that the observer sees every state there ever was; it must not call the
// fake. Renames are not told.
func WithObserver(observe func(Change)) Option { return func(f *Fake) { f.observe = observe } }

// tell tells a change of d.
func (d *dataset) tell(change Change) {
	if d.pool.observe != nil {
		change.Dataset = d.name
		d.pool.observe(change)
	}
}

func (s *snapshot) tell(kind ChangeKind, tag string) {
	s.dataset.tell(Change{Kind: kind, Name: s.name, GUID: s.guid, CreateTXG: s.createTXG, Tag: tag})
}

func (d *dataset) tellBookmark(kind ChangeKind, b *bookmark) {
	d.tell(Change{Kind: kind, Name: b.name, GUID: b.guid, CreateTXG: b.createTXG})
}

func (d *dataset) tellPartial(kind ChangeKind) {
	d.tell(Change{Kind: kind, GUID: d.receive.header.ToGUID, FromGUID: d.receive.header.FromGUID})
}
