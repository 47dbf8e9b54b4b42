// Manager: the three moments of a step, carried out.

package abstractions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/zfs"
)

// Manager keeps the abstractions of one host. It is safe for concurrent use, as long as there is at most one step at a
// time for a JobID on a filesystem.
type Manager struct {
	zfs *zfs.System
	log *slog.Logger

	commit    committer[string, struct{}]
	bookmarks committer[zfs.Bookmarking, bookmarked]
	readings  committer[string, []zfs.Hold] // of holds
	lists     committer[string, listings]

	known  holdCache
	around func(ctx context.Context, change Change, do func() error) error
}

// Change is one of the changes that the moments of a step make on disk.
type Change string

// The changes, in the order in which a step sees them.
const (
	// ChangeProtect: BeforeSend puts the step's holds and bookmarks.
	ChangeProtect Change = "protect"
	// ChangeTidy: BeforeSend removes what earlier steps have left behind.
	ChangeTidy Change = "tidy"
	// ChangeLastReceived: AfterReceive holds what was received.
	ChangeLastReceived Change = "last-received"
	// ChangeReleaseReceived: AfterReceive releases what was received before.
	ChangeReleaseReceived Change = "release-received"
	// ChangeCursor: AfterConfirmation makes the cursor.
	ChangeCursor Change = "cursor"
	// ChangeRelease: AfterConfirmation removes everything else.
	ChangeRelease Change = "release"
)

// bookmarked is why bookmarks could not be made: nil for those that could.
type bookmarked map[zfs.Bookmarking]error

// Options of a Manager. The zero value is a good choice.
type Options struct {
	// Logger gets warnings about what is not protected and what could not be cleaned up; nil for slog's default.
	Logger *slog.Logger
	// GatherFor is how long a request for a hold, a bookmark, a release or a listing waits for others to share its command;
	// 0 is 3 milliseconds.
	GatherFor time.Duration
	// Around is called for every change that a moment of a step has to make, and makes it with do, once; nil only does that. What
	// do returns is to be returned, unless the change must not be made. It is called concurrently.
	Around func(ctx context.Context, change Change, do func() error) error
}

const defaultGatherFor = 3 * time.Millisecond

const (
	// holdsTogether is how many snapshots share a zfs hold or zfs release. The commands hold one snapshot after the other, and
	// wait for a transaction group each time (zfs_main.c, zfs_do_hold_rele_impl): more in one command save the start of a
	// process, and cost the waiting that commands at the same time would share.
	holdsTogether = 16

	// bookmarksTogether is how many bookmarks share a channel program. It stops all other changes to the pool while it runs.
	bookmarksTogether = 128

	// listsTogether is how many filesystems share a zfs list.
	listsTogether = 256
)

// New makes a Manager over the host's pools.
func New(system *zfs.System, options Options) *Manager {
	m := &Manager{zfs: system, log: options.Logger, around: options.Around}
	if m.around == nil {
		m.around = func(_ context.Context, _ Change, do func() error) error { return do() }
	}
	if m.log == nil {
		m.log = slog.Default()
	}
	window := options.GatherFor
	if window <= 0 {
		window = defaultGatherFor
	}
	m.commit.window, m.commit.limit = window, holdsTogether
	m.bookmarks.window, m.bookmarks.limit = window, bookmarksTogether
	m.readings.window, m.readings.limit = window, holdsPerCommand
	m.lists.window, m.lists.limit = window, listsTogether
	return m
}

// Close waits for commands whose callers have gone away. The callers of all other methods must have returned, or their
// contexts have ended.
func (m *Manager) Close() {
	m.commit.wait()
	m.bookmarks.wait()
	m.readings.wait()
	m.lists.wait()
}

// Invalidate forgets what the Manager remembers of the filesystems' holds, of all of them when none is named. It is needed
// only where somebody else replaced one hold by another.
func (m *Manager) Invalidate(filesystems ...string) { m.known.invalidate(filesystems...) }

// BeforeSend protects a step on its sender, before zfs send starts: under guarantee_resumability with step holds on from
// and to (a step bookmark where from is a bookmark and can be cloned), under guarantee_incremental with tentative cursors
// of both, under guarantee_nothing not at all. What earlier steps left behind is then removed.
//
// An error is a *GUIDMismatch when from or to is not what the step says, a *CursorBackwards when the cursor could not move
// to this step's to in the end, or the failure of a command; the step must then not start. That something obsolete could
// not be removed is logged as a warning.
func (m *Manager) BeforeSend(ctx context.Context, step SendStep) error {
	dataset, err := m.listingForSend(ctx, step)
	if err != nil {
		return fmt.Errorf("protect %s before it is sent: %w", step.To.Full(step.Filesystem), err)
	}
	if err := m.protect(ctx, step, dataset); err != nil {
		return fmt.Errorf("protect %s before it is sent: %w", step.To.Full(step.Filesystem), err)
	}
	m.known.retain(dataset)
	m.remove(ctx, ChangeTidy, step.Filesystem, HoldTag(StepHold, step.JobID), obsoleteBeforeSend(step, dataset))
	return nil
}

// AfterReceive protects what a step's receiver has received, when zfs recv is done and the guid of to was checked: a
// last-received hold is put on to, and only then the holds of the JobID on older snapshots are released. Under
// guarantee_nothing the holds of the JobID are only released.
//
// When it is repeated for a step that a later one has followed, the later step's hold stays and no other is made. An error is
// a *GUIDMismatch, or the failure of a command: nothing must then be confirmed. That an older hold could not be
// released is logged as a warning.
func (m *Manager) AfterReceive(ctx context.Context, step ReceiveStep) error {
	if err := m.afterReceive(ctx, step); err != nil {
		return fmt.Errorf("protect %s after it was received: %w", step.To.Full(step.Filesystem), err)
	}
	return nil
}

// AfterConfirmation is called on a step's sender when the receiver has confirmed to, and never before: it sets the cursor
// to to, and removes everything else that the JobID has on the filesystem: step holds and bookmarks, tentative
// cursors and older cursors. Under guarantee_nothing everything is removed.
//
// The result is the cursor, nil under guarantee_nothing. Where to is gone and the pool cannot clone bookmarks, the
// tentative cursor of to does the cursor's duty and is the result. A cursor that is already there is a success; an error is a
// *CursorBackwards, a *GUIDMismatch, or the failure of a command, and nothing is then removed. That something obsolete
// could not be removed is logged as a warning.
func (m *Manager) AfterConfirmation(ctx context.Context, step SendStep) (*Abstraction, error) {
	cursor, err := m.afterConfirmation(ctx, step)
	if err != nil {
		return nil, fmt.Errorf("move the cursor of job id %q to %s: %w", step.JobID, step.To.Full(step.Filesystem), err)
	}
	return cursor, nil
}

// listingForSend is the step's listing, or a new one, checked to fit the step.
func (m *Manager) listingForSend(ctx context.Context, step SendStep) (zfs.Dataset, error) {
	if err := step.validate(); err != nil {
		return zfs.Dataset{}, err
	}
	dataset, err := m.listing(ctx, step.Filesystem, step.Dataset)
	if err != nil {
		return zfs.Dataset{}, err
	}
	if err := step.check(dataset); err != nil {
		return zfs.Dataset{}, err
	}
	if needsOf(step.Protection).cursor {
		if err := cursorMove(step, dataset); err != nil {
			return zfs.Dataset{}, err
		}
	}
	return dataset, nil
}

func (m *Manager) listing(ctx context.Context, filesystem string, given *zfs.Dataset) (zfs.Dataset, error) {
	if given != nil {
		return *given, nil
	}
	return m.Dataset(ctx, filesystem)
}

// listings are what one command listed, by name. Filesystems that do not exist are not among them.
type listings map[string]zfs.Dataset

// Dataset lists one filesystem or volume with its versions, as [zfs.System.Get] does, but shares the command with concurrent
// calls on the same pool. The listing is made after the call; its versions must not be changed.
func (m *Manager) Dataset(ctx context.Context, filesystem string) (zfs.Dataset, error) {
	key := commitKey{operation: "list", pool: poolOf(filesystem)}
	listed, err := m.lists.do(ctx, key, []string{filesystem}, m.listTogether)
	if err != nil {
		return zfs.Dataset{}, err
	}
	dataset, ok := listed[filesystem]
	if !ok {
		return zfs.Dataset{}, &zfs.DatasetDoesNotExist{Dataset: filesystem}
	}
	return dataset, nil
}

func (m *Manager) listTogether(ctx context.Context, filesystems []string) (listings, error) {
	datasets, failures := m.datasets(ctx, Query{Roots: filesystems, Exact: true})
	for _, err := range failures {
		if !errors.Is(err, zfs.ErrDatasetDoesNotExist) {
			return nil, err
		}
	}
	listed := make(listings, len(datasets))
	for _, dataset := range datasets {
		listed[dataset.Name] = dataset
	}
	return listed, nil
}

// canClone tells whether bookmarks of bookmarks can be made, where the step depends on it.
func (m *Manager) canClone(ctx context.Context, step SendStep) (bool, error) {
	fromBookmark := step.From != nil && step.From.Type == zfs.Bookmark
	if !fromBookmark && !needsOf(step.Protection).tentative {
		return false, nil
	}
	features, err := m.zfs.Features(ctx)
	if err != nil {
		return false, fmt.Errorf("learn whether bookmarks can be cloned: %w", err)
	}
	return features.BookmarkClone, nil
}

func (m *Manager) protect(ctx context.Context, step SendStep, dataset zfs.Dataset) error {
	canClone, err := m.canClone(ctx, step)
	if err != nil {
		return err
	}
	create := protectStep(step, dataset, canClone)
	if len(create.hold)+len(create.bookmark) > 0 {
		if err := m.around(ctx, ChangeProtect, func() error { return m.create(ctx, step, create) }); err != nil {
			return err
		}
	}
	if create.unprotected {
		m.log.WarnContext(ctx, "the step's from is a bookmark, which this version of OpenZFS cannot clone: "+
			"if it is destroyed while the step runs, the step cannot be resumed",
			"filesystem", step.Filesystem, "job_id", step.JobID, "bookmark", step.From.Full(step.Filesystem))
	}
	return nil
}

func (m *Manager) create(ctx context.Context, step SendStep, create creation) error {
	// Every change waits for a transaction group to be synced; changes made at the same time wait for the same one.
	group, groupContext := errgroup.WithContext(ctx)
	if len(create.hold) > 0 {
		group.Go(func() error {
			return m.hold(groupContext, step.Filesystem, HoldTag(StepHold, step.JobID), create.hold)
		})
	}
	if len(create.bookmark) > 0 {
		group.Go(func() error { return m.bookmark(groupContext, step.Filesystem, create.bookmark...) })
	}
	return group.Wait()
}

// bookmark makes bookmarks of versions, with the requests of others on the pool. One that exists is a success if it has the
// same guid, and a *GUIDMismatch otherwise.
func (m *Manager) bookmark(ctx context.Context, filesystem string, wanted ...bookmarking) error {
	items := make([]zfs.Bookmarking, 0, len(wanted))
	for _, w := range wanted {
		items = append(items, zfs.Bookmarking{Source: w.source.Full(filesystem), Bookmark: filesystem + "#" + w.name})
	}
	results, err := m.bookmarks.do(ctx, commitKey{operation: "bookmark", pool: poolOf(filesystem)}, items, m.bookmarkTogether)
	if err != nil {
		return err
	}
	var failures []error
	for i, w := range wanted {
		err := results[items[i]]
		var exists *zfs.BookmarkExists
		switch {
		case !errors.As(err, &exists):
			failures = append(failures, err)
		case exists.GUID != w.source.GUID:
			failures = append(failures, &GUIDMismatch{Version: exists.Bookmark, Wanted: w.source.GUID, Found: exists.GUID})
		default:
			// What stands under the name of the source is another version now; the bookmark is right.
		}
	}
	return errors.Join(failures...)
}

// bookmarkTogether never fails as a whole: every bookmark has its own result, and one that failed does not have the others
// made again.
func (m *Manager) bookmarkTogether(ctx context.Context, wanted []zfs.Bookmarking) (bookmarked, error) {
	results := make(bookmarked, len(wanted))
	for i, err := range m.zfs.Bookmarks(ctx, wanted...) {
		results[wanted[i]] = err
	}
	return results, nil
}

// bookmarkGUID is the guid of a bookmark, 0 if it is not there.
func (m *Manager) bookmarkGUID(ctx context.Context, filesystem, name string) (uint64, error) {
	datasets, err := m.zfs.List(ctx, zfs.ListQuery{Datasets: []string{filesystem}, Versions: true, NoSnapshots: true})
	if err != nil {
		return 0, err
	}
	for _, dataset := range datasets {
		if bookmark, ok := dataset.Version(zfs.Bookmark, name); ok && dataset.Name == filesystem {
			return bookmark.GUID, nil
		}
	}
	return 0, nil
}

func (m *Manager) afterReceive(ctx context.Context, step ReceiveStep) error {
	if err := step.validate(); err != nil {
		return err
	}
	dataset, err := m.listing(ctx, step.Filesystem, step.Dataset)
	if err != nil {
		return err
	}
	if err := sameVersion(dataset, step.To); err != nil {
		return err
	}
	tag := HoldTag(LastReceivedHold, step.JobID)
	older, newer := obsoleteAfterReceive(step, dataset)
	if !needsOf(step.Protection).lastReceived {
		to, _ := dataset.Version(zfs.Snapshot, step.To.Name)
		if to.UserRefs > 0 {
			older = append(older, to)
		}
		m.remove(ctx, ChangeReleaseReceived, step.Filesystem, tag, removal{release: slices.Concat(older, newer)})
		return nil
	}
	obsolete := removal{release: older, likely: true}
	overtaken := false
	if len(newer) > 0 {
		tagged, _, err := m.known.read(ctx, step.Filesystem, tag, newer, m.readHolds)
		if err != nil {
			return err
		}
		overtaken = len(tagged) > 0
	}
	hold := func() error { return m.hold(ctx, step.Filesystem, tag, []zfs.Version{step.To}) }
	if overtaken {
		obsolete.held = []zfs.Version{step.To}
	} else if err := m.around(ctx, ChangeLastReceived, hold); err != nil {
		return err
	}
	m.remove(ctx, ChangeReleaseReceived, step.Filesystem, tag, obsolete)
	return nil
}

func (m *Manager) afterConfirmation(ctx context.Context, step SendStep) (*Abstraction, error) {
	dataset, err := m.listingForSend(ctx, step)
	if err != nil {
		return nil, err
	}
	canClone, err := m.canClone(ctx, step)
	if err != nil {
		return nil, err
	}
	var cursor *Abstraction
	keep := ""
	if needsOf(step.Protection).cursor {
		err = m.around(ctx, ChangeCursor, func() (err error) {
			cursor, err = m.setCursor(ctx, step, dataset, canClone)
			return err
		})
		if err != nil {
			return nil, err
		}
		keep = cursor.Name
	}
	m.remove(ctx, ChangeRelease, step.Filesystem, HoldTag(StepHold, step.JobID),
		obsoleteAfterConfirmation(step, dataset, canClone, keep))
	return cursor, nil
}

// setCursor makes the cursor of the step's to. Its source is, under guarantee_incremental, the tentative cursor: nothing
// holds the snapshot, which may be gone, or be another one of the same name.
func (m *Manager) setCursor(ctx context.Context, step SendStep, dataset zfs.Dataset, canClone bool) (*Abstraction, error) {
	cursor := Abstraction{
		Kind: Cursor, Filesystem: step.Filesystem, JobID: step.JobID, Name: BookmarkName(Cursor, step.To.GUID, step.JobID),
		GUID: step.To.GUID, CreateTXG: step.To.CreateTXG,
	}
	var failures []error
	for _, source := range cursorSources(step, dataset, canClone) {
		err := m.bookmark(ctx, step.Filesystem, bookmarking{source: source, name: cursor.Name})
		var command *zfs.CommandError
		switch {
		case err == nil && (source.Type == zfs.Bookmark || needsOf(step.Protection).step):
			return &cursor, nil
		case err == nil:
			return m.checkedCursor(ctx, cursor)
		case !errors.As(err, &command):
			return nil, err
		}
		failures = append(failures, err)
	}

	// No source would do. The moment may be one repeated after a crash; and without a cursor the tentative one stays.
	for _, kind := range []Kind{Cursor, TentativeCursor} {
		cursor.Kind, cursor.Name = kind, BookmarkName(kind, step.To.GUID, step.JobID)
		found, err := m.bookmarkGUID(ctx, step.Filesystem, cursor.Name)
		if err != nil {
			return nil, errors.Join(append(failures, err)...)
		}
		if found == step.To.GUID {
			return &cursor, nil
		}
	}
	return nil, errors.Join(failures...)
}

// cursorSources are the versions that a cursor can be made of, the best first.
func cursorSources(step SendStep, dataset zfs.Dataset, canClone bool) []zfs.Version {
	if !canClone {
		return []zfs.Version{step.To}
	}
	var sources []zfs.Version
	for _, bookmarking := range protectStep(step, dataset, canClone).bookmark {
		if bookmarking.source.GUID == step.To.GUID {
			source := step.To
			source.Type, source.Name = zfs.Bookmark, bookmarking.name
			sources = append(sources, source)
		}
	}
	for _, abstraction := range bookmarksOf(dataset, step.JobID) {
		if abstraction.GUID == step.To.GUID && abstraction.Kind != Cursor {
			if bookmark, ok := dataset.Version(zfs.Bookmark, abstraction.Name); ok {
				sources = append(sources, bookmark)
			}
		}
	}
	if needsOf(step.Protection).step {
		return append([]zfs.Version{step.To}, sources...)
	}
	return append(sources, step.To)
}

// checkedCursor makes sure that a cursor just made of a snapshot that nothing held is one of the right version, and destroys it
// if it is not.
func (m *Manager) checkedCursor(ctx context.Context, cursor Abstraction) (*Abstraction, error) {
	found, err := m.bookmarkGUID(ctx, cursor.Filesystem, cursor.Name)
	if err != nil {
		return nil, err
	}
	if found != cursor.GUID {
		return nil, errors.Join(&GUIDMismatch{Version: cursor.FullName(), Wanted: cursor.GUID, Found: found},
			m.zfs.Destroy(ctx, cursor.FullName()))
	}
	return &cursor, nil
}

// remove releases a tag and destroys bookmarks, both at once. Failures are logged: what remains does no harm, and the
// next step on the filesystem removes it.
func (m *Manager) remove(ctx context.Context, change Change, filesystem, tag string, obsolete removal) {
	if len(obsolete.held)+len(obsolete.release)+len(obsolete.destroy) == 0 {
		return
	}
	err := m.around(ctx, change, func() error {
		var group errgroup.Group
		group.Go(func() error { return m.release(ctx, filesystem, tag, obsolete) })
		var destroyError error
		if len(obsolete.destroy) > 0 {
			names := make([]string, 0, len(obsolete.destroy))
			for _, name := range obsolete.destroy {
				names = append(names, filesystem+"#"+name)
			}
			destroyError = m.zfs.Destroy(ctx, names...)
		}
		return errors.Join(group.Wait(), destroyError)
	})
	if err != nil {
		m.log.WarnContext(ctx, "holds and bookmarks that are not needed any more remain until the next step",
			"filesystem", filesystem, "error", err)
	}
}

// maxBlindReleases is up to how many snapshots a tag is released from without knowing whether they have it: that costs
// little where they do not, while asking costs a command.
const maxBlindReleases = 8

// release releases a tag from those of the candidates that have it. Candidates to be sure of, since we have put the tag on
// them ourselves, are released at any rate.
func (m *Manager) release(ctx context.Context, filesystem, tag string, obsolete removal) error {
	tagged, unknown := m.known.lookup(filesystem, tag, obsolete.release)
	certain := len(obsolete.held) + len(tagged)
	if len(unknown) > 0 && (certain == 0 && !obsolete.likely || len(unknown) > maxBlindReleases) {
		var err error
		tagged, unknown, err = m.known.read(ctx, filesystem, tag, obsolete.release, m.readHolds)
		if err != nil && ctx.Err() != nil {
			return err
		}
		// After another failure, what is unknown is released on suspicion, and the next step reads again.
	}
	release := slices.Concat(obsolete.held, tagged, unknown)
	if len(release) == 0 {
		return nil
	}
	key := commitKey{"release", poolOf(filesystem), tag}
	_, err := m.commit.do(ctx, key, fullNames(filesystem, release), func(ctx context.Context, names []string) (struct{}, error) {
		defer m.known.forget(names)
		return struct{}{}, m.zfs.Release(ctx, tag, names...)
	})
	return err
}

// hold puts a tag on snapshots.
func (m *Manager) hold(ctx context.Context, filesystem, tag string, snapshots []zfs.Version) error {
	key := commitKey{"hold", poolOf(filesystem), tag}
	_, err := m.commit.do(ctx, key, fullNames(filesystem, snapshots), func(ctx context.Context, names []string) (struct{}, error) {
		defer m.known.forget(names)
		return struct{}{}, m.zfs.Hold(ctx, tag, names...)
	})
	return err
}

// readHolds reads the holds of snapshots, with one command for all who ask on the pool. It may answer those of other
// snapshots as well.
func (m *Manager) readHolds(ctx context.Context, filesystem string, snapshots []zfs.Version) ([]zfs.Hold, error) {
	key := commitKey{operation: "holds", pool: poolOf(filesystem)}
	return m.readings.do(ctx, key, fullNames(filesystem, snapshots), func(ctx context.Context, names []string) ([]zfs.Hold, error) {
		return m.zfs.Holds(ctx, names...)
	})
}

func poolOf(filesystem string) string {
	pool, _, _ := strings.Cut(filesystem, "/")
	return pool
}

func fullNames(filesystem string, versions []zfs.Version) []string {
	names := make([]string, 0, len(versions))
	for _, version := range versions {
		names = append(names, version.Full(filesystem))
	}
	return names
}
