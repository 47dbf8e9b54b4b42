package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// The test binary is zctl, as a process of its own, where asProcess is in its environment. Its one host has the pools tank, with
// two filesystems, and backup. The first zfs send hangs: then the process writes hangs to its standard output, and it goes on when
// its standard input ends.
const (
	asProcess = "ZCTL_TEST_AS_PROCESS"
	hangs     = "zfs send hangs"
)

func beProcess() int {
	fake := zfsfake.New(zfsfake.WithSeed(1))
	fake.CreatePool("tank")
	fake.CreatePool("backup")
	for _, args := range [][]string{
		{"zfs", "create", "tank/one"},
		{"zfs", "create", "tank/two"},
		{"zfs", "snapshot", "-r", "tank@now"},
	} {
		if result, err := fake.Run(context.Background(), zfs.Command{Args: args}); err != nil || result.ExitCode != 0 {
			fmt.Fprintln(os.Stderr, args, err, string(result.Stderr))
			return exitUsage
		}
	}
	stuck := fake.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "send").With("-L"), Hang: true, Times: 1})
	go func() {
		<-stuck.Reached()
		fmt.Println(hangs)
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			continue
		}
		stuck.Release()
	}()
	p := newProgram()
	p.runner = func(protocol.Host) zfs.Runner { return fake }
	return run(p, os.Args[1:])
}

// process is a zctl of its own.
type process struct {
	t         *testing.T
	command   *exec.Cmd
	out, logs *safeBuffer
	letGo     func()
	ended     chan struct{}
}

// spawn starts a process, which is killed when the test ends.
func (b *testbed) spawn(environment []string, args ...string) *process {
	b.t.Helper()
	p := &process{t: b.t, out: &safeBuffer{}, logs: &safeBuffer{}, ended: make(chan struct{})}
	p.command = exec.Command(os.Args[0], b.withRunDir(args)...)
	p.command.Env = append([]string{asProcess + "=1", "HOME=" + b.env["HOME"], "ZFLEET_NATS=" + b.env["ZFLEET_NATS"]}, environment...)
	p.command.Stdout, p.command.Stderr = p.out, p.logs
	input, err := p.command.StdinPipe()
	require.NoError(b.t, err)
	p.letGo = func() { _ = input.Close() }
	require.NoError(b.t, p.command.Start())
	go func() {
		defer close(p.ended)
		_ = p.command.Wait() // what it comes to is in the process's state
	}()
	b.t.Cleanup(func() {
		_ = p.command.Process.Kill() // it has ended, where the test has gone well
		<-p.ended
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.command.Process.Signal(s))
}

// says waits until the process has logged or written the text.
func (p *process) says(text string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.logs.String()+p.out.String(), text) }, time.Minute, 10*time.Millisecond,
		"the process has not said %q:\n%s", text, p.logs)
}

// ends requires that the process ends well.
func (p *process) ends() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		require.FailNow(p.t, "the process does not end", "%s", p.logs)
	}
	require.Equal(p.t, exitDone, p.command.ProcessState.ExitCode(), "%s", p.logs)
}

// hostFile writes a host file with these lines besides the host's name.
func hostFile(t *testing.T, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "host.yaml")
	text := "host: alpha\nworker:\n  data: {listen: \"127.0.0.1:0\"}\n  allow: {send: {\"tank<\": true}, recv: [{root: backup}]}\n" + lines
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// workerInAStep is a worker process in the middle of a step of the plan.
func (b *testbed) workerInAStep(environment []string, lines string) (worker *process, plan string) {
	b.t.Helper()
	b.listen()
	b.start("coordinator", "--host", "alpha", "--log-level", "error")
	worker = b.spawn(environment, "worker", "--config", hostFile(b.t, lines))
	worker.says("worker runs")
	b.must("submit", "--job", "one", "--from", "alpha:tank/one", "--to", "alpha:backup")
	b.must("submit", "--job", "two", "--from", "alpha:tank/two", "--to", "alpha:backup")
	plan = planName.FindString(b.must("run", "one"))
	worker.says(hangs)
	return worker, plan
}

func TestAWorkerEndsItsStepsAndTakesNoMore(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	worker, plan := b.workerInAStep(nil, "")
	worker.signal(syscall.SIGTERM)
	worker.says("asked to stop: no more steps are taken")
	worker.says("sending=1")
	require.Eventually(t, func() bool { return strings.Contains(b.must("hosts"), "draining") }, time.Minute, 50*time.Millisecond)
	require.Contains(t, b.must("status"), "workers: alpha (draining)")
	other := planName.FindString(b.must("run", "two"))
	worker.letGo()
	worker.ends()
	require.Regexp(t, `alpha +away`, b.must("hosts"))
	require.Contains(t, b.must("hosts", "-o", "json"), `"away": true`)
	require.Contains(t, b.must("status"), "away: alpha (last seen 2")
	require.Contains(t, b.must("plans", plan, "--wait"), "done: 1 replicated", "the step was told and acknowledged")
	require.NotContains(t, b.must("events", "--plan", other), "claimed")
	require.Eventually(t, func() bool { return strings.Contains(b.must("plans", other), "waiting for host alpha (last seen") },
		time.Minute, 50*time.Millisecond, "%s", b.must("plans", other))
	require.Contains(t, b.must("status"), "waiting for host alpha (last seen")
	require.NotContains(t, b.must("events", "--plan", plan), "delivered 2 times")
}

func TestTheSecondSignalStopsAWorkerAtOnce(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	worker, _ := b.workerInAStep(nil, "  grace: 1h\n")
	worker.signal(syscall.SIGTERM)
	worker.says("asked to stop: no more steps are taken")
	worker.signal(os.Interrupt)
	worker.ends()
	require.Contains(t, worker.logs.String(), "item given back")
	require.Contains(t, worker.logs.String(), "a second signal has come")
}

func TestTheGracePeriodEnds(t *testing.T) {
	t.Parallel()
	for _, grace := range []string{"0s", "50ms"} {
		t.Run(grace, func(t *testing.T) {
			t.Parallel()
			b := newTestbed(t)
			worker, _ := b.workerInAStep(nil, "  grace: "+grace+"\n")
			worker.signal(os.Interrupt)
			worker.ends()
			require.Contains(t, worker.logs.String(), "item given back")
			require.Contains(t, worker.logs.String(), "the grace period is over")
		})
	}
}

func TestACoordinatorGivesItsLeaseUpAtOnce(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	coordinator := b.spawn(nil, "coordinator", "--host", "alpha")
	coordinator.says("this coordinator leads")
	require.Contains(t, b.must("status"), "coordinator: alpha-")
	coordinator.signal(syscall.SIGTERM)
	coordinator.ends()
	require.Contains(t, b.must("status"), "no coordinator is running")
}

// NATS and the coordinator of a server are there until its worker has ended its steps.
func TestAServerEndsItsWorkerFirst(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	port := freePort(t)
	server := b.spawn(nil, "server", "--config", hostFile(t, ""), "--store", t.TempDir(), "--nats-listen", port)
	server.says("worker runs")
	nats := []string{"--nats", "nats://" + port}
	b.must(append([]string{"submit", "--job", "one", "--from", "alpha:tank/one", "--to", "alpha:backup"}, nats...)...)
	plan := planName.FindString(b.must(append([]string{"run", "one"}, nats...)...))
	server.says(hangs)
	server.signal(syscall.SIGTERM)
	server.says("asked to stop: no more steps are taken")
	require.Contains(t, b.must(append([]string{"status"}, nats...)...), "coordinator: alpha-")
	require.Contains(t, b.must(append([]string{"plans", plan}, nats...)...), "sending")
	server.letGo()
	server.ends()
	require.Contains(t, server.logs.String(), "worker stopped")
	require.NotContains(t, server.logs.String(), "given back")
}

// freePort is an address that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().String()
}

// notices is a supervisor's socket.
type notices struct {
	socket *net.UnixConn
	heard  safeBuffer
}

func listenAsSystemd(t *testing.T) (*notices, []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	n := &notices{socket: socket}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			size, err := socket.Read(buffer)
			if err != nil {
				return
			}
			_, _ = n.heard.Write(append(buffer[:size:size], '\n')) // it is a buffer
		}
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	return n, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=400000"}
}

// hears waits for the notices, in this order.
func (n *notices) hears(t *testing.T, lines ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		rest := n.heard.String()
		for _, line := range lines {
			_, after, found := strings.Cut(rest, line+"\n")
			if !found {
				return false
			}
			rest = after
		}
		return true
	}, time.Minute, 10*time.Millisecond, "systemd has not heard %q:\n%s", lines, &n.heard)
}

func TestSystemdHearsWhatAWorkerDoes(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	systemd, environment := listenAsSystemd(t)
	worker, _ := b.workerInAStep(environment, "")
	systemd.hears(t, "READY=1", "STATUS=1 sending", "WATCHDOG=1")
	require.NotContains(t, systemd.heard.String(), "STOPPING")
	worker.signal(syscall.SIGTERM)
	systemd.hears(t, "STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=stops: 1 sending", "WATCHDOG=1")
	worker.letGo()
	worker.ends()
}

func TestSystemdHearsWhatAWorkerWaitsFor(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	server, _, _ := natstest.RunListening(t)
	b.env["ZFLEET_NATS"] = server.ClientURL()
	systemd, environment := listenAsSystemd(t)
	worker := b.spawn(environment, "worker", "--config", hostFile(t, ""))
	require.Eventually(t, func() bool {
		return strings.Contains(systemd.heard.String(), "STATUS=waits until the fleet is there: there is no fleet")
	},
		time.Minute, 10*time.Millisecond, "%s", &systemd.heard)
	require.NotContains(t, systemd.heard.String(), "READY=1")
	b.resources()
	systemd.hears(t, "READY=1", "STATUS=no steps under way")
	server.Shutdown()
	systemd.hears(t, "STATUS=waits for NATS at "+b.env["ZFLEET_NATS"]+"; no steps under way", "WATCHDOG=1")
	worker.signal(syscall.SIGTERM)
	systemd.hears(t, "STOPPING=1")
	worker.ends()
}

func TestSystemdHearsWhatACoordinatorDoes(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	systemd, environment := listenAsSystemd(t)
	coordinator := b.spawn(environment, "coordinator", "--host", "alpha")
	systemd.hears(t, "READY=1", "WATCHDOG=1")
	require.Eventually(t, func() bool { return strings.Contains(systemd.heard.String(), "STATUS=leads since ") }, time.Minute, 10*time.Millisecond)
	coordinator.signal(syscall.SIGTERM)
	systemd.hears(t, "STOPPING=1")
	coordinator.ends()
}
