// What steps cost, counted in commands.

package abstractions_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

func TestCommandsOfOneStep(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		protection protocol.Protection
		sender     []string
		receiver   []string
	}{
		{
			protection: protocol.GuaranteeResumability,
			sender:     []string{"hold", "bookmark", "release", "destroy"},
			receiver:   []string{"hold", "release"},
		},
		{
			protection: protocol.GuaranteeIncremental,
			sender:     []string{"program", "bookmark", "destroy", "destroy", "destroy"},
			receiver:   []string{"hold", "release"},
		},
		{protection: protocol.GuaranteeNothing},
	} {
		t.Run(string(test.protection), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			from := h.snapshot("s0")
			h.zfs("hold", "keep", filesystem+"@s0") // an operator's hold costs one command, once
			for i := range 4 {
				to := h.snapshot(fmt.Sprintf("s%d", i+1))
				step := h.step(test.protection, &from, to)
				h.fake.ResetCommands()
				require.NoError(t, h.manager.BeforeSend(t.Context(), step))
				_, err := h.manager.AfterConfirmation(t.Context(), step)
				require.NoError(t, err)
				if i > 1 {
					require.ElementsMatch(t, test.sender, verbs(h.commands()), "in steady state: %v", h.commands())
				}
				from = to
			}

			h = newHost(t)
			for i := range 3 {
				before := h.listing()
				to := h.snapshot(fmt.Sprintf("s%d", i))
				h.fake.ResetCommands()
				require.NoError(t, h.manager.AfterReceive(t.Context(), abstractions.ReceiveStep{
					Filesystem: filesystem, JobID: job, Protection: test.protection, To: to, Dataset: before,
				}))
				if i > 0 {
					require.Equal(t, test.receiver, verbs(h.commands()), "in steady state")
				}
			}
		})
	}
}

func verbs(commands []string) []string {
	var verbs []string
	for _, command := range commands {
		verbs = append(verbs, strings.Fields(command)[1])
	}
	return verbs
}

// What fails for one filesystem fails for it alone, although it shared its command.
func TestFailureInASharedCommand(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const filesystems = 5
	steps := make([]abstractions.SendStep, filesystems)
	for i := range steps {
		name := fmt.Sprintf("tank/fs%d", i)
		h.zfs("create", name)
		h.zfs("snapshot", name+"@a")
		dataset, err := h.system.Get(t.Context(), name)
		require.NoError(t, err)
		steps[i] = abstractions.SendStep{
			Filesystem: name, JobID: job, Protection: protocol.GuaranteeResumability, To: dataset.Versions[0], Dataset: &dataset,
		}
	}
	h.zfs("destroy", "tank/fs3@a")
	h.manager = abstractions.New(h.system, abstractions.Options{Logger: slog.New(slog.DiscardHandler), GatherFor: 50 * time.Millisecond})
	failures := make([]error, filesystems)
	var group sync.WaitGroup
	for i, step := range steps {
		group.Go(func() { failures[i] = h.manager.BeforeSend(t.Context(), step) })
	}
	group.Wait()
	for i, step := range steps {
		if i == 3 {
			require.ErrorIs(t, failures[i], zfs.ErrDatasetDoesNotExist)
			require.ErrorContains(t, failures[i], "tank/fs3@a")
			continue
		}
		require.NoError(t, failures[i])
		versions, err := h.fake.Versions(step.Filesystem)
		require.NoError(t, err)
		require.Equal(t, []string{abstractions.HoldTag(abstractions.StepHold, job)}, versions[0].Holds)
	}
}
