// Destroying snapshots and bookmarks. Filesystems and volumes are never destroyed by this package.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// DestroyError says which snapshots and bookmarks could not be destroyed, and why; all others of the call are gone.
type DestroyError struct {
	// Failed has a reason for every full name: [*SnapshotHeld], [*SnapshotHasClones], [*SnapshotBusy], or a [*CommandError].
	Failed map[string]error
}

// Error lists the names with their reasons, in order, or the first ones of many.
func (e *DestroyError) Error() string {
	const shown = 5
	names := slices.Sorted(maps.Keys(e.Failed))
	var reasons []string
	for _, name := range names[:min(shown, len(names))] {
		reasons = append(reasons, fmt.Sprintf("%s: %v", name, e.Failed[name]))
	}
	text := fmt.Sprintf("%d not destroyed: %s", len(names), strings.Join(reasons, "; "))
	if len(names) > shown {
		text += fmt.Sprintf("; and %d more", len(names)-shown)
	}
	return text
}

// Unwrap gives the reasons, in the order of the names.
func (e *DestroyError) Unwrap() []error {
	var reasons []error
	for _, name := range slices.Sorted(maps.Keys(e.Failed)) {
		reasons = append(reasons, e.Failed[name])
	}
	return reasons
}

// SnapshotHeld says that a snapshot is held.
type SnapshotHeld struct {
	Snapshot string
	Tags     []string
	Command  *CommandError
}

// Error names the tags.
func (e *SnapshotHeld) Error() string { return "it is held with " + strings.Join(e.Tags, ", ") }

// Unwrap gives the failed command.
func (e *SnapshotHeld) Unwrap() error { return e.Command }

// SnapshotHasClones says that filesystems or volumes were cloned from a snapshot. Partially received state is such a clone
// of its incremental source, named "<dataset>/%recv".
type SnapshotHasClones struct {
	Snapshot string
	Clones   []string
	Command  *CommandError
}

// Error names the clones.
func (e *SnapshotHasClones) Error() string {
	switch {
	case len(e.Clones) == 0:
		return "it has clones"
	case len(e.Clones) == 1 && strings.HasSuffix(e.Clones[0], "/%recv"):
		return "it is the incremental source of partially received state"
	}
	return "it has clones: " + strings.Join(e.Clones, ", ")
}

// Unwrap gives the failed command.
func (e *SnapshotHasClones) Unwrap() error { return e.Command }

// SnapshotBusy says that a snapshot is in use, by a mount or by a zfs send.
type SnapshotBusy struct {
	Snapshot string
	Command  *CommandError
}

// Error says so.
func (e *SnapshotBusy) Error() string { return "it is busy (mounted, or being sent)" }

// Unwrap gives the failed command.
func (e *SnapshotBusy) Unwrap() error { return e.Command }

// Destroy destroys snapshots and bookmarks (full names). Those that do not exist are no error.
//
// Snapshots of one dataset are destroyed with as few commands as fit the command line, each atomic in OpenZFS: if one
// snapshot can not be destroyed, none is. The ones that were named as the reason are then left to the last and tried one
// by one. Bookmarks are destroyed with a command for each, several at a time. The error is a [*DestroyError], unless a
// command could not be run at all.
func (s *System) Destroy(ctx context.Context, names ...string) error {
	snapshots := map[string][]string{} // names after "@", by dataset
	var bookmarks []string
	for _, full := range names {
		dataset, versionType, name, err := SplitVersion(full)
		if err != nil {
			return err
		}
		if versionType == Bookmark {
			bookmarks = append(bookmarks, full)
			continue
		}
		snapshots[dataset] = append(snapshots[dataset], name)
	}
	failed := map[string]error{}
	for _, dataset := range slices.Sorted(maps.Keys(snapshots)) {
		for batch := range batches(snapshots[dataset], maxArguments-len(dataset), maxSnapshots) {
			if err := s.destroySnapshots(ctx, dataset, batch, failed); err != nil {
				return err
			}
		}
	}
	if err := s.destroyBookmarks(ctx, bookmarks, failed); err != nil {
		return err
	}
	if len(failed) > 0 {
		return &DestroyError{Failed: failed}
	}
	return nil
}

// maxSnapshots bounds what one transaction group has to destroy at once.
const maxSnapshots = 1000

// destroySnapshots destroys a batch and notes in failed which of it could not be. Its error is for a command that could not
// be run.
func (s *System) destroySnapshots(ctx context.Context, dataset string, names []string, failed map[string]error) error {
	err := s.run(ctx, Command{Args: []string{"zfs", "destroy", dataset + "@" + strings.Join(names, ",")}})
	var command *CommandError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &command):
		return err
	case strings.Contains(command.Stderr, "could not find any snapshots to destroy"), slices.Contains(command.missing(), dataset):
		return nil
	case len(names) == 1:
		full := dataset + "@" + names[0]
		reason, err := s.destroyReason(ctx, full, command)
		failed[full] = reason
		return err
	}
	blamed, rest := splitBlamed(command.Stderr, dataset, names)
	if len(blamed) > 0 && len(rest) > 0 {
		if err := s.destroySnapshots(ctx, dataset, rest, failed); err != nil {
			return err
		}
		names = blamed
	}
	for _, name := range names {
		if err := s.destroySnapshots(ctx, dataset, []string{name}, failed); err != nil {
			return err
		}
	}
	return nil
}

// splitBlamed separates the snapshots that a message names from the others. libzfs has two forms: cannot destroy snapshot
// fs@a: dataset is busy, and: cannot destroy 'fs@a': snapshot has dependent clones.
func splitBlamed(stderr, dataset string, names []string) (blamed, rest []string) {
	for _, name := range names {
		full := dataset + "@" + name
		if strings.Contains(stderr, "cannot destroy snapshot "+full+": ") || strings.Contains(stderr, "cannot destroy '"+full+"': ") {
			blamed = append(blamed, name)
		} else {
			rest = append(rest, name)
		}
	}
	return blamed, rest
}

// destroyReason finds out why one snapshot could not be destroyed.
func (s *System) destroyReason(ctx context.Context, snapshot string, command *CommandError) (reason, err error) {
	switch {
	case strings.Contains(command.Stderr, "dependent clones"), strings.Contains(command.Stderr, "snapshot is cloned"):
		return &SnapshotHasClones{Snapshot: snapshot, Clones: dependents(command.Stderr), Command: command}, nil
	case !strings.Contains(command.Stderr, "it's being held") && !strings.Contains(command.Stderr, "is busy"):
		return command, nil
	}
	holds, err := s.Holds(ctx, snapshot)
	if err != nil {
		return command, err
	}
	if len(holds) == 0 {
		return &SnapshotBusy{Snapshot: snapshot, Command: command}, nil
	}
	held := &SnapshotHeld{Snapshot: snapshot, Command: command}
	for _, hold := range holds {
		held.Tags = append(held.Tags, hold.Tag)
	}
	return held, nil
}

// dependents reads the list that follows "use '-R' to destroy the following datasets:".
func dependents(stderr string) []string {
	_, list, found := strings.Cut(stderr, "to destroy the following datasets:\n")
	if !found {
		return nil
	}
	var names []string
	for line := range strings.Lines(list) {
		name := strings.TrimSuffix(line, "\n")
		if name != "" && !strings.ContainsRune(name, '@') { // the clones' own snapshots are listed as well
			names = append(names, name)
		}
	}
	return names
}

// destroyBookmarks destroys bookmarks and notes in failed which could not be. zfs destroy takes one bookmark, and channel
// programs none (see [BookmarkProgram]); commands at the same time are synced with the same transaction group, which is
// what takes the time.
func (s *System) destroyBookmarks(ctx context.Context, bookmarks []string, failed map[string]error) error {
	commands := make([]*CommandError, len(bookmarks))
	var group errgroup.Group
	group.SetLimit(maxBookmarkCommands)
	for i, bookmark := range bookmarks {
		group.Go(func() error {
			err := s.run(ctx, Command{Args: []string{"zfs", "destroy", bookmark}})
			var command *CommandError
			switch {
			case err == nil:
			case !errors.As(err, &command):
				return err
			case strings.Contains(command.Stderr, "does not exist"): // of the bookmark, or of its dataset
			default:
				commands[i] = command
			}
			return nil
		})
	}
	err := group.Wait()
	for i, command := range commands {
		if command != nil {
			failed[bookmarks[i]] = command
		}
	}
	return err
}
