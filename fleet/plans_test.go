package fleet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/protocol"
)

func TestAskingForPlans(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	_, err := s.Run(t.Context(), "prod")
	require.ErrorContains(t, err, "there is no job")
	_, err = s.SubmitJob(t.Context(), exampleJob("prod"))
	require.NoError(t, err)

	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	run, err := s.Run(trace.ContextWithSpanContext(t.Context(), span), "prod")
	require.NoError(t, err)
	dry, err := s.DryRunOf(t.Context(), exampleJob("other"))
	require.NoError(t, err)

	detail, err := s.Plan(t.Context(), run)
	require.NoError(t, err)
	require.Equal(t, PlanStateRequested, detail.Plan.State)
	require.Equal(t, "test", detail.Plan.Request.By)
	require.Equal(t, "00-01000000000000000000000000000000-0200000000000000-01", detail.Plan.Request.Traceparent)

	s.putTask(exampleTask(run, 1, "tank/b"))
	s.putTask(exampleTask(run, 0, "tank/a"))
	s.putPlan(protocol.Plan{ID: run, Job: "prod", State: protocol.PlanRunning, Tasks: 2})
	detail, err = s.Plan(t.Context(), run)
	require.NoError(t, err)
	require.Equal(t, protocol.PlanRunning, detail.Plan.State)
	require.Equal(t, "tank/a", detail.Tasks[0].Filesystem)
	require.Equal(t, "tank/b", detail.Tasks[1].Filesystem)

	plans, err := s.Plans(t.Context())
	require.NoError(t, err)
	states := map[protocol.PlanID]protocol.PlanState{}
	for _, plan := range plans {
		states[plan.ID] = plan.State
	}
	require.Equal(t, map[protocol.PlanID]protocol.PlanState{run: protocol.PlanRunning, dry: PlanStateRequested}, states)
}

func TestCancelling(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	err := s.Cancel(t.Context(), "20261123t000000-aaaaa")
	require.ErrorContains(t, err, "there is no plan 20261123t000000-aaaaa")

	s.putPlan(protocol.Plan{ID: "20261123t000000-aaaaa", Job: "prod", State: protocol.PlanRunning})
	require.NoError(t, s.Cancel(t.Context(), "20261123t000000-aaaaa"))
	require.NoError(t, s.Cancel(t.Context(), "20261123t000000-aaaaa"), "twice is the same as once")
	_, err = s.resources.Plans.Get(t.Context(), protocol.PlanCancelKey("20261123t000000-aaaaa"))
	require.NoError(t, err)

	s.putPlan(protocol.Plan{ID: "20261123t000000-bbbbb", Job: "prod", State: protocol.PlanDone})
	require.ErrorContains(t, s.Cancel(t.Context(), "20261123t000000-bbbbb"), "is done already")
}

func TestPlansAreInTheOrderOfTheirRequests(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for i, id := range []protocol.PlanID{"20261123t000000-bbbbb", "20261123t000000-aaaaa", "20261123t000001-aaaaa"} {
		s.putPlan(protocol.Plan{ID: id, State: protocol.PlanDone, Request: protocol.PlanRequest{At: at.Add(time.Duration(i) * time.Millisecond)}})
	}
	plans, err := s.Plans(t.Context())
	require.NoError(t, err)
	require.Len(t, plans, 3)
	require.Equal(t, protocol.PlanID("20261123t000000-bbbbb"), plans[0].ID, "asked for first, in the same second")
	require.Equal(t, protocol.PlanID("20261123t000001-aaaaa"), plans[2].ID)
}
