// The same moments on real OpenZFS.

package abstractions_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

// realHost is a pool of real OpenZFS.
type realHost struct {
	t        *testing.T
	pool     string
	commands *countingRunner
	system   *zfs.System
	manager  *abstractions.Manager
}

func newRealHost(t *testing.T) *realHost {
	t.Helper()
	zfstest.RequireReal(t)
	h := &realHost{t: t, pool: zfstest.NewPool(t), commands: &countingRunner{runner: zfs.NewExecRunner()}}
	h.system = zfs.New(h.commands)
	h.manager = abstractions.New(h.system, abstractions.Options{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(h.manager.Close)
	return h
}

func (h *realHost) zfs(args ...string) {
	h.t.Helper()
	result, err := h.commands.runner.Run(h.t.Context(), zfs.Command{Args: append([]string{"zfs"}, args...)})
	require.NoError(h.t, err)
	require.Zero(h.t, result.ExitCode, "zfs %s: %s", strings.Join(args, " "), result.Stderr)
}

func (h *realHost) get(dataset string) zfs.Dataset {
	h.t.Helper()
	found, err := h.system.Get(h.t.Context(), dataset)
	require.NoError(h.t, err)
	return found
}

// step takes a snapshot and describes the step to it.
func (h *realHost) step(dataset string, protection protocol.Protection, from *zfs.Version, name string) abstractions.SendStep {
	h.t.Helper()
	h.zfs("snapshot", dataset+"@"+name)
	listing := h.get(dataset)
	to, ok := listing.Version(zfs.Snapshot, name)
	require.True(h.t, ok)
	return abstractions.SendStep{
		Filesystem: dataset, JobID: job, Protection: protection, From: from, To: to, Dataset: &listing,
	}
}

func (h *realHost) kept(dataset string) []string {
	h.t.Helper()
	found, failures := h.manager.ListAll(h.t.Context(), abstractions.Query{Roots: []string{dataset}, Exact: true})
	require.Empty(h.t, failures)
	kept := []string{}
	for _, abstraction := range found {
		name := "#" + abstraction.Name
		if abstraction.IsHold() {
			name = "@" + abstraction.Name + " " + abstraction.Tag
		}
		kept = append(kept, name)
	}
	return kept
}

// countingRunner counts what is run, by the word after "zfs".
type countingRunner struct {
	runner zfs.Runner

	mu    sync.Mutex
	verbs []string
}

func (r *countingRunner) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	r.mu.Lock()
	r.verbs = append(r.verbs, command.Args[1])
	r.mu.Unlock()
	return r.runner.Run(ctx, command)
}

func (r *countingRunner) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.verbs = nil
}

func (r *countingRunner) count(verb string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := 0
	for _, ran := range r.verbs {
		if ran == verb {
			count++
		}
	}
	return count
}

func TestRealSteps(t *testing.T) {
	t.Parallel()
	for _, protection := range protections() {
		t.Run(string(protection), func(t *testing.T) {
			t.Parallel()
			h := newRealHost(t)
			dataset := h.pool + "/with space:and.dots"
			h.zfs("create", dataset)
			h.zfs("snapshot", dataset+"@foreign")
			h.zfs("hold", "keep", dataset+"@foreign")
			h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, otherJob), dataset+"@foreign")
			foreign := h.kept(dataset)

			var from *zfs.Version
			for _, name := range []string{"a", "b", "c"} {
				step := h.step(dataset, protection, from, name)
				for range 2 {
					require.NoError(t, h.manager.BeforeSend(t.Context(), step))
				}
				during := slices.Clone(foreign)
				switch protection {
				case protocol.GuaranteeResumability:
					during = append(during, stepHold(step.To, job))
				case protocol.GuaranteeIncremental:
					during = append(during, tentativeOf(step.To, job))
				case protocol.GuaranteeNothing:
				}
				if from != nil && protection != protocol.GuaranteeNothing {
					during = append(during, cursorOf(*from, job))
					if protection == protocol.GuaranteeResumability {
						during = append(during, stepHold(*from, job))
					} else {
						during = append(during, tentativeOf(*from, job))
					}
				}
				require.ElementsMatch(t, during, h.kept(dataset))
				for range 2 {
					cursor, err := h.manager.AfterConfirmation(t.Context(), step)
					require.NoError(t, err)
					wanted := slices.Clone(foreign)
					if protection != protocol.GuaranteeNothing {
						require.Equal(t, cursorOf(step.To, job), "#"+cursor.Name)
						wanted = append(wanted, cursorOf(step.To, job))
					}
					require.ElementsMatch(t, wanted, h.kept(dataset))
				}
				from = &step.To
			}
			require.Contains(t, h.holds(dataset+"@foreign"), "keep")
		})
	}
}

func (h *realHost) holds(snapshot string) []string {
	h.t.Helper()
	holds, err := h.system.Holds(h.t.Context(), snapshot)
	require.NoError(h.t, err)
	var tags []string
	for _, hold := range holds {
		tags = append(tags, hold.Tag)
	}
	return tags
}

// The common snapshot is destroyed on the sender: the step starts from the cursor.
func TestRealStepFromTheCursor(t *testing.T) {
	t.Parallel()
	h := newRealHost(t)
	dataset := h.pool + "/d"
	h.zfs("create", dataset)
	first := h.step(dataset, protocol.GuaranteeResumability, nil, "a")
	require.NoError(t, h.manager.BeforeSend(t.Context(), first))
	_, err := h.manager.AfterConfirmation(t.Context(), first)
	require.NoError(t, err)
	h.zfs("destroy", dataset+"@a")

	listing := h.get(dataset)
	require.Len(t, listing.Versions, 1)
	cursor := listing.Versions[0]
	require.Equal(t, first.To.GUID, cursor.GUID)
	second := h.step(dataset, protocol.GuaranteeResumability, &cursor, "b")
	require.NoError(t, h.manager.BeforeSend(t.Context(), second))
	require.ElementsMatch(t, []string{
		cursorOf(first.To, job), bookmarkOf(abstractions.StepBookmark, first.To, job), stepHold(second.To, job),
	}, h.kept(dataset))
	_, err = h.manager.AfterConfirmation(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, []string{cursorOf(second.To, job)}, h.kept(dataset))
}

// Under guarantee_incremental a pruner destroys what is being sent.
func TestRealCursorOfADestroyedSnapshot(t *testing.T) {
	t.Parallel()
	h := newRealHost(t)
	dataset := h.pool + "/d"
	h.zfs("create", dataset)
	first := h.step(dataset, protocol.GuaranteeIncremental, nil, "a")
	require.NoError(t, h.manager.BeforeSend(t.Context(), first))
	h.zfs("destroy", dataset+"@a")
	for range 2 {
		_, err := h.manager.AfterConfirmation(t.Context(), first)
		require.NoError(t, err)
		require.Equal(t, []string{cursorOf(first.To, job)}, h.kept(dataset))
	}
}

func TestRealReceives(t *testing.T) {
	t.Parallel()
	h := newRealHost(t)
	dataset := h.pool + "/d"
	h.zfs("create", dataset)
	for _, name := range []string{"a", "b", "c"} {
		listing := h.get(dataset)
		h.zfs("snapshot", dataset+"@"+name)
		after := h.get(dataset)
		to, ok := after.Version(zfs.Snapshot, name)
		require.True(t, ok)
		step := abstractions.ReceiveStep{
			Filesystem: dataset, JobID: job, Protection: protocol.GuaranteeResumability, To: to, Dataset: &listing,
		}
		for range 2 {
			require.NoError(t, h.manager.AfterReceive(t.Context(), step))
			require.Equal(t, []string{lastReceivedHold(to, job)}, h.kept(dataset))
			step.Dataset = nil
		}
	}
}

// Concurrent steps on many filesystems share commands, and each gets its own result.
func TestRealConcurrentSteps(t *testing.T) {
	t.Parallel()
	h := newRealHost(t)
	var steps []abstractions.SendStep
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		dataset := h.pool + "/" + name
		h.zfs("create", dataset)
		steps = append(steps, h.step(dataset, protocol.GuaranteeResumability, nil, "s"))
	}
	h.zfs("destroy", steps[0].Filesystem+"@s")
	h.commands.reset()
	results := make([]error, len(steps))
	var group sync.WaitGroup
	for i, step := range steps {
		group.Go(func() {
			results[i] = h.manager.BeforeSend(t.Context(), step)
			if results[i] == nil {
				_, results[i] = h.manager.AfterConfirmation(t.Context(), step)
			}
		})
	}
	group.Wait()
	require.ErrorIs(t, results[0], zfs.ErrDatasetDoesNotExist)
	for i, step := range steps[1:] {
		require.NoError(t, results[i+1])
		require.Equal(t, []string{cursorOf(step.To, job)}, h.kept(step.Filesystem))
	}
	t.Logf("%d steps, one of which failed: %d hold, %d program, %d bookmark, %d release commands",
		len(steps), h.commands.count("hold"), h.commands.count("program"), h.commands.count("bookmark"), h.commands.count("release"))
}

func TestRealDestroy(t *testing.T) {
	t.Parallel()
	h := newRealHost(t)
	dataset := h.pool + "/d"
	h.zfs("create", dataset)
	step := h.step(dataset, protocol.GuaranteeResumability, nil, "a")
	require.NoError(t, h.manager.BeforeSend(t.Context(), step))
	h.zfs("bookmark", dataset+"@a", dataset+"#zrepl_replication_cursor")
	h.zfs("bookmark", dataset+"@a", dataset+cursorOf(step.To, job))
	h.zfs("bookmark", dataset+"@a", dataset+"#mine")

	all, failures := h.manager.ListAll(t.Context(), abstractions.Query{
		Roots: []string{h.pool}, Kinds: []abstractions.Kind{abstractions.Cursor, abstractions.CursorV1},
	})
	require.Empty(t, failures)
	superseded, _ := abstractions.SupersededV1(all, job)
	require.Len(t, superseded, 1)
	require.NoError(t, h.manager.Destroy(t.Context(), superseded)[0].Err)

	found, failures := h.manager.ListAll(t.Context(), abstractions.Query{Roots: []string{h.pool}})
	require.Empty(t, failures)
	require.Len(t, found, 2)
	for _, result := range h.manager.Destroy(t.Context(), found) {
		require.NoError(t, result.Err, "%s", result.Abstraction)
	}
	for _, result := range h.manager.Destroy(t.Context(), found) {
		require.NoError(t, result.Err, "gone is gone: %s", result.Abstraction)
	}
	require.Empty(t, h.kept(dataset))
	_, ok := h.get(dataset).Version(zfs.Bookmark, "mine")
	require.True(t, ok)
}
