// Namespaces: hosts whose networks have nothing in common but NATS.

package itest_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs/zfstest"
)

// TestRealHostsWithoutARoute puts both workers into network namespaces of their own, each of which has a route to NATS and to
// nothing else.
func TestRealHostsWithoutARoute(t *testing.T) {
	zfstest.RequireReal(t)
	network := realNetwork{nats: "0.0.0.0", alpha: newNamespace(t, "alpha", 1), bravo: newNamespace(t, "bravo", 2)}
	f := newRealFleetIn(t, network)
	f.zfs("snapshot", f.source+"/data@s1")
	f.must("submit", "-f", f.job("apart", ""), "--wait")
	f.zfs("snapshot", f.source+"/data@s2")
	f.must("run", "apart", "--wait")
	f.requireEqualVersions(f.root)

	var reasons []string
	decoder := json.NewDecoder(strings.NewReader(f.must("events", "-o", "json")))
	for decoder.More() {
		var record struct {
			Event struct {
				Kind string
				Path *struct{ Transport, Reason string }
			}
		}
		require.NoError(t, decoder.Decode(&record))
		if record.Event.Kind == "connected" {
			require.NotNil(t, record.Event.Path)
			require.Equal(t, "object", record.Event.Path.Transport)
			reasons = append(reasons, record.Event.Path.Reason)
		}
	}
	require.Len(t, reasons, 2, "one step each run")
	for _, reason := range reasons {
		require.Contains(t, reason, "network is unreachable", "why there is no connection to the receiver")
		require.Contains(t, reason, "asking the receiver to connect", "nor from it")
	}
	require.Contains(t, reasons[1], "found at", "the second step does not try again what did not work a moment ago")
}

// newNamespace makes a network namespace that is joined to this one by a pair of interfaces, and to nothing else.
func newNamespace(t *testing.T, name string, number int) realPlace {
	t.Helper()
	ip := func(args ...string) {
		t.Helper()
		output, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
		require.NoError(t, err, "ip %s: %s", strings.Join(args, " "), output)
	}
	outside, inside := fmt.Sprintf("10.99.%d.1", number), fmt.Sprintf("10.99.%d.2", number)
	space, link := "zf-"+name, fmt.Sprintf("zf%d", number)
	ip("netns", "add", space)
	t.Cleanup(func() {
		// The test's context has ended by now. The interfaces go with the namespace.
		output, err := exec.Command("ip", "netns", "delete", space).CombinedOutput()
		require.NoError(t, err, "%s", output)
	})
	ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
	ip("addr", "add", outside+"/24", "dev", link)
	ip("link", "set", link, "up")
	ip("-n", space, "addr", "add", inside+"/24", "dev", "eth0")
	ip("-n", space, "link", "set", "eth0", "up")
	ip("-n", space, "link", "set", "lo", "up")
	return realPlace{through: []string{"ip", "netns", "exec", space}, nats: outside, listen: inside + ":0"}
}
