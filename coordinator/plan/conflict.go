// Conflicts: why nothing can be sent, and what the operator can do.

package plan

import (
	"github.com/zfleet/zfleet/protocol"
)

// ConflictKind says what is wrong between the two sides.
type ConflictKind string

// The kinds of conflict. docs/planning.md has a section for each.
const (
	// KindDiverged: both sides have gone on after the common version, each with snapshots that the other does not have.
	KindDiverged ConflictKind = "diverged"
	// KindReceiverAhead: the target has snapshots after the common version, and the source has none.
	KindReceiverAhead ConflictKind = "receiver ahead"
	// KindNoCommonVersion: the target has snapshots, and none of them is one of the source's versions.
	KindNoCommonVersion ConflictKind = "no common version"
	// KindNameTaken: the target has a dataset in this place that replication has not put there.
	KindNameTaken ConflictKind = "name taken by a foreign dataset"
	// KindSnapshotNameTaken: a snapshot that is to be sent has the name of another snapshot on the target.
	KindSnapshotNameTaken ConflictKind = "snapshot name taken"
	// KindSourceGone: the job names a filesystem that the source does not have.
	KindSourceGone ConflictKind = "source gone"
	// KindInitialForbidden: the target has nothing of the filesystem, and the job's initial policy is fail.
	KindInitialForbidden ConflictKind = "initial replication forbidden"
	// KindRootMissing: the target's root does not exist.
	KindRootMissing ConflictKind = "target root missing"
	// KindInvalidJob: the job itself cannot be planned. A job that was validated when it was submitted is never invalid.
	KindInvalidJob ConflictKind = "invalid job"
)

// Conflict is why nothing can be sent of a filesystem until somebody has decided what to give up.
type Conflict struct {
	Kind ConflictKind
	// Message says in one paragraph what is wrong, with names, guids and times of the versions that matter.
	Message string
	// Remedy says what the operator can do, with commands, on several lines.
	Remedy string
	// Common is the newest version that both sides have, as the source has it; nil if there is none.
	Common *protocol.Version
	// SourceNewest is the source's newest version, and ReceiverNewest the target's newest snapshot; nil if there is none.
	SourceNewest   *protocol.Version
	ReceiverNewest *protocol.Version
	// Extra are the target's snapshots after Common, oldest first.
	Extra []protocol.Version
}

// Failure is the conflict as a failure of kind conflict, with the message and the remedy.
func (c *Conflict) Failure() *protocol.Failure {
	return protocol.Failf(protocol.Conflict, "%s: %s\n%s", c.Kind, c.Message, c.Remedy)
}

func unplannable(target protocol.JobTarget, filesystem string, err error) Result {
	return Result{
		Filesystem:       filesystem,
		TargetFilesystem: target.Filesystem(filesystem),
		Conflict: &Conflict{
			Kind:    KindInvalidJob,
			Message: err.Error() + ".",
			Remedy:  "Correct the job file and submit it again: zctl submit -f FILE",
		},
	}
}
