package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func TestNATSConfig(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`fleet: prod
nats: {servers: [{name: nats-1, address: nats-1.example}]}
hosts: [{name: alpha}]
coordinators: [{name: first}]
operators: [{name: alice}]
`), 0o600))
	run := func(args ...string) (string, string, int) {
		var out, errOut safeBuffer
		code := b.program("", &out, &errOut).execute(t.Context(), append([]string{"nats-config"}, args...))
		return out.String(), errOut.String(), code
	}
	out, errOut, code := run("-f", file, "--dir", filepath.Join(dir, "nats"))
	require.Zero(t, code, errOut)
	require.Regexp(t, `created +.*/nats/nats-1.conf +public +for the server nats-1`, out)
	require.Regexp(t, `created +.*/nats/keys/host-alpha.nk +private`, out)
	require.Regexp(t, `coordinator +first +nats://nats-1.example:4222 +- +U[A-Z0-9]{55}`, out)
	require.Contains(t, out, "replicas: 1")
	require.NotRegexp(t, `\bSU[A-Z0-9]{40,}`, out, "a seed is shown")
	seed, err := os.ReadFile(filepath.Join(dir, "nats/keys/host-alpha.nk"))
	require.NoError(t, err)
	require.Regexp(t, `^SU[A-Z0-9]{56}\n$`, string(seed))

	out, errOut, code = run("-f", file, "--dir", filepath.Join(dir, "nats"), "-o", "json")
	require.Zero(t, code, errOut)
	require.NotContains(t, out, `"created"`)
	require.NotContains(t, out, `"changed"`)

	_, errOut, code = run("-f", filepath.Join(dir, "none.yaml"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, errOut, "none.yaml")
	_, errOut, code = run()
	require.Equal(t, exitUsage, code)
	require.Contains(t, errOut, "name the fleet file with -f")
}

func TestOperatorsLogInWithWhatNATSConfigMakes(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "fleet.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`fleet: prod
nats: {servers: [{name: nats-1, address: 127.0.0.1}], store_dir: `+filepath.Join(dir, "store")+`}
coordinators: [{name: first}]
operators: [{name: alice}]
`), 0o600))
	var out, errOut safeBuffer
	require.Zero(t, b.program("", &out, &errOut).execute(t.Context(), []string{"nats-config", "-f", file, "--dir", dir}), errOut.String())
	config, err := os.ReadFile(filepath.Join(dir, "nats-1.conf"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nats-1.conf"),
		[]byte(strings.Replace(string(config), "0.0.0.0:4222", "127.0.0.1:-1", 1)), 0o600))
	node := natstest.StartFile(t, filepath.Join(dir, "nats-1.conf"))
	conn, js, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		URL: node.ClientURL(), NKey: filepath.Join(dir, "keys/coordinator-first.nk"),
	})
	require.NoError(t, err)
	defer conn.Close()
	_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)

	for _, login := range [][]string{
		{"--nkey", filepath.Join(dir, "keys/operator-alice.nk")},
		{"--context", filepath.Join(dir, "contexts/alice.json")},
	} {
		var out, errOut safeBuffer
		code := b.program("", &out, &errOut).execute(t.Context(), append([]string{"jobs", "--nats", node.ClientURL()}, login...))
		require.Zero(t, code, "%s: %s", login, errOut.String())
	}
	code := b.program("", &out, &errOut).execute(t.Context(), []string{"jobs", "--nats", node.ClientURL()})
	require.Equal(t, exitFailed, code)
	require.Contains(t, errOut.String(), "Authorization Violation")
}
