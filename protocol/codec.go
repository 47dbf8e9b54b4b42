// The codec: how messages become bytes, and how bytes from outside become messages without harm.

package protocol

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
	"go.opentelemetry.io/otel/propagation"
)

// ProtocolVersion is the version of the messages that this program speaks. Fields may be added within a version, since
// unknown fields are skipped; whatever changes the meaning of a message needs a new one.
const ProtocolVersion = 1

// The headers of a message, beside those that NATS defines.
const (
	// HeaderProtocol names the protocol version that the message was written in.
	HeaderProtocol = "Zfleet-Protocol"
	// HeaderTraceparent and HeaderTracestate are those of W3C Trace Context.
	HeaderTraceparent = "traceparent"
	HeaderTracestate  = "tracestate"
)

// The bounds within which messages are encoded and decoded.
const (
	// MaxPayload is the largest encoded message in bytes: the default max_payload of a NATS server (1 MiB), which counts
	// headers too, less room for the headers.
	MaxPayload = 1<<20 - 16<<10
	// MaxDepth is how deep maps and arrays may be nested.
	MaxDepth = 16
	// MaxArrayElements bounds the elements of all arrays of a message together. An element of one byte can become a Go
	// value of some hundred, so that the payload's size alone would not bound what decoding allocates.
	MaxArrayElements = 1 << 16
	// MaxMapEntries bounds the entries of all maps of a message together; a struct is a map of its fields.
	MaxMapEntries = 1 << 18
)

// DecodeError says why bytes are not the message they should be. Decoding them again cannot help.
type DecodeError struct {
	// Into is the Go type that was to be decoded.
	Into string
	// Size is the number of bytes there were.
	Size int
	// Err is the reason.
	Err error
}

// Error names the message and the reason.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("%d bytes that should be a %s: %v", e.Size, e.Into, e.Err)
}

// Unwrap is the reason.
func (e *DecodeError) Unwrap() error { return e.Err }

// ProtocolVersionError says that a message was written in a version of the protocol that this program does not speak.
type ProtocolVersionError struct { //nolint:revive // a version error alone could be one of ZFS or of NATS
	// Theirs is the message's version; 0 where the message names none.
	Theirs int
	// Ours is ProtocolVersion.
	Ours int
}

// Error names both versions and what to do.
func (e *ProtocolVersionError) Error() string {
	switch {
	case e.Theirs == 0:
		return fmt.Sprintf("the message names no version of the zfleet protocol (header %s), and this program speaks version %d:"+
			" something other than zfleet has sent it", HeaderProtocol, e.Ours)
	case e.Theirs > e.Ours:
		return fmt.Sprintf("the message is of zfleet protocol version %d, and this program speaks version %d:"+
			" upgrade zctl on this host", e.Theirs, e.Ours)
	}
	return fmt.Sprintf("the message is of zfleet protocol version %d, and this program speaks version %d:"+
		" upgrade zctl where the message comes from", e.Theirs, e.Ours)
}

// Encode writes v in msgpack: structs as maps by field name, maps in order of their keys, integers as short as they go. A
// message that would be larger than MaxPayload is an error of kind Usage.
func Encode(v any) ([]byte, error) { return encode(nil, v) }

// EncodeValue is Encode for the buckets, whose values have no headers: a byte with the protocol version, then the msgpack.
func EncodeValue(v any) ([]byte, error) { return encode([]byte{ProtocolVersion}, v) }

func encode(prefix []byte, v any) ([]byte, error) {
	buffer := bytes.NewBuffer(prefix)
	encoder := msgpack.NewEncoder(buffer)
	encoder.UseCompactInts(true)
	encoder.SetSortMapKeys(true)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding a %T: %w", v, err)
	}
	if buffer.Len() > MaxPayload {
		return nil, Usagef("a %T of %d bytes is too large for one message (at most %d)", v, buffer.Len(), MaxPayload)
	}
	return buffer.Bytes(), nil
}

// Decode reads one message from data into v, a pointer to a zero value, and calls its Validate method if it has one. The
// bytes may come from anybody: size, nesting and all lengths are checked before anything is decoded, so that the memory
// that decoding takes is bounded, and trailing bytes are refused. Unknown fields are skipped. Errors are a *DecodeError.
func Decode(data []byte, v any) error {
	fail := func(err error) error {
		return &DecodeError{Into: fmt.Sprintf("%T", v), Size: len(data), Err: err}
	}
	if err := scan(data); err != nil {
		return fail(err)
	}
	if err := msgpack.Unmarshal(data, v); err != nil {
		return fail(err)
	}
	if valid, ok := v.(interface{ Validate() error }); ok {
		if err := valid.Validate(); err != nil {
			return fail(err)
		}
	}
	return nil
}

// DecodeValue reads what EncodeValue wrote. Errors are a *DecodeError or a *ProtocolVersionError.
func DecodeValue(data []byte, v any) error {
	if len(data) == 0 {
		return &DecodeError{Into: fmt.Sprintf("%T", v), Err: errors.New("there is nothing, not even a protocol version")}
	}
	if data[0] != ProtocolVersion {
		return &ProtocolVersionError{Theirs: int(data[0]), Ours: ProtocolVersion}
	}
	return Decode(data[1:], v)
}

// NewMessage is v encoded for the subject, with the headers that every message has: the protocol version, and ctx's trace.
func NewMessage(ctx context.Context, subject string, v any) (*nats.Msg, error) {
	data, err := Encode(v)
	if err != nil {
		return nil, err
	}
	message := nats.NewMsg(subject)
	message.Data = data
	message.Header.Set(HeaderProtocol, strconv.Itoa(ProtocolVersion))
	propagation.TraceContext{}.Inject(ctx, headerCarrier(message.Header))
	return message, nil
}

// CheckProtocol tells whether the message with these headers is of a version that this program speaks. Its error is a
// *ProtocolVersionError.
func CheckProtocol(header nats.Header) error {
	theirs, err := strconv.Atoi(header.Get(HeaderProtocol))
	if err != nil || theirs < 0 {
		theirs = 0
	}
	if theirs != ProtocolVersion {
		return &ProtocolVersionError{Theirs: theirs, Ours: ProtocolVersion}
	}
	return nil
}

// headerOfDirectGet is in every answer to a direct get, and names the stream.
const headerOfDirectGet = "Nats-Stream"

// PassedOn is the stream from which a message was passed on by a direct get, with which anybody who may read that stream can send it
// anywhere; empty where it was not.
func PassedOn(header map[string][]string) string {
	if streams := header[headerOfDirectGet]; len(streams) > 0 {
		return streams[0]
	}
	return ""
}

// FromDirectGet is the header that a message had before a direct get answered with it.
func FromDirectGet(header nats.Header) nats.Header {
	before := maps.Clone(header)
	if len(header[headerOfDirectGet]) == 1 { // more were passed on before
		delete(before, headerOfDirectGet)
	}
	return before
}

// ReadMessage is CheckProtocol and Decode.
//
// A message that a direct get of JetStream has answered with (ADR-31) is refused: such an answer goes wherever the request says,
// whatever its sender may publish itself, so that it could be made to pass for anybody's message. FromDirectGet reads those that were
// asked for.
func ReadMessage(header nats.Header, data []byte, v any) error {
	if stream := PassedOn(header); stream != "" {
		return Usagef("the message was not sent, but taken from the stream %s and passed on", stream)
	}
	if err := CheckProtocol(header); err != nil {
		return err
	}
	return Decode(data, v)
}

// ContextWithTrace is ctx with the trace of the message that has these headers as its remote parent.
func ContextWithTrace(ctx context.Context, header nats.Header) context.Context {
	return propagation.TraceContext{}.Extract(ctx, headerCarrier(header))
}

// InjectTrace is the trace of ctx in W3C form; both are empty where ctx has none.
func InjectTrace(ctx context.Context) (traceparent, tracestate string) {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[HeaderTraceparent], carrier[HeaderTracestate]
}

// ExtractTrace is ctx with the trace in W3C form as its remote parent; ctx itself where that is no trace.
func ExtractTrace(ctx context.Context, traceparent, tracestate string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		HeaderTraceparent: traceparent,
		HeaderTracestate:  tracestate,
	})
}

// headerCarrier lets a propagator read and write NATS headers, whose names keep their case (ADR-4).
type headerCarrier nats.Header

func (c headerCarrier) Get(key string) string { return nats.Header(c).Get(key) }

func (c headerCarrier) Set(key, value string) { nats.Header(c).Set(key, value) }

func (c headerCarrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

// scan checks that data is exactly one msgpack value within the bounds, reading every byte of structure and allocating
// nothing. After it, a decoder can trust every length in data.
func scan(data []byte) error {
	if len(data) > MaxPayload {
		return fmt.Errorf("larger than %d bytes", MaxPayload)
	}
	s := scanner{rest: data}
	if err := s.value(0); err != nil {
		return fmt.Errorf("at byte %d: %w", len(data)-len(s.rest), err)
	}
	if len(s.rest) > 0 {
		return fmt.Errorf("%d bytes too many", len(s.rest))
	}
	return nil
}

var errTruncated = errors.New("the end is missing")

type scanner struct {
	rest     []byte
	elements int
	entries  int
}

// value skips one value that is nested in depth maps and arrays.
func (s *scanner) value(depth int) error {
	if len(s.rest) == 0 {
		return errTruncated
	}
	code := s.rest[0]
	s.rest = s.rest[1:]
	switch {
	case msgpcode.IsFixedNum(code):
		return nil
	case msgpcode.IsFixedString(code):
		return s.skip(uint64(code & msgpcode.FixedStrMask))
	case msgpcode.IsFixedArray(code):
		return s.array(uint64(code&msgpcode.FixedArrayMask), depth)
	case msgpcode.IsFixedMap(code):
		return s.mapping(uint64(code&msgpcode.FixedMapMask), depth)
	}
	switch code {
	case msgpcode.Nil, msgpcode.False, msgpcode.True:
		return nil
	case msgpcode.Uint8, msgpcode.Int8:
		return s.skip(1)
	case msgpcode.Uint16, msgpcode.Int16:
		return s.skip(2)
	case msgpcode.Uint32, msgpcode.Int32, msgpcode.Float:
		return s.skip(4)
	case msgpcode.Uint64, msgpcode.Int64, msgpcode.Double:
		return s.skip(8)
	case msgpcode.Str8, msgpcode.Bin8:
		return s.sized(1, s.skip)
	case msgpcode.Str16, msgpcode.Bin16:
		return s.sized(2, s.skip)
	case msgpcode.Str32, msgpcode.Bin32:
		return s.sized(4, s.skip)
	case msgpcode.Array16:
		return s.sized(2, func(n uint64) error { return s.array(n, depth) })
	case msgpcode.Array32:
		return s.sized(4, func(n uint64) error { return s.array(n, depth) })
	case msgpcode.Map16:
		return s.sized(2, func(n uint64) error { return s.mapping(n, depth) })
	case msgpcode.Map32:
		return s.sized(4, func(n uint64) error { return s.mapping(n, depth) })
	case msgpcode.FixExt4:
		return s.timestamp(4)
	case msgpcode.FixExt8:
		return s.timestamp(8)
	case msgpcode.Ext8:
		return s.sized(1, s.timestamp)
	}
	return fmt.Errorf("msgpack code 0x%02x is not used in the protocol", code)
}

func (s *scanner) skip(n uint64) error {
	if n > uint64(len(s.rest)) {
		return errTruncated
	}
	s.rest = s.rest[n:]
	return nil
}

// number reads a big-endian number of the given width in bytes: 1, 2 or 4.
func (s *scanner) number(width int) (uint64, error) {
	if len(s.rest) < width {
		return 0, errTruncated
	}
	head := s.rest[:width]
	s.rest = s.rest[width:]
	switch width {
	case 1:
		return uint64(head[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(head)), nil
	default:
		return uint64(binary.BigEndian.Uint32(head)), nil
	}
}

// sized reads a length of the given width and what comes after it.
func (s *scanner) sized(width int, then func(uint64) error) error {
	n, err := s.number(width)
	if err != nil {
		return err
	}
	return then(n)
}

func (s *scanner) array(n uint64, depth int) error {
	if depth >= MaxDepth {
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	if n > uint64(len(s.rest)) { // each element has at least one byte
		return errTruncated
	}
	s.elements += int(n) //nolint:gosec // n is at most MaxPayload
	if s.elements > MaxArrayElements {
		return fmt.Errorf("more than %d array elements", MaxArrayElements)
	}
	for range n {
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) mapping(n uint64, depth int) error {
	if depth >= MaxDepth {
		return fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	if 2*n > uint64(len(s.rest)) {
		return errTruncated
	}
	s.entries += int(n) //nolint:gosec // n is at most MaxPayload
	if s.entries > MaxMapEntries {
		return fmt.Errorf("more than %d map entries", MaxMapEntries)
	}
	for range n {
		if len(s.rest) == 0 {
			return errTruncated
		}
		if !msgpcode.IsString(s.rest[0]) {
			return errors.New("a map key is no string")
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
	return nil
}

// timestamp skips the type and the n bytes of an extension, of which the protocol uses only msgpack's timestamp.
func (s *scanner) timestamp(n uint64) error {
	if n != 4 && n != 8 && n != 12 {
		return fmt.Errorf("an extension of %d bytes is no timestamp", n)
	}
	kind, err := s.number(1)
	if err != nil {
		return err
	}
	if kind != 0xff { // -1
		return fmt.Errorf("extension type %d is not used in the protocol", int8(kind)) //nolint:gosec // one byte, as a signed one
	}
	return s.skip(n)
}
