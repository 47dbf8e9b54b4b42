package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// kept are all holds and bookmarks of a host, ours and others', in order.
func (b *testbed) kept(host protocol.Host, datasets ...string) []string {
	b.t.Helper()
	found := []string{}
	for _, dataset := range datasets {
		versions, err := b.hosts[host].Versions(dataset)
		require.NoError(b.t, err)
		for _, version := range versions {
			for _, tag := range version.Holds {
				found = append(found, dataset+"@"+version.Name+" "+tag)
			}
			if version.Type == "bookmark" {
				found = append(found, dataset+"#"+version.Name)
			}
		}
	}
	slices.Sort(found)
	return found
}

// version is a snapshot of a dataset.
func (b *testbed) version(host protocol.Host, dataset, name string) zfsfake.Version {
	b.t.Helper()
	versions, err := b.hosts[host].Versions(dataset)
	require.NoError(b.t, err)
	for _, version := range versions {
		if version.Type == "snapshot" && version.Name == name {
			return version
		}
	}
	b.t.Fatalf("%s has no snapshot %s", dataset, name)
	return zfsfake.Version{}
}

// litter replicates tank/data twice and leaves stale things of the JobID prod.bravo, of other JobIDs, and of others.
func (b *testbed) litter() (stale []string) {
	b.t.Helper()
	b.must("submit", "--job", "prod", "--from", "alpha:tank/data", "--to", "bravo:backup", "--initial", "all", "--wait")
	b.zfs("alpha", "snapshot", "tank/data@two")
	b.must("run", "prod", "--wait")
	one := b.version("alpha", "tank/data", "one")
	stepHold := abstractions.HoldTag(abstractions.StepHold, "prod.bravo")
	oldCursor := "tank/data#" + abstractions.BookmarkName(abstractions.Cursor, one.GUID, "prod.bravo")
	b.zfs("alpha", "hold", stepHold, "tank/data@one")
	b.zfs("alpha", "bookmark", "tank/data@one", oldCursor)
	b.zfs("bravo", "hold", abstractions.HoldTag(abstractions.LastReceivedHold, "prod.bravo"), "backup/tank/data@one")

	b.zfs("alpha", "hold", "keep", "tank/data@one")
	b.zfs("alpha", "bookmark", "tank/data@one", "tank/data#mine")
	b.zfs("alpha", "hold", abstractions.HoldTag(abstractions.StepHold, "other.bravo"), "tank/data@one")
	stale = []string{
		oldCursor, "tank/data@one " + stepHold,
		"backup/tank/data@one " + abstractions.HoldTag(abstractions.LastReceivedHold, "prod.bravo"),
	}
	slices.Sort(stale)
	return stale
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(some, name) })
}

func TestReleasingWhatIsStale(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	require.Contains(t, b.must("abstractions", "release-stale", "--dry-run"), "There is nothing to release.")
	stale := b.litter()
	everything := func() []string { return append(b.kept("alpha", "tank/data"), b.kept("bravo", "backup/tank/data")...) }
	before := everything()

	golden(t, "abstractions-stale", b.must("abstractions", "list", "--stale"))
	golden(t, "release-stale-dry-run", b.must("abstractions", "release-stale", "--job", "prod", "--dry-run"))
	require.Equal(t, before, everything(), "a dry run must not change anything")

	alone := b.zctl("abstractions", "release-stale", "--job", "prod")
	require.Equal(t, exitUsage, alone.code)
	require.Contains(t, alone.err, "look with --dry-run what would go, and then say --yes")
	declined := b.zctlWith("n\n", "abstractions", "release-stale", "--job", "prod")
	require.Equal(t, exitFailed, declined.code)
	require.Contains(t, declined.err, "nothing was released: it was not confirmed")
	require.Equal(t, before, everything())

	sure := b.zctlWith("y\n", "abstractions", "release-stale", "--job", "prod")
	require.Equal(t, exitDone, sure.code, "%s%s", sure.out, sure.err)
	golden(t, "release-stale-confirm", sure.err)
	golden(t, "release-stale", sure.out)
	require.Equal(t, without(before, stale), everything(), "exactly what is stale is gone")
	require.Contains(t, b.must("abstractions", "release-stale", "--job", "prod", "--yes"), "There is nothing to release.")
}

func TestReleasingAllOfAJobID(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.litter()
	b.zfs("alpha", "bookmark", "tank/data@one", "tank/data#zrepl_replication_cursor")

	var results []protocol.ReleaseResult
	run := func(args ...string) []protocol.ReleaseResult {
		require.NoError(t, json.Unmarshal([]byte(b.must(append([]string{"abstractions", "release-all", "-o", "json"}, args...)...)), &results))
		return results
	}
	require.Len(t, run("--job-id", "prod.bravo", "--dry-run"), 5)
	require.Len(t, run("--job-id", "prod.bravo", "--dry-run", "--kind", "cursor", "--kind", "cursor-v1"), 3)
	require.Len(t, run("--job-id", "prod.bravo", "--dry-run", "--host", "bravo"), 2)
	require.Empty(t, run("--job-id", "prod.bravo", "--dry-run", "--fs", "tank"))
	require.Len(t, run("--job-id", "prod.bravo", "--dry-run", "--fs", "tank<"), 3)

	run("--job-id", "prod.bravo", "--yes")
	for _, result := range results {
		require.Equal(t, protocol.Released, result.Outcome, "%+v", result)
	}
	require.Equal(t, []string{
		"tank/data#mine", "tank/data#zrepl_replication_cursor", "tank/data@one keep", "tank/data@one zrepl_STEP_J_other.bravo",
	}, b.kept("alpha", "tank/data"))
	require.Empty(t, b.kept("bravo", "backup/tank/data"))
	require.Contains(t, b.must("run", "prod", "--wait"), "up to date", "a snapshot of both sides is left")
}

func TestReleasingObeysThePolicy(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	tag := abstractions.HoldTag(abstractions.StepHold, "prod.bravo")
	b.zfs("alpha", "create", "tank/private")
	b.zfs("alpha", "snapshot", "tank/private@one")
	b.zfs("alpha", "hold", tag, "tank/private@one")

	refused := b.zctl("abstractions", "release-all", "--job-id", "prod.bravo", "--yes")
	require.Equal(t, exitFailed, refused.code, "%s%s", refused.out, refused.err)
	golden(t, "release-refused", refused.out)
	require.Equal(t, []string{"tank/private@one " + tag}, b.kept("alpha", "tank/private"))

	b.zfs("alpha", "hold", tag, "tank/data@one")
	partial := b.zctl("abstractions", "release-all", "--job-id", "prod.bravo", "--yes", "--force")
	require.Equal(t, exitPartial, partial.code, "force is no way around a policy: %s%s", partial.out, partial.err)
	require.Equal(t, []string{"tank/private@one " + tag}, b.kept("alpha", "tank/private", "tank/data"))
}

func TestReleasingWhatAStepUses(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.must("submit", "--from", "alpha:tank/data", "--to", "bravo:backup", "--job", "prod")
	stuck := b.hosts["alpha"].Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "send").With("-L"), HangAfter: 1 << 10})
	defer stuck.Remove()
	id := planName.FindString(b.must("run", "prod"))
	<-stuck.Reached()

	before := b.kept("alpha", "tank/data")
	require.NotEmpty(t, before, "the step has put a hold on its snapshot")
	refused := b.zctl("abstractions", "release-all", "--job", "prod", "--yes")
	require.Equal(t, exitFailed, refused.code, "%s%s", refused.out, refused.err)
	require.Contains(t, refused.out, "is in use by step "+id)
	require.Equal(t, before, b.kept("alpha", "tank/data"))

	require.Contains(t, b.must("abstractions", "release-all", "--job", "prod", "--yes", "--force"), "released")
	require.Empty(t, b.kept("alpha", "tank/data"))
	stuck.Remove()
	b.must("plans", id, "--wait")
}

func TestMigratingReplicationCursors(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.must("submit", "--job", "prod", "--from", "alpha:tank/data<", "--exclude", "tank/data/www", "--to", "bravo:backup", "--wait")
	for _, name := range []string{"tank/data", "tank/data/db", "tank/data/www"} {
		b.zfs("alpha", "bookmark", name+"@one", name+"#zrepl_replication_cursor")
	}
	b.zfs("alpha", "snapshot", "tank/data/vol@newer")
	b.zfs("alpha", "bookmark", "tank/data/vol@newer", "tank/data/vol#zrepl_replication_cursor")
	before := b.kept("alpha", "tank/data", "tank/data/db", "tank/data/www", "tank/data/vol")

	golden(t, "migrate-dry-run", b.must("migrate", "replication-cursor:v1-v2", "--job", "prod", "--dry-run"))
	require.Equal(t, before, b.kept("alpha", "tank/data", "tank/data/db", "tank/data/www", "tank/data/vol"))
	one := b.must("migrate", "replication-cursor:v1-v2", "--host", "alpha", "--job-id", "prod.bravo", "--fs", "tank/data/db")
	require.Contains(t, one, "\n1 released\n")
	golden(t, "migrate", b.must("migrate", "replication-cursor:v1-v2", "--host", "alpha", "--job-id", "prod.bravo"))
	require.Equal(t, without(before, []string{"tank/data#zrepl_replication_cursor", "tank/data/db#zrepl_replication_cursor"}),
		b.kept("alpha", "tank/data", "tank/data/db", "tank/data/www", "tank/data/vol"))
	require.NotContains(t, b.must("migrate", "replication-cursor:v1-v2", "--host", "bravo", "--job-id", "prod.bravo"), "released")
}

func TestAskingHostsThatCannotAnswer(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.litter()
	partial := b.zctl("abstractions", "list", "alpha", "charlie")
	require.Equal(t, exitPartial, partial.code)
	require.Contains(t, partial.out, "#zrepl_CURSOR_G_")
	require.Contains(t, partial.err, "waiting for host charlie: no worker of it is connected")
	nobody := b.zctl("abstractions", "release-stale", "charlie", "--yes")
	require.Equal(t, exitFailed, nobody.code)
	require.Contains(t, nobody.err, "charlie")
	nowhere := b.zctl("abstractions", "list", "--root", "tank/nowhere")
	require.Equal(t, exitFailed, nowhere.code)
	require.Contains(t, nowhere.err, "tank/nowhere does not exist on any of the hosts asked (alpha, bravo)")
	require.Contains(t, b.must("abstractions", "list", "--root", "tank/data"), "tank/data#", "bravo has no such filesystem")
	unknown := b.zctl("abstractions", "list", "--job", "nosuch")
	require.Equal(t, exitFailed, unknown.code)
	require.Contains(t, unknown.err, "--job-id")
}

func TestNothingIsReleasedWhenTheOperatorGivesUp(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.litter()
	before := b.kept("alpha", "tank/data")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer := &pipedAnswer{asked: make(chan struct{}), end: make(chan struct{})}
	defer close(answer.end)
	out, errOut := &safeBuffer{}, &safeBuffer{}
	program := b.program("", out, errOut)
	program.in, program.interactive = answer, func() bool { return true }
	done := make(chan int, 1)
	go func() { done <- program.execute(ctx, strings.Fields("abstractions release-stale")) }()
	<-answer.asked
	cancel()
	require.Equal(t, exitFailed, <-done, "%s", errOut)
	require.Regexp(t, `Release these \d+\? \[y/N\]`, errOut.String())
	require.Equal(t, before, b.kept("alpha", "tank/data"))
}

// pipedAnswer is somebody who does not answer.
type pipedAnswer struct{ asked, end chan struct{} }

func (a *pipedAnswer) Read([]byte) (int, error) {
	close(a.asked)
	<-a.end
	return 0, fmt.Errorf("nobody is there any more")
}
