package protocol_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	event := protocol.Event{Host: "alpha", Ref: protocol.StepRef{Plan: "20261123t015322-x", Task: 12, Step: 3, Attempt: 1}, Kind: protocol.EventDone}
	for subject, want := range map[string]string{
		protocol.WorkSubject("alpha", protocol.RoleSend):      "zfleet.work.alpha.send",
		protocol.WorkConsumer("alpha", protocol.RoleRecv):     "alpha-recv",
		protocol.EventSubject(event):                          "zfleet.event.alpha.20261123t015322-x.12-3.done",
		protocol.EventSubjectOfPlan("20261123t015322-x"):      "zfleet.event.*.20261123t015322-x.>",
		protocol.RPCSubject("alpha", protocol.VerbInventory):  "zfleet.rpc.alpha.inventory",
		protocol.DeadLetterSubject("alpha"):                   "zfleet.deadletter.alpha",
		protocol.DeadLetterSubject("a b"):                     "zfleet.deadletter.a=20b",
		protocol.CancelSubject("p"):                           "zfleet.cancel.p",
		protocol.JobKey("prod.dr"):                            "prod=2Edr",
		protocol.PlanRequestKey("p"):                          "p.request",
		protocol.PlanCancelKey("p"):                           "p.cancel",
		protocol.PlanKey("p"):                                 "p.head",
		protocol.TaskKey("p", 17):                             "p.task.17",
		protocol.PlanKeys("p"):                                "p.>",
		protocol.CursorKey("prod", "prod.bravo", "tank/a b"):  "prod.prod=2Ebravo.tank/a=20b",
		protocol.HostKey("alpha", "alpha.example:1"):          "alpha.alpha=2Eexample=3A1",
		protocol.WorkSubject("*", ">"):                        "zfleet.work.=2A.=3E",
		protocol.EventSubjectOfPlan(protocol.PlanID("a.b.*")): "zfleet.event.*.a=2Eb=2E=2A.>",
	} {
		require.Equal(t, want, subject)
	}
}

func TestParsePlanKeyIsTheInverse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := protocol.NewPlanID(time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), 0), rapid.StringMatching(`[a-z0-9]{5}`).Draw(t, "entropy"))
		number := rapid.IntRange(0, 1<<20).Draw(t, "number")
		for key, want := range map[string]protocol.PlanKeyKind{
			protocol.PlanRequestKey(id):  protocol.PlanKeyRequest,
			protocol.PlanCancelKey(id):   protocol.PlanKeyCancel,
			protocol.PlanKey(id):         protocol.PlanKeyHead,
			protocol.TaskKey(id, number): protocol.PlanKeyTask,
		} {
			parsed, kind, n, err := protocol.ParsePlanKey(key)
			require.NoError(t, err)
			require.Equal(t, id, parsed)
			require.Equal(t, want, kind)
			if kind == protocol.PlanKeyTask {
				require.Equal(t, number, n)
			}
		}
	})
}

func TestParseHostKeyIsTheInverse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"alpha-1", "alpha.example:1", "", "a b"} {
		host, worker, err := protocol.ParseHostKey(protocol.HostKey("alpha", name))
		require.NoError(t, err)
		require.Equal(t, protocol.Host("alpha"), host)
		require.Equal(t, name, worker)
	}
	for _, key := range []string{"", "alpha", "Alpha.w", "alpha.w.x", "alpha.=2", "=61lpha.w", ".w"} {
		_, _, err := protocol.ParseHostKey(key)
		require.ErrorContains(t, err, "none of a worker", key)
	}
}

func FuzzParsePlanKey(f *testing.F) {
	for _, seed := range []string{
		"p.head", "p.request", "p.cancel", "p.task.0", "p.task.17", "p", "", ".", "p.", "p.task", "p.task.", "p.task.-1", "p.task.01",
		"p.task.1.2", "p.head.1", "P.head", "p.tail", "p.task.99999999999999999999", "=.head",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		id, kind, number, err := protocol.ParsePlanKey(key)
		if err != nil {
			require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
			return
		}
		again := strings.Join([]string{string(id), string(kind)}, ".")
		if kind == protocol.PlanKeyTask {
			again = protocol.TaskKey(id, number)
		}
		require.Equal(t, key, again)
	})
}
