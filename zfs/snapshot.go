// Taking snapshots.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
)

// SnapshotExists says that a snapshot of that name exists.
type SnapshotExists struct {
	Snapshot string
	Command  *CommandError
}

// Error names it.
func (e *SnapshotExists) Error() string {
	return fmt.Sprintf("the snapshot %s exists already", e.Snapshot)
}

// Unwrap gives the failed command.
func (e *SnapshotExists) Unwrap() error { return e.Command }

// snapshotExists matches libzfs's message for EZFS_EXISTS.
var snapshotExists = regexp.MustCompile(`(?m)^cannot create snapshot '([^'\n]+)': dataset already exists$`)

// Snapshot takes the snapshots (full names, of one pool, and of each dataset only one) with one command, atomically: all of
// them, of one transaction group, or none. A name that is taken is a [*SnapshotExists].
func (s *System) Snapshot(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	if err := validateSnapshots(names); err != nil {
		return err
	}
	err := s.run(ctx, Command{Args: append([]string{"zfs", "snapshot"}, names...)})
	var failed *CommandError
	if errors.As(err, &failed) {
		if match := snapshotExists.FindStringSubmatch(failed.Stderr); match != nil {
			err = &SnapshotExists{Snapshot: match[1], Command: failed}
		}
	}
	if err != nil {
		return fmt.Errorf("take snapshots: %w", err)
	}
	return nil
}
