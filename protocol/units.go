// Units: durations and sizes as operators write them.

package protocol

import (
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Duration is a time.Duration that is written as text ("10m", "1h30m") in YAML and JSON.
type Duration time.Duration

// Std is d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is d in Go's notation.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes d in Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads d in Go's notation.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return Usagef("duration %q: write it like 30s, 10m or 1h30m", text)
	}
	*d = Duration(parsed)
	return nil
}

// UnmarshalYAML reads what UnmarshalText reads; its errors show the place in the file.
func (d *Duration) UnmarshalYAML(node ast.Node) error { return unmarshalScalar(node, d.UnmarshalText) }

// ByteSize is a number of bytes that is written as text ("100MiB", "1.5GiB", "4096") in YAML and JSON.
type ByteSize uint64

var byteUnits = []struct {
	name  string
	bytes uint64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"PiB", 1 << 50},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"PB", 1e15},
	{"K", 1 << 10},
	{"M", 1 << 20},
	{"G", 1 << 30},
	{"T", 1 << 40},
	{"P", 1 << 50},
	{"B", 1},
}

var numberPattern = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)

// ParseByteSize reads a size: a number with an optional unit, binary (KiB … PiB, or K … P as zfs writes them) or decimal
// (KB … PB). A whole number is read exactly; a fraction of a byte is cut off.
func ParseByteSize(s string) (ByteSize, error) {
	number, factor := strings.TrimSpace(s), uint64(1)
	for _, unit := range byteUnits {
		if rest, found := strings.CutSuffix(number, unit.name); found {
			number, factor = strings.TrimSpace(rest), unit.bytes
			break
		}
	}
	if !numberPattern.MatchString(number) {
		return 0, Usagef("size %q: write it like 4096, 64KiB, 100MiB or 1.5GiB", s)
	}
	if whole, err := strconv.ParseUint(number, 10, 64); err == nil {
		if high, low := bits.Mul64(whole, factor); high == 0 {
			return ByteSize(low), nil
		}
	} else if value, err := strconv.ParseFloat(number, 64); err == nil && value*float64(factor) < math.MaxUint64 {
		return ByteSize(value * float64(factor)), nil
	}
	return 0, Usagef("size %q: more than %d bytes", s, uint64(math.MaxUint64))
}

// String is the size with one decimal in the largest binary unit that leaves at least 1, e.g. "1.5 MiB".
func (b ByteSize) String() string {
	if b < 1<<10 {
		return fmt.Sprintf("%d B", uint64(b))
	}
	value, names := float64(b), []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := -1
	for value >= 1024 && i < len(names)-1 {
		value /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %s", value, names[i])
}

// MarshalText writes the exact number of bytes, so that nothing is lost in a round trip.
func (b ByteSize) MarshalText() ([]byte, error) {
	return []byte(strconv.FormatUint(uint64(b), 10)), nil
}

// UnmarshalText reads what ParseByteSize reads.
func (b *ByteSize) UnmarshalText(text []byte) error {
	parsed, err := ParseByteSize(string(text))
	if err != nil {
		return err
	}
	*b = parsed
	return nil
}

// UnmarshalYAML reads what UnmarshalText reads; its errors show the place in the file.
func (b *ByteSize) UnmarshalYAML(node ast.Node) error { return unmarshalScalar(node, b.UnmarshalText) }

// unmarshalScalar gives a node's text to unmarshal, and puts the node's place into its error.
func unmarshalScalar(node ast.Node, unmarshal func([]byte) error) error {
	text := node.String()
	if scalar, ok := node.(ast.ScalarNode); ok {
		text = scalar.GetToken().Value
	}
	if err := unmarshal([]byte(text)); err != nil {
		return &yaml.SyntaxError{Message: err.Error(), Token: node.GetToken()}
	}
	return nil
}
