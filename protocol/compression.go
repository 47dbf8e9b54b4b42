// Compression: what is done to a stream between the hosts, beside what zfs send -c does.

package protocol

import (
	"regexp"
	"strconv"
	"strings"
)

// Compression is what a job asks for between sender and receiver: "none", "zstd", or "zstd-1" to "zstd-19" for a level, as
// OpenZFS writes them (zfsprops(7)). The zero value is none.
type Compression string

// The compressions without a level. CompressionZstd is level 3.
const (
	CompressionNone Compression = "none"
	CompressionZstd Compression = "zstd"
)

const (
	defaultZstdLevel = 3
	maxZstdLevel     = 19
)

var zstdPattern = regexp.MustCompile(`^zstd-([1-9]|1[0-9])$`)

// Algorithm is c without its level: what sender and receiver must agree on.
func (c Compression) Algorithm() Compression {
	switch {
	case c == "" || c == CompressionNone:
		return CompressionNone
	case strings.HasPrefix(string(c), string(CompressionZstd)):
		return CompressionZstd
	}
	return c
}

// Level is that of zstd, from 1 to 19; 0 where c is none.
func (c Compression) Level() int {
	if match := zstdPattern.FindStringSubmatch(string(c)); match != nil {
		level, err := strconv.Atoi(match[1])
		if err == nil {
			return level
		}
	}
	if c == CompressionZstd {
		return defaultZstdLevel
	}
	return 0
}

// Validate tells whether c is a compression that can be asked for.
func (c Compression) Validate() error {
	if c == "" || c == CompressionNone || c == CompressionZstd || zstdPattern.MatchString(string(c)) {
		return nil
	}
	return Usagef("compression %q: use none, zstd, or zstd-1 to zstd-%d", string(c), maxZstdLevel)
}
