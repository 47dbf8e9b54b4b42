package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		os.Exit(beProcess())
	}
	goleak.VerifyTestMain(m, natstest.ClientLeak())
}

var updateGolden = flag.Bool("update", false, "write the golden files anew")

// outcomeOf is what one run of zctl gave.
type outcomeOf struct {
	code     int
	out, err string
}

// testbed runs zctl with an environment and hosts of its own.
type testbed struct {
	t     *testing.T
	env   map[string]string
	hosts map[protocol.Host]*zfsfake.Fake
	// runDir is what the workers share.
	runDir string
}

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	return &testbed{t: t, env: map[string]string{"HOME": t.TempDir()}, runDir: t.TempDir(), hosts: map[protocol.Host]*zfsfake.Fake{
		"alpha": zfsfake.New(zfsfake.WithSeed(1)), "bravo": zfsfake.New(zfsfake.WithSeed(2)),
	}}
}

// program is zctl with the testbed's edges.
func (b *testbed) program(in string, out, errOut *safeBuffer) *program {
	return &program{
		in: strings.NewReader(in), out: out, errOut: errOut,
		getenv:   func(name string) string { return b.env[name] },
		hostname: func() (string, error) { return "Alpha.example.org", nil },
		signals:  func() (<-chan os.Signal, func()) { return nil, func() {} },
		// What is typed is typed by somebody.
		interactive: func() bool { return in != "" },
		runner: func(host protocol.Host) zfs.Runner {
			if fake := b.hosts[host]; fake != nil {
				return fake
			}
			return noZFS{}
		},
		location: time.UTC,
	}
}

// noZFS is a host without ZFS.
type noZFS struct{}

func (noZFS) Run(context.Context, zfs.Command) (zfs.Result, error) {
	return zfs.Result{}, os.ErrNotExist
}

// zctl runs a command line to its end.
func (b *testbed) zctl(args ...string) outcomeOf {
	b.t.Helper()
	return b.zctlWith("", args...)
}

// zctlWith is zctl with something on standard input.
func (b *testbed) zctlWith(in string, args ...string) outcomeOf {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	out, errOut := &safeBuffer{}, &safeBuffer{}
	code := b.program(in, out, errOut).execute(ctx, args)
	return outcomeOf{code, out.String(), errOut.String()}
}

// must runs a command line that has to succeed, and gives its output.
func (b *testbed) must(args ...string) string {
	b.t.Helper()
	result := b.zctl(args...)
	require.Equal(b.t, exitDone, result.code, "zctl %s\n%s\n%s", strings.Join(args, " "), result.out, result.err)
	return result.out
}

// start runs a daemon until the test ends or stop is called, which requires that it ends well. It gives its logs.
func (b *testbed) start(args ...string) (logs *safeBuffer, stop func()) {
	b.t.Helper()
	_, logs, stop = b.startBoth(args...)
	return logs, stop
}

// startOut is start for a command that goes on; it gives its output.
func (b *testbed) startOut(args ...string) (out *safeBuffer, stop func()) {
	b.t.Helper()
	out, _, stop = b.startBoth(args...)
	return out, stop
}

// withRunDir has workers share a directory of the testbed's own.
func (b *testbed) withRunDir(args []string) []string {
	if args[0] == "worker" || args[0] == "server" {
		return append(slices.Clone(args), "--run-dir", b.runDir)
	}
	return args
}

func (b *testbed) startBoth(args ...string) (out, errOut *safeBuffer, stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, errOut = &safeBuffer{}, &safeBuffer{}
	done := make(chan int, 1)
	program := b.program("", out, errOut)
	args = b.withRunDir(args)
	go func() { done <- program.execute(ctx, args) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if code := <-done; code != exitDone {
				b.t.Errorf("zctl %s ended with %d\n%s", strings.Join(args, " "), code, errOut.String())
			}
		})
	}
	b.t.Cleanup(stop)
	return out, errOut, stop
}

// listen starts a NATS server and points the environment to it.
func (b *testbed) listen() {
	b.t.Helper()
	server, _, _ := natstest.RunListening(b.t)
	b.env["ZFLEET_NATS"] = server.ClientURL()
}

// fleet is a whole fleet: a coordinator, alpha with the pool tank, and bravo with the pool backup.
func (b *testbed) fleet() {
	b.t.Helper()
	b.listen()
	b.hosts["alpha"].CreatePool("tank")
	b.hosts["bravo"].CreatePool("backup")
	b.start("coordinator", "--host", "alpha", "--log-level", "error")
	b.start("worker", "--host", "alpha", "--allow-send", "tank<", "--allow-send", "!tank/private<", "--listen", "127.0.0.1:0", "--log-level", "error")
	b.start("worker", "--host", "bravo", "--allow-recv", "backup", "--listen", "127.0.0.1:0", "--log-level", "error")
	require.Eventually(b.t, func() bool {
		hosts := b.zctl("hosts", "-o", "json")
		return hosts.code == exitDone && strings.Contains(hosts.out, `"alpha"`) && strings.Contains(hosts.out, `"bravo"`)
	}, time.Minute, 50*time.Millisecond, "the workers did not come up")
}

// zfs runs a command on a host, which has to succeed.
func (b *testbed) zfs(host protocol.Host, args ...string) {
	b.t.Helper()
	result, err := b.hosts[host].Run(b.t.Context(), zfs.Command{Args: append([]string{"zfs"}, args...)})
	require.NoError(b.t, err)
	require.Zero(b.t, result.ExitCode, "zfs %s: %s", strings.Join(args, " "), result.Stderr)
}

// furnish gives alpha three filesystems and a volume with a snapshot each.
func (b *testbed) furnish() {
	b.t.Helper()
	for _, name := range []string{"tank/data", "tank/data/db", "tank/data/www"} {
		b.zfs("alpha", "create", name)
		require.NoError(b.t, b.hosts["alpha"].Generate(name, "file", 7, 100<<10))
	}
	b.zfs("alpha", "create", "-V", "8M", "tank/data/vol")
	b.zfs("alpha", "snapshot", "-r", "tank/data@one")
}

// What differs from run to run, and what stands for it in golden files.
var volatile = []struct {
	pattern *regexp.Regexp
	stands  string
}{
	{regexp.MustCompile(`\d{8}t\d{6}-[a-z0-9]{5}`), "PLAN"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "TIME"},
	{regexp.MustCompile(`(alpha|bravo)-\d+-[a-z0-9]{4}`), "$1-WORKER"},
	{regexp.MustCompile(`\S*/\d{3}/`), "DIR/"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ms|s)\b`), "SPAN"},
	{regexp.MustCompile(`\d+(\.\d+)? ([KMG]i)?B`), "SIZE"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "GUID"},
	{regexp.MustCompile(`_G_[0-9a-f]{16}_`), "_G_GUID_"},
	{regexp.MustCompile(` {2,}`), "  "},
	{regexp.MustCompile(` +\n`), "\n"},
}

// golden compares the text, without what differs from run to run, with testdata/<name>.golden.
func golden(t *testing.T, name, text string) {
	t.Helper()
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.stands)
	}
	path := filepath.Join("testdata", name+".golden")
	if *updateGolden {
		require.NoError(t, os.MkdirAll("testdata", 0o750))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "write it with: go test ./cmd/zctl -update")
	require.Equal(t, string(want), text, "%s; if it is right so: go test ./cmd/zctl -update", path)
}

// safeBuffer is a buffer that several goroutines may use.
type safeBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(data []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.Write(data)
}

func (b *safeBuffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.String()
}
