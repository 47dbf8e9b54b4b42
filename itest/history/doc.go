// Package history records what processes of a fleet do to a shared thing, and checks afterwards that it can be explained.
//
// A replication cursor and the coordinators' lease are used by many processes at the same time. Whether what each of them
// saw was right cannot be told from one place. So every operation is recorded with its begin, its end and its outcome, and
// when all is over, the checker (porcupine) looks for an order of the operations, one that agrees with their begins and ends,
// in which a simple sequential model gives every one of them the outcome that it had. Where there is none, the history is
// not linearizable: two coordinators held the lease, or a cursor went back.
//
//   - [Cursor] is a register for each cursor: a move is done only forward (by createtxg), and a reader sees the last move.
//   - [Lease] has at most one holder. It is acquired only when nobody holds it, which is also so when its holder has not
//     renewed it for its time to live. Somebody who has lost it cannot renew it.
//
// An operation whose outcome its process never learned, because a connection broke or the process was killed, may have had
// its effect or not, at any time after its begin: End it as unknown, or not at all.
//
//	cursors := history.NewCursor()
//	move := cursors.Move("alpha-1", "prod.bravo tank/data", history.Position{GUID: 7, CreateTXG: 42})
//	err := setCursor(…)
//	move.End(err == nil) // or move.Unknown()
//	…
//	require.NoError(t, cursors.Check(t.ArtifactDir()))
//
// All methods may be called from any number of goroutines.
package history
