// How fast the ways are on real pools, compared with zfs send | zfs recv.

package itest_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// TestRealThroughput sends the same snapshot along every way, and by zfs send | zfs recv before and after each, and prints
// what each took. It asserts no times: it fails only where something else arrived. Run it alone, and with -v:
//
//	itest/vm/test -v -run '^TestRealThroughput$' ./itest
func TestRealThroughput(t *testing.T) {
	const size = 64 << 20 // the virtual machine is slow
	f := newRealFleet(t)
	f.write("alpha.yaml", throughputHost("alpha", f.url, "required", fmt.Sprintf(
		"send: {%q: true}, recv: [{root: %q}]", f.source+"/data", f.target)))
	f.restart(f.alpha)

	f.writeRandom(f.source+"/data", "noise", size)
	f.zfs("snapshot", f.source+"/data@1")
	began := time.Now()
	want := f.contents(f.source + "/data@1")
	// In the virtual machine the processor's instructions for it are missing, and what goes through the object store is digested
	// by the sender and by the receiver.
	t.Logf("a clone of the source, and one SHA-256 of it, took %s", time.Since(began))
	snapshot := f.versions("snapshot", f.source+"/data", f.source+"/data")

	type row struct {
		name        string
		stream, job time.Duration
	}
	var rows []row
	var pipes []time.Duration
	bare := func() {
		pipes = append(pipes, f.bare())
		t.Logf("zfs send | zfs recv took %s", pipes[len(pipes)-1])
	}
	f.bare() // what is read once is in memory from then on
	for _, way := range []struct{ name, host, transport, tls string }{
		{"local", "alpha", "local", "required"},
		{"tcp, TLS off", "bravo", "tcp", "off"},
		{"tcp, TLS", "bravo", "tcp", "required"},
		{"object, in files", "bravo", "object", "required"},
	} {
		bare()
		root := f.target + "/" + way.transport + "-" + way.tls
		f.zfs("create", root)
		f.write("bravo.yaml", throughputHost("bravo", f.url, way.tls, fmt.Sprintf("recv: [{root: %q}]", f.target)))
		f.restart(f.bravo)
		stream, job := f.replicate(fmt.Sprintf(`
job: %s-%s
source: {host: alpha, filesystems: {%q: true}}
targets: [{host: %s, root: %q}]
replication: {transport: %s}
`, way.transport, way.tls, f.source+"/data", way.host, root, way.transport))
		rows = append(rows, row{way.name, stream, job})
		t.Logf("%s took %s, and the whole job %s", way.name, stream, job)

		received := root + "/" + f.source + "/data"
		require.Equal(t, snapshot, f.versions("snapshot", received, received), "%s: name and guid of the snapshot", way.name)
		require.Equal(t, want, f.contents(received+"@1"), "%s: contents", way.name)
	}
	bare()

	slices.Sort(pipes)
	pipe := pipes[len(pipes)/2]
	table := &strings.Builder{}
	fmt.Fprintf(table, "| %d MiB | stream s | MiB/s | of the pipe | job s |\n| --- | --- | --- | --- | --- |\n", size>>20)
	for _, r := range append([]row{{fmt.Sprintf("zfs send, zfs recv (median of %d)", len(pipes)), pipe, pipe}}, rows...) {
		fmt.Fprintf(table, "| %s | %.1f | %.0f | %.2f | %.1f |\n", r.name, r.stream.Seconds(),
			float64(size>>20)/r.stream.Seconds(), pipe.Seconds()/r.stream.Seconds(), r.job.Seconds())
	}
	t.Logf("\n%s", table)
}

// throughputHost is a host file.
func throughputHost(host, url, tls, allow string) string {
	return fmt.Sprintf(`
host: %s
nats: {url: %q}
worker:
  data: {listen: "127.0.0.1:0", tls: %s}
  allow: {%s}
`, host, url, tls, allow)
}

// bare is how long zfs send | zfs recv takes into a filesystem that is then destroyed.
func (f *realFleet) bare() time.Duration {
	f.t.Helper()
	target := f.target + "/bare"
	began := time.Now()
	command := exec.CommandContext(f.t.Context(), "sh", "-c", `zfs send -Lec "$1" | zfs recv -u "$2"`, "sh", f.source+"/data@1", target)
	output, err := command.CombinedOutput()
	elapsed := time.Since(began)
	require.NoError(f.t, err, "zfs send | zfs recv: %s", output)
	f.zfs("destroy", "-r", target)
	return elapsed
}

// replicate runs the job. It gives how long the stream took, as the sender says it, the receiver's confirmation included,
// and how long the whole job took.
func (f *realFleet) replicate(text string) (stream, job time.Duration) {
	f.t.Helper()
	client := f.client()
	parsed, err := protocol.ParseJob([]byte(text))
	require.NoError(f.t, err)
	_, err = client.SubmitJob(f.t.Context(), parsed)
	require.NoError(f.t, err)
	began := time.Now()
	plan, err := client.Run(f.t.Context(), parsed.Name)
	require.NoError(f.t, err)
	for _, err := range client.Watch(f.t.Context(), plan, fleet.WatchOptions{}) {
		require.NoError(f.t, err)
	}
	job = time.Since(began)
	detail, err := client.Plan(f.t.Context(), plan)
	require.NoError(f.t, err)
	require.Equal(f.t, protocol.PlanDone, detail.Plan.State, "%+v", detail)
	for record, err := range client.Events(f.t.Context(), fleet.EventQuery{Plan: plan}) {
		require.NoError(f.t, err)
		if record.Event != nil && record.Event.Kind == protocol.EventDone && record.Event.Progress != nil {
			stream += record.Event.Progress.Elapsed
		}
	}
	require.NotZero(f.t, stream, "no event says how long the stream took")
	return stream, job
}
