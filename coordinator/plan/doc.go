// Package plan decides what has to be sent. It compares what a source and a target have of each filesystem, and answers
// with the steps that bring the target up to date, or with the conflict that prevents it and what an operator can do
// about it.
//
// The package is pure: it does no I/O, reads no clock and draws no random numbers. The same input, in whatever order,
// gives the same plan, so a plan can be made anew at any time: after a failed try, after a restart, by another leader.
//
// # How a pair is planned
//
// A pair is one filesystem or volume on the source and the place where it lands on the target. Versions are compared by
// guid alone; names and times only appear in explanations.
//
//  1. The common version is the newest version on the source, snapshot or bookmark, that the target has as a snapshot.
//     Replication cursors are bookmarks like any other, which is why replication goes on after the common snapshot was
//     destroyed on the source.
//  2. With a common version, the wanted snapshots after it are sent in order. Neighbours become one step (zfs send -I);
//     a snapshot that is not wanted ends such a range, and a bookmark can only begin a single increment.
//  3. Without one, the target must have nothing at all, or a placeholder, or the partial state of a first replication;
//     then the job's initial policy says what is sent in full.
//  4. A partial state on the target is gone on with if it is of the very send that comes next.
//  5. Everything else is a conflict, and a conflict has no steps: nothing is changed until an operator has decided.
//
// The file docs/planning.md explains the same for operators, with every conflict and its remedies.
package plan
