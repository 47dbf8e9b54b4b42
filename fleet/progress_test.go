package fleet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func report(attempt int, bytes, expected uint64, elapsed time.Duration) protocol.Event {
	return protocol.Event{
		Ref: protocol.StepRef{Plan: "p", Attempt: attempt}, Kind: protocol.EventProgress, Role: protocol.RoleSend,
		Progress: &protocol.Progress{Bytes: bytes, Expected: expected, Elapsed: elapsed},
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	task := exampleTask("p", 0, "tank")
	task.State, task.Attempt = protocol.TaskSending, 1
	task.Steps = append(task.Steps, task.Steps[0])

	var none *meter
	require.Equal(t, uint64(2000), none.measure(task, now).Expected, "the estimates, where nothing was heard")

	m := &meter{}
	m.observe(report(1, 400, 1200, 4*time.Second), now)
	measured := m.measure(task, now)
	require.Equal(t, uint64(400), measured.Sent)
	require.Equal(t, uint64(2200), measured.Expected, "what the sender expects counts more than the estimate")
	require.InDelta(t, 100, measured.Rate, 0.001)
	require.Equal(t, 18*time.Second, measured.Remaining())

	unknown := task
	unknown.Steps = append([]protocol.Step{}, task.Steps...)
	unknown.Steps[1].Estimate = 0
	measured = m.measure(unknown, now)
	require.Zero(t, measured.Expected, "the size of the next step is not known")
	require.Equal(t, []uint64{400, 1200}, []uint64{measured.StepSent, measured.StepExpected})
	require.Equal(t, 8*time.Second, measured.Remaining(), "of the step alone")

	require.Zero(t, m.measure(task, now.Add(time.Minute)).Rate, "nothing was heard for long")

	m.observe(report(1, 400, 1200, 4*time.Second), now)
	require.InDelta(t, 100, m.measure(task, now).Rate, 0.001, "the same report again says nothing new")

	quick := &meter{}
	quick.observe(report(1, 100, 1200, time.Millisecond), now)
	require.Zero(t, quick.measure(task, now).Rate, "too short to be a measure")

	m.observe(report(2, 10, 800, time.Second), now)
	m.observe(report(1, 900, 1200, 5*time.Second), now)
	task.Attempt = 2
	require.Equal(t, uint64(10), m.measure(task, now).Sent, "an older try must not count")

	received := report(2, 700, 800, 2*time.Second)
	received.Role = protocol.RoleRecv
	m.observe(received, now)
	require.Equal(t, uint64(10), m.measure(task, now).Sent, "only the sender counts")

	task.State, task.Next, task.Bytes = protocol.TaskDone, 2, 2100
	measured = m.measure(task, now)
	require.Equal(t, []uint64{2100, 2100}, []uint64{measured.Sent, measured.Expected})
	require.Zero(t, measured.Rate)
}

func TestMeterKnowsWhatTheSenderSays(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	task := exampleTask("p", 0, "tank")
	task.State, task.Attempt = protocol.TaskSending, 1
	way := &protocol.Path{Transport: protocol.TransportTCP, Address: "10.0.0.2:8410", TLS: true, Receivers: 1}
	ref := protocol.StepRef{Plan: "p", Attempt: 1}

	m := &meter{}
	m.observe(protocol.Event{Ref: ref, Kind: protocol.EventOffered, Role: protocol.RoleRecv, Note: "abandoned"}, now)
	m.observe(protocol.Event{Ref: ref, Kind: protocol.EventConnected, Role: protocol.RoleSend, Path: way, Note: "as it is"}, now)
	m.observe(protocol.Event{Ref: ref, Kind: protocol.EventConnected, Role: protocol.RoleSend, Path: way, Note: "as it is"}, now)
	measured := m.measure(task, now)
	require.Equal(t, way, measured.Path)
	require.Equal(t, []string{"abandoned", "as it is"}, measured.StepNotes)
	require.Zero(t, measured.Sent)

	said := report(1, 400, 1200, 4*time.Second)
	said.Progress.Rate, said.Progress.Remaining = 50, 16*time.Second
	m.observe(said, now)
	measured = m.measure(task, now.Add(time.Second))
	require.InDelta(t, 50, measured.Rate, 0.001, "the sender knows its rate better")
	require.Equal(t, 15*time.Second, measured.Remaining(), "a second has passed since it said so")
	require.Equal(t, way, measured.Path)

	more := task
	more.Steps = append(more.Steps, more.Steps[0])
	require.Equal(t, 36*time.Second, m.measure(more, now).Remaining(), "what the sender says is about one step")

	m.observe(report(2, 10, 800, time.Second), now)
	task.Attempt = 2
	measured = m.measure(task, now)
	require.Nil(t, measured.Path, "the next try has to find its own way")
	require.Empty(t, measured.StepNotes)
}

func TestMeterStaysWithinWhatWasReported(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &meter{}
		now := time.Unix(1000, 0)
		task := exampleTask("p", 0, "tank")
		task.State = protocol.TaskSending
		for range rapid.IntRange(1, 30).Draw(t, "reports") {
			attempt := rapid.IntRange(1, 3).Draw(t, "attempt")
			m.observe(report(attempt, rapid.Uint64Max(1<<40).Draw(t, "bytes"), rapid.Uint64Max(1<<40).Draw(t, "expected"),
				time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "elapsed"))), now)
		}
		task.Attempt = m.ref.Attempt
		measured := m.measure(task, now)
		require.Equal(t, m.progress.Bytes, measured.Sent)
		require.True(t, measured.Expected == 0 || measured.Expected >= measured.Sent)
		require.True(t, measured.StepExpected == 0 || measured.StepExpected >= measured.StepSent)
		require.GreaterOrEqual(t, measured.Rate, 0.0)
		require.GreaterOrEqual(t, measured.Remaining(), time.Duration(0))
	})
}
