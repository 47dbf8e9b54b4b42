package plan_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// TestExplanations compares the texts that operators see with those in testdata/explanations, one file for each. After a
// wanted change, write them anew with ZFLEET_UPDATE_GOLDEN=1 and read the difference.
func TestExplanations(t *testing.T) {
	t.Parallel()
	results := map[string]plan.Result{}
	for _, test := range []pairCase{
		{name: "diverged", source: "@a @b @d @e", receiver: "@a @b @c"},
		{name: "diverged_local_snapshots", source: "@a @b @d @e", receiver: "@a @b! @x=m @y=n"},
		{name: "diverged_received_and_lost", source: "@a @b @d @e", receiver: "@a @b @c!"},
		{name: "diverged_same_name", source: "@a @b @daily=e", receiver: "@a @b @daily=d!"},
		{name: "diverged_from_bookmark", source: "#zrepl_CURSOR_G_00000000000003ea_J_prod.bravo=b @d", receiver: "@b @c"},
		{name: "diverged_many", source: "@a @b @c @d @e @f @g", receiver: "@a @m @n @o @p @q @r"},
		{name: "diverged_rollback_held", source: "@a @b @d", receiver: "@a @b @c!", rollback: true},
		{name: "receiver_ahead", source: "@a @b", receiver: "@a @b @c"},
		{name: "no_common_version", source: "#m @n @o", receiver: "@a @b"},
		{name: "no_common_version_same_name", source: "@daily=m @n", receiver: "@a @daily=b"},
		{name: "no_common_version_target_younger", source: "@a @b", receiver: "@m"},
		{name: "no_common_version_interleaved", source: "@a @c", receiver: "@b"},
		{name: "no_common_version_nothing_on_source", source: "", receiver: "@a"},
		{name: "placeholder_has_snapshots", source: "@a", receiver: "placeholder @m @n"},
		{name: "foreign_dataset", source: "@a", receiver: "empty"},
		{name: "type_differs", source: "volume @a", receiver: "@a"},
		{name: "initial_forbidden", source: "@a @b", receiver: "-", initial: protocol.InitialFail},
		{name: "initial_forbidden_placeholder", source: "@a", receiver: "placeholder", initial: protocol.InitialFail},
		{name: "initial_forbidden_partial", source: "@a", receiver: "empty", partial: "a", initial: protocol.InitialFail},
		{name: "receiver_ahead_of_bookmark", source: "#b", receiver: "@a @b! @c"},
		{name: "snapshot_name_taken", source: "@b @hourly=c", receiver: "@hourly=a @b"},
		{name: "snapshot_name_taken_twice", source: "@b @x=c @y=d", receiver: "@x=a @y=A @b"},
		{name: "nothing_to_send", source: "#a", receiver: "-"},
		{name: "nothing_wanted", source: "@A @B", receiver: "-", include: onlySmall},
		{name: "source_is_placeholder", source: "placeholder", receiver: "-"},
		{name: "rollback", source: "@a @b @d", receiver: "@a @b @c", rollback: true},
		{name: "rollback_later", source: "@a @b", receiver: "@a @b @c", rollback: true},
	} {
		results[test.name] = test.result(t)
	}
	job := job()
	copied := receiver(t, "backup/alpha/tank/old", "@a @b", "")
	results["source_gone"] = plan.SourceGone(job, job.Targets[0], "tank/old", copied)
	results["source_gone_everywhere"] = plan.SourceGone(job, job.Targets[0], "tank/old", nil)
	copied = receiver(t, "backup/alpha/tank/old data", "@a", "")
	results["source_gone_with_spaces"] = plan.SourceGone(job, job.Targets[0], "tank/old data", copied)
	spaces := source(t, "tank/my data", "@a @b")
	results["names_with_spaces"] = plan.Filesystem(job, job.Targets[0], spaces, receiver(t, "backup/alpha/tank/my data", "@a @c", ""))
	missing, err := plan.Plan(plan.Input{Job: job, Source: []protocol.Dataset{spaces}, RootMissing: true})
	require.NoError(t, err)
	require.Len(t, missing, 1)
	results["root_missing"] = missing[0]

	for name, result := range results {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireGolden(t, filepath.Join("testdata", "explanations", name+".txt"), explanation(result))
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "explanations", "*.txt"))
	require.NoError(t, err)
	for _, file := range files {
		require.Contains(t, results, strings.TrimSuffix(filepath.Base(file), ".txt"), "%s is of no case", file)
	}
}

func explanation(result plan.Result) string {
	if result.Conflict != nil {
		return result.Conflict.Failure().Message + "\n"
	}
	return result.Note + "\n"
}

func requireGolden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("ZFLEET_UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o750))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "the text of %s has changed", file)
}

// TestDocumentationHasEveryConflict checks that what a conflict calls itself can be looked up.
func TestDocumentationHasEveryConflict(t *testing.T) {
	t.Parallel()
	documentation, err := os.ReadFile(filepath.Join("..", "..", "docs", "planning.md"))
	require.NoError(t, err)
	for _, kind := range []plan.ConflictKind{
		plan.KindDiverged, plan.KindReceiverAhead, plan.KindNoCommonVersion, plan.KindNameTaken, plan.KindSnapshotNameTaken,
		plan.KindSourceGone, plan.KindInitialForbidden, plan.KindRootMissing, plan.KindInvalidJob,
	} {
		require.Contains(t, string(documentation), "\n### "+string(kind)+"\n")
	}
}

// TestConflictSaysWhichVersionsMatter checks the fields that programs read.
func TestConflictSaysWhichVersionsMatter(t *testing.T) {
	t.Parallel()
	c := pairCase{source: "#a @a @b @d", receiver: "@a @b @c @m"}.result(t).Conflict
	require.Equal(t, plan.KindDiverged, c.Kind)
	require.Equal(t, "b", c.Common.Name)
	require.Equal(t, "d", c.SourceNewest.Name)
	require.Equal(t, "m", c.ReceiverNewest.Name)
	require.Len(t, c.Extra, 2)
	require.Equal(t, "c", c.Extra[0].Name)
	require.Equal(t, protocol.Conflict, c.Failure().Kind)

	c = pairCase{source: "", receiver: "empty"}.result(t).Conflict
	require.Nil(t, c.Common)
	require.Nil(t, c.SourceNewest)
	require.Nil(t, c.ReceiverNewest)
}

// TestJobsThatCannotBePlanned checks what a job gives that was never validated.
func TestJobsThatCannotBePlanned(t *testing.T) {
	t.Parallel()
	broken := job()
	broken.Snapshots.Include = "("
	_, err := plan.Plan(plan.Input{Job: broken})
	require.ErrorContains(t, err, "snapshots.include")
	require.Equal(t, protocol.Usage, protocol.KindOf(err, ""))

	result := plan.Filesystem(broken, broken.Targets[0], source(t, "tank/data", "@a"), nil)
	require.Equal(t, plan.KindInvalidJob, result.Conflict.Kind)
	require.Contains(t, result.Conflict.Message, "snapshots.include")
	require.Empty(t, result.Steps)

	for _, index := range []int{-1, 1} {
		_, err = plan.Plan(plan.Input{Job: job(), Target: index})
		require.ErrorContains(t, err, "targets")
	}
}
