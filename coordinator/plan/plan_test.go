package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// tree reads datasets, one a line: a name and what pair tests write for a side, such as "tank/a: @a @b".
func tree(t *testing.T, read func(t testing.TB, name, text string) protocol.Dataset, text string) []protocol.Dataset {
	t.Helper()
	var datasets []protocol.Dataset
	for line := range strings.Lines(text) {
		if name, list, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			datasets = append(datasets, read(t, name, list))
		}
	}
	return datasets
}

func onReceiver(t testing.TB, name, text string) protocol.Dataset {
	t.Helper()
	return *receiver(t, name, text, "")
}

// showTree writes results, one a line, with whom each waits for.
func showTree(results []plan.Result) string {
	var text strings.Builder
	for _, result := range results {
		text.WriteString(result.Filesystem + ": " + show(result))
		if result.Parent != "" {
			text.WriteString(" (after " + result.Parent + ")")
		}
		text.WriteString("\n")
	}
	return text.String()
}

// TestTree shows the order of filesystems, and which of them wait for which.
func TestTree(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, source, receiver string
		requested              []string
		rootMissing            bool
		want                   string
	}{
		{
			name: "everything is new",
			source: `tank/a/x: @a
				tank: @a
				tank/a-b: @a
				tank/a: @a
				tank/b/y/z: @a`,
			want: `tank: initial full @a
				tank/a: initial full @a (after tank)
				tank/a/x: initial full @a (after tank/a)
				tank/a-b: initial full @a (after tank)
				tank/b/y/z: initial full @a (after tank)`,
		},
		{
			name: "parents that exist are not waited for",
			source: `tank: @a @b
				tank/a: @b
				tank/a/x: @b`,
			receiver: `backup/alpha: empty
				backup/alpha/tank: @a`,
			want: `tank: @a → @b
				tank/a: initial full @b
				tank/a/x: initial full @b (after tank/a)`,
		},
		{
			name: "a child that exists waits for nobody",
			source: `tank: @a @b
				tank/a: @a @b`,
			receiver: `backup/alpha/tank: placeholder
				backup/alpha/tank/a: @a`,
			want: `tank: initial full @b
				tank/a: @a → @b`,
		},
		{
			name: "a parent that is not sent is passed over",
			source: `tank: @a
				tank/a: empty
				tank/a/x: @a`,
			want: `tank: initial full @a
				tank/a: nothing; note
				tank/a/x: initial full @a (after tank)`,
		},
		{
			name: "gone filesystems are in their place",
			source: `tank/a: @a
				tank/c: @a`,
			requested: []string{"tank/b", "tank/a"},
			want: `tank/a: initial full @a
				tank/b: conflict: source gone
				tank/c: initial full @a`,
		},
		{
			name: "no root",
			source: `tank: @a
				tank/a: @a`,
			rootMissing: true,
			want: `tank: conflict: target root missing
				tank/a: conflict: target root missing`,
		},
		{
			name:   "volumes",
			source: `tank/v: volume @a @b`, receiver: `backup/alpha/tank/v: volume @a`,
			want: `tank/v: @a → @b`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			results, err := plan.Plan(plan.Input{
				Job: job(), Source: tree(t, source, test.source), Receiver: tree(t, onReceiver, test.receiver),
				RootMissing: test.rootMissing, Requested: test.requested,
			})
			require.NoError(t, err)
			require.Equal(t, strings.ReplaceAll(test.want, "\t", "")+"\n", showTree(results))
		})
	}
}

// TestTargetsArePlannedApart checks that the target's index chooses the root and the JobID.
func TestTargetsArePlannedApart(t *testing.T) {
	t.Parallel()
	job := job()
	job.Targets = append(job.Targets, protocol.JobTarget{Host: "charlie", Root: "dr", ID: "adopted"})
	results, err := plan.Plan(plan.Input{
		Job: job, Target: 1,
		Source:   tree(t, source, "tank: #zrepl_CURSOR_G_00000000000003e9_J_adopted=a #zrepl_CURSOR_G_00000000000003e9_J_a=a @b"),
		Receiver: tree(t, onReceiver, "dr/tank: @a"),
	})
	require.NoError(t, err)
	require.Equal(t, "tank: #zrepl_CURSOR_G_00000000000003e9_J_adopted → @b\n", showTree(results))
	require.Equal(t, "dr/tank", results[0].TargetFilesystem)
	require.Equal(t, "dr/tank", results[0].Steps[0].TargetFilesystem)
}

// TestLess shows the order of ready steps.
func TestLess(t *testing.T) {
	t.Parallel()
	step := func(filesystem, to string) protocol.Step {
		return protocol.Step{Filesystem: filesystem, To: versions(t, to)[0]}
	}
	ordered := []protocol.Step{
		step("tank/z", "@z=a"),
		step("tank", "@y=b"),
		step("tank/a", "@y=b"),
		step("tank/a/b", "@y=b"),
		step("tank/a-b", "@x=b"),
		step("tank/a-b", "@y=b"),
		step("tank", "@c"),
	}
	shuffled := []protocol.Step{ordered[3], ordered[6], ordered[0], ordered[5], ordered[2], ordered[4], ordered[1]}
	slices.SortFunc(shuffled, func(a, b protocol.Step) int {
		switch {
		case plan.Less(a, b):
			return -1
		case plan.Less(b, a):
			return 1
		}
		return 0
	})
	require.Equal(t, ordered, shuffled)
}
