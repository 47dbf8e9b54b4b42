// The format: what Reader writes and Writer reads.

package zstream

import (
	"encoding/binary"
	"hash/crc32"
)

// maxChunk is the most content of a chunk.
const maxChunk = 1 << 20

// The first byte of a stream.
const (
	modeAsIs = 0
	modeZstd = 1
)

// The types of chunks.
const (
	chunkAsIs = 0
	chunkZstd = 1
	chunkEnd  = 2
)

const (
	headerSize = 9
	endSize    = 8
)

// header is what comes before a chunk's payload.
type header struct {
	kind     byte
	length   uint32
	checksum uint32
}

func (h header) append(to []byte) []byte {
	to = binary.BigEndian.AppendUint32(append(to, h.kind), h.length)
	return binary.BigEndian.AppendUint32(to, h.checksum)
}

// parseHeader reads what append wrote.
func parseHeader(from []byte) header {
	return header{kind: from[0], length: binary.BigEndian.Uint32(from[1:]), checksum: binary.BigEndian.Uint32(from[5:])}
}

// checksum is that of a stream of which the beginning has the given checksum, and content follows.
func checksum(before uint32, content []byte) uint32 {
	return crc32.Update(before, crc32.MakeTable(crc32.Castagnoli), content)
}

// Statistics are the bytes of a stream so far.
type Statistics struct {
	// Content is how much of the stream there was before compression, or after it was undone.
	Content int64
	// Carried is how much of it there was on its way.
	Carried int64
}
