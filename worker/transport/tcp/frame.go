// Frames: the unit of everything that is said on a data connection.

package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// frameType is the first byte of a frame. The values of both directions differ, so that a connection that talks to itself
// is noticed at once.
type frameType byte

const (
	frameHello     frameType = 0x01 // sender: who it is
	frameHeader    frameType = 0x02 // sender: protocol.StreamHeader
	frameData      frameType = 0x03 // sender: bytes of the stream
	frameAlive     frameType = 0x04 // sender: nothing to say, but alive
	frameEnd       frameType = 0x05 // sender: the stream was complete; its length
	frameAbort     frameType = 0x06 // sender: protocol.Failure; the stream ends here, incomplete
	frameAccept    frameType = 0x81 // receiver: go on
	frameRefuse    frameType = 0x82 // receiver: protocol.Failure; the connection ends here
	framePeerAlive frameType = 0x84 // receiver: nothing to say, but alive
	frameConfirm   frameType = 0x85 // receiver: protocol.Confirmation
)

const (
	frameHeaderSize = 5       // the type, and the payload's length as a big-endian uint32
	maxData         = 1 << 20 // payload of a data frame
	maxMessage      = 1 << 16 // payload of a frame that holds a msgpack message
	maxReason       = 1 << 14 // length of a failure's message: what is longer is cut

	helloMagic   = "ZFLEET"
	helloVersion = 1
	helloSize    = len(helloMagic) + 2 + 2 + 4 + secretSize
	secretSize   = 32
	endSize      = 8

	// maxPromise bounds the stall time that a hello may ask the receiver's signs of life for.
	maxPromise = 24 * time.Hour
)

// frameError is a violation of the framing: the peer is no zfleet worker, or the bytes were damaged on their way.
type frameError struct{ problem string }

func (e *frameError) Error() string { return e.problem }

func frameErrorf(format string, args ...any) error {
	return &frameError{problem: fmt.Sprintf(format, args...)}
}

// payloadLimits gives the least and the greatest payload of a frame of type t; ok is false for unknown types.
func payloadLimits(t frameType) (least, greatest uint32, ok bool) {
	switch t {
	case frameHello:
		return uint32(helloSize), uint32(helloSize), true
	case frameData:
		return 1, maxData, true
	case frameAlive, framePeerAlive, frameAccept:
		return 0, 0, true
	case frameEnd:
		return endSize, endSize, true
	case frameHeader, frameAbort, frameRefuse, frameConfirm:
		return 1, maxMessage, true
	default:
		return 0, 0, false
	}
}

func putFrameHeader(dst []byte, t frameType, length int) {
	dst[0] = byte(t)
	binary.BigEndian.PutUint32(dst[1:frameHeaderSize], uint32(length)) //nolint:gosec // every caller is within maxData
}

// readFrameHeader reads a frame up to its payload, and checks the type and the length. At the end of r it returns io.EOF
// between frames, and io.ErrUnexpectedEOF within one.
func readFrameHeader(r io.Reader) (frameType, int, error) {
	var header [frameHeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, 0, err
	}
	t := frameType(header[0])
	length := binary.BigEndian.Uint32(header[1:])
	least, greatest, ok := payloadLimits(t)
	if !ok {
		return 0, 0, frameErrorf("unknown frame type 0x%02x", byte(t))
	}
	if length < least || length > greatest {
		return 0, 0, frameErrorf("frame of type 0x%02x with %d bytes, which has to have %d to %d", byte(t), length, least, greatest)
	}
	return t, int(length), nil
}

// readPayload reads a payload that is small enough to be held in memory.
func readPayload(r io.Reader, length int) ([]byte, error) {
	payload := make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return payload, nil
}

// readFrame reads one frame of any type but data.
func readFrame(r io.Reader) (frameType, []byte, error) {
	t, length, err := readFrameHeader(r)
	if err != nil {
		return 0, nil, err
	}
	if t == frameData {
		return 0, nil, frameErrorf("data where no data can be")
	}
	payload, err := readPayload(r, length)
	return t, payload, err
}

// frame is a whole frame as bytes.
func frame(t frameType, payload []byte) []byte {
	whole := make([]byte, frameHeaderSize+len(payload))
	putFrameHeader(whole, t, len(payload))
	copy(whole[frameHeaderSize:], payload)
	return whole
}

// messageFrame is a frame that holds a msgpack message.
func messageFrame(t frameType, message any) ([]byte, error) {
	payload, err := protocol.Encode(message)
	if err != nil {
		return nil, err
	}
	if len(payload) > maxMessage {
		return nil, protocol.Failf(protocol.Permanent, "a message of %d bytes does not fit into a frame of %d", len(payload), maxMessage)
	}
	return frame(t, payload), nil
}

// failureFrame is a frame that holds a failure, its message cut to what a frame can hold.
func failureFrame(t frameType, failure *protocol.Failure) ([]byte, error) {
	return messageFrame(t, cutFailure(failure))
}

func cutFailure(failure *protocol.Failure) *protocol.Failure {
	if failure == nil || len(failure.Message) <= maxReason {
		return failure
	}
	short := *failure
	short.Message = failure.Message[:maxReason] + " …"
	return &short
}

// decodeFailure reads a failure frame's payload.
func decodeFailure(payload []byte) (*protocol.Failure, error) {
	failure := new(protocol.Failure)
	if err := protocol.Decode(payload, failure); err != nil {
		return nil, err
	}
	return failure, nil
}

// hello is the sender's first frame. It has a fixed size, so that nothing else is parsed before the secret is checked.
type hello struct {
	secret [secretSize]byte
	// stall is the sender's stall time: the receiver gives signs of life at a third of it. In whole milliseconds.
	stall time.Duration
}

// versionError is a hello of another version of the framing.
type versionError struct{ theirs uint16 }

func (e *versionError) Error() string {
	return fmt.Sprintf("the sender speaks version %d of the data protocol and the receiver version %d: run the same release on both hosts",
		e.theirs, helloVersion)
}

func (h hello) frame() []byte {
	payload := make([]byte, 0, helloSize)
	payload = append(payload, helloMagic...)
	payload = binary.BigEndian.AppendUint16(payload, helloVersion)
	payload = binary.BigEndian.AppendUint16(payload, 0)
	payload = binary.BigEndian.AppendUint32(payload, uint32(min(h.stall, maxPromise)/time.Millisecond)) //nolint:gosec // a day fits
	payload = append(payload, h.secret[:]...)
	return frame(frameHello, payload)
}

// parseHello reads a hello frame's payload.
func parseHello(payload []byte) (hello, error) {
	var h hello
	if len(payload) != helloSize || string(payload[:len(helloMagic)]) != helloMagic {
		return h, frameErrorf("the connection does not begin with a hello")
	}
	rest := payload[len(helloMagic):]
	if version := binary.BigEndian.Uint16(rest); version != helloVersion {
		return h, &versionError{theirs: version}
	}
	if flags := binary.BigEndian.Uint16(rest[2:]); flags != 0 {
		return h, frameErrorf("the hello has unknown flags 0x%04x", flags)
	}
	h.stall = time.Duration(binary.BigEndian.Uint32(rest[4:])) * time.Millisecond
	if h.stall < minStall || h.stall > maxPromise {
		return h, frameErrorf("the hello has a stall time of %s: it must be between %s and %s", h.stall, minStall, maxPromise)
	}
	copy(h.secret[:], rest[8:])
	return h, nil
}

// readHello reads a hello frame, and nothing longer.
func readHello(r io.Reader) (hello, error) {
	t, length, err := readFrameHeader(r)
	if err != nil {
		return hello{}, err
	}
	if t != frameHello {
		return hello{}, frameErrorf("the connection does not begin with a hello")
	}
	payload, err := readPayload(r, length)
	if err != nil {
		return hello{}, err
	}
	return parseHello(payload)
}

func endFrame(total int64) []byte {
	return frame(frameEnd, binary.BigEndian.AppendUint64(nil, uint64(total))) //nolint:gosec // counted up from zero
}

func parseEnd(payload []byte) uint64 { return binary.BigEndian.Uint64(payload) }
