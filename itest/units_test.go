// The units in deploy/systemd: that systemd understands them, and that they fit what the daemons do.

package itest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/cmd/zctl/hostfile"
)

var units = filepath.Join("..", "deploy", "systemd")

// setting is the value of a unit's setting; empty where it is not set.
func setting(unit, name string) string {
	for line := range strings.Lines(unit) {
		if value, found := strings.CutPrefix(line, name+"="); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestUnitsFitTheDaemons(t *testing.T) {
	t.Parallel()
	grace := hostfile.Default().Worker.Grace.Std()
	for _, name := range []string{"zfleet-worker.service", "zfleet-worker@.service", "zfleet-server.service", "zfleet-coordinator.service"} {
		text, err := os.ReadFile(filepath.Join(units, name))
		require.NoError(t, err)
		unit := string(text)
		require.Equal(t, "notify", setting(unit, "Type"), "%s: the daemons say when they are ready", name)
		require.Equal(t, "on-failure", setting(unit, "Restart"), "%s: a daemon that was stopped stays so", name)
		require.NotEmpty(t, setting(unit, "WatchdogSec"), name)
		if name == "zfleet-coordinator.service" {
			continue
		}
		stop, err := time.ParseDuration(setting(unit, "TimeoutStopSec"))
		require.NoError(t, err, name)
		require.Greater(t, stop, grace, "%s: running steps may end within worker.grace", name)
		require.Equal(t, "mixed", setting(unit, "KillMode"), "%s: zfs commands must not be told to stop with their worker", name)
		require.Equal(t, "zfleet", setting(unit, "RuntimeDirectory"), name)
		require.Equal(t, "yes", setting(unit, "RuntimeDirectoryPreserve"), "%s: other workers use it", name)
	}
}

// Only the programs are replaced, since they are not installed where the tests run.
func TestSystemdUnderstandsTheUnits(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not there")
	}
	files, err := filepath.Glob(filepath.Join(units, "*.*"))
	require.NoError(t, err)
	dir := t.TempDir()
	var copies []string
	for _, file := range files {
		if filepath.Ext(file) != ".service" && filepath.Ext(file) != ".timer" {
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		replaced := strings.NewReplacer("/usr/local/bin/zctl", "/bin/true", "/usr/local/bin/nats-server", "/bin/true").Replace(string(text))
		// A template is verified as one of its instances.
		path := filepath.Join(dir, strings.Replace(filepath.Base(file), "@.", "@8410.", 1))
		require.NoError(t, os.WriteFile(path, []byte(replaced), 0o600))
		copies = append(copies, path)
	}
	require.GreaterOrEqual(t, len(copies), 7)
	output, err := exec.CommandContext(t.Context(), analyze, append([]string{"verify", "--man=no"}, copies...)...).CombinedOutput()
	require.NoError(t, err, "%s", output)
	for line := range strings.Lines(string(output)) {
		require.NotContains(t, line, dir, "%s", output)
	}
}
