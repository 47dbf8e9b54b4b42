// The kinds of abstraction.

package abstractions

import (
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

// Kind is one kind of abstraction.
type Kind string

// The kinds of abstraction.
const (
	// StepHold is a hold on the from or to of a running step.
	StepHold Kind = "step-hold"
	// StepBookmark is a bookmark of the from of a running step, where from is itself a bookmark.
	StepBookmark Kind = "step-bookmark"
	// Cursor is the bookmark of the last version that the receiver confirmed.
	Cursor Kind = "cursor"
	// CursorV1 is the cursor of zrepl before 0.3, which belonged to no JobID.
	CursorV1 Kind = "cursor-v1"
	// TentativeCursor is a bookmark of the from or to of a running step.
	TentativeCursor Kind = "tentative-cursor"
	// LastReceivedHold is a hold on the last snapshot that a receiver received.
	LastReceivedHold Kind = "last-received-hold"
)

// AllKinds are all kinds, in the order in which they are documented.
func AllKinds() []Kind {
	return []Kind{StepHold, StepBookmark, Cursor, TentativeCursor, CursorV1, LastReceivedHold}
}

// SenderKinds are the kinds that a sender creates for a JobID.
func SenderKinds() []Kind { return []Kind{StepHold, StepBookmark, Cursor, TentativeCursor} }

// ParseKind is the kind of the given name.
func ParseKind(name string) (Kind, error) {
	names := make([]string, 0, len(AllKinds()))
	for _, kind := range AllKinds() {
		if string(kind) == name {
			return kind, nil
		}
		names = append(names, string(kind))
	}
	return "", protocol.Usagef("kind %q: use one of %s", name, strings.Join(names, ", "))
}

// IsHold tells whether abstractions of this kind are holds; the others are bookmarks.
func (k Kind) IsHold() bool { return k == StepHold || k == LastReceivedHold }
