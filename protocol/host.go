// Hosts: the machines of the fleet.

package protocol

import (
	"fmt"
	"regexp"
)

// Host names a machine with pools. It is a NATS subject token as it stands: 1 to 63 of a-z, 0-9 and "-".
type Host string

var hostPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// ParseHost checks that s can name a host.
func ParseHost(s string) (Host, error) {
	if !hostPattern.MatchString(s) {
		return "", Usagef("host name %q: use 1 to 63 lower-case letters, digits and dashes", s)
	}
	return Host(s), nil
}

// Validate tells whether h can name a host.
func (h Host) Validate() error {
	_, err := ParseHost(string(h))
	return err
}

var _ fmt.Stringer = Host("")

// String is the name itself.
func (h Host) String() string { return string(h) }
