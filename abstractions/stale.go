// Staleness: which abstractions nobody needs any more.

package abstractions

import (
	"context"
	"slices"

	"github.com/zfleet/zfleet/protocol"
)

// Stale divides abstractions into those that no step and no cursor needs any more and all others, in their order. For each
// JobID on each filesystem, what is stale are
//   - all cursors but the newest,
//   - step holds and step bookmarks older than the newest cursor,
//   - tentative cursors that are not newer than the newest cursor, which protects as much,
//   - all last-received holds but the newest.
//
// Cursors of v1 are never stale: migration removes them. The abstractions must be all that the JobIDs have on their filesystems:
// with only some of them, as from a query for a range of createtxg, too few are found stale.
func Stale(all []Abstraction) (stale, live []Abstraction) {
	type owner struct {
		filesystem string
		id         protocol.JobID
		kind       Kind
	}
	newest := make(map[owner]uint64)
	for _, abstraction := range all {
		of := owner{abstraction.Filesystem, abstraction.JobID, abstraction.Kind}
		newest[of] = max(newest[of], abstraction.CreateTXG)
	}
	for _, abstraction := range all {
		newestOf := func(kind Kind) uint64 { return newest[owner{abstraction.Filesystem, abstraction.JobID, kind}] }
		obsolete := false
		switch abstraction.Kind {
		case Cursor, StepHold, StepBookmark:
			obsolete = abstraction.CreateTXG < newestOf(Cursor)
		case TentativeCursor:
			obsolete = abstraction.CreateTXG <= newestOf(Cursor)
		case LastReceivedHold:
			obsolete = abstraction.CreateTXG < newestOf(LastReceivedHold)
		case CursorV1:
		}
		if obsolete {
			stale = append(stale, abstraction)
		} else {
			live = append(live, abstraction)
		}
	}
	return stale, live
}

// ListStale lists what is stale among what the query matches. To judge that, it looks at all kinds and at any createtxg.
// The errors are those of List.
func (m *Manager) ListStale(ctx context.Context, query Query) ([]Abstraction, []error) {
	everything := query
	everything.Kinds, everything.CreateTXG = nil, TXGRange{}
	all, failures := m.ListAll(ctx, everything)
	stale, _ := Stale(all)
	return slices.DeleteFunc(stale, func(abstraction Abstraction) bool { return !query.matches(abstraction) }), failures
}
