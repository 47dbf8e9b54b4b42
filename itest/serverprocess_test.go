// Server processes: NATS servers as processes of their own, so that they can be killed with no time to hand anything over.

package itest_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// serverVariable names the configuration of the server that this program is to be, in the place of a test.
const serverVariable = "ZFLEET_TEST_NATS_SERVER"

// beServer runs a NATS server until the standard input, which is the test's end of a pipe, is closed.
func beServer(config string) error {
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		return err
	}
	options.NoLog = true
	running, err := server.NewServer(options)
	if err != nil {
		return err
	}
	running.Start()
	_, err = io.Copy(io.Discard, os.Stdin)
	running.Shutdown()
	running.WaitForShutdown()
	return err
}

// serverProcess is one server of a cluster.
type serverProcess struct {
	t             *testing.T
	name, address string
	config        string
	running       *exec.Cmd // nil while it is down
	input         io.Closer
}

func (s *serverProcess) start() {
	s.t.Helper()
	program, err := os.Executable()
	require.NoError(s.t, err)
	command := exec.Command(program)
	command.Env = append(os.Environ(), serverVariable+"="+s.config)
	command.Stderr = os.Stderr
	s.input, err = command.StdinPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, command.Start())
	s.running = command
}

// kill ends the process at once.
func (s *serverProcess) kill() {
	s.t.Helper()
	if s.running == nil {
		return
	}
	require.NoError(s.t, s.running.Process.Kill())
	_ = s.running.Wait() // it was killed
	_ = s.input.Close()
	s.running = nil
}

// serverProcesses are the servers of a cluster; as a way to them, it leads to the first one that runs.
type serverProcesses []*serverProcess

var _ nats.InProcessConnProvider = serverProcesses(nil)

// InProcessConn is a connection to one of them.
func (c serverProcesses) InProcessConn() (net.Conn, error) {
	var errs []error
	for _, s := range c {
		connection, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			return connection, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// newServerProcesses starts a cluster of three and waits until it can keep the fleet's resources.
func newServerProcesses(t *testing.T) serverProcesses {
	t.Helper()
	ports := natstest.FreePorts(t, 6)
	var routes []string
	for _, port := range ports[3:] {
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", port))
	}
	var all serverProcesses
	for n := range 3 {
		s := &serverProcess{t: t, name: fmt.Sprintf("nats-%d", n+1), address: fmt.Sprintf("127.0.0.1:%d", ports[n])}
		dir := t.TempDir()
		s.config = filepath.Join(dir, "nats.conf")
		text := fmt.Sprintf("server_name: %s\nlisten: %q\njetstream: {store_dir: %q, max_file_store: 4GiB, max_memory_store: 64MiB}\n"+
			"cluster: {name: killed, listen: \"127.0.0.1:%d\", routes: [%s]}\n", s.name, s.address, dir, ports[3+n], strings.Join(routes, ", "))
		require.NoError(t, os.WriteFile(s.config, []byte(text), 0o600))
		s.start()
		t.Cleanup(s.kill)
		all = append(all, s)
	}
	require.Eventually(t, func() bool {
		connection, err := nats.Connect("", nats.InProcessServer(all))
		if err != nil {
			return false
		}
		defer connection.Close()
		js, err := protocol.JetStream(connection, "")
		require.NoError(t, err)
		_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{Replicas: 3})
		return err == nil
	}, testfleet.Timeout, 100*time.Millisecond, "a cluster of three")
	return all
}

func TestKilledServersOfAClusterLeaveTheTransferAlone(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*interrupted, serverProcesses){
		"the leader of the work": func(i *interrupted, servers serverProcesses) {
			work, err := i.Resources.Work.Info(i.t.Context())
			require.NoError(i.t, err)
			for _, s := range servers {
				if s.name == work.Cluster.Leader {
					s.kill()
				}
			}
		},
		"that of the coordinator and the workers": func(_ *interrupted, servers serverProcesses) { servers[0].kill() },
		"all, and back": func(_ *interrupted, servers serverProcesses) {
			for _, s := range servers {
				s.kill()
			}
			for _, s := range servers {
				s.start()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := newServerProcesses(t)
			p := newPairOn(t, testfleet.NewAt(t, testfleet.Site{Server: servers, Resources: protocol.ResourceOptions{Replicas: 3}}))
			i := p.interruptTransfer(protocol.TransportTCP)
			lose(i, servers)
			i.fault.Release()
			i.requireUndisturbed()
		})
	}
}
