package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestCheckingAHost(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	good := writeFile(t, "alpha.yaml", `
host: alpha
worker: {data: {listen: "127.0.0.1:0"}, allow: {send: {"tank<": true}}}
`)
	golden(t, "check-good", strings.ReplaceAll(withoutLeader(b.must("check", "--config", good, "--run-dir", b.runDir)), b.runDir, "RUNDIR"))

	bad := writeFile(t, "alpha.yaml", `
host: alpha
worker: {data: {listen: "127.0.0.1:0", tls: off}, allow: {send: {"tank/gone": true}, recv: [{root: nopool/x}]}}
`)
	result := b.zctl("check", "--config", bad, "--offline", "--run-dir", b.runDir)
	require.Equal(t, exitFailed, result.code)
	golden(t, "check-bad", strings.ReplaceAll(result.out, b.runDir, "RUNDIR"))

	result = b.zctl("check", "--host", "charlie", "--offline", "--listen", "127.0.0.1:0")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.out, "is OpenZFS installed")

	below := filepath.Join(good, "below", "a", "file")
	result = b.zctl("check", "--config", good, "--offline", "--run-dir", below)
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.out, "worker.run_dir")

	broken := writeFile(t, "alpha.yaml", "host: alpha\nschedule: {}\n")
	result = b.zctl("check", "--config", broken)
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.out, `unknown field "schedule"`)
}

func TestCheckingAnEmbeddedServer(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.hosts["alpha"].CreatePool("tank")
	store := filepath.Join(t.TempDir(), "not", "there", "yet")
	file := writeFile(t, "alpha.yaml", `
host: alpha
nats: {embedded: {store_dir: `+store+`, listen: "127.0.0.1:0"}}
worker: {data: {listen: "127.0.0.1:0"}, allow: {send: {"tank<": true}}}
`)
	require.Contains(t, b.must("check", "--config", file, "--offline"), store+" can be written")
	require.NoDirExists(t, store, "checking must not change anything")
}

func TestCheckingAJob(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	file := writeFile(t, "prod.yaml", `
job: prod
source: {host: alpha, filesystems: {"tank<": true}}
targets: [{host: bravo, root: backup}, {host: charlie, root: dr}]
`)
	golden(t, "check-job", withoutLeader(b.must("check", "-f", file)))

	result := b.zctlWith("job: prod\n", "check", "-f", "-", "--offline")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.out, "failed")
}

var (
	leaderLine = regexp.MustCompile(`ok +coordinator .*\n`)
	serverLine = regexp.MustCompile(`ok +NATS .*\n`)
)

// withoutLeader leaves out the coordinator's name and the server's version, which differ.
func withoutLeader(text string) string {
	return leaderLine.ReplaceAllString(serverLine.ReplaceAllString(text, "ok  NATS  SERVER\n"), "ok  coordinator  LEADER\n")
}
