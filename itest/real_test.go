// Replication of real pools through zctl alone.

package itest_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
)

func TestRealTreeInFullAndThenIncrementally(t *testing.T) {
	f := newRealFleet(t)
	filesystems := []string{f.source + "/data"}
	for _, name := range []string{
		"with space", "with:colon", "with.dot", "a-b_c", "nested", "nested/one", "nested/one/two", "nested/with space too",
		"x:y.z -_ w", "deep", "deep/er",
	} {
		filesystems = append(filesystems, f.source+"/data/"+name)
	}
	for _, name := range filesystems[1:] {
		f.zfs("create", name)
	}
	volume := f.source + "/data/volume 1"
	device := f.newDevice(func() { f.zfs("create", "-s", "-V", "32M", volume) })
	all := append([]string{volume}, filesystems...)

	change := func(snapshot string) {
		for _, name := range filesystems {
			f.writeRandom(name, "file "+snapshot, 64<<10)
		}
		writeDevice(t, device, int64(rand.IntN(16))<<20)
		f.zfs("snapshot", "-r", f.source+"/data@"+snapshot)
	}
	change("first")
	change("auto_2026-11-23_00:00:00")
	change("third.1")
	f.must("submit", "-f", f.job("prod", ""), "--wait")
	f.requireEqualVersions(f.root)
	f.requireAbstractions(all, map[string]string{"prod.bravo": f.root})

	change("fourth")
	change("fifth one")
	f.must("run", "prod", "--wait")
	f.requireEqualVersions(f.root)
	f.requireAbstractions(all, map[string]string{"prod.bravo": f.root})

	for _, name := range filesystems {
		for _, snapshot := range []string{"first", "fifth one"} {
			source := f.contents(name + "@" + snapshot)
			require.NotEmpty(t, source)
			require.Equal(t, source, f.contents(f.root+"/"+name+"@"+snapshot), "contents of %s@%s", name, snapshot)
		}
	}
	copied := f.newDevice(func() {
		f.zfs("clone", f.root+"/"+volume+"@fifth one", f.target+"/clone")
	})
	want, err := digest(device)
	require.NoError(t, err)
	got, err := digest(copied)
	require.NoError(t, err)
	require.Equal(t, want, got, "contents of the volume")
	f.zfs("destroy", f.target+"/clone")

	require.Contains(t, f.must("run", "prod", "--wait"), "up to date")
}

func writeDevice(t *testing.T, device string, offset int64) {
	t.Helper()
	file, err := os.OpenFile(device, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.Seek(offset, io.SeekStart)
	require.NoError(t, err)
	_, err = file.WriteString(strings.Repeat(fmt.Sprint(offset), 1<<14))
	require.NoError(t, err)
	require.NoError(t, file.Sync())
	require.NoError(t, file.Close())
}

// realLarge is the size of the transfer that is interrupted, and realCut how much of it has passed by then.
const (
	realLarge = 200 << 20
	realCut   = 24 << 20
)

func TestRealInterruptions(t *testing.T) {
	for name, which := range map[string]func(*realFleet) *realProcess{
		"receiving worker": func(f *realFleet) *realProcess { return f.bravo },
		"sending worker":   func(f *realFleet) *realProcess { return f.alpha },
		"coordinator":      func(f *realFleet) *realProcess { return f.coordinator },
		"NATS server":      func(f *realFleet) *realProcess { return f.server },
	} {
		t.Run(name, func(t *testing.T) {
			f := newRealFleet(t)
			f.writeRandom(f.source+"/data", "large", realLarge)
			f.zfs("snapshot", f.source+"/data@s1")
			client := f.client()
			f.must("submit", "-f", f.job("prod", ""))
			id, err := client.Run(t.Context(), "prod")
			require.NoError(t, err)
			f.awaitBytes(client, id, realCut)
			f.restart(which(f))

			ctx, cancel := context.WithTimeout(t.Context(), testfleet.Timeout)
			defer cancel()
			for snapshot, err := range client.Watch(ctx, id, fleet.WatchOptions{}) {
				require.NoError(t, err, "%+v", snapshot)
			}
			detail, err := client.Plan(ctx, id)
			require.NoError(t, err)
			require.Equal(t, protocol.PlanDone, detail.Plan.State, "%s", testfleet.Explain(detail))
			f.requireEqualVersions(f.root)
			f.requireAbstractions([]string{f.source + "/data"}, map[string]string{"prod.bravo": f.root})
			require.Equal(t, f.contents(f.source+"/data@s1"), f.contents(f.root+"/"+f.source+"/data@s1"))

			last, attempts := f.lastTry(client, id)
			if which(f) == f.alpha || which(f) == f.bravo {
				require.Greater(t, attempts, 1, "the step was tried again")
				require.True(t, last.Resumed, "the step was resumed")
				require.Less(t, last.Bytes, uint64(realLarge-realCut/2), "what had arrived is not sent again")
			} else {
				require.Equal(t, 1, attempts, "the transfer in flight goes on undisturbed")
			}
			t.Logf("%s killed after %d MiB of %d MiB: %d tries, %d MiB sent in the last", name, realCut>>20, realLarge>>20,
				attempts, last.Bytes>>20)
		})
	}
}

// awaitBytes waits until the plan's sender has told that it has sent so much.
func (f *realFleet) awaitBytes(client *fleet.Client, id protocol.PlanID, bytes uint64) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), testfleet.Timeout)
	defer cancel()
	for record, err := range client.Events(ctx, fleet.EventQuery{Plan: id, Follow: true}) {
		require.NoError(f.t, err)
		if record.Event != nil && record.Event.Kind == protocol.EventProgress && record.Event.Progress.Bytes >= bytes {
			return
		}
	}
	f.t.Fatal("the transfer did not get that far")
}

// lastTry is what the step's done event says, and the number of the try.
func (f *realFleet) lastTry(client *fleet.Client, id protocol.PlanID) (protocol.Progress, int) {
	f.t.Helper()
	for record, err := range client.Events(f.t.Context(), fleet.EventQuery{Plan: id}) {
		require.NoError(f.t, err)
		if record.Event != nil && record.Event.Kind == protocol.EventDone {
			return *record.Event.Progress, record.Event.Ref.Attempt
		}
	}
	f.t.Fatal("there is no done event")
	return protocol.Progress{}, 0
}

func TestRealIncrementFromTheCursorAndSecondJobID(t *testing.T) {
	f := newRealFleet(t)
	data := f.source + "/data"
	f.writeRandom(data, "one", 1<<20)
	f.zfs("snapshot", data+"@s1")
	f.must("submit", "-f", f.job("prod", ""), "--wait")

	second := f.root + "/second"
	f.zfs("create", second)
	f.write("second.yaml", fmt.Sprintf(`
job: second
source: {host: alpha, filesystems: {%q: true}}
targets: [{host: bravo, root: %s, id: zrepl_push_dr}]
replication: {initial: all}
`, data+"<", second))
	f.must("submit", "-f", "second.yaml", "--wait")

	f.zfs("destroy", data+"@s1")
	f.writeRandom(data, "two", 1<<20)
	f.zfs("snapshot", data+"@s2")
	planned := f.must("plan", "prod")
	require.Contains(t, planned, "#zrepl_CURSOR_G_", "the plan goes from the cursor")
	f.must("run", "prod", "--wait")
	require.Equal(t, f.newest(data), f.newest(f.root+"/"+data))
	f.must("run", "second", "--wait")
	f.requireAbstractions([]string{data}, map[string]string{"prod.bravo": f.root, "zrepl_push_dr": second})
	require.Equal(t, f.contents(data+"@s2"), f.contents(f.root+"/"+data+"@s2"))
	require.Equal(t, f.contents(data+"@s2"), f.contents(second+"/"+data+"@s2"))
}

func TestRealPoliciesReachTheOperator(t *testing.T) {
	f := newRealFleet(t)
	f.zfs("create", f.source+"/data/secret")
	f.zfs("snapshot", "-r", f.source+"/data@s1")
	stdout, stderr, code := f.run("submit", "-f", f.job("prod", ""), "--wait")
	require.Equal(t, 3, code, "done in part: %s", stderr)
	require.Contains(t, stdout+stderr, "does not allow to send "+f.source+"/data/secret")

	f.write("elsewhere.yaml", fmt.Sprintf(`
job: elsewhere
source: {host: alpha, filesystems: {%q: true}}
targets: [{host: bravo, root: %s}]
`, f.source+"/data", f.target))
	stdout, stderr, code = f.run("submit", "-f", "elsewhere.yaml", "--wait")
	require.Equal(t, 1, code, "%s", stderr)
	require.Contains(t, stdout+stderr, "does not allow to receive below "+f.target)
}

func TestRealDivergedIsExplained(t *testing.T) {
	f := newRealFleet(t)
	data := f.source + "/data"
	f.zfs("snapshot", data+"@s1")
	f.must("submit", "-f", f.job("prod", ""), "--wait")
	f.zfs("snapshot", f.root+"/"+data+"@foreign")
	f.zfs("snapshot", data+"@s2")
	before := f.zfs("list", "-Hp", "-r", "-t", "all", "-o", "name,guid,userrefs", f.source, f.target)

	stdout, stderr, code := f.run("plan", "prod")
	require.NotZero(t, code, "a plan with conflicts only is no success:\n%s", stdout)
	explained := stdout + stderr
	require.Contains(t, explained, "foreign")
	require.Contains(t, explained, "zfs ", "the operator is told a command")
	require.Equal(t, before, f.zfs("list", "-Hp", "-r", "-t", "all", "-o", "name,guid,userrefs", f.source, f.target))
}

func TestRealLocal(t *testing.T) {
	f := newRealFleet(t)
	data, local := f.source+"/data", f.source+"/local"
	f.zfs("create", local)
	f.writeRandom(data, "one", 4<<20)
	f.zfs("snapshot", data+"@s1")
	f.must("submit", "--job", "here", "--from", "alpha:"+data, "--to", "alpha:"+local, "--wait")
	f.zfs("snapshot", data+"@s2")
	f.must("run", "here", "--wait")
	require.Equal(t, f.versions("snapshot", data, ""), f.versions("snapshot", local, local+"/"))
}

func TestRealDemo(t *testing.T) {
	f := newRealFleet(t)
	require.Contains(t, f.must("demo", "--real"), "equal")
}
