// The real fleet: the zctl binary's processes on real pools, as an operator runs them. Tests that use it run in the virtual
// machine (itest/vm).

package itest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

// realFleet is a NATS server, a coordinator, and the workers of alpha and bravo, each a process of its own.
type realFleet struct {
	t *testing.T
	// zctl is the program's path, dir where its files are, and url that of NATS.
	zctl, dir, url string
	// source is alpha's pool and target bravo's; root is the target's root on it.
	source, target, root string

	server, coordinator, alpha, bravo *realProcess
}

// realProcess is a process that can be killed and started again.
type realProcess struct {
	t    *testing.T
	name string
	args []string
	log  string

	command *exec.Cmd
}

// realNetwork is where the processes of a realFleet run, and how they reach each other.
type realNetwork struct {
	// nats is the address that NATS listens at.
	nats         string
	alpha, bravo realPlace
}

// realPlace is where one worker runs.
type realPlace struct {
	// through is a command that runs the worker's, such as "ip netns exec NAME"; empty runs it as it is.
	through []string
	// nats is NATS's address as seen from there, and listen the data port's.
	nats, listen string
}

func loopback() realNetwork {
	here := realPlace{nats: "127.0.0.1", listen: "127.0.0.1:0"}
	return realNetwork{nats: "127.0.0.1", alpha: here, bravo: here}
}

func newRealFleet(t *testing.T) *realFleet {
	t.Helper()
	return newRealFleetIn(t, loopback())
}

func newRealFleetIn(t *testing.T, network realNetwork) *realFleet {
	t.Helper()
	zfstest.RequireReal(t)
	f := &realFleet{t: t, zctl: os.Getenv("ZFLEET_ZCTL"), dir: t.TempDir()}
	require.NotEmpty(t, f.zctl, "ZFLEET_ZCTL must name the program")
	f.source, f.target = zfstest.NewPool(t, zfstest.Size(2<<30)), zfstest.NewPool(t, zfstest.Size(2<<30))
	f.root = f.target + "/alpha"
	f.zfs("create", f.root)
	f.zfs("create", f.source+"/data")

	port := freePort(t)
	url := func(address string) string { return fmt.Sprintf("nats://%s:%d", address, port) }
	f.url = url("127.0.0.1")
	f.write("server.yaml", fmt.Sprintf(`
host: hub
nats: {embedded: {store_dir: %s, listen: "%s:%d"}}
worker: {data: {listen: "127.0.0.1:0"}}
coordinator: {enabled: false}
`, filepath.Join(f.dir, "store"), network.nats, port))
	f.write("alpha.yaml", fmt.Sprintf(`
host: alpha
nats: {url: %q}
worker:
  data: {listen: %q}
  allow: {send: {%q: true, %q: false}, recv: [{root: %q}]}
`, url(network.alpha.nats), network.alpha.listen, f.source+"/data<", f.source+"/data/secret<", f.source+"/local"))
	f.write("bravo.yaml", fmt.Sprintf(`
host: bravo
nats: {url: %q}
worker:
  data: {listen: %q}
  allow: {recv: [{root: %q}]}
`, url(network.bravo.nats), network.bravo.listen, f.root))

	f.server = f.start("server", nil, "server", "--config", "server.yaml")
	f.await("NATS to answer", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	f.coordinator = f.start("coordinator", nil, "coordinator", "--nats", f.url)
	f.alpha = f.start("alpha", network.alpha.through, "worker", "--config", "alpha.yaml")
	f.bravo = f.start("bravo", network.bravo.through, "worker", "--config", "bravo.yaml")
	return f
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().(*net.TCPAddr).Port
}

func (f *realFleet) write(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	require.NoError(f.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// start starts a process of the program, by the command through unless that is empty; what it says goes to a file that a
// failed test shows.
func (f *realFleet) start(name string, through []string, args ...string) *realProcess {
	f.t.Helper()
	p := &realProcess{
		t: f.t, name: name, args: slices.Concat(through, []string{f.zctl}, args), log: filepath.Join(f.dir, name+".log"),
	}
	p.start(f.dir)
	f.t.Cleanup(func() {
		p.stop()
		if f.t.Failed() {
			text, err := os.ReadFile(p.log)
			f.t.Logf("what %s said (%v):\n%s", name, err, tail(text, 8<<10))
		}
	})
	return p
}

func tail(text []byte, n int) []byte { return text[max(0, len(text)-n):] }

func (p *realProcess) start(dir string) {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(p.t, err)
	defer func() { require.NoError(p.t, log.Close()) }()
	p.command = exec.Command(p.args[0], p.args[1:]...)
	p.command.Dir, p.command.Stdout, p.command.Stderr = dir, log, log
	require.NoError(p.t, p.command.Start(), "start %s", p.name)
}

// kill is kill -9; the process is then gone.
func (p *realProcess) kill() {
	p.t.Helper()
	require.NoError(p.t, p.command.Process.Kill(), "kill %s", p.name)
	_ = p.command.Wait() // it says that the process was killed
}

// stop ends the process as an operator would, and with force when that takes too long.
func (p *realProcess) stop() {
	if p.command.ProcessState != nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.command.Wait() // how it ends when it is stopped is its own tests' concern
	}()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Logf("stop %s: %v", p.name, err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s did not stop within 30 s of SIGTERM", p.name)
		_ = p.command.Process.Kill()
		<-ended
	}
}

// restart kills the process and starts it again at once.
func (f *realFleet) restart(p *realProcess) {
	f.t.Helper()
	p.kill()
	p.start(f.dir)
}

func (f *realFleet) await(what string, condition func() bool) {
	f.t.Helper()
	require.Eventually(f.t, condition, testfleet.Timeout, 50*time.Millisecond, "waited for %s", what)
}

// run runs zctl as an operator does.
func (f *realFleet) run(args ...string) (stdout, stderr string, exitCode int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), testfleet.Timeout)
	defer cancel()
	command := exec.CommandContext(ctx, f.zctl, args...)
	command.Dir = f.dir
	command.Env = append(os.Environ(), "ZFLEET_NATS="+f.url)
	var out, err bytes.Buffer
	command.Stdout, command.Stderr = &out, &err
	runError := command.Run()
	require.NoError(f.t, ctx.Err(), "zctl %s took too long; it said:\n%s\n%s", strings.Join(args, " "), out.String(), err.String())
	var exit *exec.ExitError
	if runError != nil && !errors.As(runError, &exit) {
		require.NoError(f.t, runError)
	}
	return out.String(), err.String(), command.ProcessState.ExitCode()
}

// must runs zctl and requires that it succeeds.
func (f *realFleet) must(args ...string) string {
	f.t.Helper()
	stdout, stderr, code := f.run(args...)
	require.Zero(f.t, code, "zctl %s:\n%s\n%s", strings.Join(args, " "), stdout, stderr)
	return stdout
}

// job writes a job file for everything below the source's data.
func (f *realFleet) job(name, more string) string {
	f.t.Helper()
	return f.write(name+".yaml", fmt.Sprintf(`
job: %s
source: {host: alpha, filesystems: {%q: true}}
targets: [{host: bravo, root: %s}]
replication: {initial: all}
%s`, name, f.source+"/data<", f.root, more))
}

// zfs runs the zfs command and returns its output.
func (f *realFleet) zfs(args ...string) string {
	f.t.Helper()
	return f.command("zfs", args...)
}

// command runs a command of the system and returns its output.
func (f *realFleet) command(name string, args ...string) string {
	f.t.Helper()
	output, err := exec.CommandContext(f.t.Context(), name, args...).CombinedOutput()
	require.NoError(f.t, err, "%s %s: %s", name, strings.Join(args, " "), output)
	return string(output)
}

// versions are the snapshots (or bookmarks) at and below the dataset, each as its name without the prefix and its guid.
func (f *realFleet) versions(versionType, dataset, prefix string) []string {
	f.t.Helper()
	var versions []string
	for line := range strings.Lines(f.zfs("list", "-Hp", "-r", "-t", versionType, "-o", "name,guid", dataset)) {
		versions = append(versions, strings.TrimPrefix(strings.TrimSpace(line), prefix))
	}
	slices.Sort(versions)
	return versions
}

// requireEqualVersions requires that every snapshot of the source is on the target, and none besides.
func (f *realFleet) requireEqualVersions(root string) {
	f.t.Helper()
	source := f.versions("snapshot", f.source+"/data", "")
	require.NotEmpty(f.t, source)
	require.Equal(f.t, source, f.versions("snapshot", root, root+"/"), "names and guids of all snapshots")
}

// abstraction is what zctl abstractions list -o json says of one.
type abstraction struct {
	Host, Kind, Filesystem, Name, Tag string
	JobID                             string `json:"job_id"`
}

// requireAbstractions requires, for each JobID, one cursor for the newest snapshot of each source filesystem, and one
// last-received hold on the newest snapshot below the JobID's root, and nothing else anywhere, by zctl and by zfs.
func (f *realFleet) requireAbstractions(filesystems []string, roots map[string]string) {
	f.t.Helper()
	var want []string
	for id, root := range roots {
		for _, name := range filesystems {
			newest := f.newest(name)
			want = append(want,
				fmt.Sprintf("alpha %s#zrepl_CURSOR_G_%016x_J_%s", name, newest.guid, id),
				fmt.Sprintf("bravo %s/%s@%s zrepl_last_received_J_%s", root, name, newest.name, id))
		}
	}
	// All hosts of this fleet are one machine, and each would list what is on the other's pool, too.
	listed := append(f.abstractions("alpha", f.source), f.abstractions("bravo", f.target)...)
	var got []string
	for _, a := range listed {
		got = append(got, strings.TrimSpace(a.Host+" "+a.Name+" "+a.Tag))
	}
	require.ElementsMatch(f.t, want, got, "what zctl abstractions list says")

	var onDisk []string
	for line := range strings.Lines(f.zfs("list", "-Hp", "-r", "-t", "bookmark", "-o", "name", f.source, f.target)) {
		onDisk = append(onDisk, "alpha "+strings.TrimSpace(line))
	}
	for line := range strings.Lines(f.zfs("list", "-Hp", "-r", "-t", "snapshot", "-o", "name,userrefs", f.source, f.target)) {
		name, userrefs, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if userrefs == "0" {
			continue
		}
		for hold := range strings.Lines(f.zfs("holds", "-H", name)) {
			onDisk = append(onDisk, "bravo "+name+" "+strings.Split(hold, "\t")[1])
		}
	}
	require.ElementsMatch(f.t, want, onDisk, "what is on disk")
}

// abstractions is what zctl says that replication keeps below a dataset of a host.
func (f *realFleet) abstractions(host, root string) []abstraction {
	f.t.Helper()
	var listed []abstraction
	output := f.must("abstractions", "list", host, "--root", root, "-o", "json")
	require.NoError(f.t, json.Unmarshal([]byte(output), &listed), "%s", output)
	return listed
}

type namedGUID struct {
	name string
	guid uint64
}

func (f *realFleet) newest(filesystem string) namedGUID {
	f.t.Helper()
	lines := strings.Split(strings.TrimSpace(
		f.zfs("list", "-Hp", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", "name,guid", filesystem)), "\n")
	name, guid, _ := strings.Cut(lines[len(lines)-1], "\t")
	var parsed namedGUID
	_, parsed.name, _ = strings.Cut(name, "@")
	_, err := fmt.Sscan(guid, &parsed.guid)
	require.NoError(f.t, err)
	return parsed
}

// contents are the digests of all files of a snapshot, by path.
func (f *realFleet) contents(snapshot string) map[string]string {
	f.t.Helper()
	pool, _, _ := strings.Cut(snapshot, "/")
	clone := pool + "/clone"
	f.zfs("clone", "-o", "readonly=on", "-o", "canmount=on", snapshot, clone)
	defer f.zfs("destroy", clone)
	mountpoint := f.mountpoint(clone)
	digests := map[string]string{}
	require.NoError(f.t, filepath.WalkDir(mountpoint, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		digests[strings.TrimPrefix(path, mountpoint)], err = digest(path)
		return err
	}))
	return digests
}

func digest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	return hex.EncodeToString(hash.Sum(nil)), errors.Join(err, file.Close())
}

// writeRandom writes a file of random bytes into a filesystem.
func (f *realFleet) writeRandom(filesystem, name string, size int64) {
	f.t.Helper()
	file, err := os.Create(filepath.Join(f.mountpoint(filesystem), name))
	require.NoError(f.t, err)
	_, err = io.CopyN(file, rand.Reader, size)
	require.NoError(f.t, errors.Join(err, file.Close()))
}

func (f *realFleet) mountpoint(filesystem string) string {
	f.t.Helper()
	return strings.TrimSpace(f.zfs("get", "-Hp", "-o", "value", "mountpoint", filesystem))
}

// newDevice creates a volume and returns the device that appeared with it: there is no udev in the virtual machine to name it.
func (f *realFleet) newDevice(create func()) string {
	f.t.Helper()
	devices := func() []string {
		found, err := filepath.Glob("/dev/zd*")
		require.NoError(f.t, err)
		return found
	}
	before := devices()
	create()
	var device string
	f.await("the volume's device", func() bool {
		for _, found := range devices() {
			if !slices.Contains(before, found) {
				device = found
				return true
			}
		}
		return false
	})
	return device
}

// client connects to the fleet as zctl does.
func (f *realFleet) client() *fleet.Client {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), testfleet.Timeout)
	f.t.Cleanup(cancel)
	conn, js, err := protocol.Connect(ctx, protocol.ConnectOptions{URL: f.url, Name: "test", Wait: -1})
	require.NoError(f.t, err)
	f.t.Cleanup(conn.Close)
	var resources *protocol.Resources
	f.await("the fleet's resources", func() bool {
		resources, err = protocol.OpenResources(ctx, js)
		return err == nil
	})
	return fleet.New(conn, resources, fleet.Options{By: "test"})
}
