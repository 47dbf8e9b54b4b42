// The stage: the pools that the demo plays on.

package demo

import (
	"context"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// stage is two hosts with a pool each.
type stage interface {
	// describe is a sentence about the hosts and their pools.
	describe() string
	// runner runs the zfs commands of the host.
	runner(host protocol.Host) zfs.Runner
	// source is alpha's pool; root is the filesystem on bravo that everything is received below.
	source() string
	root() string
	// write puts a file of so many bytes, determined by seed, into the dataset; a volume has just one.
	write(dataset string, volume bool, file string, seed, bytes uint64) error
	// fingerprint sums up the contents of a snapshot; it is empty where they cannot be looked at.
	fingerprint(ctx context.Context, host protocol.Host, snapshot string) (string, error)
	// interruptedSize is how much is to be sent when the sender is killed, in bytes.
	interruptedSize() uint64
	// ackWait is how long a claim outlives a killed worker: short, so that nobody has to wait, but long enough for a slow
	// machine's workers to say that they are alive.
	ackWait() time.Duration
	// close removes the pools.
	close() error
}
