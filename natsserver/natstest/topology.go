// Topologies: more than one server.

package natstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// Patience bounds every wait for servers to know each other. Only a hang reaches it.
const Patience = time.Minute

const (
	loopback  = "127.0.0.1"
	maxMemory = 256 << 20
	maxStore  = 4 << 30
)

// Node is a NATS server among others. It is safe for concurrent use.
type Node struct {
	leaf    string // where it takes leaf nodes, host:port
	options *server.Options

	mu     sync.Mutex
	server *server.Server
}

var _ nats.InProcessConnProvider = (*Node)(nil)

func (n *Node) current() *server.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server
}

// Name is the server's name.
func (n *Node) Name() string { return n.options.ServerName }

// ClientURL is the URL for clients.
func (n *Node) ClientURL() string { return n.current().ClientURL() }

// SlowConsumers is how many clients the server has disconnected because they did not read.
func (n *Node) SlowConsumers() int64 { return n.current().NumSlowConsumers() }

// InProcessConn is a new connection to the server, for the NATS client.
func (n *Node) InProcessConn() (net.Conn, error) {
	running := n.current()
	if !running.Running() {
		return nil, fmt.Errorf("connecting to %s: it is down", n.Name())
	}
	connection, err := running.InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", n.Name(), err)
	}
	return connection, nil
}

// Shutdown stops the server and waits until it is down. More calls do nothing.
func (n *Node) Shutdown() {
	running := n.current()
	running.Shutdown()
	running.WaitForShutdown()
}

// LameDuck stops the server as operators do, who want its clients to leave it before: it tells them, and closes their
// connections one after another. It waits until the server is down.
func (n *Node) LameDuck() {
	running := n.current()
	running.LameDuckShutdown()
	running.WaitForShutdown()
}

// Start starts the server again after Shutdown, with its ports and with what it has stored. It does not wait until the server
// takes clients, since a cluster's servers need each other for that; AwaitJetStream does. Changes are to its configuration.
func (n *Node) Start(t testing.TB, changes ...func(*server.Options)) {
	t.Helper()
	for _, change := range changes {
		change(n.options)
	}
	require.NoError(t, n.Restart(t.Context()))
}

// Restart is Start, for callers that are no test.
func (n *Node) Restart(context.Context) error {
	started, err := server.NewServer(n.options.Clone())
	if err != nil {
		return fmt.Errorf("configuring the NATS server %s again: %w", n.Name(), err)
	}
	n.mu.Lock()
	n.server = started
	n.mu.Unlock()
	started.Start()
	return nil
}

// AwaitJetStream waits until the servers, all of a cluster, carry one JetStream and answer for it.
func AwaitJetStream(t testing.TB, nodes []*Node) {
	t.Helper()
	awaitJetStream(t, nodes)
}

// AwaitReplicas waits until every stream that the client sees has a leader, and all its replicas have what it has. Before that,
// stopping another server may leave a stream without a majority.
func AwaitReplicas(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	await(t, "all replicas of all streams", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		lister := js.ListStreams(ctx)
		for info := range lister.Info() {
			if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != info.Config.Replicas-1 {
				return false
			}
			for _, replica := range info.Cluster.Replicas {
				if !replica.Current || replica.Offline {
					return false
				}
			}
		}
		return lister.Err() == nil
	})
}

// Any is a way to the first of the servers that runs, for clients that outlive each of them.
type Any []*Node

var _ nats.InProcessConnProvider = Any(nil)

// InProcessConn is a new connection to the first server that takes it.
func (a Any) InProcessConn() (net.Conn, error) {
	var errs []error
	for _, node := range a {
		connection, err := node.InProcessConn()
		if err == nil {
			return connection, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// LeaderOf is the server that leads the stream now.
func LeaderOf(t testing.TB, nodes []*Node, stream string) *Node {
	t.Helper()
	var leader *Node
	await(t, "a leader of "+stream, func() bool {
		for _, node := range nodes {
			if node.current().JetStreamIsStreamLeader("$G", stream) {
				leader = node
				return true
			}
		}
		return false
	})
	return leader
}

// Cluster starts a cluster of so many servers, with a JetStream that all of them carry, so that streams can have as many
// replicas. It is returned when every server has a leader and knows all others.
func Cluster(t testing.TB, size int) []*Node {
	t.Helper()
	nodes := startCluster(t, "cluster", size, nil)
	awaitJetStream(t, nodes)
	return nodes
}

// Clusters starts two clusters that are joined by gateways, and carry one JetStream together: a stream is in one of them, and
// is reached from both.
func Clusters(t testing.TB, firstSize, secondSize int) (first, second []*Node) {
	t.Helper()
	first = startCluster(t, "first", firstSize, func(options *server.Options) {
		options.Gateway = gateway("first")
	})
	await(t, "the first cluster's gateway", func() bool { return first[0].current().GatewayAddr() != nil })
	known := &server.RemoteGatewayOpts{Name: "first", URLs: []*url.URL{{Host: first[0].current().GatewayAddr().String()}}}
	second = startCluster(t, "second", secondSize, func(options *server.Options) {
		options.Gateway = gateway("second", known)
	})
	awaitJetStream(t, append(first, second...))
	return first, second
}

func gateway(name string, remotes ...*server.RemoteGatewayOpts) server.GatewayOpts {
	return server.GatewayOpts{Name: name, Host: loopback, Port: server.RANDOM_PORT, Gateways: remotes}
}

// startCluster starts servers that will find each other. They take clients only when they have a JetStream together. They
// are told all their ports for routes before the first one starts, since they would not form a JetStream otherwise.
func startCluster(t testing.TB, name string, size int, change func(*server.Options)) []*Node {
	t.Helper()
	all := FreePorts(t, 2*size)
	ports, clientPorts := all[:size], all[size:]
	var routes []*url.URL
	for _, port := range ports {
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: net.JoinHostPort(loopback, strconv.Itoa(port))})
	}
	var nodes []*Node
	for i, port := range ports {
		options := optionsOf(t, fmt.Sprintf("%s-%d", name, i+1))
		options.JetStream, options.Routes, options.Port = true, routes, clientPorts[i]
		options.Cluster = server.ClusterOpts{Name: name, Host: loopback, Port: port}
		if change != nil {
			change(options)
		}
		nodes = append(nodes, start(t, options))
	}
	return nodes
}

// FreePorts are ports of the loopback interface on which nothing listens now.
func FreePorts(t testing.TB, count int) []int {
	t.Helper()
	var ports []int
	var listeners []net.Listener
	for range count {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(loopback, "0"))
		require.NoError(t, err)
		listeners = append(listeners, listener)
		address, ok := listener.Addr().(*net.TCPAddr)
		require.True(t, ok)
		ports = append(ports, address.Port)
	}
	for _, listener := range listeners { // now that all are taken, so that no two are the same
		require.NoError(t, listener.Close())
	}
	return ports
}

// awaitJetStream waits until the servers carry one JetStream, have chosen who leads it, and all answer for it.
func awaitJetStream(t testing.TB, nodes []*Node) {
	t.Helper()
	await(t, "one JetStream of all servers", func() bool {
		complete := false // only the leader knows its peers
		for _, node := range nodes {
			if !node.current().JetStreamIsCurrent() {
				return false
			}
			complete = complete || len(node.current().JetStreamClusterPeers()) == len(nodes)
		}
		return complete
	})
	for _, node := range nodes {
		node.awaitClients(t)
		awaitAnswer(t, node, "")
	}
}

// Hub starts a server that takes leaf nodes, with a JetStream of the given domain. Leaf nodes reach its streams by that
// domain only.
func Hub(t testing.TB, domain string) *Node {
	t.Helper()
	options := optionsOf(t, "hub")
	options.JetStream, options.JetStreamDomain = true, domain
	options.LeafNode = server.LeafNodeOpts{Host: loopback, Port: server.RANDOM_PORT}
	hub := start(t, options)
	hub.awaitClients(t)
	state, err := hub.current().Varz(nil)
	require.NoError(t, err)
	hub.leaf = net.JoinHostPort(loopback, strconv.Itoa(state.LeafNode.Port))
	return hub
}

// Leaf starts a server that is a leaf node of the hub: clients of either reach those of the other. With a domain of its own it
// has its own JetStream; with none it has no JetStream. It is returned when clients of it reach the JetStream of the
// hub's domain.
func Leaf(t testing.TB, hub *Node, domain string) *Node {
	t.Helper()
	options := optionsOf(t, "leaf-"+domain)
	options.JetStream, options.JetStreamDomain = domain != "", domain
	options.LeafNode = server.LeafNodeOpts{
		ReconnectInterval: 50 * time.Millisecond,
		Remotes:           []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats-leaf", Host: hub.leaf}}}},
	}
	leaf := start(t, options)
	leaf.awaitClients(t)
	awaitAnswer(t, leaf, hub.current().JetStreamConfig().Domain)
	return leaf
}

// StartFile starts a server with a configuration file. It waits for clients to be able to connect, and for no other server that the
// file names. The file should bound what JetStream may store, which is a share of the free space otherwise.
func StartFile(t testing.TB, path string) *Node {
	t.Helper()
	options, err := server.ProcessConfigFile(path)
	require.NoError(t, err, "the configuration of a NATS server")
	options.NoSigs, options.NoLog = true, true
	node := start(t, options)
	node.awaitClients(t)
	return node
}

// ReloadFile makes the server take up what has changed in its configuration file.
func (n *Node) ReloadFile(t testing.TB) {
	t.Helper()
	require.NoError(t, n.current().Reload(), "taking up the changed configuration")
}

func optionsOf(t testing.TB, name string) *server.Options {
	t.Helper()
	return &server.Options{
		ServerName: name, Host: loopback, Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		StoreDir: t.TempDir(), JetStreamMaxMemory: maxMemory, JetStreamMaxStore: maxStore,
		LameDuckDuration: 500 * time.Millisecond, LameDuckGracePeriod: 100 * time.Millisecond,
	}
}

// start starts a server that ends with the test.
func start(t testing.TB, options *server.Options) *Node {
	t.Helper()
	node := &Node{options: options}
	started, err := server.NewServer(options.Clone())
	require.NoError(t, err, "configuring the test's NATS server %s", options.ServerName)
	node.server = started
	t.Cleanup(node.Shutdown)
	started.Start()
	return node
}

func (n *Node) awaitClients(t testing.TB) {
	t.Helper()
	require.True(t, n.current().ReadyForConnections(Patience), "the test's NATS server %s does not get ready", n.Name())
}

// awaitAnswer waits until a client of the server reaches the JetStream of the domain.
func awaitAnswer(t testing.TB, node *Node, domain string) {
	t.Helper()
	subject := "$JS.API.INFO"
	if domain != "" {
		subject = "$JS." + domain + ".API.INFO"
	}
	connection, _ := Connect(t, node)
	await(t, "an answer from JetStream to a client of "+node.Name(), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := connection.RequestWithContext(ctx, subject, nil)
		return err == nil
	})
	connection.Close()
}

// await looks at the servers until what is waited for is there.
func await(t testing.TB, what string, there func() bool) {
	t.Helper()
	require.Eventually(t, there, Patience, 20*time.Millisecond, "waiting for %s", what)
}
