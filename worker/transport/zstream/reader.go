// Reader: the sender's side, which compresses.

package zstream

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/zfleet/zfleet/protocol"
)

// Options say how a Reader compresses.
type Options struct {
	// Level is that of zstd, from 1 to 19.
	Level int
	// Threads is how many chunks are compressed at once; 0 is one for each processor, but at most 4.
	Threads int
}

const (
	defaultThreads = 4
	// minBuffer is what a chunk has room for at first, so that a stream of a few kilobytes takes no more than it needs.
	minBuffer = 64 << 10
	// patience is how long content waits for its chunk to be full, as long as more comes.
	patience = time.Second
	// worthwhile is to how many percent zstd must shrink the first chunk.
	worthwhile = 95
)

// Reader gives what another reader gives, compressed. It begins to read that with the first Read, in a goroutine of its
// own, and is to be closed. Read is for one goroutine at a time; all else may be called at any time.
type Reader struct {
	source  io.Reader
	options Options

	begin   sync.Once
	running sync.WaitGroup
	closed  chan struct{}

	mu      sync.Mutex
	reading bool // within the source's Read
	ended   bool // closed is closed

	free    chan *chunk // to be filled
	filled  chan *chunk // for Read, in order; closed after the last
	end     error       // what Read gives after the last; set before filled is closed
	current *chunk      // what Read is at
	rest    [2][]byte   // what is left of it

	encoders chan *zstd.Encoder // those that are not at work
	made     int                // how many there are

	note             atomic.Pointer[string]
	content, carried atomic.Int64
}

// chunk is one chunk on its way.
type chunk struct {
	content []byte
	frame   []byte        // the content, compressed
	head    []byte        // what comes before the payload
	payload []byte        // content, frame, or the end's
	ready   chan struct{} // has an element when head and payload are there
}

// NewReader compresses what r gives.
func NewReader(r io.Reader, options Options) *Reader {
	if options.Threads <= 0 {
		options.Threads = min(runtime.GOMAXPROCS(0), defaultThreads)
	}
	inFlight := options.Threads + 2 // one that is being filled, and one that is being sent
	z := &Reader{
		source: r, options: options, closed: make(chan struct{}),
		free: make(chan *chunk, inFlight), filled: make(chan *chunk, inFlight),
		encoders: make(chan *zstd.Encoder, options.Threads),
	}
	for range inFlight {
		z.free <- &chunk{ready: make(chan struct{}, 1)}
	}
	return z
}

// Note says for people why the stream goes as it is. It is empty where the stream is compressed, and as long as that is
// not known, which is until the first Read has returned.
func (z *Reader) Note() string {
	if note := z.note.Load(); note != nil {
		return *note
	}
	return ""
}

// Statistics are the bytes so far: what was read from the source, and what Read gave for it.
func (z *Reader) Statistics() Statistics {
	return Statistics{Content: z.content.Load(), Carried: z.carried.Load()}
}

// Read gives the compressed stream. Its error is io.EOF after the mark of the end, which is there only if the source came
// to its own io.EOF; the source's error as it was, after what came before it; and os.ErrClosed after Close.
func (z *Reader) Read(p []byte) (int, error) {
	z.begin.Do(func() { z.running.Go(z.run) })
	if len(p) == 0 {
		return 0, nil
	}
	if z.current == nil {
		if err := z.next(); err != nil {
			return 0, err
		}
	}
	total := 0
	for i, part := range z.rest {
		n := copy(p[total:], part)
		z.rest[i] = part[n:]
		total += n
	}
	if len(z.rest[0])+len(z.rest[1]) == 0 {
		z.free <- z.current
		z.current = nil
	}
	z.carried.Add(int64(total))
	return total, nil
}

// next waits for the next chunk and makes it the current one.
func (z *Reader) next() error {
	var c *chunk
	select {
	case <-z.closed:
		return os.ErrClosed
	case c = <-z.filled:
	}
	if c == nil {
		return z.end
	}
	select {
	case <-z.closed:
		return os.ErrClosed
	case <-c.ready:
		z.current, z.rest = c, [2][]byte{c.head, c.payload}
		return nil
	}
}

// Close ends the reading, and waits for what is under way. It does not close the source, except to interrupt a Read of
// it, where that has no SetReadDeadline; a source that has neither must not block for long. The error is always nil.
func (z *Reader) Close() error {
	z.begin.Do(func() {
		z.end = os.ErrClosed
		close(z.filled)
	})
	z.interrupt()
	z.running.Wait()
	return nil
}

func (z *Reader) interrupt() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.ended {
		return
	}
	z.ended = true
	close(z.closed)
	if !z.reading {
		return
	}
	if limited, ok := z.source.(interface{ SetReadDeadline(t time.Time) error }); ok && limited.SetReadDeadline(time.Unix(1, 0)) == nil {
		return
	}
	if closer, ok := z.source.(io.Closer); ok {
		_ = closer.Close() // nobody is interested in the stream any more
	}
}

// read is a Read of the source, unless the Reader was closed.
func (z *Reader) read(p []byte) (int, error) {
	z.mu.Lock()
	if z.ended {
		z.mu.Unlock()
		return 0, os.ErrClosed
	}
	z.reading = true
	z.mu.Unlock()
	n, err := z.source.Read(p)
	z.mu.Lock()
	z.reading = false
	z.mu.Unlock()
	return n, err
}

// run reads the source to its end, and has it compressed chunk by chunk.
func (z *Reader) run() {
	defer close(z.filled)
	if z.end = z.copy(); z.end == nil {
		z.end = io.EOF
	}
}

// copy is nil after the mark of the end.
func (z *Reader) copy() error {
	var sum uint32
	compress := false
	for first := true; ; first = false {
		c, err := z.take()
		if err != nil {
			return err
		}
		err = z.fill(c)
		if first {
			mode, failure := z.mode(c)
			if failure != nil {
				return failure
			}
			c.head, compress = append(c.head, mode), mode == modeZstd
		}
		if len(c.content) > 0 {
			sum = checksum(sum, c.content)
			if failure := z.send(c, sum, compress); failure != nil {
				return failure
			}
			if err == nil {
				continue
			}
			var failure error
			if c, failure = z.take(); failure != nil {
				return failure
			}
		}
		if err != io.EOF { //nolint:errorlint // unwrapped, or it is no clean end
			return err
		}
		c.finish(chunkEnd, binary.BigEndian.AppendUint64(nil, uint64(z.content.Load())), sum) //nolint:gosec // it only grows
		z.filled <- c
		return nil
	}
}

// take waits for a chunk that can be filled.
func (z *Reader) take() (*chunk, error) {
	select {
	case <-z.closed:
		return nil, os.ErrClosed
	case c := <-z.free:
		c.content, c.frame, c.head = c.content[:0], c.frame[:0], c.head[:0]
		return c, nil
	}
}

// fill reads content until the chunk is full, or until what it has has waited long enough. An error, be it io.EOF, is the
// source's, and comes after the content that was read.
func (z *Reader) fill(c *chunk) error {
	var since time.Time
	for len(c.content) < maxChunk {
		if len(c.content) == cap(c.content) {
			c.content = slices.Grow(c.content, min(max(minBuffer, len(c.content)), maxChunk-len(c.content)))
		}
		n, err := z.read(c.content[len(c.content):min(cap(c.content), maxChunk)])
		c.content = c.content[:len(c.content)+n]
		z.content.Add(int64(n))
		if err != nil {
			return err
		}
		switch now := time.Now(); {
		case len(c.content) == n: // the first of it
			since = now
		case now.Sub(since) >= patience:
			return nil
		}
	}
	return nil
}

// mode tries zstd on the stream's first chunk, says how the stream goes, and writes the note if that is as it is.
func (z *Reader) mode(c *chunk) (byte, error) {
	if len(c.content) == 0 {
		return modeAsIs, nil
	}
	encoder, err := z.encoder()
	if err != nil {
		return 0, err
	}
	c.frame = encoder.EncodeAll(c.content, c.frame)
	z.encoders <- encoder
	before, after := len(c.content), len(c.frame)
	if 100*after <= worthwhile*before {
		return modeZstd, nil
	}
	note := fmt.Sprintf("zstd: the first %s shrank to %d %% only, so the stream goes as it is", protocol.ByteSize(before),
		min((100*after+before/2)/before, 100))
	z.note.Store(&note)
	return modeAsIs, nil
}

// send gives the chunk to Read, and has it compressed meanwhile.
func (z *Reader) send(c *chunk, sum uint32, compress bool) error {
	if !compress {
		c.finish(chunkAsIs, c.content, sum)
		z.filled <- c
		return nil
	}
	encoder, err := z.encoder()
	if err != nil {
		return err
	}
	z.filled <- c
	z.running.Go(func() {
		if len(c.frame) == 0 { // the first was tried before
			c.frame = encoder.EncodeAll(c.content, c.frame)
		}
		z.encoders <- encoder
		if len(c.frame) < len(c.content) {
			c.finish(chunkZstd, c.frame, sum)
		} else {
			c.finish(chunkAsIs, c.content, sum)
		}
	})
	return nil
}

// finish makes the chunk one that Read can give.
func (c *chunk) finish(kind byte, payload []byte, sum uint32) {
	h := header{kind: kind, length: uint32(len(payload)), checksum: sum} //nolint:gosec // at most maxChunk
	c.head, c.payload = h.append(c.head), payload
	c.ready <- struct{}{}
}

// encoder gives one that is not at work, makes one, or waits, so that there are no more than are needed.
func (z *Reader) encoder() (*zstd.Encoder, error) {
	select {
	case encoder := <-z.encoders:
		return encoder, nil
	default:
	}
	if z.made < z.options.Threads {
		encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxChunk),
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(z.options.Level)))
		if err != nil {
			return nil, fmt.Errorf("make a zstd encoder of level %d: %w", z.options.Level, err)
		}
		z.made++
		return encoder, nil
	}
	select {
	case <-z.closed:
		return nil, os.ErrClosed
	case encoder := <-z.encoders:
		return encoder, nil
	}
}
