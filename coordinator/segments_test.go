package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

const collectedPlan = protocol.PlanID("20261123t010000-abcde")

func refOf(task, step, attempt int) protocol.StepRef {
	return protocol.StepRef{Plan: collectedPlan, Task: task, Step: step, Attempt: attempt}
}

func streamOf(refs ...protocol.StepRef) protocol.StoredStream {
	return protocol.StoredStream{Name: protocol.StreamName{Ref: refs[0], ID: "abcdefgh"}, Refs: refs}
}

func TestOnlyLeftoversAreRemoved(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	tasks := map[taskName]protocol.Task{}
	for number, state := range []protocol.TaskState{
		protocol.TaskReady, protocol.TaskOffering, protocol.TaskSending, protocol.TaskBackoff, protocol.TaskDone, protocol.TaskFailed,
		protocol.TaskConflict, protocol.TaskCancelled,
	} {
		tasks[taskName{collectedPlan, number}] = protocol.Task{Plan: collectedPlan, Number: number, State: state, Attempt: 2, Next: 1}
	}
	const ready, offering, sending, backoff, done, failed, conflict, cancelled, missing = 0, 1, 2, 3, 4, 5, 6, 7, 8
	elsewhere := refOf(sending, 1, 2)
	elsewhere.Plan = "20261123t010000-other"
	nameless := streamOf(refOf(sending, 1, 2))
	nameless.Refs = nil
	for name, test := range map[string]struct {
		stream protocol.StoredStream
		age    time.Duration
		left   bool
	}{
		"being sent": {streamOf(refOf(sending, 1, 2)), time.Hour, false},
		"being sent, and the object of it is gone": {nameless, time.Hour, false},
		"offered again after its leader died":      {streamOf(refOf(offering, 1, 2)), time.Hour, false},
		"an older try":                             {streamOf(refOf(sending, 1, 1)), time.Hour, true},
		"a try that is still to come":              {streamOf(refOf(sending, 1, 3)), time.Hour, true},
		"an older step":                            {streamOf(refOf(sending, 0, 2)), time.Hour, true},
		"waits for its turn":                       {streamOf(refOf(ready, 1, 2)), time.Hour, true},
		"failed for now":                           {streamOf(refOf(backoff, 1, 2)), time.Hour, true},
		"done":                                     {streamOf(refOf(done, 1, 2)), time.Hour, true},
		"failed":                                   {streamOf(refOf(failed, 1, 2)), time.Hour, true},
		"in conflict":                              {streamOf(refOf(conflict, 1, 2)), time.Hour, true},
		"cancelled":                                {streamOf(refOf(cancelled, 1, 2)), time.Hour, true},
		"its plan is gone":                         {streamOf(refOf(missing, 1, 2)), time.Hour, true},
		"another plan's":                           {streamOf(elsewhere), time.Hour, true},
		"too young to be judged":                   {streamOf(refOf(missing, 1, 2)), time.Minute, false},
		"for several, one of which goes on":        {streamOf(refOf(failed, 1, 2), refOf(done, 1, 2), refOf(sending, 1, 2)), time.Hour, false},
		"for several that have ended":              {streamOf(refOf(failed, 1, 2), refOf(done, 1, 2), refOf(sending, 1, 1)), time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.stream.Since = now.Add(-test.age)
			found := leftovers([]protocol.StoredStream{test.stream}, tasks, now.Add(-2*time.Minute))
			require.Equal(t, test.left, len(found) == 1)
		})
	}
}

func TestTheCollectorRemovesWhatCrashedStepsHaveLeft(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, _, js := natstest.Run(t)
	resources, err := protocol.EnsureResources(ctx, js, protocol.ResourceOptions{StreamsMaxBytes: 16 << 20})
	require.NoError(t, err)
	for number, state := range []protocol.TaskState{protocol.TaskSending, protocol.TaskDone} {
		value, err := protocol.EncodeValue(protocol.Task{
			Plan: collectedPlan, Number: number, TargetHost: "bravo", State: state, Attempt: 1,
		})
		require.NoError(t, err)
		_, err = resources.Plans.Put(ctx, protocol.TaskKey(collectedPlan, number), value)
		require.NoError(t, err)
	}
	begin := func(id string, refs ...protocol.StepRef) protocol.StreamName {
		name := protocol.StreamName{Ref: refs[0], ID: "stream" + id}
		require.NoError(t, protocol.StoreStreamObject(ctx, js, name, refs))
		chunks := protocol.ChunksName{Segment: protocol.SegmentName{Stream: name}}.String()
		_, err := js.Publish(ctx, protocol.ObjectChunksSubject(chunks), []byte("a segment"))
		require.NoError(t, err)
		return name
	}
	running := begin("running", refOf(0, 0, 1))
	shared := begin("shared", refOf(1, 0, 1), refOf(0, 0, 1))
	begin("crashed", refOf(1, 0, 1))
	begin("gone", refOf(7, 0, 1))
	_, err = resources.Streams.PutString(ctx, "somebody's", "keep me")
	require.NoError(t, err)

	var log bytes.Buffer
	c := collector{resources: resources, logger: slog.New(slog.NewTextHandler(&log, nil)), grace: time.Hour}
	names := func() []string {
		t.Helper()
		streams, _, err := protocol.StoredStreams(ctx, js)
		require.NoError(t, err)
		var all []string
		for _, stream := range streams {
			all = append(all, stream.Name.String())
		}
		return all
	}
	require.NoError(t, c.collect(ctx))
	require.Len(t, names(), 4, "they are too young")

	c.grace = -time.Hour // whatever the clocks say
	require.NoError(t, c.collect(ctx))
	require.ElementsMatch(t, []string{running.String(), shared.String()}, names())
	kept, err := resources.Streams.GetString(ctx, "somebody's")
	require.NoError(t, err)
	require.Equal(t, "keep me", kept)
	bucket, err := js.Stream(ctx, protocol.StreamsStream)
	require.NoError(t, err)
	require.EqualValues(t, 2*2+2, bucket.CachedInfo().State.Msgs, "two streams of a segment each, and somebody's object")
	require.Equal(t, 1, strings.Count(log.String(), "objects that are no streams"), "it is said once: %s", log.String())
	require.Equal(t, 2, strings.Count(log.String(), "removed what was left of a stream"), "%s", log.String())

	// What cannot be read may be under way.
	_, err = resources.Plans.Put(ctx, protocol.TaskKey(collectedPlan, 0), []byte("garbage"))
	require.NoError(t, err)
	require.ErrorContains(t, c.collect(ctx), "read "+protocol.TaskKey(collectedPlan, 0))
	require.Len(t, names(), 2)
}

func TestTheLeaderCollects(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, conn, js := natstest.Run(t)
	resources, err := protocol.EnsureResources(ctx, js, protocol.ResourceOptions{StreamsMaxBytes: 16 << 20})
	require.NoError(t, err)
	store := func(id string) {
		name := protocol.StreamName{Ref: refOf(0, 0, 1), ID: id}
		require.NoError(t, protocol.StoreStreamObject(ctx, js, name, []protocol.StepRef{name.Ref}))
	}
	requireEmpty := func(why string) {
		t.Helper()
		require.Eventually(t, func() bool {
			streams, _, err := protocol.StoredStreams(ctx, js)
			return err == nil && len(streams) == 0
		}, time.Minute, 10*time.Millisecond, why)
	}
	store("beforetheterm")
	running := New(Config{
		Name: "c", Host: "test", Conn: conn, Resources: resources, CollectEvery: 20 * time.Millisecond, CollectGrace: time.Nanosecond,
	})
	done := make(chan error)
	runContext, stop := context.WithCancel(ctx)
	go func() { done <- running.Run(runContext) }()
	requireEmpty("at the term's beginning")
	for n := range 3 {
		store(fmt.Sprintf("intheterm%d", n))
		requireEmpty("and later")
	}
	stop()
	require.NoError(t, <-done)
}
