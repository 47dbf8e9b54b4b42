// The format of the fake's send streams: records with a checksum each, chained so that a lost, repeated or exchanged
// record is noticed as surely as a changed byte.
//
// A record is a header of 16 bytes (magic, type, three zero bytes, length of the payload, checksum of the header), the
// payload, and 4 bytes of checksum over everything of this stream so far. Checksums are CRC-32C.

package zfsfake

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
)

type recordType uint8

const (
	recordPackage    recordType = 1 + iota // begins a package of streams (-I, -p, -b), with properties
	recordPackageEnd                       // ends it
	recordBegin                            // begins the stream of one snapshot
	recordEnd                              // ends it
	recordObject                           // makes or resizes a file
	recordWrite                            // writes into a file
	recordRemove                           // removes a file
)

const (
	recordHeader  = 16
	recordTrailer = 4
	chunkSize     = 128 << 10 // most data in one recordWrite
	maxPayload    = 64 << 20
)

var (
	recordMagic = [4]byte{'z', 'f', 's', 'k'}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// packageHeader is the payload of recordPackage.
type packageHeader struct {
	ToName     string
	Raw        bool
	Properties map[string]string            // of the filesystem; nil without -p and -b
	Snapshots  map[string]map[string]string // user properties of snapshots, by name
}

// streamHeader is the payload of recordBegin.
type streamHeader struct {
	ToName   string
	ToGUID   uint64
	FromGUID uint64
	Creation int64
	Volume   bool
	Size     string `json:",omitempty"` // of a volume

	Raw, Compressed, LargeBlocks, Embedded, Saved bool

	Resuming       bool
	Object, Offset uint64

	Encryption string `json:",omitempty"` // of raw streams, as the two that follow
	KeyGUID    uint64 `json:",omitempty"`
	KeyFormat  string `json:",omitempty"`
}

// writeRecord is the payload of recordWrite, before the data.
type writeRecord struct {
	object, offset uint64
	generated      bool
	seed, start    uint64
	data           []byte
}

const writeFixed = 8 + 8 + 1 + 8 + 8

// streamWriter writes records.
type streamWriter struct {
	out    io.Writer
	sum    uint32
	buffer []byte
	err    error
}

// record writes one record, whose payload fill appends to the buffer it is given.
func (w *streamWriter) record(kind recordType, fill func([]byte) []byte) error {
	if w.err != nil {
		return w.err
	}
	if kind == recordPackage || kind == recordBegin {
		w.sum = 0
	}
	b := append(w.buffer[:0], recordMagic[:]...)
	b = append(b, byte(kind), 0, 0, 0)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	if fill != nil {
		b = fill(b)
	}
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-recordHeader)) //nolint:gosec // bounded by maxPayload
	binary.BigEndian.PutUint32(b[12:], crc32.Checksum(b[:12], castagnoli))
	w.sum = crc32.Update(w.sum, castagnoli, b)
	b = binary.BigEndian.AppendUint32(b, w.sum)
	w.buffer = b
	_, w.err = w.out.Write(b)
	return w.err
}

func (w *streamWriter) header(kind recordType, header any) error {
	return w.record(kind, func(b []byte) []byte {
		text, err := json.Marshal(header)
		if err != nil {
			panic(err) // strings and numbers only
		}
		return append(b, text...)
	})
}

func (w *streamWriter) object(f *file) error {
	return w.record(recordObject, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint64(b, f.object)
		b = binary.BigEndian.AppendUint64(b, f.size)
		return append(b, f.path...)
	})
}

func (w *streamWriter) remove(path string) error {
	return w.record(recordRemove, func(b []byte) []byte { return append(b, path...) })
}

// write writes a part of an extent that begins at position from within it.
func (w *streamWriter) write(object uint64, e extent, from, length uint64) error {
	return w.record(recordWrite, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint64(b, object)
		b = binary.BigEndian.AppendUint64(b, e.offset+from)
		if e.data == nil {
			b = append(b, 1)
			b = binary.BigEndian.AppendUint64(b, e.seed)
			b = binary.BigEndian.AppendUint64(b, e.start+from)
		} else {
			b = append(b, make([]byte, 17)...)
		}
		n := len(b)
		if need := n + int(length); cap(b) < need+recordTrailer { //nolint:gosec // at most chunkSize
			grown := make([]byte, n, need+recordTrailer)
			copy(grown, b)
			b = grown
		}
		b = b[:n+int(length)] //nolint:gosec // at most chunkSize
		e.read(b[n:], from)
		return b
	})
}

var (
	errIncomplete = errors.New("incomplete stream")
	errChecksum   = errors.New("checksum mismatch")
	errMagic      = errors.New("invalid stream (bad magic number)")
)

// streamReader reads records.
type streamReader struct {
	in     io.Reader
	sum    uint32
	buffer []byte
}

// next reads a record. The payload is valid until the next call.
func (r *streamReader) next() (recordType, []byte, error) {
	if cap(r.buffer) < recordHeader {
		r.buffer = make([]byte, recordHeader, 64<<10)
	}
	header := r.buffer[:recordHeader]
	if err := r.fill(header); err != nil {
		return 0, nil, err
	}
	if [4]byte(header[:4]) != recordMagic {
		return 0, nil, errMagic
	}
	kind := recordType(header[4])
	length := binary.BigEndian.Uint32(header[8:])
	if binary.BigEndian.Uint32(header[12:]) != crc32.Checksum(header[:12], castagnoli) || length > maxPayload {
		return 0, nil, errChecksum
	}
	if kind == recordPackage || kind == recordBegin {
		r.sum = 0
	}
	size := recordHeader + int(length) + recordTrailer
	if cap(r.buffer) < size {
		grown := make([]byte, size)
		copy(grown, header)
		r.buffer = grown
	}
	record := r.buffer[:size]
	if err := r.fill(record[recordHeader:]); err != nil {
		return 0, nil, err
	}
	r.sum = crc32.Update(r.sum, castagnoli, record[:size-recordTrailer])
	if binary.BigEndian.Uint32(record[size-recordTrailer:]) != r.sum {
		return 0, nil, errChecksum
	}
	return kind, record[recordHeader : size-recordTrailer], nil
}

func (r *streamReader) fill(buffer []byte) error {
	_, err := io.ReadFull(r.in, buffer)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errIncomplete
	}
	return err
}

// parseWrite reads the payload of recordWrite and checks that generated data is what it says it is, so that it need
// not be kept.
func parseWrite(payload, scratch []byte) (writeRecord, error) {
	if len(payload) < writeFixed || len(payload) > writeFixed+chunkSize {
		return writeRecord{}, errChecksum
	}
	w := writeRecord{
		object:    binary.BigEndian.Uint64(payload),
		offset:    binary.BigEndian.Uint64(payload[8:]),
		generated: payload[16] == 1,
		seed:      binary.BigEndian.Uint64(payload[17:]),
		start:     binary.BigEndian.Uint64(payload[25:]),
		data:      payload[writeFixed:],
	}
	if w.generated {
		expected := scratch[:len(w.data)]
		generate(expected, w.seed, w.start)
		if string(expected) != string(w.data) {
			return writeRecord{}, errChecksum
		}
	}
	return w, nil
}
