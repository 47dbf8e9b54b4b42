// Presence: what a worker tells the fleet about itself.

package protocol

import "time"

// Presence is what a worker says of itself and its host, renewed while it lives.
type Presence struct {
	Host Host `msgpack:"host" json:"host"`
	// Worker names the worker process; a host may have several.
	Worker string `msgpack:"worker" json:"worker"`
	// Version is the program's.
	Version string `msgpack:"version" json:"version"`
	// Protocols are the protocol versions it speaks.
	Protocols []int `msgpack:"protocols" json:"protocols"`
	// ZFS is the version of OpenZFS; Features are those that matter to replication.
	ZFS      string          `msgpack:"zfs" json:"zfs"`
	Features map[string]bool `msgpack:"features" json:"features"`
	Pools    []PoolInfo      `msgpack:"pools" json:"pools"`
	// Addresses are those of its data port, as senders should dial them.
	Addresses   []string `msgpack:"addresses" json:"addresses"`
	TLS         bool     `msgpack:"tls" json:"tls"`
	Fingerprint []byte   `msgpack:"fingerprint,omitempty" json:"fingerprint,omitempty"`
	SendSlots   int      `msgpack:"send_slots" json:"send_slots"`
	RecvSlots   int      `msgpack:"recv_slots" json:"recv_slots"`
	// Draining says that it claims nothing more, and stops when its steps have ended.
	Draining bool      `msgpack:"draining,omitempty" json:"draining,omitempty"`
	Started  time.Time `msgpack:"started" json:"started"`
	Seen     time.Time `msgpack:"seen" json:"seen"`
}

// PresenceTTL is how long a presence outlives a worker that says nothing more. What is left of it then is a marker, from which
// PresenceTTL before is when the worker was last seen.
const PresenceTTL = 30 * time.Second

// HostMarkerTTL is how long the marker of a worker that is gone is kept.
const HostMarkerTTL = 30 * 24 * time.Hour

// PoolInfo is a pool of a host.
type PoolInfo struct {
	Name     string `msgpack:"name" json:"name"`
	Size     uint64 `msgpack:"size" json:"size"`
	Free     uint64 `msgpack:"free" json:"free"`
	Health   string `msgpack:"health" json:"health"`
	ReadOnly bool   `msgpack:"readonly,omitempty" json:"readonly,omitempty"`
}
