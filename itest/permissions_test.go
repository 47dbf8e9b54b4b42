// Permissions: fleets whose NATS servers run the configurations that zctl nats-config writes.

package itest_test

import (
	"context"
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
	first := g.site("first")
	if len(g.file.NATS.Servers) > 1 {
		first.Resources.Replicas = 3
		g.awaitLeader(first)
	}
	p := newPairOn(g.t, testfleet.NewAt(g.t, first))
	alpha, bravo := g.site("alpha"), g.site("bravo")
	p.hostA.Site, p.hostB.Site = &alpha, &bravo
	p.Client = g.client("alice")
	return p
}

// awaitLeader waits until the servers have one JetStream together.
func (g *guarded) awaitLeader(site testfleet.Site) {
	g.t.Helper()
	_, js := natstest.Connect(g.t, site.Server, site.Options...)
	require.Eventually(g.t, func() bool {
		ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Second)
		defer cancel()
		_, err := protocol.EnsureResources(ctx, js, protocol.ResourceOptions{Replicas: 3})
		return err == nil
	}, natstest.Patience, 100*time.Millisecond)
}

func TestAFleetNeedsNoMoreThanItsPermissions(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"one server": guardedFleet,
		"a leaf node": strings.NewReplacer("{name: bravo}", "{name: bravo, leaf: site}", "ports:",
			"domain: hub, leaf_nodes: [{name: site, address: 127.0.0.1}], ports:").Replace(guardedFleet),
		"a cluster": strings.NewReplacer("{name: nats-1, address: 127.0.0.1}", "{name: nats-1, address: 127.0.0.1, listen: 127.0.0.1}, "+
			"{name: nats-2, address: 127.0.0.2, listen: 127.0.0.2}, {name: nats-3, address: 127.0.0.3, listen: 127.0.0.3}").Replace(guardedFleet),
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

	dry, err := p.Client.DryRun(ctx, "prod")
	require.NoError(t, err)
	require.True(t, p.Wait(dry).Plan.State.Final())
	held, err := p.Client.Abstractions(ctx, protocol.AbstractionsRequest{}, "alpha", "bravo")
	require.NoError(t, err)
	require.NotEmpty(t, held)
	for _, result := range p.Client.Release(ctx, held[:1], fleet.ReleaseOptions{}) {
		require.Nil(t, result.Failure)
	}
	_, err = p.Client.Migrate(ctx, protocol.MigrateRequest{JobIDs: []protocol.JobID{"prod.bravo"}, DryRun: true}, "alpha")
	require.NoError(t, err)

	// A plan that waits for a host that is not there, and is cancelled.
	absent := p.job("absent")
	absent.Targets[0].Host = "charlie"
	p.Submit(absent)
	waiting := p.Request("absent")
	require.NoError(t, p.Client.Cancel(ctx, waiting))
	require.Equal(t, protocol.PlanCancelled, p.Wait(waiting).Plan.State)

	// A work item that nobody can read, once published again and once dropped.
	require.NoError(t, p.Conn.Publish(protocol.WorkSubject("alpha", protocol.RoleSend), []byte("garbage")))
	letters := func() []fleet.DeadLetterRecord {
		found, err := p.Client.DeadLetters(ctx, fleet.DeadLetterQuery{})
		require.NoError(t, err)
		return found
	}
	require.Eventually(t, func() bool { return len(letters()) == 1 }, testfleet.Timeout, 50*time.Millisecond)
	first := letters()[0].Sequence
	_, err = p.Client.DeadLetter(ctx, first)
	require.NoError(t, err)
	require.Equal(t, fleet.LetterRetried, p.Client.RetryDeadLetter(ctx, first).Outcome)
	require.Eventually(t, func() bool { return len(letters()) == 1 && letters()[0].Sequence > first }, testfleet.Timeout, 50*time.Millisecond)
	require.Equal(t, fleet.LetterDropped, p.Client.DropDeadLetter(ctx, letters()[0].Sequence).Outcome)

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
		_, err = client.DeadLetters(ctx, fleet.DeadLetterQuery{})
		require.NoError(t, err)
		plans, err := client.Plans(ctx)
		require.NoError(t, err)
		for snapshot, err := range client.Watch(ctx, plans[0].ID, fleet.WatchOptions{}) {
			require.NoError(t, err, "%+v", snapshot)
		}
		_, err = client.Abstractions(ctx, protocol.AbstractionsRequest{}, "alpha")
		require.NoError(t, err)
	}
}

// attempt is something that a user tries: to publish to a subject, or to subscribe.
type attempt struct {
	what, subject string
	subscribe     bool
}

func publishing(what string, subjects ...string) []attempt {
	var attempts []attempt
	for _, subject := range subjects {
		attempts = append(attempts, attempt{what: what, subject: subject})
	}
	return attempts
}

func subscribing(what string, subjects ...string) []attempt {
	attempts := publishing(what, subjects...)
	for i := range attempts {
		attempts[i].subscribe = true
	}
	return attempts
}

// api are requests of the JetStream API, by both prefixes under which it is reached.
func api(what string, requests ...string) []attempt {
	var attempts []attempt
	for _, request := range requests {
		attempts = append(attempts, publishing(what, "$JS.API."+request, "$JS.hub.API."+request)...)
	}
	return attempts
}

// key are writes of a key of a bucket, by both ways.
func key(what, bucket, key string) []attempt {
	return publishing(what, "$KV."+bucket+"."+key, "$JS.hub.API.$KV."+bucket+"."+key)
}

// fleetStreams are all streams of the fleet.
var fleetStreams = []string{
	protocol.StreamWork, protocol.StreamEvents, protocol.StreamDeadLetters, "KV_" + protocol.BucketJobs, "KV_" + protocol.BucketPlans,
	"KV_" + protocol.BucketCursors, "KV_" + protocol.BucketHosts, "KV_" + protocol.BucketLeader, protocol.StreamsStream,
}

// nobodysRights are what no user of the fleet's account may do.
func nobodysRights() []attempt {
	attempts := slices.Concat(
		subscribing("hear everything", ">", "zfleet.>", "zfleet.*.*.*", "$JS.>", "$KV.>", "$O.>", "_INBOX.>", "_INBOX.*.>", "*.>"),
		subscribing("hear work items", "zfleet.work.>", "zfleet.work.bravo.send", "zfleet.work.*.*"),
		subscribing("hear events", "zfleet.event.>", "zfleet.event.*.*.*.offered"),
		subscribing("hear acknowledgements", "$JS.ACK.>", "$JS.ACK.ZFLEET_WORK.>"),
		publishing("acknowledge another's item", "$JS.ACK.ZFLEET_WORK.bravo-send.1.1.1.1.1", "$JS.ACK.ZFLEET_WORK.bravo-recv.1.1.1.1.1",
			"$JS.ACK.hub.x.ZFLEET_WORK.bravo-send.1.1.1.1.1.x"),
		publishing("administer the server", "$SYS.REQ.SERVER.PING", "$SYS.ACCOUNT.FLEET.CONNECT", "$JS.FLEET.API.INFO"),
		api("administer JetStream", "META.LEADER.STEPDOWN", "ACCOUNT.PURGE.FLEET", "SERVER.REMOVE", "ACCOUNT.STREAM.MOVE.FLEET.ZFLEET_WORK"),
		api("make a stream of its own", "STREAM.CREATE.MINE", "STREAM.UPDATE.MINE", "STREAM.RESTORE.MINE"),
		api("take another's item", "CONSUMER.MSG.NEXT.ZFLEET_WORK.bravo-send", "CONSUMER.MSG.NEXT.ZFLEET_WORK.bravo-recv"),
		api("change another's consumer", "CONSUMER.CREATE.ZFLEET_WORK.bravo-send.zfleet.work.bravo.send", "CONSUMER.CREATE.ZFLEET_WORK.bravo-send",
			"CONSUMER.DURABLE.CREATE.ZFLEET_WORK.bravo-send", "CONSUMER.DELETE.ZFLEET_WORK.bravo-send", "CONSUMER.PAUSE.ZFLEET_WORK.bravo-send",
			"CONSUMER.RESET.ZFLEET_WORK.bravo-send", "CONSUMER.UNPIN.ZFLEET_WORK.bravo-send",
			"CONSUMER.LEADER.STEPDOWN.ZFLEET_WORK.bravo-send"),
		api("make a consumer of work items", "CONSUMER.CREATE.ZFLEET_WORK", "CONSUMER.CREATE.ZFLEET_WORK.mine",
			"CONSUMER.CREATE.ZFLEET_WORK.mine.zfleet.work.bravo.send", "CONSUMER.CREATE.ZFLEET_WORK.alpha-send.zfleet.work.bravo.send",
			"CONSUMER.CREATE.ZFLEET_WORK.alpha-send.zfleet.work.>", "CONSUMER.CREATE.ZFLEET_WORK.alpha-send",
			"CONSUMER.DURABLE.CREATE.ZFLEET_WORK.alpha-send", "CONSUMER.DELETE.ZFLEET_WORK.alpha-send"),
	)
	for _, stream := range fleetStreams {
		attempts = append(attempts, api("remove or move a stream", "STREAM.DELETE."+stream, "STREAM.SNAPSHOT."+stream, "STREAM.RESTORE."+stream,
			"STREAM.LEADER.STEPDOWN."+stream, "STREAM.PEER.REMOVE."+stream, "CONSUMER.DURABLE.CREATE."+stream+".mine",
			"CONSUMER.CREATE."+stream)...)
	}
	return attempts
}

// streamRights are what only coordinators, or operators, may do with streams and their messages.
func streamRights(but ...string) []attempt {
	var attempts []attempt
	for _, stream := range fleetStreams {
		for _, request := range []string{"STREAM.CREATE.", "STREAM.UPDATE.", "STREAM.PURGE.", "STREAM.MSG.DELETE."} {
			if !slices.Contains(but, request+stream) {
				attempts = append(attempts, api("change a stream", request+stream)...)
			}
		}
	}
	return attempts
}

// forbidden are what each of the users may not do.
func (g *guarded) forbidden() map[string][]attempt {
	alice, bravo, first := g.users["alice"].Key, g.users["bravo"].Key, g.users["first"].Key
	plans, cursors, hosts, jobs := protocol.BucketPlans, protocol.BucketCursors, protocol.BucketHosts, protocol.BucketJobs
	inboxes := func(keys ...string) []attempt {
		var attempts []attempt
		for _, key := range keys {
			attempts = append(attempts, subscribing("hear another's answers", protocol.InboxPrefix(key)+".>", protocol.InboxPrefix(key)+".x")...)
			attempts = append(attempts, publishing("answer in another's place", protocol.InboxPrefix(key)+".x",
				protocol.InboxPrefix(key)+".x.y", protocol.InboxPrefix(key)+".host.bravo.x")...)
		}
		return attempts
	}
	plan := slices.Concat(key("write a plan", plans, "p.head"), key("write a task", plans, "p.task.0"))
	ask := slices.Concat(key("ask for a plan", plans, "p.request"), key("cancel a plan", plans, "p.cancel"))
	lease := key("take the lease", protocol.BucketLeader, protocol.LeaderKey)
	cursor := key("move a cursor", cursors, "prod.bravo.fs")
	presence := key("tell a host's presence", hosts, "bravo.worker")
	job := key("submit a job", jobs, "prod")
	cancel := publishing("tell a cancellation", "zfleet.cancel.p")
	hearHosts := subscribing("hear what a host is asked or sent", "zfleet.rpc.bravo.inventory", "zfleet.rpc.>", "zfleet.stream.bravo.x",
		"zfleet.stream.>", "zfleet.rpc.*.release")
	letters := publishing("keep a dead letter in another's name", "zfleet.deadletter.bravo")
	work := publishing("publish work", "zfleet.work.bravo.send", "zfleet.work.bravo.recv", "zfleet.work.alpha.send", "zfleet.work.alpha.recv")
	events := publishing("tell an event or an offer of another host", "zfleet.event.bravo.p.0-0.done", "zfleet.event.bravo.p.0-0.offered")
	return map[string][]attempt{
		"alpha": slices.Concat(nobodysRights(), streamRights("STREAM.PURGE."+protocol.StreamsStream), inboxes(alice, bravo, first),
			plan, ask, lease, cursor, presence, job, cancel, hearHosts, letters, work, events,
			publishing("speak as the coordinator", "zfleet.deadletter.coordinator"),
			publishing("ask a host", "zfleet.rpc.bravo.inventory", "zfleet.rpc.bravo.release", "zfleet.rpc.alpha.release", "$SRV.PING"),
			api("read events, plans and dead letters", "CONSUMER.CREATE.ZFLEET_EVENTS.x.zfleet.event.>", "CONSUMER.CREATE.ZFLEET_EVENTS.x",
				"DIRECT.GET.ZFLEET_EVENTS", "STREAM.MSG.GET.ZFLEET_EVENTS", "DIRECT.GET.KV_"+plans, "DIRECT.GET.KV_"+plans+".$KV."+plans+".p.head",
				"CONSUMER.CREATE.KV_"+plans+".x.$KV."+plans+".>", "STREAM.MSG.GET.ZFLEET_DEADLETTERS", "DIRECT.GET.ZFLEET_WORK",
				"STREAM.MSG.GET.ZFLEET_WORK", "DIRECT.GET.ZFLEET_WORK.zfleet.work.bravo.send"),
		),
		"first": slices.Concat(nobodysRights(), inboxes(alice, bravo), ask, presence, job, hearHosts, letters, events,
			streamRights(coordinatorsRights()...), subscribing("hear cancellations", "zfleet.cancel.*"),
			publishing("write segments", "$O.zfleet-streams.C.x", "$O.zfleet-streams.M.x"),
			publishing("talk about a stream", "zfleet.stream.bravo.x"),
			publishing("have a host release what it keeps", "zfleet.rpc.bravo.release", "zfleet.rpc.bravo.migrate"),
			api("take an item", "CONSUMER.MSG.NEXT.ZFLEET_WORK.alpha-send"),
		),
		"alice": slices.Concat(nobodysRights(), inboxes(first, bravo), plan, lease, cursor, presence, cancel, hearHosts, letters,
			streamRights("STREAM.MSG.DELETE."+protocol.StreamDeadLetters),
			publishing("write segments", "$O.zfleet-streams.C.x", "$O.zfleet-streams.M.x"),
			publishing("talk about a stream", "zfleet.stream.bravo.x"),
			api("read segments", "DIRECT.GET.OBJ_zfleet-streams", "STREAM.MSG.GET.OBJ_zfleet-streams", "CONSUMER.CREATE.OBJ_zfleet-streams.x.$O.>"),
			api("take an item", "CONSUMER.MSG.NEXT.ZFLEET_WORK.alpha-send"),
		),
		"display": slices.Concat(nobodysRights(), inboxes(alice, bravo, first), plan, ask, lease, cursor, presence, job, cancel, hearHosts,
			letters, work, events, streamRights(), publishing("write segments", "$O.zfleet-streams.C.x"),
			publishing("ask for a change", "zfleet.rpc.bravo.release", "zfleet.rpc.bravo.migrate"),
			api("read segments and work", "DIRECT.GET.OBJ_zfleet-streams", "DIRECT.GET.ZFLEET_WORK", "CONSUMER.MSG.NEXT.ZFLEET_WORK.alpha-send"),
		),
	}
}

// coordinatorsRights are the requests about streams that coordinators may make.
func coordinatorsRights() []string {
	rights := []string{
		"STREAM.PURGE.KV_" + protocol.BucketPlans, "STREAM.PURGE." + protocol.StreamsStream, "STREAM.MSG.DELETE." + protocol.StreamWork,
	}
	for _, stream := range fleetStreams {
		rights = append(rights, "STREAM.CREATE."+stream, "STREAM.UPDATE."+stream)
	}
	return rights
}

func TestEachRoleIsDeniedAllElse(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, strings.Replace(guardedFleet, "ports:", "domain: hub, ports:", 1))
	testfleet.NewAt(t, g.site("first"))
	for name, attempts := range g.forbidden() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := g.site(name)
			denied := make(chan string, 16)
			conn, _ := natstest.Connect(t, site.Server, append(site.Options, nats.ErrorHandler(
				func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err.Error() }))...)
			for _, try := range attempts {
				t.Run(try.what+"/"+try.subject, func(t *testing.T) {
					// The server takes a domain's subjects for its own before it looks at permissions.
					checked := strings.Replace(strings.Replace(try.subject, "$JS.hub.API.$KV.", "$KV.", 1), "$JS.hub.API.", "$JS.API.", 1)
					want := fmt.Sprintf("Permissions Violation for Publish to %q", checked)
					if try.subscribe {
						want = fmt.Sprintf("Permissions Violation for Subscription to %q", try.subject)
						subscription, err := conn.SubscribeSync(try.subject)
						require.NoError(t, err)
						defer func() { require.NoError(t, subscription.Unsubscribe()) }()
					} else {
						require.NoError(t, conn.Publish(try.subject, []byte("{}")))
					}
					require.NoError(t, conn.Flush()) // what the server denies it says before it answers this
					select {
					case said := <-denied:
						require.Contains(t, said, want)
					case <-time.After(natstest.Patience / 12):
						t.Fatalf("%s may %s: %s", name, try.what, try.subject)
					}
				})
			}
		})
	}
}

// The subject of a request to make a consumer names the consumer and what it is for, and NATS holds the request to it.
func TestAWorkersConsumersAreForItsOwnItems(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, guardedFleet)
	testfleet.NewAt(t, g.site("first"))
	site := g.site("alpha")
	conn, js := natstest.Connect(t, site.Server, site.Options...)
	_, err := protocol.EnsureWorkConsumer(t.Context(), js, "alpha", protocol.RoleSend, 0)
	require.NoError(t, err)
	for name, config := range map[string]string{
		"another filter":  `"name":"alpha-send","durable_name":"alpha-send","filter_subject":"zfleet.work.bravo.send"`,
		"several filters": `"name":"alpha-send","durable_name":"alpha-send","filter_subjects":["zfleet.work.alpha.send","zfleet.work.bravo.send"]`,
		"another name":    `"name":"bravo-send","durable_name":"bravo-send","filter_subject":"zfleet.work.alpha.send"`,
	} {
		request := `{"stream_name":"ZFLEET_WORK","config":{` + config + `,"ack_policy":"explicit"}}`
		answer, err := conn.RequestWithContext(t.Context(), "$JS.API.CONSUMER.CREATE.ZFLEET_WORK.alpha-send.zfleet.work.alpha.send", []byte(request))
		require.NoError(t, err, name)
		require.Contains(t, string(answer.Data), `"error":`, name)
	}
}

// Hosts come and go without anybody else's noticing.
func TestAHostIsAddedAndRevokedWhileTheServerRuns(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, guardedFleet)
	testfleet.NewAt(t, g.site("first"))
	alice := g.client("alice")
	server := g.file.NATS.Servers[0].Name
	change := func(hosts ...natsconfig.Member) {
		t.Helper()
		config, err := os.ReadFile(filepath.Join(g.dir, server+".conf"))
		require.NoError(t, err)
		g.file.Hosts = hosts
		g.generate()
		require.NoError(t, os.WriteFile(filepath.Join(g.dir, server+".conf"), config, 0o600)) // with the test's port
		g.nodes[server].ReloadFile(t)
	}
	change(natsconfig.Member{Name: "alpha"}, natsconfig.Member{Name: "bravo"}, natsconfig.Member{Name: "charlie"})
	site := g.site("charlie")
	disconnected := make(chan error, 1)
	conn, js := natstest.Connect(t, site.Server, append(site.Options, nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
		select {
		case disconnected <- err:
		default:
		}
	}))...)
	_, err := js.AccountInfo(t.Context())
	require.NoError(t, err)
	change(natsconfig.Member{Name: "alpha"}, natsconfig.Member{Name: "bravo"})
	select {
	case <-disconnected:
	case <-time.After(natstest.Patience):
		t.Fatal("the revoked host is still connected")
	}
	require.False(t, conn.IsConnected())
	_, err = alice.Status(t.Context())
	require.NoError(t, err)
}

// NATS answers requests wherever they say, also where who asks may not publish. A host that stores what it likes as a segment of a
// stream, and has a direct get answer with it, so gets it to any subject. It is not taken for what it says there.
func TestWhatAHostHasTheServerPassOnIsNotActedOn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, guardedFleet)
	p := g.pair()
	p.tree(1, 1)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")
	ctx := t.Context()
	site := g.site("alpha")
	conn, js := natstest.Connect(t, site.Server, site.Options...)
	own := "$O." + protocol.BucketStreams + ".C.forged"
	pass := func(subject string, header nats.Header, data []byte) {
		t.Helper()
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: own, Header: header, Data: data})
		require.NoError(t, err)
		require.NoError(t, conn.PublishRequest("$JS.API.DIRECT.GET."+protocol.StreamsStream+"."+own, subject, nil))
		require.NoError(t, conn.Flush())
	}
	value := func(v any) []byte {
		t.Helper()
		data, err := protocol.EncodeValue(v)
		require.NoError(t, err)
		return data
	}

	evil := testfleet.Job("evil", "bravo", protocol.Filter{"backup<": true}, protocol.JobTarget{Host: "alpha", Root: "tank"})
	id := protocol.NewPlanID(time.Now(), "forged")
	pass("$KV."+protocol.BucketJobs+"."+protocol.JobKey("evil"), nil, value(evil))
	pass("$KV."+protocol.BucketPlans+"."+protocol.PlanRequestKey(id), nil, value(protocol.PlanRequest{Plan: id, Job: "evil", At: time.Now()}))
	detail := p.Wait(id)
	require.Equal(t, protocol.PlanFailed, detail.Plan.State)
	require.ErrorContains(t, detail.Plan.Failure, "passed on from the stream "+protocol.StreamsStream)
	_, err := p.Client.Run(ctx, "evil") // an operator does not know whose job it is
	require.ErrorContains(t, err, "passed on from the stream "+protocol.StreamsStream)
	asked := protocol.NewPlanID(time.Now(), "asked")
	operator := g.site("alice")
	_, operatorJS := natstest.Connect(t, operator.Server, operator.Options...)
	plans, err := operatorJS.KeyValue(ctx, protocol.BucketPlans)
	require.NoError(t, err)
	_, err = plans.Create(ctx, protocol.PlanRequestKey(asked), value(protocol.PlanRequest{Plan: asked, Job: "evil", At: time.Now()}))
	require.NoError(t, err)
	detail = p.Wait(asked)
	require.Equal(t, protocol.PlanFailed, detail.Plan.State)
	require.ErrorContains(t, detail.Plan.Failure, "passed on from the stream "+protocol.StreamsStream)

	item, err := protocol.NewMessage(ctx, protocol.WorkSubject("bravo", protocol.RoleSend), protocol.WorkItem{
		Ref: protocol.StepRef{Plan: id, Attempt: 1}, Role: protocol.RoleSend, Job: "evil", JobID: "evil.alpha", Source: "bravo", Target: "alpha",
	})
	require.NoError(t, err)
	pass(item.Subject, item.Header, item.Data)
	require.Eventually(t, func() bool {
		letters, err := p.Client.DeadLetters(ctx, fleet.DeadLetterQuery{Reporter: "bravo"})
		return err == nil && len(letters) == 1 && strings.Contains(letters[0].Letter.Reason, "taken from the stream "+protocol.StreamsStream)
	}, testfleet.Timeout, 50*time.Millisecond)

	pass("$KV."+protocol.BucketLeader+"."+protocol.LeaderKey, nil, value(protocol.Lease{Holder: "evil", Host: "alpha", Since: time.Now()}))
	require.Eventually(t, func() bool { // once whose lease was overwritten cannot lead any more
		leader, err := p.Client.Leader(ctx)
		return err == nil && leader != nil && leader.Holder != "evil"
	}, testfleet.Timeout, 50*time.Millisecond)
	p.snapshots([]string{"tank/data"}, 2, 2)
	p.MustRun("prod")
}

// Permission to respond would be given by the request, and anybody could send one to himself.
func TestAUserIsNotLetAnswerAtAnySubject(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, guardedFleet)
	f := testfleet.NewAt(t, g.site("first"))
	site := g.site("alpha")
	conn, _ := natstest.Connect(t, site.Server, site.Options...)
	own := protocol.StreamSubject("alpha", "own")
	heard, err := conn.SubscribeSync(own)
	require.NoError(t, err)
	require.NoError(t, conn.PublishRequest(own, "zfleet.work.bravo.send", []byte("from itself")))
	message, err := heard.NextMsg(testfleet.Timeout)
	require.NoError(t, err)
	require.NoError(t, message.Respond([]byte("forged")))
	require.NoError(t, conn.Flush())
	info, err := f.Resources.Work.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.State.LastSeq)
	require.ErrorContains(t, conn.LastError(), "zfleet.work.bravo.send")
}
