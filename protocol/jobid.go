// JobIDs: what ties holds, bookmarks and cursors on disk to a (job, target).

package protocol

import "regexp"

// JobID is the name embedded in hold tags and bookmark names. It is made of the characters that OpenZFS allows in a
// bookmark name, and is short enough that every abstraction name built from it stays within OpenZFS's limits
// (zfsprops(7), zfs-bookmark(8): a whole name has at most 255 bytes).
type JobID string

// MaxJobIDLength leaves room for the longest prefix ("zrepl_CURSORTENTATIVE_G_<16 hex digits>_J_", 42 bytes) and for
// the dataset's own name.
const MaxJobIDLength = 100

var jobIDPattern = regexp.MustCompile(`^[a-zA-Z0-9][-a-zA-Z0-9_.: ]*$`)

// ParseJobID checks that s can be a JobID.
func ParseJobID(s string) (JobID, error) {
	if len(s) > MaxJobIDLength || !jobIDPattern.MatchString(s) {
		return "", Usagef("job id %q: use 1 to %d letters, digits and any of -_.: and space, beginning with a letter or digit",
			s, MaxJobIDLength)
	}
	return JobID(s), nil
}

// Validate tells whether id can be a JobID.
func (id JobID) Validate() error {
	_, err := ParseJobID(string(id))
	return err
}

// String is the JobID itself.
func (id JobID) String() string { return string(id) }

// DefaultJobID is the JobID of a target that does not set its own: "<job>.<target host>".
func DefaultJobID(job string, target Host) JobID { return JobID(job + "." + string(target)) }
