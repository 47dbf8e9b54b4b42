package protocol_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"go.opentelemetry.io/otel/trace"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

// bomb is a payload that promises or unfolds more than a decoder should take.
type bomb struct {
	name   string
	data   []byte
	reason string
}

func bombs() []bomb {
	length32 := func(code byte, n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{code}, n) }
	key := func(name string, value []byte) []byte {
		return slices.Concat([]byte{0x81, 0xa0 | byte(len(name))}, []byte(name), value)
	}
	return []bomb{
		{"nothing", nil, "the end is missing"},
		{"nested arrays", bytes.Repeat([]byte{0x91}, protocol.MaxPayload), "nested deeper"},
		{"nested maps", bytes.Repeat([]byte{0x81, 0xa1, 'a'}, protocol.MaxPayload/3), "nested deeper"},
		{"a promised array", length32(0xdd, 1<<32-1), "the end is missing"},
		{"a promised map", length32(0xdf, 1<<31), "the end is missing"},
		{"a promised string", length32(0xdb, 1<<32-1), "the end is missing"},
		{"promised bytes", length32(0xc6, 1<<32-1), "the end is missing"},
		{"a promised array in a field", key("datasets", length32(0xdd, 1<<30)), "the end is missing"},
		{"many empty elements", key("steps", append(length32(0xdd, 1<<19), make([]byte, 1<<19)...)), "array elements"},
		{"many nil elements", key("steps", append(length32(0xdd, 1<<19), bytes.Repeat([]byte{0xc0}, 1<<19)...)), "array elements"},
		{"many arrays", append(length32(0xdd, 1<<15), bytes.Repeat([]byte{0x92, 0xc0, 0xc0}, 1<<15)...), "array elements"},
		{"many entries", append(length32(0xdf, 1<<19), bytes.Repeat([]byte{0xa0, 0xc0}, 500_000)...), "the end is missing"},
		{"more entries than allowed", append(length32(0xdf, 1<<18+1), bytes.Repeat([]byte{0xa0, 0xc0}, 1<<18+1)...), "map entries"},
		{"a number as key", []byte{0x81, 0x01, 0x01}, "a map key is no string"},
		{"an array as key", []byte{0x81, 0x90, 0x01}, "a map key is no string"},
		{"a code that msgpack does not use", []byte{0xc1}, "msgpack code 0xc1"},
		{"an extension of another type", []byte{0xd6, 0x07, 0, 0, 0, 0}, "extension type 7"},
		{"an extension of odd length", []byte{0xc7, 3, 0xff, 0, 0, 0}, "is no timestamp"},
		{"a truncated timestamp", []byte{0xc7, 12, 0xff, 0, 0, 0}, "the end is missing"},
		{"more than one value", []byte{0x80, 0x80}, "bytes too many"},
		{"too large", slices.Concat(length32(0xc6, protocol.MaxPayload), make([]byte, protocol.MaxPayload)), "larger than"},
	}
}

// No other test may run at the same time, since allocations are counted for the whole process.
func TestDecodeRefusesBombsBeforeItAllocates(t *testing.T) { //nolint:paralleltest // see above
	for _, bomb := range bombs() {
		t.Run(bomb.name, func(t *testing.T) {
			for _, into := range []any{
				new(protocol.WorkItem), new(protocol.InventoryPage), new(protocol.Task), new(protocol.EstimateRequest), new(any),
			} {
				before := allocated()
				err := protocol.Decode(bomb.data, into)
				require.LessOrEqual(t, allocated()-before, uint64(1<<20), "bytes allocated to refuse it as a %T", into)
				var decode *protocol.DecodeError
				require.ErrorAs(t, err, &decode)
				require.ErrorContains(t, err, bomb.reason)
			}
		})
	}
}

// No other test may run at the same time, since allocations are counted for the whole process.
func TestDecodeAllocatesWithinItsBudgetAtTheBounds(t *testing.T) { //nolint:paralleltest // see above
	elements := func(n uint32, element ...byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0xdd}, n), bytes.Repeat(element, int(n))...)
	}
	steps := slices.Concat([]byte{0x81, 0xa5}, []byte("steps"), elements(protocol.MaxArrayElements, 0x80))
	before := allocated()
	var request protocol.EstimateRequest
	require.NoError(t, protocol.Decode(steps, &request))
	require.Len(t, request.Steps, protocol.MaxArrayElements)
	require.LessOrEqual(t, allocated()-before, uint64(decodeBudget))

	override := map[string]bool{}
	for i := range 1 << 16 {
		override[strconv.Itoa(i)] = true
	}
	data, err := protocol.Encode(protocol.InventoryRequest{Filter: override})
	require.NoError(t, err)
	before = allocated()
	var inventory protocol.InventoryRequest
	require.NoError(t, protocol.Decode(data, &inventory))
	require.Len(t, inventory.Filter, 1<<16)
	require.LessOrEqual(t, allocated()-before, uint64(decodeBudget))
}

func TestDecodeTruncatedAnywhere(t *testing.T) {
	t.Parallel()
	for _, message := range soundMessages() {
		data, err := protocol.Encode(message)
		require.NoError(t, err)
		for length := range data {
			var decode *protocol.DecodeError
			require.ErrorAs(t, protocol.Decode(data[:length], new(protocol.WorkItem)), &decode, "%T cut at byte %d", message, length)
		}
	}
}

func TestDecodeArbitraryBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		if err := protocol.Decode(data, new(protocol.Event)); err != nil {
			var decode *protocol.DecodeError
			require.ErrorAs(t, err, &decode)
			require.Equal(t, len(data), decode.Size)
		}
	})
}

func TestDecodeSkipsUnknownFields(t *testing.T) {
	t.Parallel()
	data, err := protocol.Encode(map[string]any{
		"holder": "a", "of_a_later_release": map[string]any{"deep": []any{1, "x", nil, time.Unix(1, 2)}}, "host": "b",
	})
	require.NoError(t, err)
	var lease protocol.Lease
	require.NoError(t, protocol.Decode(data, &lease))
	require.Equal(t, "a", lease.Holder)
	require.Equal(t, "b", lease.Host)
}

func TestDecodeRefusesWrongTypes(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string]map[string]any{
		"text for a number":     {"number": "x"},
		"a number for text":     {"fs": 7},
		"a map for an array":    {"steps": map[string]any{"a": 1}},
		"an array for a struct": {"failure": []any{1, 2, 3}},
		"text for a time":       {"updated": "yesterday"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := protocol.Encode(fields)
			require.NoError(t, err)
			var decode *protocol.DecodeError
			require.ErrorAs(t, protocol.Decode(data, new(protocol.Task)), &decode)
			require.Equal(t, "*protocol.Task", decode.Into)
		})
	}
}

func TestDecodeValidates(t *testing.T) {
	t.Parallel()
	data, err := protocol.Encode(protocol.CancelNotice{Plan: "Not A Plan"})
	require.NoError(t, err)
	err = protocol.Decode(data, new(protocol.CancelNotice))
	require.ErrorContains(t, err, "plans are named like")
	require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
}

func TestEncodeRefusesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	_, err := protocol.Encode(protocol.DeadLetter{Payload: make([]byte, protocol.MaxPayload)})
	require.ErrorContains(t, err, "too large for one message")
	require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
}

func TestEncodeIsTheSameEveryTime(t *testing.T) {
	t.Parallel()
	job := soundJob()
	job.Recv.Properties.Override = map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6"}
	job.Source.Filesystems = protocol.Filter{"a": true, "b": true, "c": true, "d": true, "e": true, "f": true}
	first, err := protocol.Encode(job)
	require.NoError(t, err)
	for range 32 {
		again, err := protocol.Encode(job)
		require.NoError(t, err)
		require.Equal(t, first, again)
	}
}

func TestFieldsAreNamedOnTheWire(t *testing.T) {
	t.Parallel()
	data, err := protocol.Encode(protocol.CancelNotice{Plan: "p"})
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, msgpack.Unmarshal(data, &fields))
	require.Equal(t, map[string]any{"plan": "p"}, fields)
}

func TestValuesCarryTheirVersion(t *testing.T) {
	t.Parallel()
	lease := protocol.Lease{Holder: "h", Host: "alpha", Since: time.Unix(1, 0).UTC()}
	data, err := protocol.EncodeValue(lease)
	require.NoError(t, err)
	require.Equal(t, byte(protocol.ProtocolVersion), data[0])
	var decoded protocol.Lease
	require.NoError(t, protocol.DecodeValue(data, &decoded))
	require.Equal(t, lease.Holder, decoded.Holder)
	require.True(t, lease.Since.Equal(decoded.Since))

	data[0] = 9
	var version *protocol.ProtocolVersionError
	require.ErrorAs(t, protocol.DecodeValue(data, &decoded), &version)
	require.Equal(t, protocol.ProtocolVersionError{Theirs: 9, Ours: protocol.ProtocolVersion}, *version)

	var decode *protocol.DecodeError
	require.ErrorAs(t, protocol.DecodeValue(nil, &decoded), &decode)
	require.ErrorAs(t, protocol.DecodeValue([]byte{protocol.ProtocolVersion}, &decoded), &decode)
}

func TestCheckProtocol(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ header, says string }{
		{"1", ""},
		{"", "names no version"},
		{"one", "names no version"},
		{"-3", "names no version"},
		{"2", "of zfleet protocol version 2, and this program speaks version 1: upgrade zctl on this host"},
		{"99999999999999999999", "names no version"},
	} {
		header := nats.Header{}
		if test.header != "" {
			header.Set(protocol.HeaderProtocol, test.header)
		}
		err := protocol.CheckProtocol(header)
		if test.says == "" {
			require.NoError(t, err)
			continue
		}
		var version *protocol.ProtocolVersionError
		require.ErrorAs(t, err, &version, "version %q", test.header)
		require.ErrorContains(t, err, test.says)
	}
	require.Error(t, protocol.CheckProtocol(nil))
	older := &protocol.ProtocolVersionError{Theirs: 1, Ours: 2}
	require.ErrorContains(t, older, "upgrade zctl where the message comes from")
}

func TestMessageCarriesVersionAndTrace(t *testing.T) {
	t.Parallel()
	state, err := trace.ParseTraceState("vendor=x")
	require.NoError(t, err)
	span := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true,
	})
	ctx := trace.ContextWithSpanContext(t.Context(), span)
	message, err := protocol.NewMessage(ctx, "zfleet.cancel.p", protocol.CancelNotice{Plan: "p"})
	require.NoError(t, err)
	require.Equal(t, "zfleet.cancel.p", message.Subject)
	require.Equal(t, nats.Header{
		"Zfleet-Protocol": {"1"},
		"traceparent":     {"00-01000000000000000000000000000000-0200000000000000-01"},
		"tracestate":      {"vendor=x"},
	}, message.Header)

	var notice protocol.CancelNotice
	require.NoError(t, protocol.ReadMessage(message.Header, message.Data, &notice))
	require.Equal(t, protocol.PlanID("p"), notice.Plan)
	require.Equal(t, span, trace.SpanContextFromContext(protocol.ContextWithTrace(t.Context(), message.Header)))

	parent, traceState := protocol.InjectTrace(ctx)
	require.Equal(t, span, trace.SpanContextFromContext(protocol.ExtractTrace(t.Context(), parent, traceState)))

	message.Header.Set(protocol.HeaderProtocol, "2")
	var version *protocol.ProtocolVersionError
	require.ErrorAs(t, protocol.ReadMessage(message.Header, message.Data, &notice), &version)
}

func TestNoTraceIsNoTrace(t *testing.T) {
	t.Parallel()
	message, err := protocol.NewMessage(t.Context(), "s", protocol.CancelNotice{Plan: "p"})
	require.NoError(t, err)
	require.Equal(t, nats.Header{"Zfleet-Protocol": {"1"}}, message.Header)
	parent, state := protocol.InjectTrace(t.Context())
	require.Empty(t, parent+state)
	for _, garbage := range []string{"", "x", "00-0-0-0", strings.Repeat("0", 1<<16)} {
		ctx := protocol.ExtractTrace(t.Context(), garbage, garbage)
		require.False(t, trace.SpanContextFromContext(ctx).IsValid())
	}
}
