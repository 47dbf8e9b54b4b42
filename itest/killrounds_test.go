// Kill rounds: 30 snapshots of 10 filesystems replicate while the NATS server, the coordinator and both workers are killed again
// and again, each at a moment that the transfer's progress decides. In the end everything is equal, nothing is left behind, and
// little was sent twice. The rounds are the same on fake and on real pools.

package itest_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

const (
	killFilesystems = 10
	killSnapshots   = 30
)

// killRounds are the rounds of killing while a plan runs.
type killRounds struct {
	t testing.TB
	// rounds is how often a process is killed.
	rounds int
	// restart are the processes by name: it kills one of them, with no warning, and starts it again.
	restart map[string]func()
	// data is how many bytes there are to replicate, and arrived how many the target has taken so far.
	data    uint64
	arrived func() uint64
}

// run kills each process equally often, in a random order. The n-th round comes when the n-th part of the data is arriving, and a
// random moment later, so that steps are met in all their moments.
func (k *killRounds) run() {
	k.t.Helper()
	seed := testSeed(k.t)
	random := rand.New(rand.NewPCG(seed, 0))
	names := slices.Sorted(maps.Keys(k.restart))
	var order []string
	for n := range k.rounds {
		order = append(order, names[n%len(names)])
	}
	random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	started, before := time.Now(), k.arrived()
	for n, name := range order {
		// The last tenth is left for what the last round interrupts.
		at := before + uint64(0.9*float64(k.data)*(float64(n)+random.Float64())/float64(k.rounds))
		require.Eventually(k.t, func() bool { return k.arrived() >= at }, testfleet.Timeout, 20*time.Millisecond,
			"round %d: the transfer gets on to %d bytes after what was killed in the rounds before: %v", n+1, at, order[:n])
		<-time.After(time.Duration(random.IntN(300)) * time.Millisecond)
		k.t.Logf("%6.1f s: round %d kills the %s, %d of %d KiB have arrived", time.Since(started).Seconds(), n+1, name,
			(k.arrived()-before)>>10, k.data>>10)
		k.restart[name]()
	}
}

// testSeed is the seed of a test's random numbers: that of ZFLEET_TEST_SEED, or a new one. A failed test shows it.
func testSeed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("ZFLEET_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "ZFLEET_TEST_SEED")
	}
	t.Logf("ZFLEET_TEST_SEED=%d", seed)
	return seed
}

// requireLittleTwice requires that less than half of the data was sent more than once.
func (k *killRounds) requireLittleTwice(sent uint64) {
	k.t.Helper()
	k.t.Logf("zfs send wrote %d KiB for %d KiB of data: %.3f times as much", sent>>10, k.data>>10, float64(sent)/float64(k.data))
	require.GreaterOrEqual(k.t, sent, k.data*9/10, "what zfs send wrote is counted")
	require.Less(k.t, sent, k.data*3/2, "what had arrived is not sent again")
}

func TestKillRounds(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := []string{"tank/data"}
	for n := range killFilesystems - 1 {
		names = append(names, fmt.Sprintf("tank/data/fs%d", n))
	}
	k := &killRounds{t: t, rounds: 8}
	for _, name := range names {
		p.zfs(p.alpha, "create", name)
		for n := range killSnapshots {
			require.NoError(t, p.alpha.Generate(name, fmt.Sprintf("file %d", n), uint64(n+1), 64<<10))
			p.zfs(p.alpha, "snapshot", fmt.Sprintf("%s@s%d", name, n))
			k.data += 64 << 10
		}
	}
	p.alpha.Inject(zfsfake.Fault{Match: isStream, BytesPerSecond: 1 << 20})
	coordinator, sender, receiver := p.StartCoordinator(), p.StartWorker(p.hostA), p.StartWorker(p.hostB)
	k.arrived = func() uint64 { return streamedBytes(p.bravo, isRecv) }
	k.restart = map[string]func(){
		"coordinator": func() {
			coordinator.Kill()
			coordinator = p.StartCoordinator()
		},
		"sending worker": func() {
			sender.Kill()
			sender = p.StartWorker(p.hostA)
		},
		"receiving worker": func() {
			receiver.Kill()
			receiver = p.StartWorker(p.hostB)
		},
		"NATS server": func() { require.NoError(t, p.Server.Restart(t.Context())) },
	}
	job := p.job("prod")
	job.Replication.Attempts = 100
	p.Submit(job)
	id := p.Request("prod")
	k.run()
	detail := p.Wait(id)
	require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	p.requireEqual(names, "backup/alpha")
	for _, name := range names {
		p.requireAbstractions(name, "backup/alpha", "prod.bravo")
	}
	k.requireLittleTwice(streamedBytes(p.alpha, isStream))
}

// streamedBytes is what the matching commands have read or written so far.
func streamedBytes(fake *zfsfake.Fake, match func([]string) bool) uint64 {
	var sum uint64
	for _, record := range fake.Commands() {
		if match(record.Args()) {
			sum += uint64(record.Bytes())
		}
	}
	return sum
}

// TestRealKillRounds kills the program's processes with SIGKILL. What zfs send writes is counted between it and the worker that
// sends, by sentBytes; what has arrived is what the target's pool has allocated.
func TestRealKillRounds(t *testing.T) {
	const first, later = 2 << 20, 384 << 10
	counter, network := newSentBytes(t), loopback()
	network.alpha.through = counter.through
	f := newRealFleetIn(t, network)
	data := f.source + "/data"
	names := []string{data}
	for n := range killFilesystems - 1 {
		names = append(names, fmt.Sprintf("%s/fs%d", data, n))
		f.zfs("create", names[n+1])
	}
	for n := range killSnapshots {
		size := later
		if n == 0 {
			size = first
		}
		for i, name := range names {
			path := filepath.Join(f.mountpoint(data), strings.TrimPrefix(name, data), fmt.Sprintf("file %d", n))
			writeNoise(t, path, uint64(n*len(names)+i+1), size)
		}
		f.zfs("snapshot", "-r", fmt.Sprintf("%s@s%d", data, n))
	}

	k := &killRounds{t: t, rounds: 20}
	for _, name := range names {
		k.data += f.streamSize(name+"@s0") + f.streamSize("-I", "@s0", fmt.Sprintf("%s@s%d", name, killSnapshots-1))
	}
	k.arrived = func() uint64 {
		allocated, err := strconv.ParseUint(strings.TrimSpace(f.command("zpool", "list", "-Hp", "-o", "allocated", f.target)), 10, 64)
		require.NoError(t, err)
		return allocated
	}
	k.restart = map[string]func(){}
	for name, process := range map[string]*realProcess{
		"coordinator": f.coordinator, "sending worker": f.alpha, "receiving worker": f.bravo, "NATS server": f.server,
	} {
		k.restart[name] = func() { f.restart(process) }
	}
	client := f.client()
	f.must("submit", "-f", f.write("prod.yaml", fmt.Sprintf(`
job: prod
source: {host: alpha, filesystems: {%q: true}}
targets: [{host: bravo, root: %s}]
replication: {initial: all, attempts: 100}
`, data+"<", f.root)))
	id, err := client.Run(t.Context(), "prod")
	require.NoError(t, err)
	started := time.Now()
	k.run()
	detail := f.wait(client, id)
	t.Logf("%d rounds and the rest of the replication took %.0f s", k.rounds, time.Since(started).Seconds())
	require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
	f.requireEqualVersions(f.root)
	f.requireAbstractions(names, map[string]string{"prod.bravo": f.root})
	for n := 0; n < len(names); n += 3 { // a look at the contents takes ten seconds in the virtual machine
		name := names[n]
		newest := fmt.Sprintf("%s@s%d", name, killSnapshots-1)
		require.Equal(t, f.contents(newest), f.contents(f.root+"/"+newest), "contents of %s", newest)
	}
	k.requireLittleTwice(counter.total())
}

// streamSize is how many bytes zfs send would write.
func (f *realFleet) streamSize(args ...string) uint64 {
	f.t.Helper()
	output := f.zfs(append([]string{"send", "-nP", "-L", "-c", "-e"}, args...)...)
	for line := range strings.Lines(output) {
		if text, found := strings.CutPrefix(strings.TrimSpace(line), "size\t"); found {
			size, err := strconv.ParseUint(text, 10, 64)
			require.NoError(f.t, err)
			return size
		}
	}
	require.Fail(f.t, "zfs send does not tell the size", "%s", output)
	return 0
}

// wait waits for the plan's end, across restarts of the server.
func (f *realFleet) wait(client *fleet.Client, id protocol.PlanID) fleet.PlanDetail {
	f.t.Helper()
	var detail fleet.PlanDetail
	f.await("the plan's end", func() bool {
		var err error
		detail, err = client.Plan(f.t.Context(), id)
		return err == nil && detail.Plan.State.Final()
	})
	return detail
}

// sentBytes counts what zfs send writes, exactly, whoever is killed: a command named zfs that comes first in PATH puts a counter
// between zfs send and its reader. The counter outlives a worker that is killed, as its zfs commands do not.
type sentBytes struct {
	t         testing.TB
	directory string
	// through is the command that runs another one with the counting zfs.
	through []string
}

func newSentBytes(t testing.TB) *sentBytes {
	t.Helper()
	s := &sentBytes{t: t, directory: t.TempDir()}
	s.through = []string{"env", "PATH=" + s.directory + ":" + os.Getenv("PATH")}
	script := func(name, text string) {
		text = strings.ReplaceAll(text, "DIRECTORY", s.directory)
		require.NoError(t, os.WriteFile(filepath.Join(s.directory, name), []byte(text), 0o700))
	}
	// Every command comes by the first script, so it is one for the small shell.
	script("zfs", `#!/bin/sh
PATH=${PATH#DIRECTORY:}
[ "$1" = send ] && exec DIRECTORY/send "$@"
exec zfs "$@"
`)
	script("send", `#!/bin/bash
for argument; do
  case $argument in -nP | -nvt | -nvP) exec zfs "$@" ;; esac
done
exec zfs "$@" > >(echo >>DIRECTORY/begun; exec tee 2>/dev/null >(exec wc -c >>DIRECTORY/counted))
`)
	return s
}

// total is how much was written, once all of it is counted.
func (s *sentBytes) total() uint64 {
	s.t.Helper()
	lines := func(name string) []string {
		text, err := os.ReadFile(filepath.Join(s.directory, name))
		require.NoError(s.t, err)
		return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	}
	require.Eventually(s.t, func() bool { return len(lines("counted")) == len(lines("begun")) }, testfleet.Timeout,
		20*time.Millisecond, "every stream is counted when it has ended")
	var sum uint64
	for _, line := range lines("counted") {
		bytes, err := strconv.ParseUint(line, 10, 64)
		require.NoError(s.t, err)
		sum += bytes
	}
	s.t.Logf("%d streams", len(lines("begun")))
	return sum
}
