package zfstest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs/zfstest"
)

// TestRealPoolsSendAndReceive shows that a pool is what tests take it for: a place for filesystems, snapshots and streams,
// gone when the test is over.
func TestRealPoolsSendAndReceive(t *testing.T) {
	t.Parallel()
	zfstest.RequireReal(t)

	var source, target string
	t.Run("use", func(t *testing.T) {
		source = zfstest.NewPool(t)
		target = zfstest.NewPool(t, zfstest.Size(128<<20), zfstest.Args("-O", "compression=off"))
		require.NotEqual(t, source, target)
		require.Equal(t, "off\n", command(t, nil, "zfs", "get", "-Ho", "value", "compression", target))

		command(t, nil, "zfs", "create", source+"/data")
		content := bytes.Repeat([]byte("zfleet\n"), 100_000)
		written := filepath.Join(zfstest.Mountpoint(t, source), "data", "file")
		require.NoError(t, os.WriteFile(written, content, 0o600))
		command(t, nil, "zfs", "snapshot", source+"/data@first")

		stream := command(t, nil, "zfs", "send", source+"/data@first")
		command(t, strings.NewReader(stream), "zfs", "receive", target+"/copy")

		guid := func(snapshot string) string {
			return command(t, nil, "zfs", "get", "-Hpo", "value", "guid", snapshot)
		}
		require.Equal(t, guid(source+"/data@first"), guid(target+"/copy@first"))
		received, err := os.ReadFile(filepath.Join(zfstest.Mountpoint(t, target), "copy", "file"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, received), "the received file differs from the one that was sent")
	})

	pools := strings.Fields(command(t, nil, "zpool", "list", "-Ho", "name"))
	require.NotContains(t, pools, source, "the pool must be gone when its test is over")
	require.NotContains(t, pools, target, "the pool must be gone when its test is over")
}

// command returns the standard output of a command that must succeed.
func command(t *testing.T, stdin *strings.Reader, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s %s: %s", name, strings.Join(args, " "), stderr.String())
	return stdout.String()
}
