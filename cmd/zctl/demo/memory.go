// Pools in memory: they need neither ZFS nor root.

package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

type memoryPools struct {
	hosts map[protocol.Host]*zfsfake.Fake
}

var _ stage = (*memoryPools)(nil)

func newMemoryPools() *memoryPools {
	pools := &memoryPools{hosts: map[protocol.Host]*zfsfake.Fake{
		alpha: zfsfake.New(zfsfake.WithSeed(1)),
		bravo: zfsfake.New(zfsfake.WithSeed(2)),
	}}
	pools.hosts[alpha].CreatePool("tank")
	pools.hosts[bravo].CreatePool("backup")
	return pools
}

func (m *memoryPools) describe() string {
	return "Host alpha has pool tank with filesystems, a volume, and data; host bravo has the empty pool backup.\n" +
		"Both pools are in memory, so nothing on this machine is touched (zctl demo --real uses ZFS)."
}

func (m *memoryPools) runner(host protocol.Host) zfs.Runner { return m.hosts[host] }

func (m *memoryPools) source() string { return "tank" }

func (m *memoryPools) root() string { return "backup" }

func (m *memoryPools) write(dataset string, volume bool, file string, seed, bytes uint64) error {
	if volume {
		file = ""
	}
	if err := m.hosts[alpha].Generate(dataset, file, seed, bytes); err != nil {
		return fmt.Errorf("write to %s: %w", dataset, err)
	}
	return nil
}

func (m *memoryPools) fingerprint(_ context.Context, host protocol.Host, snapshot string) (string, error) {
	sum, err := m.hosts[host].ContentHash(snapshot)
	if err != nil {
		return "", fmt.Errorf("read %s on %s: %w", snapshot, host, err)
	}
	return sum, nil
}

func (m *memoryPools) interruptedSize() uint64 { return 24 << 20 }

func (m *memoryPools) ackWait() time.Duration { return 2 * time.Second }

func (m *memoryPools) close() error { return nil }
