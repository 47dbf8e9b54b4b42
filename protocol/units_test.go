package protocol_test

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func TestParseByteSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]protocol.ByteSize{
		"0": 0, "4096": 4096, "64KiB": 64 << 10, "100MiB": 100 << 20, "1.5GiB": 3 << 29, "2T": 2 << 40, "1 PB": 1e15, " 7 B ": 7,
		"1KB": 1000, "1K": 1024, "0.5K": 512, "0.3B": 0, "18446744073709551615": math.MaxUint64, "9007199254740993": 9007199254740993,
		"16383PiB": 16383 << 50,
	} {
		size, err := protocol.ParseByteSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, size, text)
	}
	for _, text := range []string{
		"", "B", "MiB", "-1", "+1", "1e3", "0x10", "NaN", "Inf", "1.", ".5", "1_000", "1,5K", "1 0", "1KiBB", "1kib", "10 parsecs",
		"18446744073709551616", "16384PiB", "99999999999999999999P", "1.5.5",
	} {
		size, err := protocol.ParseByteSize(text)
		require.Error(t, err, "%q is %d", text, size)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
	}
}

func TestByteSizeString(t *testing.T) {
	t.Parallel()
	for size, want := range map[protocol.ByteSize]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 1 << 63: "8.0 EiB", math.MaxUint64: "16.0 EiB",
	} {
		require.Equal(t, want, size.String())
	}
}

type settings struct {
	Size protocol.ByteSize `json:"size" yaml:"size"`
	Wait protocol.Duration `json:"wait" yaml:"wait"`
}

func TestUnitsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := settings{
			Size: protocol.ByteSize(rapid.Uint64().Draw(t, "size")), Wait: protocol.Duration(rapid.Int64().Draw(t, "wait")),
		}
		var fromJSON, fromYAML, fromWire settings
		text, err := json.Marshal(want)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &fromJSON))
		require.Equal(t, want, fromJSON)
		text, err = yaml.Marshal(want)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(text, &fromYAML), "%s", text)
		require.Equal(t, want, fromYAML)
		wire, err := protocol.Encode(want)
		require.NoError(t, err)
		require.NoError(t, protocol.Decode(wire, &fromWire))
		require.Equal(t, want, fromWire)
	})
}

func TestUnitsInFiles(t *testing.T) {
	t.Parallel()
	var read settings
	require.NoError(t, yaml.Unmarshal([]byte("size: 1.5GiB\nwait: 1h30m\n"), &read))
	require.Equal(t, settings{Size: 3 << 29, Wait: protocol.Duration(90 * time.Minute)}, read)
	require.Equal(t, 90*time.Minute, read.Wait.Std())
	require.NoError(t, yaml.Unmarshal([]byte("size: 4096\n"), &read))
	require.Equal(t, protocol.ByteSize(4096), read.Size)
	require.ErrorContains(t, yaml.Unmarshal([]byte("wait: 1s\nsize: huge\n"), &read), "[2:7]")
	require.ErrorContains(t, yaml.Unmarshal([]byte("wait: [1s]\n"), &read), "[1:7]")
}

func FuzzParseByteSize(f *testing.F) {
	for _, seed := range []string{"", "0", "4096", "1.5GiB", "64KiB", "1e3", "0x1p4", "inf", "18446744073709551615", "16383.9PiB", "-1", "1 B", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := protocol.ParseByteSize(text)
		if err != nil {
			require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
			return
		}
		again, err := protocol.ParseByteSize(strconv.FormatUint(uint64(size), 10))
		require.NoError(t, err)
		require.Equal(t, size, again)
	})
}
