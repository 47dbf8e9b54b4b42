// The names of abstractions on disk: hold tags and bookmark names, in the formats of zrepl.

package abstractions

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

const (
	stepHoldPrefix         = "zrepl_STEP_J_"
	lastReceivedHoldPrefix = "zrepl_last_received_J_"

	stepBookmarkPrefix    = "zrepl_STEP_G_"
	cursorPrefix          = "zrepl_CURSOR_G_"
	tentativeCursorPrefix = "zrepl_CURSORTENTATIVE_G_"

	// zreplTentativeCursorPrefix is how released versions of zrepl spell it, with two underscores. It is read, never
	// written.
	zreplTentativeCursorPrefix = "zrepl_CURSORTENTATIVE__G_"

	cursorV1Name = "zrepl_replication_cursor"

	guidDigits     = 16
	jobIDSeparator = "_J_"
)

// HoldTag is the tag of a kind of hold for a JobID. A kind that is no hold has none: the tag is then empty.
func HoldTag(kind Kind, id protocol.JobID) string {
	switch kind {
	case StepHold:
		return stepHoldPrefix + string(id)
	case LastReceivedHold:
		return lastReceivedHoldPrefix + string(id)
	case StepBookmark, Cursor, CursorV1, TentativeCursor:
	}
	return ""
}

// ParseHoldTag is the inverse of [HoldTag]. It is false for tags that are not ours.
func ParseHoldTag(tag string) (Kind, protocol.JobID, bool) {
	for _, kind := range []Kind{StepHold, LastReceivedHold} {
		rest, found := strings.CutPrefix(tag, HoldTag(kind, ""))
		if !found {
			continue
		}
		id, err := protocol.ParseJobID(rest)
		return kind, id, err == nil
	}
	return "", "", false
}

// BookmarkName is the name, behind the "#", of a kind of bookmark for a version's guid and a JobID. Cursors of v1 have
// neither guid nor JobID in their name. A kind that is no bookmark has no name: it is then empty.
func BookmarkName(kind Kind, guid uint64, id protocol.JobID) string {
	prefix := ""
	switch kind {
	case StepBookmark:
		prefix = stepBookmarkPrefix
	case Cursor:
		prefix = cursorPrefix
	case TentativeCursor:
		prefix = tentativeCursorPrefix
	case CursorV1:
		return cursorV1Name
	case StepHold, LastReceivedHold:
		return ""
	}
	return fmt.Sprintf("%s%0*x%s%s", prefix, guidDigits, guid, jobIDSeparator, id)
}

// ParseBookmarkName is the inverse of [BookmarkName]; tentative cursors are also found as zrepl spells them. It is
// false for names that are not ours.
func ParseBookmarkName(name string) (Kind, uint64, protocol.JobID, bool) {
	if name == cursorV1Name {
		return CursorV1, 0, "", true
	}
	prefixes := []struct {
		kind   Kind
		prefix string
	}{
		{StepBookmark, stepBookmarkPrefix},
		{Cursor, cursorPrefix},
		{TentativeCursor, tentativeCursorPrefix},
		{TentativeCursor, zreplTentativeCursorPrefix},
	}
	for _, known := range prefixes {
		rest, found := strings.CutPrefix(name, known.prefix)
		if !found {
			continue
		}
		guid, id, ok := parseGUIDAndJobID(rest)
		return known.kind, guid, id, ok
	}
	return "", 0, "", false
}

func parseGUIDAndJobID(s string) (uint64, protocol.JobID, bool) {
	if len(s) < guidDigits {
		return 0, "", false
	}
	digits := s[:guidDigits]
	guid, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || strings.ToLower(digits) != digits {
		return 0, "", false
	}
	rest, found := strings.CutPrefix(s[guidDigits:], jobIDSeparator)
	if !found {
		return 0, "", false
	}
	id, err := protocol.ParseJobID(rest)
	return guid, id, err == nil
}
