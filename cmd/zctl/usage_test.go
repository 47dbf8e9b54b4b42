package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	require.NoError(t, os.WriteFile(broken, []byte("job: x\nsource: {host: alpha, filesystem: {}}\n"), 0o600))
	for _, try := range []struct{ line, want string }{
		{"frobnicate", "unknown command"},
		{"jobs --colour", "unknown flag: --colour"},
		{"jobs -o xml", "use table, json or yaml"},
		{"run", "accepts 1 arg"},
		{"submit", "say which job"},
		{"submit -f " + broken, `unknown field "filesystem"`},
		{"submit -f " + broken + " --from a:b", "either -f or the flags"},
		{"submit -f /nonexistent", "no such file"},
		{"submit --from alpha:tank", "a job needs a source and a target"},
		{"submit --from tank --to bravo:backup", "write it as HOST:FILESYSTEM"},
		{"submit --from Al:tank --to bravo:backup", "lower-case letters"},
		{"submit --from a:x --from b:y --to c:z", "a job has one source host"},
		{"submit --from a:x --to b:z --initial some", "most_recent, all or fail"},
		{"submit --from a:x --to b:z --transport pigeon", "use auto, tcp, object or local"},
		{"submit --from a:x --to b:z --compression lz4", "use none, zstd"},
		{"submit --from a:x --to b:z --limit fast", `--limit: size "fast"`},
		{"submit --from a:x --to b:z --limit 5", "send.bandwidth_limit"},
		{"plan", "say which job"},
		{"plan job -f " + broken, "say which job"},
		{"plans --wait", "--wait is for one plan"},
		{"events --dead-letters --follow", "--dead-letters goes with"},
		{"deadletters show", "accepts 1 arg"},
		{"deadletters show first", "is no dead letter: name it by its number"},
		{"deadletters retry", "say which dead letters to retry"},
		{"deadletters drop 1 --all", "say which dead letters to drop"},
		{"deadletters drop --before 24h", "nobody can be asked"},
		{"deadletters list --since -1h", "use a positive time"},
		{"status --interval 0s", "use a positive time"},
		{"abstractions frobnicate", "unknown command"},
		{"abstractions list Not-A-Host", "lower-case letters"},
		{"abstractions list --job-id /", "job id"},
		{"abstractions list --job a --job-id b", "either --job or --job-id"},
		{"abstractions list --kind hold", "use one of step-hold"},
		{"abstractions list --fs tank/*", "there are no wildcards"},
		{"abstractions list --host Not-A-Host", "lower-case letters"},
		{"abstractions release-all --yes", "say whose holds and bookmarks are to go"},
		{"abstractions release-all --job prod", "nobody can be asked"},
		{"abstractions release-stale", "nobody can be asked"},
		{"abstractions release-stale --yes --kind hold", "use one of step-hold"},
		{"migrate frobnicate", "unknown command"},
		{"migrate replication-cursor:v1-v2 --host alpha", "say whose cursors they were"},
		{"migrate replication-cursor:v1-v2 --job-id prod.bravo", "say on which host"},
		{"worker --host UPPER", "host name"},
		{"worker --tls maybe", "worker.data.tls"},
		{"worker --config /nonexistent", "no such file"},
		{"worker --host alpha --domain a.b", "nats.domain"},
		{"server --nats-listen nowhere", "nats.embedded.listen"},
		{"coordinator --replicas 2", "coordinator.replicas"},
		{"coordinator --log-level loud", "log level"},
	} {
		result := b.zctl(strings.Fields(try.line)...)
		require.Equal(t, exitUsage, result.code, "zctl %s: %s", try.line, result.err)
		require.Contains(t, result.err, try.want, "zctl %s", try.line)
		require.Contains(t, result.err, "zctl: ", "zctl %s", try.line)
		require.Empty(t, result.out, "zctl %s", try.line)
	}
}

func TestANameThatCannotBe(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	b.resources()
	result := b.zctl("plans", "No.Such")
	require.Equal(t, exitUsage, result.code)
	require.Contains(t, result.err, "plans are named like")
	result = b.zctl("plans", "20261123t000000-aaaaa")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.err, "there is no plan 20261123t000000-aaaaa")
}

func TestServerRefusesAnotherNATS(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.env["ZFLEET_NATS"] = "nats://127.0.0.1:1"
	result := b.zctl("server")
	require.Equal(t, exitUsage, result.code)
	require.Contains(t, result.err, "zctl server runs its own NATS server")
}

func TestNothingToConnectTo(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	result := b.zctl("jobs", "--nats", "nats://127.0.0.1:1")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.err, "--nats, ZFLEET_NATS or --context, or start one with: zctl server")

	b.listen()
	result = b.zctl("jobs")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.err, "there is no fleet on this NATS server yet")
}

func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	require.Contains(t, b.must("version"), "protocol 1")
	require.Contains(t, b.must("version", "-o", "json"), `"protocol": 1`)
	require.Contains(t, b.must("version", "-o", "yaml"), "protocol: 1\n")
	golden(t, "help", b.must())
	require.Equal(t, b.must(), b.must("--help"))
	require.Contains(t, b.must("completion", "bash"), "bash completion")
	require.Contains(t, b.must("abstractions"), "List step holds, cursors and last-received holds")
}
