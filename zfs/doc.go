// Package zfs is OpenZFS as typed Go, over the zfs and zpool commands.
//
// Everything goes through one seam, [Runner]: an argument vector in, an exit status and standard error out. [NewExecRunner]
// runs the real commands, package zfsfake answers the same command lines from memory, and [Observe] adds spans and logs to
// either. On top of it stands [System], whose methods are the operations that replication needs:
//
//   - [System.List] and [System.Get] read filesystems, volumes and their versions (snapshots and bookmarks) with one command;
//   - [System.Features] and [System.Pools] say what this host and its pools can do;
//   - [System.ValidateSend] compares what is to be sent with what the pool holds, and only what it has approved can be
//     given to [System.Send], which answers with a [SendStream] that also says how far it is and how much is expected;
//   - [System.Recv] receives, and says in a [RecvError] why it could not;
//   - [System.Pipe] joins both by a pipe of the kernel's, and tells in a [PipeError] which side failed;
//   - [System.DecodeResumeToken] reads resume tokens, and [ResumeToken.Matches] compares them with a send;
//   - [System.Hold], [System.Release], [System.Bookmark], [System.Destroy] and [System.Snapshot] change one thing each and are
//     idempotent: done before is done.
//
// Names follow OpenZFS's own rules (name.go) and are validated before they reach a command line, so that a name can never
// be read as an option or as a list of names.
//
// # Errors
//
// A command that ran and failed is a [*CommandError] somewhere in the error's chain. Where the reason can be told from what
// the command printed, an error type of its own is in front of it: [*DatasetDoesNotExist], [*RecvError], [*BookmarkExists],
// [*DestroyError] and others. OpenZFS has no machine-readable errors for these commands; the texts that are matched are
// those of lib/libzfs in the C locale, which the runner fixes.
package zfs
