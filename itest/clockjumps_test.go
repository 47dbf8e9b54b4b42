// Clock jumps: the machine's wall clock jumps ahead and then far back while a job runs.

package itest_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
)

// TestRealClockJumps has every process meet a clock that jumps: the NATS server, whose keys expire by the wall clock, the leader
// with its lease, and the workers with their claims, in the middle of steps and between them.
func TestRealClockJumps(t *testing.T) {
	const size, little, filesystems = 8 << 20, 128 << 10, 3
	if name, err := os.Hostname(); err != nil || name != "zfleet-vm" {
		t.Skip("changes the machine's clock: needs real ZFS in the virtual machine of itest/vm, and is not for any other machine")
	}
	counter, network := newSentBytes(t), loopback()
	network.alpha.through = counter.through
	f := newRealFleetIn(t, network)
	var names []string
	snapshot := func(n int, bytes int64) {
		for _, name := range names {
			f.writeRandom(name, fmt.Sprintf("file %d", n), bytes)
		}
		f.zfs("snapshot", "-r", fmt.Sprintf("%s/data@s%d", f.source, n))
	}
	for i := range filesystems {
		names = append(names, fmt.Sprintf("%s/data/fs%d", f.source, i))
		f.zfs("create", names[i])
	}
	snapshot(1, size)
	f.must("submit", "-f", f.write("prod.yaml", fmt.Sprintf(`
job: prod
source: {host: alpha, filesystems: {%q: true, %q: false}}
targets: [{host: bravo, root: %s}]
send: {bandwidth_limit: 1MiB}
replication: {initial: all, concurrency: {steps: 1}}
`, f.source+"/data<", f.source+"/data", f.root)))
	client := f.client()
	terms := func() int {
		text, err := os.ReadFile(f.coordinator.log)
		require.NoError(t, err)
		return strings.Count(string(text), "this coordinator leads")
	}
	clock := newClock(t)
	arrived := func() int {
		allocated, err := strconv.Atoi(strings.TrimSpace(f.command("zpool", "list", "-Hp", "-o", "allocated", f.target)))
		require.NoError(t, err)
		return allocated
	}
	id, err := client.Run(t.Context(), "prod")
	require.NoError(t, err)
	before := arrived()
	awaitArrived := func(bytes int) {
		t.Helper()
		f.await(fmt.Sprintf("%d bytes to arrive", bytes), func() bool { return arrived()-before >= bytes })
	}
	awaitArrived(size / 2)
	clock.jump(2 * time.Hour)
	awaitArrived(size * 3 / 2)
	clock.jump(-4 * time.Hour)

	detail := f.wait(client, id)
	require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	tries := 0
	for _, task := range detail.Tasks {
		tries += task.Attempt
	}
	sent := counter.total()
	t.Logf("%d tries of %d steps, %d of %d KiB sent, %d terms", tries, len(detail.Tasks), sent>>10, filesystems*size>>10, terms())
	require.Less(t, sent, uint64(filesystems*size+size/2), "no more is sent again than after a restart")
	require.LessOrEqual(t, terms(), 4, "a jump ends a term at most")

	snapshot(2, little)
	f.must("run", "prod", "--wait")
	clock.restore()
	snapshot(3, little)
	f.must("run", "prod", "--wait")
	for _, name := range names {
		require.Equal(t, f.versions("snapshot", name, name), f.versions("snapshot", f.root+"/"+name, f.root+"/"+name))
		require.Equal(t, f.contents(name+"@s3"), f.contents(f.root+"/"+name+"@s3"), "contents of %s", name)
	}
	f.requireAbstractions(names, map[string]string{"prod.bravo": f.root})
	for _, host := range []string{"alpha", "bravo"} {
		require.Contains(t, f.must("hosts"), host, "its presence is told again")
	}
}

// wallClock is the machine's clock, which is right again when the test ends.
type wallClock struct {
	t testing.TB
	// began is when the clock was right; its monotonic reading goes on through every jump.
	began time.Time
}

func newClock(t testing.TB) *wallClock {
	t.Helper()
	c := &wallClock{t: t, began: time.Now()}
	t.Cleanup(c.restore)
	return c
}

func (c *wallClock) jump(by time.Duration) {
	c.t.Helper()
	c.set(time.Now().Round(0).Add(by))
}

func (c *wallClock) restore() {
	c.t.Helper()
	c.set(c.began.Round(0).Add(time.Since(c.began)))
}

func (c *wallClock) set(to time.Time) {
	c.t.Helper()
	value := unix.NsecToTimeval(to.UnixNano())
	require.NoError(c.t, unix.Settimeofday(&value))
	c.t.Logf("the clock is set to %s", to.UTC().Format(time.TimeOnly))
}
