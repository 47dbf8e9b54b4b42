// Frames: the unit of everything that is said on a data connection.

package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// frameType is the first byte of a frame. The values of both roles differ, so that a connection that talks to itself is
// noticed at once.
type frameType byte

const (
	frameHello     frameType = 0x01 // who dialled: the secret, and what the connection is for
	frameHeader    frameType = 0x02 // sender: its stall time and protocol.StreamHeader
	frameData      frameType = 0x03 // sender: bytes of the stream
	frameAlive     frameType = 0x04 // sender: nothing to say, but alive
	frameEnd       frameType = 0x05 // sender: the stream was complete; its length
	frameAbort     frameType = 0x06 // sender: protocol.Failure; the stream ends here, incomplete
	frameDone      frameType = 0x07 // sender: the confirmation was read; the connection is free
	frameAccept    frameType = 0x81 // receiver, or whoever was dialled ahead: go on
	frameRefuse    frameType = 0x82 // either: protocol.Failure; the connection ends here
	framePeerAlive frameType = 0x84 // receiver: nothing to say, but alive
	frameConfirm   frameType = 0x85 // receiver: protocol.Confirmation
)

const (
	frameHeaderSize = 5       // the type, and the payload's length as a big-endian uint32
	checkSize       = 4       // the CRC-32C at the end of each frame but data
	maxData         = 1 << 20 // payload of a data frame
	maxMessage      = 1 << 16 // payload of a frame that holds a msgpack message

	helloMagic   = "ZFLEET"
	helloVersion = 2
	helloSize    = len(helloMagic) + 2 + 2 + secretSize
	secretSize   = 32
	promiseSize  = 4 // the sender's stall time in a header
	endSize      = 8
	maxHello     = 1 << 10 // of any version, so that it can be told which one it is

	// maxPromise bounds the stall time that a sender may ask the receiver's signs of life for.
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
	case frameHeader:
		return promiseSize + 1, promiseSize + maxMessage, true
	case frameData:
		return 1, maxData, true
	case frameAlive, framePeerAlive, frameAccept, frameDone:
		return 0, 0, true
	case frameEnd:
		return endSize, endSize, true
	case frameAbort, frameRefuse, frameConfirm:
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

// readPayload reads what follows the header of a frame of any type but data: the payload, which is small enough to be held
// in memory, and the check.
func readPayload(r io.Reader, t frameType, length int) ([]byte, error) {
	whole := make([]byte, frameHeaderSize+length+checkSize)
	putFrameHeader(whole, t, length)
	if _, err := io.ReadFull(r, whole[frameHeaderSize:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	end := frameHeaderSize + length
	if binary.BigEndian.Uint32(whole[end:]) != check(whole[:end]) {
		return nil, frameErrorf("frame of type 0x%02x was damaged on its way: its checksum is another", byte(t))
	}
	return whole[frameHeaderSize:end], nil
}

// check is the CRC-32C (Castagnoli) of a frame's bytes.
func check(frame []byte) uint32 { return crc32.Checksum(frame, crc32.MakeTable(crc32.Castagnoli)) }

// readFrame reads one frame of any type but data.
func readFrame(r io.Reader) (frameType, []byte, error) {
	t, length, err := readFrameHeader(r)
	if err != nil {
		return 0, nil, err
	}
	if t == frameData {
		return 0, nil, frameErrorf("data where no data can be")
	}
	payload, err := readPayload(r, t, length)
	return t, payload, err
}

// frame is a whole frame of any type but data, as bytes.
func frame(t frameType, payload []byte) []byte {
	end := frameHeaderSize + len(payload)
	whole := make([]byte, end, end+checkSize)
	putFrameHeader(whole, t, len(payload))
	copy(whole[frameHeaderSize:], payload)
	return binary.BigEndian.AppendUint32(whole, check(whole))
}

// messageFrame is a frame that holds a msgpack message.
func messageFrame(t frameType, message any) ([]byte, error) {
	payload, err := protocol.Encode(message)
	if err != nil {
		return nil, err
	}
	if len(payload) > maxMessage {
		return nil, tooLong(len(payload))
	}
	return frame(t, payload), nil
}

// failureFrame is a frame that holds a failure, its message cut to what a frame can hold.
func failureFrame(t frameType, failure *protocol.Failure) ([]byte, error) {
	return messageFrame(t, transport.CutFailure(failure))
}

// decodeFailure reads a failure frame's payload.
func decodeFailure(payload []byte) (*protocol.Failure, error) {
	failure := new(protocol.Failure)
	if err := protocol.Decode(payload, failure); err != nil {
		return nil, err
	}
	return failure, nil
}

// hello is the first frame of whoever dialled. It has a fixed size, so that nothing else is parsed before the secret is
// checked.
type hello struct {
	secret [secretSize]byte
	flags  helloFlags
}

// helloFlags say what the connection is for.
type helloFlags uint16

const (
	// helloReverse: who dialled will receive. Otherwise it will send.
	helloReverse helloFlags = 1 << iota
	// helloAhead: there is nothing to send yet. Another hello will follow.
	helloAhead
)

// versionError is a hello of another version of the framing.
type versionError struct{ theirs uint16 }

func (e *versionError) Error() string {
	return fmt.Sprintf("the caller speaks version %d of the data protocol and the listener version %d: run the same release on both hosts",
		e.theirs, helloVersion)
}

func (h hello) frame() []byte {
	payload := make([]byte, 0, helloSize)
	payload = append(payload, helloMagic...)
	payload = binary.BigEndian.AppendUint16(payload, helloVersion)
	payload = binary.BigEndian.AppendUint16(payload, uint16(h.flags))
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
	h.flags = helloFlags(binary.BigEndian.Uint16(rest[2:]))
	if h.flags > helloReverse|helloAhead {
		return h, frameErrorf("the hello has unknown flags 0x%04x", uint16(h.flags))
	}
	copy(h.secret[:], rest[4:])
	return h, nil
}

// readHello reads a hello frame, and nothing longer. One of another version may be of another length, as long as it begins
// as ours does.
func readHello(r io.Reader) (hello, error) {
	var start [frameHeaderSize + len(helloMagic) + 2]byte
	if _, err := io.ReadFull(r, start[:frameHeaderSize]); err != nil {
		return hello{}, err
	}
	length := binary.BigEndian.Uint32(start[1:])
	if frameType(start[0]) != frameHello || length > maxHello {
		return hello{}, frameErrorf("the connection does not begin with a hello")
	}
	if _, err := io.ReadFull(r, start[frameHeaderSize:]); err != nil {
		return hello{}, err
	}
	version := binary.BigEndian.Uint16(start[len(start)-2:])
	if string(start[frameHeaderSize:len(start)-2]) == helloMagic && version != helloVersion && length != uint32(helloSize) {
		return hello{}, &versionError{theirs: version}
	}
	t, payload, err := readFrame(io.MultiReader(bytes.NewReader(start[:]), r))
	if err != nil {
		return hello{}, err
	}
	if t != frameHello {
		return hello{}, frameErrorf("the connection does not begin with a hello")
	}
	return parseHello(payload)
}

// headerFrame is the sender's header with its stall time, in whole milliseconds: the receiver gives signs of life at a third
// of it.
func headerFrame(header protocol.StreamHeader, stall time.Duration) ([]byte, error) {
	message, err := protocol.Encode(header)
	if err != nil {
		return nil, err
	}
	if len(message) > maxMessage {
		return nil, tooLong(len(message))
	}
	payload := binary.BigEndian.AppendUint32(nil, uint32(min(stall, maxPromise)/time.Millisecond)) //nolint:gosec // a day fits
	return frame(frameHeader, append(payload, message...)), nil
}

// parseHeader reads a header frame's payload.
func parseHeader(payload []byte) (protocol.StreamHeader, time.Duration, error) {
	var header protocol.StreamHeader
	stall := time.Duration(binary.BigEndian.Uint32(payload)) * time.Millisecond
	if stall < transport.MinStall || stall > maxPromise {
		return header, 0, frameErrorf("the header has a stall time of %s: it must be between %s and %s", stall, transport.MinStall, maxPromise)
	}
	if err := protocol.Decode(payload[promiseSize:], &header); err != nil {
		return header, 0, err
	}
	return header, stall, header.Ref.Validate()
}

func tooLong(length int) error {
	return protocol.Failf(protocol.Permanent, "a message of %d bytes does not fit into a frame of %d", length, maxMessage)
}

func endFrame(total int64) []byte {
	return frame(frameEnd, binary.BigEndian.AppendUint64(nil, uint64(total))) //nolint:gosec // counted up from zero
}

func parseEnd(payload []byte) uint64 { return binary.BigEndian.Uint64(payload) }
