// Permissions: fleets whose NATS servers run the configurations that zctl nats-config writes.

package itest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/fleet/natsconfig"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// guarded are NATS servers with a generated configuration.
type guarded struct {
	t     *testing.T
	dir   string
	file  natsconfig.File
	users map[string]natsconfig.User
	nodes map[string]*natstest.Node // by their names

	mu sync.Mutex
	// violations are what the servers have denied, by the name of the user.
	violations map[string][]string
}

const guardedFleet = `
fleet: test
hosts: [{name: alpha}, {name: bravo}]
coordinators: [{name: first}]
operators: [{name: alice}, {name: display, read_only: true}]
nats: {servers: [{name: nats-1, address: 127.0.0.1}], store_dir: STORE, ports: {leaf: LEAF, cluster: CLUSTER}}
`

// newGuarded starts the servers of the fleet file, each with its own store. STORE, LEAF and CLUSTER stand for what is the test's.
func newGuarded(t *testing.T, text string) *guarded {
	t.Helper()
	g := &guarded{
		t: t, dir: t.TempDir(), users: map[string]natsconfig.User{}, nodes: map[string]*natstest.Node{}, violations: map[string][]string{},
	}
	text = strings.NewReplacer("STORE", filepath.Join(g.dir, "store"), "LEAF", strconv.Itoa(freePort(t)), "CLUSTER", strconv.Itoa(freePort(t))).Replace(text)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("denied: %q", g.violations)
		}
	})
	var err error
	g.file, err = natsconfig.Parse("test", []byte(text))
	require.NoError(t, err)
	g.generate()
	start := func(server natsconfig.Server) {
		path := filepath.Join(g.dir, server.Name+".conf")
		config, err := os.ReadFile(path)
		require.NoError(t, err)
		replaced := strings.NewReplacer(":4222\"", ":-1\"", "/store\"", "/store-"+server.Name+"\"").Replace(string(config))
		require.NoError(t, os.WriteFile(path, []byte(replaced), 0o600))
		g.nodes[server.Name] = natstest.StartFile(t, path)
	}
	for _, server := range append(slices.Clone(g.file.NATS.Servers), g.file.NATS.LeafNodes...) {
		start(server)
	}
	return g
}

func (g *guarded) generate() {
	g.t.Helper()
	result, err := natsconfig.Generate(g.file, g.dir)
	require.NoError(g.t, err)
	for _, user := range result.Users {
		g.users[user.Name] = user
	}
}

// site is where the user with the name connects, as that user.
func (g *guarded) site(name string) testfleet.Site {
	g.t.Helper()
	user := g.users[name]
	login, err := nats.NkeyOptionFromSeed(filepath.Join(g.dir, user.Seed))
	require.NoError(g.t, err)
	server := g.file.NATS.Servers[0].Name
	for _, member := range append(slices.Clone(g.file.Hosts), g.file.Coordinators...) {
		if member.Name == name && member.Leaf != "" {
			server = member.Leaf
		}
	}
	return testfleet.Site{Server: g.nodes[server], Domain: user.Domain, Options: []nats.Option{
		login, nats.CustomInboxPrefix(protocol.InboxPrefix(user.Key)), nats.ErrorHandler(g.note(name)),
	}}
}

// note notes what is denied to the user.
func (g *guarded) note(name string) nats.ErrHandler {
	return func(_ *nats.Conn, _ *nats.Subscription, err error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if strings.Contains(strings.ToLower(err.Error()), "violation") {
			g.violations[name] = append(g.violations[name], err.Error())
		}
	}
}

func (g *guarded) requireNoViolations() {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	var told []string
	for name, violations := range g.violations {
		for _, violation := range violations {
			told = append(told, name+": "+violation)
		}
	}
	slices.Sort(told)
	require.Empty(g.t, slices.Compact(told), "NATS has denied what the fleet needs")
}

// client is an operator's, connected as zctl connects.
func (g *guarded) client(name string) *fleet.Client {
	g.t.Helper()
	user := g.users[name]
	conn, js, err := protocol.Connect(g.t.Context(), protocol.ConnectOptions{
		URL: g.nodes[g.file.NATS.Servers[0].Name].ClientURL(), NKey: filepath.Join(g.dir, user.Seed), Name: name, Wait: time.Minute,
	})
	require.NoError(g.t, err)
	g.t.Cleanup(conn.Close)
	conn.SetErrorHandler(g.note(name))
	resources, err := protocol.OpenResources(g.t.Context(), js)
	require.NoError(g.t, err)
	return fleet.New(conn, resources, fleet.Options{By: name, HostTimeout: time.Minute})
}

// pair makes hosts alpha and bravo, with the coordinator first and the operator alice.
func (g *guarded) pair() *pair {
	g.t.Helper()
	p := newPairOn(g.t, testfleet.NewAt(g.t, g.site("first")))
	alpha, bravo := g.site("alpha"), g.site("bravo")
	p.hostA.Site, p.hostB.Site = &alpha, &bravo
	p.Client = g.client("alice")
	return p
}

func TestAFleetNeedsNoMoreThanItsPermissions(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"one server": guardedFleet,
		"a leaf node": strings.NewReplacer("{name: bravo}", "{name: bravo, leaf: site}", "ports:",
			"domain: hub, leaf_nodes: [{name: site, address: 127.0.0.1}], ports:").Replace(guardedFleet),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, text)
			p := g.pair()
			names := p.tree(3, 2)
			p.startAll()
			generation := 3
			for _, transport := range []protocol.Transport{protocol.TransportTCP, protocol.TransportObject, protocol.TransportAuto} {
				job := p.job("prod")
				job.Replication.Transport = transport
				p.Submit(job)
				p.MustRun("prod")
				p.snapshots(names, generation, generation)
				generation++
				p.MustRun("prod")
				p.requireEqual(names, "backup/alpha")
			}
			g.operate(p)
			g.requireNoViolations()
		})
	}
}

// operate does all that operators do, and looks as one who may only look.
func (g *guarded) operate(p *pair) {
	t := g.t
	t.Helper()
	ctx := t.Context()
	for _, client := range []*fleet.Client{p.Client, g.client("display")} {
		status, err := client.Status(ctx)
		require.NoError(t, err)
		require.NotNil(t, status.Leader)
		require.Len(t, status.Hosts, 2)
		cursors, err := client.Cursors(ctx, "prod")
		require.NoError(t, err)
		require.NotEmpty(t, cursors)
		count := 0
		for _, err := range client.Events(ctx, fleet.EventQuery{}) {
			require.NoError(t, err)
			count++
		}
		require.Positive(t, count)
		letters, err := client.DeadLetters(ctx, fleet.DeadLetterQuery{})
		require.NoError(t, err)
		require.Empty(t, letters)
		plans, err := client.Plans(ctx)
		require.NoError(t, err)
		require.NotEmpty(t, plans)
		_ = fmt.Sprint(plans)
	}
}
