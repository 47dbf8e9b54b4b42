package progress

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var begin = time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)

func task(number int, filesystem string, state protocol.TaskState, sent, expected uint64, rate float64) fleet.TaskProgress {
	to := protocol.Version{Type: protocol.Snapshot, Name: "b", GUID: 2}
	progress := fleet.TaskProgress{
		Task: protocol.Task{
			Number: number, Filesystem: filesystem, TargetHost: "bravo", TargetFilesystem: "backup/" + filesystem, State: state,
			Steps: []protocol.Step{{Filesystem: filesystem, To: to}},
		},
		Sent: sent, Expected: expected, Rate: rate,
	}
	if state == protocol.TaskDone {
		progress.Next = 1
	}
	return progress
}

// story is a plan from its request to its end.
func story() []fleet.Snapshot {
	plan := protocol.Plan{ID: "20261123t010000-abcde", Job: "prod", Started: begin, State: fleet.PlanStateRequested}
	requested := fleet.Snapshot{Plan: plan, At: begin, Waiting: fleet.ErrNoCoordinator.Error()}
	plan.State = protocol.PlanPlanning
	planning := fleet.Snapshot{Plan: plan, At: begin.Add(time.Second), Waiting: "the inventory of alpha"}
	plan.State, plan.Tasks, plan.UpToDate = protocol.PlanRunning, 3, 2
	mib := uint64(1 << 20)
	conflict := task(2, "tank/data/x", protocol.TaskConflict, 0, 0, 0)
	conflict.Failure = &protocol.Failure{Kind: protocol.Conflict, Message: "both sides have changed since @a\nroll back"}
	running := fleet.Snapshot{Plan: plan, At: begin.Add(2 * time.Second), Tasks: []fleet.TaskProgress{
		task(0, "tank/data", protocol.TaskSending, 0, 100*mib, 0), task(1, "tank/data/vol", protocol.TaskReady, 0, 20*mib, 0), conflict,
	}}
	later := running
	later.At = begin.Add(9 * time.Second)
	back := task(1, "tank/data/vol", protocol.TaskBackoff, 0, 20*mib, 0)
	back.Attempt, back.NotBefore = 1, later.At.Add(3*time.Second)
	back.Failure = &protocol.Failure{Kind: protocol.Transient, Host: "bravo", Message: "connection reset"}
	sending := task(0, "tank/data", protocol.TaskSending, 35*mib, 100*mib, 5*float64(mib))
	sending.Path = &protocol.Path{
		Transport: protocol.TransportTCP, Reverse: true, TLS: true, Receivers: 2, Reason: "10.0.0.2:8410: connection refused",
	}
	sending.StepNotes = []string{"a partial state was abandoned"}
	later.Tasks = []fleet.TaskProgress{sending, back, conflict}
	plan.State, plan.Finished = protocol.PlanPartial, begin.Add(90*time.Second)
	done := fleet.Snapshot{Plan: plan, At: plan.Finished, Tasks: []fleet.TaskProgress{
		task(0, "tank/data", protocol.TaskDone, 100*mib, 100*mib, 0), task(1, "tank/data/vol", protocol.TaskDone, 20*mib, 20*mib, 0), conflict,
	}}
	return []fleet.Snapshot{requested, requested, planning, running, running, later, later, done}
}

func TestLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	lines := NewLines(&out, 5*time.Second)
	for _, shot := range story() {
		require.NoError(t, lines.Show(shot))
	}
	require.NoError(t, lines.Close())
	require.Equal(t, strings.TrimPrefix(`
plan 20261123t010000-abcde of job prod: requested
waiting: no coordinator is running: start one with: zctl coordinator
plan 20261123t010000-abcde of job prod: planning
waiting: the inventory of alpha
plan 20261123t010000-abcde of job prod: running, 3 filesystems to replicate, 2 up to date
tank/data → bravo: sending full @b
tank/data/x → bravo: conflict: both sides have changed since @a
roll back
tank/data → bravo: 35.0 MiB of 100.0 MiB (35%), 5.0 MiB/s, 13s left
tank/data → bravo: by tcp from the receiver (TLS, 2 receivers): 10.0.0.2:8410: connection refused
tank/data → bravo: a partial state was abandoned
tank/data/vol → bravo: try 1 failed, the next one comes in 3s: bravo: connection reset
tank/data → bravo: done, 100.0 MiB
tank/data/vol → bravo: done, 20.0 MiB
partial: 2 replicated, 2 up to date, 1 in conflict, 120.0 MiB in 1m30s
`, "\n"), out.String())
}

func TestJSONLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	records := NewJSONLines(&out)
	for _, shot := range story() {
		require.NoError(t, records.Show(shot))
	}
	var kinds []string
	decoder := json.NewDecoder(&out)
	var record Record
	for decoder.More() {
		record = Record{}
		require.NoError(t, decoder.Decode(&record))
		kind := record.Kind
		if record.Task != nil {
			kind += " " + record.Task.Filesystem + " " + string(record.Task.State)
		}
		kinds = append(kinds, kind)
	}
	require.Equal(t, []string{
		"plan", "plan",
		"plan", "task tank/data sending", "task tank/data/vol ready", "task tank/data/x conflict",
		"task tank/data sending", "task tank/data/vol backoff",
		"task tank/data done", "task tank/data/vol done", "result",
	}, kinds)
	require.Equal(t, protocol.PlanPartial, record.Plan.State)
	require.Len(t, record.Tasks, 3)
}

func TestFrame(t *testing.T) {
	t.Parallel()
	shots := story()
	require.Equal(t, strings.TrimPrefix(`
plan 20261123t010000-abcde  job prod  running  9s
tank/data → bravo     ███████░░░░░░░░░░░░░ 35.0 MiB of 100.0 MiB (35%), 5.0 MiB/s, 13s left  full @b, a partial state was abandoned, by tcp from the receiver (TLS, 2 receivers): 10.0.0.2:8410: connection refused
tank/data/vol → bravo again in 3s          bravo: connection reset
tank/data/x → bravo   conflict             both sides have changed since @a
everything            █████░░░░░░░░░░░░░░░ 0 of 3 filesystems, 35.0 MiB of 120.0 MiB (29%), 5.0 MiB/s, 17s left, 1 failed`, "\n"),
		ansi.Strip(Frame(shots[5], Size{Width: 230, Height: 24})))
	require.Equal(t, strings.TrimPrefix(`
plan 20261123t010000-abcde  job prod  requested  0s
waiting: no coordinator is running: start one with: zctl coordinator`, "\n"),
		ansi.Strip(Frame(shots[0], Size{Width: 130, Height: 24})))
}

func TestFrameStaysWithinTheTerminal(t *testing.T) {
	t.Parallel()
	shot := story()[5]
	for i := range 50 {
		shot.Tasks = append(shot.Tasks, task(3+i, strings.Repeat("tank/日本語/", 9)+"x", protocol.TaskReady, 0, 1<<20, 0))
	}
	for _, size := range []Size{{80, 24}, {40, 10}, {20, 5}, {200, 100}, {1, 1}, {0, 0}} {
		frame := Frame(shot, size)
		lines := strings.Split(frame, "\n")
		if size.Height >= 5 {
			require.LessOrEqual(t, len(lines), size.Height-1, "%v", size)
		}
		for _, line := range lines {
			if size.Width > 0 {
				require.LessOrEqual(t, ansi.StringWidth(line), size.Width, "%v: %q", size, line)
			}
		}
	}
	require.Contains(t, ansi.Strip(Frame(shot, Size{80, 10})), "and ")
	require.Contains(t, ansi.Strip(Frame(shot, Size{80, 10})), "tank/data → bravo", "what is under way is never left out")
}

func TestFollowGivesTheLastSnapshotAndTheError(t *testing.T) {
	t.Parallel()
	shots := story()
	var out bytes.Buffer
	last, err := Follow(func(yield func(fleet.Snapshot, error) bool) {
		_ = yield(shots[3], nil) && yield(shots[5], fleet.ErrDisconnected)
	}, NewLines(&out, time.Second))
	require.ErrorIs(t, err, fleet.ErrDisconnected)
	require.Equal(t, shots[5].At, last.At)
}

func TestLiveLeavesTheLastPicture(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	live := NewLive(&out, []string{"TERM=xterm"})
	for _, shot := range story() {
		require.NoError(t, live.Show(shot))
	}
	require.NoError(t, live.Close())
	text := ansi.Strip(out.String())
	require.Contains(t, text, "partial: 2 replicated, 2 up to date, 1 in conflict, 120.0 MiB in 1m30s\n")
	require.Contains(t, text, "tank/data/x → bravo: conflict: both sides have changed since @a\nroll back\n")
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 1234 * time.Millisecond: "1.2s", 83 * time.Second: "1m23s", 3*time.Hour + 25*time.Minute: "3h25m",
	} {
		require.Equal(t, want, Duration(d))
	}
}
