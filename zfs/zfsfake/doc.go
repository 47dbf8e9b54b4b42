// Package zfsfake is a host with OpenZFS pools in memory. It answers zfs and zpool command lines with the output, the
// errors and the exit codes of OpenZFS 2.3, and so stands in for the real commands wherever a zfs.Runner is asked for.
//
//	host := zfsfake.New()
//	host.CreatePool("tank")
//	system := zfs.New(host)
//
// # What it guarantees
//
// For the command lines that this project emits (and many that an operator or a test types) standard output, standard
// error and exit code are those of OpenZFS 2.3.2, byte for byte apart from guids, txgs, times, sizes and tokens. The
// conformance suite in testdata/conformance holds it to that: its transcripts are recorded from real pools, and
// TestConformanceReal records and compares them again wherever real ZFS is at hand. Where fake and real pools differ,
// the fake is wrong.
//
//   - Filesystems, volumes, clones, snapshots, bookmarks and their copies, holds (also those that zfs send -I takes for
//     itself), deferred destruction, rollback, rename.
//   - guid, createtxg and creation: a received snapshot keeps its guid and its creation time and gets a createtxg of its
//     own pool. Every change takes a transaction group.
//   - Properties with inheritance and sources: local, received (send -p, -b), inherited, default; receive -o and -x.
//   - Send streams carry real bytes: full, -i from snapshots and bookmarks, -I, -t, -S, packages with properties. An
//     incremental stream carries what was born after its source, as ZFS decides by birth txg. Every record has a
//     chained checksum: a flipped, lost or repeated part is noticed. Cut anywhere, a stream leaves what zfs receive -s
//     leaves: all whole records, and a token that begins at the last of them.
//   - Streams flow: nothing holds a whole stream, generated contents (Generate) cost no memory on either side, a
//     reader that goes away ends the sender as SIGPIPE does, and the end of a context ends the command. zfs send -v and
//     -vP estimate and report their progress, by the fake's clock.
//   - Encryption as far as replication sees it: encryption, encryptionroot, keystatus, raw streams and the refusals
//     that come of them. Nothing is enciphered.
//
// # What it does not model
//
// Sizes are plausible, not exact; space is never short unless WithSize is given. There is no delegation, no quota, no
// mount table beyond the mounted property, no -j output but that of programs, no send -R, no redaction, no dedup, no corrective receive, no
// zfs diff, no promote. There is no interpreter of channel programs: zfs.BookmarkProgram is known by its text, and any
// other fails. The text of zfs's usage message is abridged. Streams and tokens have formats of their own and cannot be
// exchanged with real ZFS.
//
// # Tests with it
//
// Write, WriteAt, Generate and Remove change contents, ContentHash compares them, Versions and Datasets look without
// running a command. Commands and Count tell which commands were run. Inject makes commands fail, hang, crawl, break
// off or corrupt data; Watch signals that one has started, moved so many bytes, or ended, so that no test need sleep.
package zfsfake
