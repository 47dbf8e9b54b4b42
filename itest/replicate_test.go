// Replication of whole trees on fake pools.

package itest_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// pair is a fleet of hosts alpha (pool tank) and bravo (pool backup with the root backup/alpha) on fake pools.
type pair struct {
	*testfleet.Fleet

	t            *testing.T
	alpha, bravo *zfsfake.Fake
	hostA, hostB testfleet.Host
}

func newPair(t *testing.T) *pair {
	t.Helper()
	return newPairOn(t, testfleet.New(t))
}

func newPairOn(t *testing.T, f *testfleet.Fleet) *pair {
	t.Helper()
	p := &pair{Fleet: f, t: t, alpha: zfsfake.New(), bravo: zfsfake.New()}
	p.alpha.CreatePool("tank")
	p.bravo.CreatePool("backup")
	p.zfs(p.bravo, "create", "backup/alpha")
	p.hostA = testfleet.Host{Name: "alpha", Runner: p.alpha, Policy: testfleet.AllowAll("tank")}
	p.hostB = testfleet.Host{Name: "bravo", Runner: p.bravo, Policy: testfleet.AllowAll("backup")}
	return p
}

// startAll starts a coordinator and a worker for each host.
func (p *pair) startAll() {
	p.t.Helper()
	p.StartCoordinator()
	p.StartWorker(p.hostA)
	p.StartWorker(p.hostB)
}

func (p *pair) zfs(fake *zfsfake.Fake, args ...string) {
	p.t.Helper()
	run(p.t, fake, args...)
}

// run runs a zfs command that must succeed.
func run(t testing.TB, runner zfs.Runner, args ...string) {
	t.Helper()
	result, err := runner.Run(t.Context(), zfs.Command{Args: append([]string{"zfs"}, args...)})
	require.NoError(t, err)
	require.Zero(t, result.ExitCode, "zfs %s: %s", strings.Join(args, " "), result.Stderr)
}

// tree makes filesystems below tank/data, with contents and the given number of snapshots each.
func (p *pair) tree(filesystems, snapshots int) []string {
	p.t.Helper()
	p.zfs(p.alpha, "create", "tank/data")
	names := []string{"tank/data"}
	for n := range filesystems - 1 {
		name := fmt.Sprintf("tank/data/fs %d", n)
		p.zfs(p.alpha, "create", name)
		names = append(names, name)
	}
	p.snapshots(names, 1, snapshots)
	return names
}

// snapshots writes to every filesystem and takes snapshots s<first> to s<last>.
func (p *pair) snapshots(names []string, first, last int) {
	p.t.Helper()
	for n := first; n <= last; n++ {
		args := []string{"snapshot"}
		for i, name := range names {
			content := fmt.Sprintf("%s at %d", name, n)
			require.NoError(p.t, p.alpha.Write(name, fmt.Sprintf("file%d", n), []byte(strings.Repeat(content, 100*(i+1)))))
			args = append(args, fmt.Sprintf("%s@s%d", name, n))
		}
		p.zfs(p.alpha, args...)
	}
}

func (p *pair) job(name string) protocol.Job {
	return testfleet.Job(name, "alpha", protocol.Filter{"tank/data<": true},
		protocol.JobTarget{Host: "bravo", Root: "backup/alpha"})
}

// requireEqual requires that all the source's snapshots are on the target, with the same guids and contents.
func (p *pair) requireEqual(names []string, root string) {
	p.t.Helper()
	for _, name := range names {
		source, target := snapshotsOf(p.t, p.alpha, name), snapshotsOf(p.t, p.bravo, root+"/"+name)
		require.Equal(p.t, guids(source), guids(target), "snapshots of %s on both sides", name)
		for i := range source {
			sourceHash, err := p.alpha.ContentHash(name + "@" + source[i].Name)
			require.NoError(p.t, err)
			targetHash, err := p.bravo.ContentHash(root + "/" + name + "@" + target[i].Name)
			require.NoError(p.t, err)
			require.Equal(p.t, sourceHash, targetHash, "contents of %s@%s", name, source[i].Name)
		}
	}
}

func snapshotsOf(t *testing.T, fake *zfsfake.Fake, dataset string) []zfsfake.Version {
	t.Helper()
	versions, err := fake.Versions(dataset)
	require.NoError(t, err)
	return slices.DeleteFunc(versions, func(v zfsfake.Version) bool { return v.Type != "snapshot" })
}

func guids(versions []zfsfake.Version) []uint64 {
	var all []uint64
	for _, v := range versions {
		all = append(all, v.GUID)
	}
	return all
}

// requireAbstractions requires exactly one cursor on the source and one last-received hold on the target, of the JobID, for
// the newest snapshot, and nothing else.
func (p *pair) requireAbstractions(name, root string, id protocol.JobID) {
	p.t.Helper()
	p.requireCursors(name, id)
	p.requireLastReceived(name, root, id)
}

// requireCursors requires that the source has a cursor of each JobID for the newest snapshot, no other bookmark, and no hold.
func (p *pair) requireCursors(name string, ids ...protocol.JobID) {
	p.t.Helper()
	versions, err := p.alpha.Versions(name)
	require.NoError(p.t, err)
	newest := slices.MaxFunc(versions, func(a, b zfsfake.Version) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	var cursors, bookmarks []string
	for _, id := range ids {
		cursors = append(cursors, fmt.Sprintf("zrepl_CURSOR_G_%016x_J_%s", newest.GUID, id))
	}
	for _, v := range versions {
		require.Empty(p.t, v.Holds, "holds on %s@%s", name, v.Name)
		if v.Type == "bookmark" {
			bookmarks = append(bookmarks, v.Name)
		}
	}
	require.ElementsMatch(p.t, cursors, bookmarks, "bookmarks of %s", name)
}

// requireLastReceived requires a last-received hold of the JobID on the target's newest snapshot, and no other hold.
func (p *pair) requireLastReceived(name, root string, id protocol.JobID) {
	p.t.Helper()
	versions := snapshotsOf(p.t, p.bravo, root+"/"+name)
	for i, v := range versions {
		var holds []string
		if i == len(versions)-1 {
			holds = []string{"zrepl_last_received_J_" + string(id)}
		}
		require.ElementsMatch(p.t, holds, v.Holds, "holds on %s/%s@%s", root, name, v.Name)
	}
}

func TestReplicateTreeInFullAndThenIncrementally(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.hostB.PlainTCP = plain
			names := p.tree(6, 3)
			p.startAll()
			p.Submit(p.job("prod"))

			p.MustRun("prod")
			p.requireEqual(names, "backup/alpha")
			for _, name := range names {
				p.requireAbstractions(name, "backup/alpha", "prod.bravo")
			}

			p.snapshots(names, 4, 6)
			detail := p.MustRun("prod")
			require.Len(t, detail.Tasks, len(names))
			for _, task := range detail.Tasks {
				require.Len(t, task.Steps, 1, "three new snapshots of %s are one step", task.Filesystem)
				require.Equal(t, 2, task.Steps[0].Intermediates)
			}
			p.requireEqual(names, "backup/alpha")
			for _, name := range names {
				p.requireAbstractions(name, "backup/alpha", "prod.bravo")
			}

			again := p.MustRun("prod")
			require.Empty(t, again.Tasks, "nothing is left to do")
			require.Equal(t, len(names), again.Plan.UpToDate)
		})
	}
}
