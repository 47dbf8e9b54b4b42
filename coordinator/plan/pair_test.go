package plan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// TestPair shows for every situation of one filesystem and one target what is planned.
func TestPair(t *testing.T) {
	t.Parallel()
	for _, group := range []struct {
		name  string
		cases []pairCase
	}{
		{"first replication", []pairCase{
			{name: "the newest only", source: "@a @b @c", receiver: "-", want: "initial full @c"},
			{name: "the newest of one", source: "@a", receiver: "-", want: "initial full @a"},
			{name: "the newest wanted", source: "@a @b @C", receiver: "-", include: onlySmall, want: "initial full @b"},
			{name: "all", source: "@a @b @c @d", receiver: "-", initial: protocol.InitialAll, want: "initial full @a; @a → @d (+2)"},
			{name: "all of one", source: "@a", receiver: "-", initial: protocol.InitialAll, want: "initial full @a"},
			{name: "all of two", source: "@a @b", receiver: "-", initial: protocol.InitialAll, want: "initial full @a; @a → @b"},
			{
				name: "all wanted, others between them", source: "@A @b @B @c @d @e @E @f", receiver: "-", include: onlySmall,
				initial: protocol.InitialAll, want: "initial full @b; @b → @c; @c → @e (+1); @e → @f",
			},
			{name: "bookmarks are not sent", source: "#a @a #b @c #c", receiver: "-", initial: protocol.InitialAll, want: "initial full @a; @a → @c"},
			{name: "into a placeholder", source: "@a @b", receiver: "placeholder", want: "initial full @b"},
			{name: "forbidden", source: "@a", receiver: "-", initial: protocol.InitialFail, want: "conflict: initial replication forbidden"},
			{name: "forbidden, placeholder", source: "@a", receiver: "placeholder", initial: protocol.InitialFail, want: "conflict: initial replication forbidden"},
			{name: "nothing to send", source: "", receiver: "-", want: "nothing; note"},
			{name: "nothing to send, so nothing is forbidden", source: "", receiver: "-", initial: protocol.InitialFail, want: "nothing; note"},
			{name: "only bookmarks", source: "#a #b", receiver: "-", want: "nothing; note"},
			{name: "nothing wanted", source: "@A @B", receiver: "-", include: onlySmall, want: "nothing; note"},
			{name: "nothing wanted, all", source: "@A @B", receiver: "-", include: onlySmall, initial: protocol.InitialAll, want: "nothing; note"},
			{name: "rollback changes nothing", source: "@a @b", receiver: "-", rollback: true, want: "initial full @b"},
		}},
		{"increments", []pairCase{
			{name: "up to date", source: "@a @b", receiver: "@a @b", want: "nothing"},
			{name: "one", source: "@a @b", receiver: "@a", want: "@a → @b"},
			{name: "a range", source: "@a @b @c @d", receiver: "@a", want: "@a → @d (+2)"},
			{name: "from the newest in common", source: "@a @b @c @d", receiver: "@a @b", want: "@b → @d (+1)"},
			{name: "the target has older ones that the source destroyed", source: "@c @d", receiver: "@a @b @c", want: "@c → @d"},
			{name: "the target lacks older ones", source: "@a @b @c @d", receiver: "@c", want: "@c → @d"},
			{name: "names do not matter", source: "@x=a @y=b", receiver: "@u=a", want: "@x → @y"},
			{name: "equal names do not matter", source: "@x=b @y=c", receiver: "@x=a", want: "conflict: no common version"},
			{name: "unwanted common", source: "@A @b @c", receiver: "@A", include: onlySmall, want: "@A → @c (+1)"},
			{name: "unwanted after common", source: "@a @A @b @c", receiver: "@a", include: onlySmall, want: "@a → @b; @b → @c"},
			{name: "unwanted in the middle", source: "@a @b @c @C @d @e", receiver: "@a", include: onlySmall, want: "@a → @c (+1); @c → @d; @d → @e"},
			{name: "unwanted in every gap", source: "@a @A @b @B @c @C @d", receiver: "@a", include: onlySmall, want: "@a → @b; @b → @c; @c → @d"},
			{name: "unwanted at the end", source: "@a @b @B @C", receiver: "@a", include: onlySmall, want: "@a → @b"},
			{name: "only unwanted after common", source: "@a @A @B", receiver: "@a", include: onlySmall, want: "nothing"},
			{name: "an unwanted one before common", source: "@A @b @c @d", receiver: "@b", include: onlySmall, want: "@b → @d (+1)"},
			{name: "initial fail does not matter", source: "@a @b", receiver: "@a", initial: protocol.InitialFail, want: "@a → @b"},
			{name: "a received dataset that still has the mark", source: "@a @b", receiver: "placeholder @a", want: "@a → @b"},
			{name: "the target's bookmarks do not count", source: "@a @b @c", receiver: "@a #b", want: "@a → @c (+1)"},
		}},
		{"increments from bookmarks", []pairCase{
			{name: "one", source: "#a @b", receiver: "@a", want: "#a → @b"},
			{name: "several: the bookmark begins no range", source: "#a @b @c @d", receiver: "@a", want: "#a → @b; @b → @d (+1)"},
			{name: "unwanted after it", source: "#a @A @b @c", receiver: "@a", include: onlySmall, want: "#a → @b; @b → @c"},
			{name: "the snapshot is preferred", source: "#a @a @b @c", receiver: "@a", want: "@a → @c (+1)"},
			{name: "a newer bookmark beats an older snapshot", source: "@a #b @c @d", receiver: "@a @b", want: "#b → @c; @c → @d"},
			{name: "the newest bookmark", source: "#a #b #c @d", receiver: "@a @b @c", want: "#c → @d"},
			{name: "up to date by the cursor alone", source: "#b", receiver: "@a @b", want: "nothing"},
			{
				name: "the job's own cursor is preferred", receiver: "@a", want: "#zrepl_CURSOR_G_00000000000003e9_J_prod.bravo → @b",
				source: "#aaa=a #zrepl_CURSOR_G_00000000000003e9_J_other=a #zrepl_CURSOR_G_00000000000003e9_J_prod.bravo=a @b",
			},
			{name: "without an own cursor, the first by name", source: "#zzz=a #bbb=a @b", receiver: "@a", want: "#bbb → @b"},
		}},
		{"partial states of first replications", []pairCase{
			{name: "the newest", source: "@a @b", receiver: "empty", partial: "b", want: "initial resume full @b"},
			{name: "in a placeholder", source: "@a @b", receiver: "placeholder", partial: "b", want: "initial resume full @b"},
			{name: "an older one is finished first", source: "@a @b @c @d", receiver: "empty", partial: "b", want: "initial resume full @b; @b → @d (+1)"},
			{name: "an older one, unwanted ones after it", source: "@a @A @b", receiver: "empty", partial: "a", include: onlySmall, want: "initial resume full @a; @a → @b"},
			{name: "an unwanted one is given up", source: "@A @b", receiver: "empty", partial: "A", include: onlySmall, want: "initial full @b"},
			{name: "one that is gone is given up", source: "@b @c", receiver: "empty", partial: "a", want: "initial full @c"},
			{name: "one of which a bookmark is left is given up", source: "#a @b", receiver: "empty", partial: "a", want: "initial full @b"},
			{name: "all: the oldest", source: "@a @b @c", receiver: "empty", partial: "a", initial: protocol.InitialAll, want: "initial resume full @a; @a → @c (+1)"},
			{name: "all: not the oldest", source: "@a @b @c", receiver: "empty", partial: "b", initial: protocol.InitialAll, want: "initial full @a; @a → @c (+1)"},
			{name: "an increment's, with nothing to add it to", source: "@a @b", receiver: "empty", partial: "a>b", want: "initial full @b"},
			{name: "all: an increment's, with nothing to add it to", source: "@a @b", receiver: "empty", partial: "a>b", initial: protocol.InitialAll, want: "initial full @a; @a → @b"},
			{name: "unreadable", source: "@a @b", receiver: "empty", partial: "?", want: "initial full @b"},
			{name: "forbidden", source: "@a", receiver: "empty", partial: "a", initial: protocol.InitialFail, want: "conflict: initial replication forbidden"},
			{name: "nothing left to send", source: "", receiver: "empty", partial: "a", want: "nothing; note"},
		}},
		{"partial states of increments", []pairCase{
			{name: "the next one", source: "@a @b", receiver: "@a", partial: "a>b", want: "resume @a → @b"},
			{name: "the first of a range", source: "@a @b @c @d", receiver: "@a", partial: "a>b", want: "resume @a → @b; @b → @d (+1)"},
			{name: "from a bookmark", source: "#a @b @c @d", receiver: "@a", partial: "a>b", want: "resume #a → @b; @b → @d (+1)"},
			{name: "the first wanted one", source: "@a @A @b @c", receiver: "@a", partial: "a>b", include: onlySmall, want: "resume @a → @b; @b → @c"},
			{name: "not the next one", source: "@a @b @c", receiver: "@a", partial: "a>c", want: "@a → @c (+1)"},
			{name: "not from where the target is", source: "@a @b @c", receiver: "@a", partial: "b>c", want: "@a → @c (+1)"},
			{
				name: "a later step's", source: "#a @b @B @c", receiver: "@a", partial: "b>c", include: onlySmall,
				want: "#a → @b; @b → @c",
			},
			{name: "to one that is unwanted", source: "@a @A @b", receiver: "@a", partial: "a>A", include: onlySmall, want: "@a → @b"},
			{name: "to one that is gone", source: "@a @c", receiver: "@a", partial: "a>b", want: "@a → @c"},
			{name: "of a full send", source: "@a @b", receiver: "@a", partial: "b", want: "@a → @b"},
			{name: "unreadable", source: "@a @b", receiver: "@a", partial: "?", want: "@a → @b"},
			{name: "with nothing to send", source: "@a", receiver: "@a", partial: "a>b", want: "nothing"},
		}},
		{"a target that moved on", []pairCase{
			{name: "diverged", source: "@a @c", receiver: "@a @b", want: "conflict: diverged"},
			{name: "diverged, with a partial state", source: "@a @c", receiver: "@a @b", partial: "a>c", want: "conflict: diverged"},
			{name: "diverged from a bookmark", source: "#a @c", receiver: "@a @b", want: "conflict: diverged"},
			{name: "diverged, only unwanted on the source", source: "@a @A", receiver: "@a @b", include: onlySmall, want: "conflict: diverged"},
			{name: "destroyed on the source, the cursor left", source: "@a #b @c", receiver: "@a @b", want: "#b → @c"},
			{name: "ahead", source: "@a", receiver: "@a @b", want: "conflict: receiver ahead"},
			{name: "ahead of a bookmark", source: "#a", receiver: "@a @b", want: "conflict: receiver ahead"},
			{name: "an older common version is the target's newest", source: "@a @b @c", receiver: "@b @a", want: "conflict: diverged"},
			{name: "nothing in common", source: "@c @d", receiver: "@a @b", want: "conflict: no common version"},
			{name: "nothing in common, nothing on the source", source: "", receiver: "@a @b", want: "conflict: no common version"},
			{name: "nothing in common, rollback", source: "@c @d", receiver: "@a @b", rollback: true, want: "conflict: no common version"},
			{name: "a placeholder with snapshots", source: "@c", receiver: "placeholder @a", want: "conflict: no common version"},
			{name: "in common only with the target's bookmark", source: "@a @b", receiver: "#a", want: "conflict: name taken by a foreign dataset"},
		}},
		{"rollback", []pairCase{
			{name: "diverged", source: "@a @c @d", receiver: "@a @b", rollback: true, want: "@a → @d (+1); note"},
			{name: "diverged from a bookmark", source: "#a @c @d", receiver: "@a @b", rollback: true, want: "#a → @c; @c → @d; note"},
			{name: "diverged, with a partial state", source: "@a @c @d", receiver: "@a @b", partial: "a>c", rollback: true, want: "resume @a → @c; @c → @d; note"},
			{name: "nothing to roll forward to", source: "@a", receiver: "@a @b", rollback: true, want: "nothing; note"},
			{name: "held", source: "@a @c", receiver: "@a @b!", rollback: true, want: "conflict: diverged"},
			{name: "held, nothing newer", source: "@a", receiver: "@a @b!", rollback: true, want: "conflict: receiver ahead"},
			{name: "the common one may be held", source: "@a @c", receiver: "@a! @b", rollback: true, want: "@a → @c; note"},
			{name: "not needed", source: "@a @b", receiver: "@a", rollback: true, want: "@a → @b"},
			{name: "the same name, destroyed too late", source: "@a @x=c", receiver: "@a @x=b", rollback: true, want: "conflict: snapshot name taken"},
		}},
		{"names that are taken", []pairCase{
			{name: "an empty dataset", source: "@a", receiver: "empty", want: "conflict: name taken by a foreign dataset"},
			{name: "an empty dataset, rollback", source: "@a", receiver: "empty", rollback: true, want: "conflict: name taken by a foreign dataset"},
			{name: "an empty dataset, nothing to send", source: "", receiver: "empty", want: "conflict: name taken by a foreign dataset"},
			{name: "a volume", source: "@a @b", receiver: "volume @a", want: "conflict: name taken by a foreign dataset"},
			{name: "a snapshot's", source: "@x=b @x2=c", receiver: "@x2=a @x=b", want: "conflict: snapshot name taken"},
			{name: "a snapshot's, inside a range", source: "@b @x=c @d", receiver: "@x=a @b", want: "conflict: snapshot name taken"},
			{name: "a snapshot's that is not sent", source: "@b @X=c @d", receiver: "@X=a @b", include: onlySmall, want: "@b → @d"},
			{name: "a bookmark's does not matter", source: "@b @x=c", receiver: "#x=a @b", want: "@b → @x"},
		}},
		{"sources that are no data", []pairCase{
			{name: "a placeholder", source: "placeholder", receiver: "-", want: "nothing; note"},
			{name: "a placeholder with snapshots", source: "placeholder @a", receiver: "-", want: "nothing; note"},
		}},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			for _, test := range group.cases {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					result := test.result(t)
					require.Equal(t, test.want, show(result), "source %q, receiver %q, partial %q, conflict %+v",
						test.source, test.receiver, test.partial, result.Conflict)
					require.Equal(t, "tank/data", result.Filesystem)
					require.Equal(t, "backup/alpha/tank/data", result.TargetFilesystem)
					for i, step := range result.Steps {
						require.NoError(t, step.Validate(), "step %d", i)
						require.Equal(t, i == 0 && result.Initial, step.Initial, "only the first step of a first replication is initial")
					}
				})
			}
		})
	}
}

// pairCase is one situation, in the notation of notation_test.go.
type pairCase struct {
	name     string
	source   string
	receiver string
	partial  string
	include  string
	initial  protocol.InitialPolicy // most_recent if not given
	rollback bool
	want     string
}

func (c pairCase) result(t *testing.T) plan.Result {
	t.Helper()
	job := job()
	job.Snapshots.Include = c.include
	job.Recv.ForceRollback = c.rollback
	if c.initial != "" {
		job.Replication.Initial = c.initial
	}
	return plan.Filesystem(job, job.Targets[0], source(t, "tank/data", c.source),
		receiver(t, "backup/alpha/tank/data", c.receiver, c.partial))
}

func TestStepsSayWhatTheySend(t *testing.T) {
	t.Parallel()
	from := source(t, "tank/data", "@a @b @c")
	to := receiver(t, "backup/alpha/tank/data", "@a", "a>b")
	to.Resume.Token = "1-a-b-c"
	from.Volume, to.Volume = true, true
	result := plan.Filesystem(job(), job().Targets[0], from, to)
	require.Len(t, result.Steps, 2)
	for i, step := range result.Steps {
		require.True(t, step.Volume, "step %d is of a volume", i)
		require.Equal(t, i == 0, step.Resume)
	}
	require.Equal(t, "1-a-b-c", result.Steps[0].ResumeToken)
	require.Empty(t, result.Steps[1].ResumeToken)
}

func TestClonesAreSaidToBeSentAsTheirOwn(t *testing.T) {
	t.Parallel()
	clone := source(t, "tank/data", "@b @c")
	clone.Origin = "tank/origin@a"
	result := plan.Filesystem(job(), job().Targets[0], clone, nil)
	require.Len(t, result.Steps, 1)
	require.Contains(t, result.Note, "tank/data on alpha is a clone of tank/origin@a")
	result = plan.Filesystem(job(), job().Targets[0], clone, receiver(t, "backup/alpha/tank/data", "@b", ""))
	require.Len(t, result.Steps, 1)
	require.Empty(t, result.Note, "once it is there, it is like any other")
}
