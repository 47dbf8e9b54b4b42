// Package zstream compresses streams on their way, as a layer between the stream and whatever carries it:
//
//	zfs send ──▶ Reader ──▶ CopyFrom ═══▶ CopyTo ──▶ Writer ──▶ zfs recv
//
// The ways carry bytes and know nothing of it.
//
// # Whether it is worth it
//
// A Reader looks at the first MiB. Where zstd does not shrink that by at least a twentieth, as with streams that are
// encrypted or were compressed by ZFS (zfs send -w, -c), the stream goes as it is, and Note says so. In a stream that is
// compressed, single chunks that do not shrink go as they are.
//
// # Format
//
// The first byte says what follows: 0 for a stream as it is, 1 for zstd. Either is a sequence of chunks, numbers in
// big-endian order:
//
//	type      1 byte: 0 content as it is, 1 content as one zstd frame (RFC 8878), 2 the end
//	length    4 bytes: of the payload, at most 1 MiB
//	checksum  4 bytes: CRC-32C of the content of the whole stream up to this chunk's end
//	payload   the content; for the end, 8 bytes with the content's length
//
// A stream as it is has no zstd chunks. Every chunk has at least a byte of content, and at most 1 MiB. The end is there
// once and last, so that a stream cut anywhere is noticed; and since the checksums go over all that came before, so are
// chunks that are missing, twice, or in another order. A chunk's content is passed on only once it was checked: zfs recv
// gets nothing that is damaged, and keeps all that came before.
//
// Chunks are compressed one by one, without regard to those before. That costs a few percent of size for streams that
// repeat themselves over more than 1 MiB, and gives compression by several threads, checks at every MiB instead of at the
// end, and an upper bound for what a hostile sender can have the receiver allocate.
//
// # Memory
//
// A Reader has threads + 2 chunks in flight, each of 1 MiB and what it is compressed to (at most 1 MiB), and threads
// encoders. An encoder takes about 3 MiB for levels 1 and 2, 4 MiB for 3 to 5, 7 MiB for 6 to 9, and 37 MiB from 10 on
// (BenchmarkMemory). All of it is taken as it is needed: a stream of a few kilobytes has one encoder. A Writer has one
// chunk, compressed and not, and one decoder: less than 4 MiB, whatever comes.
//
// The levels are those of the zstd command, of which the library has four: 1 to 2, 3 to 5, 6 to 9, and 10 to 19 are one
// each.
package zstream
