// Releasing: what replication keeps goes when an operator says so, and nothing else does, whatever is asked.

package itest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// marks are all holds and bookmarks of a dataset, ours and others', in order.
func marks(t *testing.T, fake *zfsfake.Fake, dataset string) []string {
	t.Helper()
	versions, err := fake.Versions(dataset)
	require.NoError(t, err)
	found := []string{}
	for _, version := range versions {
		for _, tag := range version.Holds {
			found = append(found, "@"+version.Name+" "+tag)
		}
		if version.Type == "bookmark" {
			found = append(found, "#"+version.Name)
		}
	}
	slices.Sort(found)
	return found
}

// replicated is a pair with tank/data replicated twice.
func replicated(t *testing.T) *pair {
	t.Helper()
	p := newPair(t)
	names := p.tree(1, 2)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")
	p.snapshots(names, 3, 3)
	p.MustRun("prod")
	return p
}

func TestOnlyWhatIsOursCanBeReleased(t *testing.T) {
	t.Parallel()
	p := replicated(t)
	p.zfs(p.alpha, "bookmark", "tank/data@s1", "tank/data#mine")
	p.zfs(p.alpha, "hold", "keep", "tank/data@s1")
	listed, err := p.Client.Abstractions(t.Context(), protocol.AbstractionsRequest{}, "alpha")
	require.NoError(t, err)
	require.Len(t, listed, 1)
	cursor := listed[0]
	first := snapshotsOf(t, p.alpha, "tank/data")[0]
	forge := func(change func(*protocol.AbstractionInfo)) protocol.AbstractionInfo {
		forged := cursor
		change(&forged)
		return forged
	}
	before := marks(t, p.alpha, "tank/data")
	for name, forged := range map[string]protocol.AbstractionInfo{
		"another's bookmark": forge(func(a *protocol.AbstractionInfo) {
			a.Name, a.GUID, a.CreateTXG = "tank/data#mine", first.GUID, first.CreateTXG
		}),
		"another's hold": {
			Host: "alpha", Kind: "step-hold", Filesystem: "tank/data", Name: "tank/data@s1", Tag: "keep", JobID: "prod.bravo",
			GUID: first.GUID, CreateTXG: first.CreateTXG,
		},
		"a snapshot":          forge(func(a *protocol.AbstractionInfo) { a.Name = "tank/data@s1" }),
		"another version":     forge(func(a *protocol.AbstractionInfo) { a.GUID++ }),
		"another JobID":       forge(func(a *protocol.AbstractionInfo) { a.JobID = "other" }),
		"another kind":        forge(func(a *protocol.AbstractionInfo) { a.Kind = "cursor-v1" }),
		"no kind":             forge(func(a *protocol.AbstractionInfo) { a.Kind = "" }),
		"another filesystem":  forge(func(a *protocol.AbstractionInfo) { a.Filesystem = "tank" }),
		"a filesystem of old": forge(func(a *protocol.AbstractionInfo) { a.Filesystem = "tank/gone" }),
	} {
		results := p.Client.Release(t.Context(), []protocol.AbstractionInfo{forged}, fleet.ReleaseOptions{Force: true})
		require.Len(t, results, 1)
		require.Equal(t, protocol.ReleaseGone, results[0].Outcome, "%s: %+v", name, results[0])
		require.Equal(t, before, marks(t, p.alpha, "tank/data"), name)
	}

	kept := p.Client.Release(t.Context(), listed, fleet.ReleaseOptions{Stale: true})
	require.Equal(t, protocol.ReleaseKept, kept[0].Outcome, "the cursor is needed")
	twice := p.Client.Release(t.Context(), []protocol.AbstractionInfo{cursor, cursor}, fleet.ReleaseOptions{})
	require.Equal(t, []protocol.ReleaseOutcome{protocol.Released, protocol.ReleaseGone}, []protocol.ReleaseOutcome{twice[0].Outcome, twice[1].Outcome})
	require.Equal(t, []string{"#mine", "@s1 keep"}, marks(t, p.alpha, "tank/data"))
}

func TestStepsWaitForAReleaseOnTheirFilesystem(t *testing.T) {
	t.Parallel()
	p := replicated(t)
	p.zfs(p.alpha, "hold", "zrepl_STEP_J_prod.bravo", "tank/data@s1")
	stale, err := p.Client.Abstractions(t.Context(), protocol.AbstractionsRequest{Stale: true}, "alpha")
	require.NoError(t, err)
	require.Len(t, stale, 1)
	held := p.alpha.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "release"), Hang: true, Times: 1})
	defer held.Remove()
	results := make(chan []protocol.ReleaseResult, 1)
	go func() { results <- p.Client.Release(t.Context(), stale, fleet.ReleaseOptions{Stale: true}) }()
	<-held.Reached()

	p.snapshots([]string{"tank/data"}, 4, 4)
	id := p.Request("prod")
	second := p.Client.Release(t.Context(), stale, fleet.ReleaseOptions{Stale: true})
	require.Equal(t, protocol.ReleaseRefused, second[0].Outcome)
	require.ErrorContains(t, second[0].Failure, "in use by another request of an operator")
	held.Remove()
	require.Equal(t, protocol.Released, (<-results)[0].Outcome)
	require.Equal(t, protocol.PlanDone, p.Wait(id).Plan.State)
	p.requireAbstractions("tank/data", "backup/alpha", "prod.bravo")
}

func TestManyAreReleasedInPages(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.startAll()
	p.zfs(p.alpha, "create", "tank/data")
	const many = protocol.MaxReleases + 100
	for n := range many {
		name := fmt.Sprintf("tank/data@s%d", n)
		p.zfs(p.alpha, "snapshot", name)
		p.zfs(p.alpha, "hold", "zrepl_STEP_J_prod.bravo", name)
	}
	listed, err := p.Client.Abstractions(t.Context(), protocol.AbstractionsRequest{JobIDs: []protocol.JobID{"prod.bravo"}}, "alpha")
	require.NoError(t, err)
	require.Len(t, listed, many)
	for i, result := range p.Client.Release(t.Context(), listed, fleet.ReleaseOptions{}) {
		require.Equal(t, protocol.Released, result.Outcome, "%+v", result)
		require.Equal(t, listed[i].Name, result.Name)
	}
	require.Empty(t, marks(t, p.alpha, "tank/data"))
}

func TestRealReleaseAndMigrate(t *testing.T) {
	f := newRealFleet(t)
	data := f.source + "/data"
	f.zfs("snapshot", data+"@s1")
	f.must("submit", "-f", f.job("prod", ""), "--wait")
	f.zfs("snapshot", data+"@s2")
	f.must("run", "prod", "--wait")

	guid := strings.TrimSpace(f.zfs("get", "-Hp", "-o", "value", "guid", data+"@s1"))
	var number uint64
	_, err := fmt.Sscan(guid, &number)
	require.NoError(t, err)
	f.zfs("bookmark", data+"@s1", fmt.Sprintf("%s#zrepl_CURSOR_G_%016x_J_prod.bravo", data, number))
	f.zfs("bookmark", data+"@s1", data+"#zrepl_replication_cursor")
	f.zfs("bookmark", data+"@s1", data+"#mine")
	f.zfs("hold", "zrepl_STEP_J_prod.bravo", data+"@s1")
	f.zfs("hold", "zrepl_STEP_J_other.bravo", data+"@s1")
	f.zfs("hold", "keep", data+"@s1")

	var dry, released []protocol.ReleaseResult
	release := []string{"abstractions", "release-stale", "alpha", "--job-id", "prod.bravo", "--root", f.source, "-o", "json"}
	require.NoError(t, json.Unmarshal([]byte(f.must(append(release, "--dry-run")...)), &dry))
	require.NoError(t, json.Unmarshal([]byte(f.must(append(release, "--yes")...)), &released))
	require.Len(t, released, 2)
	require.Equal(t, dry, released, "what a dry run shows is what goes")
	require.Equal(t, protocol.Released, released[0].Outcome)

	migrated := f.must("migrate", "replication-cursor:v1-v2", "--host", "alpha", "--job-id", "prod.bravo", "--root", f.source)
	require.Contains(t, migrated, "\n1 released\n")
	f.zfs("destroy", data+"#mine")
	f.zfs("release", "keep", data+"@s1")
	f.zfs("release", "zrepl_STEP_J_other.bravo", data+"@s1")
	f.requireAbstractions([]string{data}, map[string]string{"prod.bravo": f.root})

	f.must("abstractions", "release-all", "alpha", "--job", "prod", "--fs", data, "--yes")
	require.Empty(t, f.abstractions("alpha", f.source))
	require.Len(t, f.abstractions("bravo", f.target), 1, "the target's filesystem has another name")
	require.Contains(t, f.must("run", "prod", "--wait"), "up to date")
}
