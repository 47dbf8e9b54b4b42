// Errors: what can be wrong with abstractions themselves. Failures of commands are those of package zfs.

package abstractions

import (
	"fmt"
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

// GUIDMismatch says that what stands under a name is not the version that it should be.
type GUIDMismatch struct {
	// Version is the whole name of the snapshot or bookmark.
	Version       string
	Wanted, Found uint64
}

// Error says what to do.
func (e *GUIDMismatch) Error() string {
	return fmt.Sprintf("%s has guid %d (%016x) where %d (%016x) was expected: it was replaced by another version of the same name; "+
		"nothing was changed, list the filesystem again or destroy what stands in the way",
		e.Version, e.Found, e.Found, e.Wanted, e.Wanted)
}

// Unwrap makes it a permanent failure: only another plan can help.
func (e *GUIDMismatch) Unwrap() error {
	return &protocol.Failure{Kind: protocol.Permanent, Message: e.Error()}
}

// CursorBackwards says that a cursor was to be set to a version that is not newer than the one it has.
type CursorBackwards struct {
	Filesystem string
	JobID      protocol.JobID
	// Current is where the cursor is, Wanted the version that it was to be set to.
	Current Abstraction
	Wanted  string
	// WantedGUID and WantedCreateTXG are those of Wanted.
	WantedGUID, WantedCreateTXG uint64
}

// Error names the filesystem and both versions, and says what to do.
func (e *CursorBackwards) Error() string {
	return fmt.Sprintf("%s: the cursor of job id %q is at %s (createtxg %d, guid %d) and only moves forward, not to %s (createtxg %d, "+
		"guid %d): if the receiver was rolled back on purpose, destroy the bookmark %s first",
		e.Filesystem, e.JobID, e.Current.FullName(), e.Current.CreateTXG, e.Current.GUID,
		e.Wanted, e.WantedCreateTXG, e.WantedGUID, e.Current.FullName())
}

// Unwrap makes it a conflict, which the operator has to decide.
func (e *CursorBackwards) Unwrap() error {
	return &protocol.Failure{Kind: protocol.Conflict, Message: e.Error()}
}

// ListError says that the abstractions of one filesystem could not all be listed.
type ListError struct {
	// Filesystem is empty when no filesystem could be listed.
	Filesystem string
	Err        error
}

// Error names the filesystem.
func (e *ListError) Error() string {
	if e.Filesystem == "" {
		return fmt.Sprintf("list abstractions: %s", oneLine(e.Err))
	}
	return fmt.Sprintf("list abstractions of %s: %s", e.Filesystem, oneLine(e.Err))
}

// Unwrap is what failed.
func (e *ListError) Unwrap() error { return e.Err }

// oneLine keeps the lines of joined errors together, for messages that are one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
