// Writer: the receiver's side, which undoes the compression.

package zstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/zfleet/zfleet/protocol"
)

// Writer writes what a Reader was given into another writer. It starts no goroutine. Write is for one goroutine at a time;
// all else may be called at any time.
type Writer struct {
	to      io.Writer
	closing atomic.Bool
	writing atomic.Bool // within Write

	mu      sync.Mutex // held by Write, and by Close at its end
	decoder *zstd.Decoder
	begun   bool // the first byte was there
	mode    byte
	head    []byte // what is there of the next chunk's header
	next    header // valid once head is complete
	payload []byte // what is there of its payload
	content []byte
	sum     uint32
	ended   bool  // the mark of the end was there
	err     error // why nothing more is taken

	written, carried atomic.Int64
}

// NewWriter undoes the compression of what is written to it, and writes that into w.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w} }

// Statistics are the bytes so far: what was written into w, and what Write took for it.
func (z *Writer) Statistics() Statistics {
	return Statistics{Content: z.written.Load(), Carried: z.carried.Load()}
}

// Write takes some of the compressed stream, in pieces of any size, and writes the chunks that are complete into w,
// waiting for it. Its error is w's own; a transient *protocol.Failure where the stream is damaged, after all that came
// before the damage was written; a permanent one where its format is unknown; and os.ErrClosed after Close. After an
// error there are only errors.
func (z *Writer) Write(p []byte) (int, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.writing.Store(true)
	defer z.writing.Store(false)
	if z.closing.Load() {
		return 0, os.ErrClosed
	}
	total := 0
	for total < len(p) && z.err == nil {
		var n int
		n, z.err = z.take(p[total:])
		total += n
	}
	z.carried.Add(int64(total))
	return total, z.err
}

// take takes the next part of a chunk, or what there is of it, and acts on what is complete.
func (z *Writer) take(p []byte) (int, error) {
	switch {
	case z.ended:
		return 0, damaged("there are bytes after its end")
	case !z.begun:
		if p[0] != modeAsIs && p[0] != modeZstd {
			return 0, protocol.Failf(protocol.Permanent, "the stream is compressed in a format that this host does not know (%#02x):"+
				" bring zctl to the same version on both hosts", p[0])
		}
		z.begun, z.mode = true, p[0]
		return 1, nil
	case len(z.head) < headerSize:
		n := min(headerSize-len(z.head), len(p))
		if z.head = append(z.head, p[:n]...); len(z.head) < headerSize {
			return n, nil
		}
		z.next = parseHeader(z.head)
		return n, z.next.check(z.mode)
	}
	n := min(int(z.next.length)-len(z.payload), len(p))
	payload := p[:n]
	if n < int(z.next.length) {
		z.payload = append(z.payload, payload...)
		payload = z.payload
	}
	if len(payload) < int(z.next.length) {
		return n, nil
	}
	err := z.chunk(payload)
	z.head, z.payload = z.head[:0], z.payload[:0]
	return n, err
}

// check tells what is wrong with a chunk's header in a stream of the mode.
func (h header) check(mode byte) error {
	switch {
	case h.kind > chunkEnd || h.kind == chunkZstd && mode != modeZstd:
		return damaged("a chunk of type %#02x is none that can be there", h.kind)
	case h.kind == chunkEnd && h.length != endSize, h.length == 0, h.length > maxChunk:
		return damaged("a chunk of type %#02x cannot have %d bytes", h.kind, h.length)
	}
	return nil
}

// chunk checks a complete chunk and writes its content.
func (z *Writer) chunk(payload []byte) error {
	if z.next.kind == chunkEnd {
		return z.finish(payload)
	}
	content := payload
	if z.next.kind == chunkZstd {
		var err error
		if content, err = z.decompress(payload); err != nil {
			return damaged("%w", err)
		}
	}
	sum := checksum(z.sum, content)
	if sum != z.next.checksum {
		return damaged("the checksum is wrong")
	}
	z.sum = sum
	n, err := z.to.Write(content)
	z.written.Add(int64(n))
	if err == nil && n < len(content) {
		err = io.ErrShortWrite
	}
	return err
}

// finish takes the mark of the end.
func (z *Writer) finish(payload []byte) error {
	length, written := binary.BigEndian.Uint64(payload), z.written.Load()
	if z.next.checksum != z.sum || length != uint64(written) { //nolint:gosec // it only grows
		return damaged("%d bytes were sent, and %d arrived", length, written)
	}
	z.ended = true
	return nil
}

var errFrame = errors.New("a chunk is no zstd frame of the size that it may have")

// decompress undoes one zstd frame. Whatever it is, the result is of maxChunk at most, which the frame says beforehand.
func (z *Writer) decompress(frame []byte) ([]byte, error) {
	var described zstd.Header
	if err := described.Decode(frame); err != nil {
		return nil, err
	}
	size := described.FrameContentSize
	if !described.HasFCS || size == 0 || size > maxChunk {
		return nil, errFrame
	}
	if z.decoder == nil {
		var err error
		z.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxChunk),
			zstd.WithDecoderMaxWindow(maxChunk), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
	}
	if uint64(cap(z.content)) < size {
		z.content = make([]byte, 0, size)
	}
	content, err := z.decoder.DecodeAll(frame, z.content[:0:size])
	if err == nil && uint64(len(content)) != size {
		err = errFrame
	}
	return content, err
}

func damaged(format string, args ...any) error {
	return protocol.Failf(protocol.Transient, "the compressed stream is damaged: %w", fmt.Errorf(format, args...))
}

// SetWriteDeadline is that of w, by which a Write that waits for w can be interrupted. The error is os.ErrNoDeadline where
// w has none.
func (z *Writer) SetWriteDeadline(t time.Time) error {
	if limited, ok := z.to.(interface{ SetWriteDeadline(t time.Time) error }); ok {
		return limited.SetWriteDeadline(t)
	}
	return os.ErrNoDeadline
}

// Close says whether the stream was whole: nil if its end was there, the error that Write gave, or else a transient
// failure. It does not close w, except to interrupt a Write that is under way at this moment, for which it waits; a w
// that has no Close must not block for long. It can be called again, and says the same.
func (z *Writer) Close() error {
	z.closing.Store(true)
	if z.writing.Load() {
		if closer, ok := z.to.(io.Closer); ok {
			_ = closer.Close() // the Write fails with it
		}
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.decoder != nil {
		z.decoder.Close()
		z.decoder = nil
	}
	if z.err == nil && !z.ended {
		z.err = protocol.Failf(protocol.Transient, "the compressed stream broke off: after %s of it, its end is missing",
			protocol.ByteSize(z.written.Load())) //nolint:gosec // it only grows
	}
	return z.err
}
