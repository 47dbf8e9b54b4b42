// Names of datasets, snapshots, bookmarks and hold tags, by the rules of OpenZFS (module/zcommon/zfs_namecheck.c:
// entity_namecheck, dataset_nestcheck, pool_namecheck; lib/libzfs: zfs_validate_name).

package zfs

import (
	"fmt"
	"strings"
)

const (
	// maxName is the longest full name, snapshot or bookmark part included: ZFS_MAX_DATASET_NAME_LEN is 256 with its
	// terminating NUL.
	maxName = 255

	// maxNesting is the kernel's default limit of "/" in a name (zfs_max_dataset_nesting). dataset_nestcheck refuses the
	// name that reaches it.
	maxNesting = 50

	// maxHoldTag is the longest hold tag that works: the kernel refuses tags for which MAXNAMELEN (256) is too short, and
	// libzfs those that begin with ".".
	maxHoldTag = 255
)

// NameError says that a name breaks a rule of OpenZFS, and which.
type NameError struct {
	// What is "dataset", "snapshot", "bookmark" or "hold tag".
	What string

	Name   string
	Reason string
}

// Error names the rule.
func (e *NameError) Error() string {
	return fmt.Sprintf("invalid %s name %q: %s", e.What, e.Name, e.Reason)
}

// ValidateDataset checks the name of a filesystem or volume. The error is a [*NameError].
func ValidateDataset(name string) error {
	if strings.ContainsAny(name, "@#") {
		return &NameError{What: "dataset", Name: name, Reason: "a filesystem or volume has no @ or # in its name"}
	}
	return validateEntity("dataset", name)
}

// ValidateSnapshot checks a snapshot's full name, dataset@name. The error is a [*NameError].
func ValidateSnapshot(full string) error { return validateVersion(full, Snapshot) }

// ValidateBookmark checks a bookmark's full name, dataset#name. The error is a [*NameError].
func ValidateBookmark(full string) error { return validateVersion(full, Bookmark) }

func validateVersion(full string, want VersionType) error {
	_, versionType, _, err := SplitVersion(full)
	if err != nil {
		return err
	}
	if versionType != want {
		return &NameError{What: string(want), Name: full, Reason: "it is the name of a " + string(versionType)}
	}
	return nil
}

// SplitVersion takes the full name of a snapshot or bookmark apart and checks it. The error is a [*NameError].
func SplitVersion(full string) (dataset string, versionType VersionType, name string, err error) {
	at := strings.IndexAny(full, "@#")
	if at < 0 {
		return "", "", "", &NameError{What: "snapshot or bookmark", Name: full, Reason: "it has neither @ nor #"}
	}
	versionType = Snapshot
	if full[at] == '#' {
		versionType = Bookmark
	}
	dataset, name = full[:at], full[at+1:]
	switch {
	case strings.ContainsAny(name, "@#"):
		err = &NameError{What: string(versionType), Name: full, Reason: "it has more than one @ or #"}
	case strings.Contains(name, "/"):
		err = &NameError{What: string(versionType), Name: full, Reason: "there is a / after the " + full[at:at+1]}
	case name == "":
		err = &NameError{What: string(versionType), Name: full, Reason: "there is nothing after the " + full[at:at+1]}
	default:
		err = validateEntity(string(versionType), full)
	}
	if err != nil {
		return "", "", "", err
	}
	return dataset, versionType, name, nil
}

// validateEntity checks a full name that has at most one of @ and #, and no / after it.
func validateEntity(what, full string) error {
	if reason := entityProblem(full); reason != "" {
		return &NameError{What: what, Name: full, Reason: reason}
	}
	return nil
}

func entityProblem(full string) string {
	if full == "" {
		return "it is empty"
	}
	if len(full) > maxName {
		return fmt.Sprintf("it is %d bytes long and the limit is %d", len(full), maxName)
	}
	for _, component := range strings.FieldsFunc(full, isSeparator) {
		if component == "." || component == ".." {
			return fmt.Sprintf("a component is %q", component)
		}
	}
	if full[0] == '/' {
		return "it begins with a /"
	}
	if full[len(full)-1] == '/' {
		return "it ends with a /"
	}
	emptyBefore := true // so that an empty first component is found as well
	for i := range len(full) {
		c := full[i]
		switch {
		case isSeparator(rune(c)):
			if emptyBefore {
				return "a component is empty"
			}
			emptyBefore = true
		case !validChar(c):
			return fmt.Sprintf("the character %q is not allowed", rune(c))
		default:
			emptyBefore = false
		}
	}
	dataset, _, _ := strings.Cut(strings.ReplaceAll(full, "#", "@"), "@")
	if strings.Count(dataset, "/") >= maxNesting {
		return fmt.Sprintf("it is nested %d levels deep and the limit is %d", strings.Count(dataset, "/")+1, maxNesting)
	}
	pool, _, _ := strings.Cut(dataset, "/")
	return poolProblem(pool)
}

// poolProblem checks what pool_namecheck asks beyond the characters; zpool create has more reserved names ("spare", "log"),
// but pools with them can exist.
func poolProblem(pool string) string {
	switch first := pool[0]; {
	case (first < 'a' || first > 'z') && (first < 'A' || first > 'Z'):
		return "the pool's name does not begin with a letter"
	case pool == "mirror", pool == "raidz", pool == "draid":
		return fmt.Sprintf("the pool's name %q is reserved", pool)
	}
	return ""
}

func isSeparator(r rune) bool { return r == '/' || r == '@' || r == '#' }

// validChar is zfs_namecheck.c's valid_char. The kernel also allows "%", for names that it makes itself (the %recv
// clone of a receive); libzfs refuses it in names that a user gives, and so do we.
func validChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '_' || c == '.' || c == ':' || c == ' '
}

// ValidateHoldTag checks the tag of a user hold. The error is a [*NameError].
//
// OpenZFS is liberal here: a tag only must not be empty, too long, or begin with "." (libzfs reserves that). Beyond that,
// tags with tabs or line breaks are refused, since they could not be told apart in the output of zfs holds, and tags that
// begin with "-", which would be read as options.
func ValidateHoldTag(tag string) error {
	var reason string
	switch {
	case tag == "":
		reason = "it is empty"
	case len(tag) > maxHoldTag:
		reason = fmt.Sprintf("it is %d bytes long and the limit is %d", len(tag), maxHoldTag)
	case tag[0] == '.':
		reason = "tags that begin with . are reserved"
	case tag[0] == '-':
		reason = "it would be read as an option"
	case strings.ContainsFunc(tag, func(r rune) bool { return r < ' ' || r == 0x7f }):
		reason = "it has control characters"
	default:
		return nil
	}
	return &NameError{What: "hold tag", Name: tag, Reason: reason}
}
