// Steps, as the sender and the receiver of one describe them to a Manager.

package abstractions

import (
	"fmt"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// SendStep is a step as its sender sees it. Versions are those of the sender's pool.
type SendStep struct {
	Filesystem string
	JobID      protocol.JobID
	Protection protocol.Protection
	// From is nil for a full send. It must be the newest version that the receiver has: what protects older versions,
	// and versions in between of earlier attempts, is removed.
	From *zfs.Version
	// To is a snapshot.
	To zfs.Version
	// Intermediate says that the snapshots between From, a snapshot, and To are sent too (zfs send -I). They are protected as
	// To is: where the step is interrupted, one of them is the last that the receiver has, or has a part of.
	Intermediate bool
	// Dataset is a listing of the filesystem with its versions, made when the step was validated, before
	// [Manager.BeforeSend]; nil to have the Manager make one. There is at most one step at a time for a JobID on a
	// filesystem, so that the listing stays true for what is ours while the step runs.
	Dataset *zfs.Dataset
}

func (s SendStep) validate() error {
	if err := s.JobID.Validate(); err != nil {
		return err
	}
	if err := s.Protection.Validate(); err != nil {
		return err
	}
	if s.To.Type != zfs.Snapshot {
		return protocol.Usagef("%s: a step ends in a snapshot, not in %s", s.Filesystem, s.To.Rel())
	}
	// The longest name is that of a tentative cursor.
	longest := s.Filesystem + "#" + BookmarkName(TentativeCursor, s.To.GUID, s.JobID)
	if err := zfs.ValidateBookmark(longest); err != nil && s.Protection != protocol.GuaranteeNothing {
		return protocol.Failf(protocol.Permanent, "%s: a cursor of job id %q cannot be named: use a shorter job id: %w",
			s.Filesystem, s.JobID, err)
	}
	return checkListing(s.Filesystem, s.Dataset)
}

// check compares the step with a listing: its versions must be what stands under their names. A snapshot that is gone is no
// error here; the command that needs it will say so.
func (s SendStep) check(dataset zfs.Dataset) error {
	if err := sameVersion(dataset, s.To); err != nil {
		return err
	}
	if s.From != nil {
		return sameVersion(dataset, *s.From)
	}
	return nil
}

// ReceiveStep is a step as its receiver sees it.
type ReceiveStep struct {
	// Filesystem is the one received into.
	Filesystem string
	JobID      protocol.JobID
	Protection protocol.Protection
	// From is not needed for anything but messages; nil for a full send.
	From *zfs.Version
	// To is what was received. Only its name and guid are used; its createtxg may be that of the sender's pool.
	To zfs.Version
	// Dataset is a listing of the receiving filesystem with its versions, made at any time in this step, before the receive
	// or after; nil to have the Manager make one.
	Dataset *zfs.Dataset
}

func (s ReceiveStep) validate() error {
	if err := s.JobID.Validate(); err != nil {
		return err
	}
	if err := s.Protection.Validate(); err != nil {
		return err
	}
	if s.To.Type != zfs.Snapshot {
		return protocol.Usagef("%s: a step ends in a snapshot, not in %s", s.Filesystem, s.To.Rel())
	}
	return checkListing(s.Filesystem, s.Dataset)
}

func checkListing(filesystem string, dataset *zfs.Dataset) error {
	if dataset != nil && dataset.Name != filesystem {
		return fmt.Errorf("%s: the listing given is one of %s", filesystem, dataset.Name)
	}
	return nil
}

func sameVersion(dataset zfs.Dataset, wanted zfs.Version) error {
	found, ok := dataset.Version(wanted.Type, wanted.Name)
	if ok && found.GUID != wanted.GUID {
		return &GUIDMismatch{Version: found.Full(dataset.Name), Wanted: wanted.GUID, Found: found.GUID}
	}
	return nil
}
