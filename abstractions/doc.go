// Package abstractions keeps on disk what replication needs to go on: holds and bookmarks, in the formats of zrepl, so
// that a dataset that zrepl replicated continues incrementally here, and the other way round.
//
// # What there is
//
// Every abstraction belongs to one JobID (a job and one of its targets) on one filesystem. Abstractions of other
// JobIDs, and holds and bookmarks that are no abstractions at all, are never touched.
//
//	step hold           sender    hold tag zrepl_STEP_J_<jobid> on a running step's from, to, and what it carries between
//	step bookmark       sender    #zrepl_STEP_G_<guid>_J_<jobid>, where from is a bookmark and the pool can clone it
//	cursor              sender    #zrepl_CURSOR_G_<guid>_J_<jobid>, the last version that the receiver confirmed
//	tentative cursor    sender    #zrepl_CURSORTENTATIVE_G_<guid>_J_<jobid>, likewise
//	cursor v1           sender    #zrepl_replication_cursor, of old zrepl: read, and migrated
//	last-received hold  receiver  hold tag zrepl_last_received_J_<jobid>
//
// # A step
//
// A [Manager] acts at three moments of a step: [Manager.BeforeSend] protects what the sender needs while the step runs,
// [Manager.AfterReceive] protects the receiver's newest version, and [Manager.AfterConfirmation] moves the cursor and
// removes everything else. What each does depends on the step's protection:
//
//	                        before send                after receive        after confirmation
//	guarantee_resumability  step holds, step bookmark  last-received hold   cursor; the rest is removed
//	guarantee_incremental   tentative cursors          last-received hold   cursor; the rest is removed
//	guarantee_nothing       –                          –                    everything is removed
//
// New protection is always there before old protection goes, so that under all settings but guarantee_nothing there is
// no instant at which nothing protects the last version that the receiver has. Every moment may be repeated, after a
// crash at any point of it, and ends in the same set of abstractions. What failed steps left behind goes on the next.
//
// What is to be created and removed is decided by pure functions over a listing of the filesystem (moments.go); the
// Manager only carries it out.
//
// # Everything else
//
// [Manager.List] finds abstractions, [Stale] tells which nobody needs any more, [Manager.Destroy] removes them.
// Requests of concurrent steps are gathered into few commands, since every change costs a sync of a transaction group:
// holds and releases of a pool share commands, bookmarks share a channel program where the process may run one
// ([zfs.System.Bookmarks]), and bookmarks are destroyed at the same time. A cursor moves by creating the new one and then
// destroying the old: no OpenZFS destroys bookmarks in programs, and with that order there is always one.
//
// A step looks at the listing that validates it and needs no cache for bookmarks. Which holds are whose is remembered
// (holdcache.go); [Manager.Invalidate] forgets.
package abstractions
