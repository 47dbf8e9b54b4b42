// Many filesystems that are replicated at the same time, and what that costs.

package abstractions_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

const filesystemsOfFleet = 20

// fleet is a sending and a receiving process for filesystems that take every step at the same time. Both are on one pool: the
// moments of the receiver act on its own snapshots of the same names below tank/received.
type fleet struct {
	t           testing.TB
	fake        *zfsfake.Fake
	protection  protocol.Protection
	sender      *abstractions.Manager
	receiver    *abstractions.Manager
	filesystems []string // of the sender
	taken       int
}

func newFleet(t testing.TB, fake *zfsfake.Fake, protection protocol.Protection) *fleet {
	t.Helper()
	quiet := abstractions.Options{Logger: slog.New(slog.DiscardHandler)}
	f := &fleet{
		t: t, fake: fake, protection: protection,
		sender: abstractions.New(zfs.New(fake), quiet), receiver: abstractions.New(zfs.New(fake), quiet),
	}
	f.run("zfs", "create", "tank/received")
	for i := range filesystemsOfFleet {
		name := fmt.Sprintf("fs%d", i)
		f.filesystems = append(f.filesystems, "tank/"+name)
		f.run("zfs", "create", "tank/"+name)
		f.run("zfs", "create", "tank/received/"+name)
	}
	f.step()
	return f
}

func (f *fleet) close() {
	f.sender.Close()
	f.receiver.Close()
}

func (f *fleet) run(args ...string) {
	f.t.Helper()
	result, err := f.fake.Run(context.Background(), zfs.Command{Args: args})
	require.NoError(f.t, err)
	require.Zero(f.t, result.ExitCode, "%s: %s", strings.Join(args, " "), result.Stderr)
}

func (f *fleet) received(sent string) string {
	return "tank/received/" + strings.TrimPrefix(sent, "tank/")
}

// step takes the next snapshot of all filesystems, and a step to it from the one before. It answers the commands that the
// managers ran, listings included: what a step costs besides zfs send and zfs recv.
func (f *fleet) step() []string {
	f.t.Helper()
	f.taken++
	for _, name := range f.filesystems {
		f.run("zfs", "snapshot", fmt.Sprintf("%s@s%d", name, f.taken))
	}
	f.fake.ResetCommands()
	steps := make([]abstractions.SendStep, len(f.filesystems))
	targets := make([]zfs.Dataset, len(f.filesystems))
	f.all(func(i int, name string) error {
		dataset, err := f.sender.Dataset(f.t.Context(), name)
		if err != nil {
			return err
		}
		to, _ := dataset.Version(zfs.Snapshot, fmt.Sprintf("s%d", f.taken))
		steps[i] = abstractions.SendStep{Filesystem: name, JobID: job, Protection: f.protection, To: to, Dataset: &dataset}
		if from, ok := dataset.Version(zfs.Snapshot, fmt.Sprintf("s%d", f.taken-1)); ok {
			steps[i].From = &from
		}
		targets[i], err = f.receiver.Dataset(f.t.Context(), f.received(name))
		return err
	})
	f.all(func(i int, _ string) error { return f.sender.BeforeSend(f.t.Context(), steps[i]) })
	before := f.commands()
	for _, name := range f.filesystems {
		f.run("zfs", "snapshot", fmt.Sprintf("%s@s%d", f.received(name), f.taken)) // as if it had been received
	}
	f.fake.ResetCommands()
	f.all(func(i int, name string) error {
		versions, err := f.fake.Versions(f.received(name))
		if err != nil {
			return err
		}
		newest := versions[len(versions)-1]
		return f.receiver.AfterReceive(f.t.Context(), abstractions.ReceiveStep{
			Filesystem: f.received(name), JobID: job, Protection: f.protection, From: steps[i].From, Dataset: &targets[i],
			To: zfs.Version{Type: zfs.Snapshot, Name: newest.Name, GUID: newest.GUID},
		})
	})
	f.all(func(i int, _ string) error {
		_, err := f.sender.AfterConfirmation(f.t.Context(), steps[i])
		return err
	})
	return slices.Concat(before, f.commands())
}

func (f *fleet) all(moment func(i int, name string) error) {
	f.t.Helper()
	failures := make([]error, len(f.filesystems))
	var group sync.WaitGroup
	for i, name := range f.filesystems {
		group.Go(func() { failures[i] = moment(i, name) })
	}
	group.Wait()
	for _, err := range failures {
		require.NoError(f.t, err)
	}
}

// commands are those since the last reset, without the one that is asked once in a process's life.
func (f *fleet) commands() []string {
	var commands []string
	for _, record := range f.fake.Commands() {
		if line := strings.Join(record.Args(), " "); line != "zfs version" {
			commands = append(commands, line)
		}
	}
	return commands
}

// check looks for exactly what a step leaves.
func (f *fleet) check() {
	f.t.Helper()
	for _, name := range f.filesystems {
		sent, err := f.fake.Versions(name)
		require.NoError(f.t, err)
		var bookmarks []string
		for _, version := range sent {
			require.Empty(f.t, version.Holds)
			if version.Type == "bookmark" {
				bookmarks = append(bookmarks, version.Name)
			}
		}
		received, err := f.fake.Versions(f.received(name))
		require.NoError(f.t, err)
		newest := len(received) - 1
		if f.protection == protocol.GuaranteeNothing {
			require.Empty(f.t, bookmarks)
			require.Empty(f.t, received[newest].Holds)
		} else {
			require.Equal(f.t, []string{abstractions.BookmarkName(abstractions.Cursor, sent[len(sent)-1].GUID, job)}, bookmarks)
			require.Equal(f.t, []string{abstractions.HoldTag(abstractions.LastReceivedHold, job)}, received[newest].Holds)
		}
		for _, older := range received[:newest] {
			require.Empty(f.t, older.Holds)
		}
	}
}

// Filesystems replicated at the same time share the commands for holds and for bookmarks; bookmarks are shared in programs,
// and each takes a command of its own where there are none.
func TestCommandsOfConcurrentSteps(t *testing.T) {
	t.Parallel()
	const each = filesystemsOfFleet
	for _, test := range []struct {
		protection protocol.Protection
		options    []zfsfake.Option
		wanted     map[string]int
	}{
		{
			protection: protocol.GuaranteeResumability,
			// 40 snapshots of the sender and 20 of the receiver are held and released, up to 16 in a command.
			wanted: map[string]int{"list": 2, "hold": 3 + 2, "release": 3 + 2, "program": 1, "destroy": each},
		},
		{
			protection: protocol.GuaranteeResumability, options: []zfsfake.Option{zfsfake.WithoutChannelPrograms()},
			wanted: map[string]int{"list": 2, "hold": 3 + 2, "release": 3 + 2, "bookmark": each, "destroy": each},
		},
		{
			protection: protocol.GuaranteeIncremental,
			wanted:     map[string]int{"list": 2, "hold": 2, "release": 2, "program": 1 + 1, "destroy": 3 * each},
		},
		{
			protection: protocol.GuaranteeIncremental, options: []zfsfake.Option{zfsfake.WithoutChannelPrograms()},
			wanted: map[string]int{"list": 2, "hold": 2, "release": 2, "bookmark": 3 * each, "destroy": 3 * each},
		},
		{protection: protocol.GuaranteeNothing, wanted: map[string]int{"list": 2}},
	} {
		t.Run(fmt.Sprintf("%s/%d", test.protection, len(test.options)), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := zfsfake.New(test.options...)
				fake.CreatePool("tank")
				f := newFleet(t, fake, test.protection)
				defer f.close()
				for range 2 {
					commands := f.step()
					counts := map[string]int{}
					for _, verb := range verbs(commands) {
						counts[verb]++
					}
					require.Equal(t, test.wanted, counts)
					f.check()
				}
			})
		})
	}
}

// BenchmarkStepCommands counts the zfs commands of one incremental step besides zfs send and zfs recv, of both sides together
// and with the listings that validate it, where 20 filesystems step at the same time. On average over the protections there
// may be 4.
func BenchmarkStepCommands(b *testing.B) {
	const limit = 4.0
	sum := 0.0
	for _, protection := range protections() {
		perStep := 0.0
		b.Run(string(protection), func(b *testing.B) {
			fake := zfsfake.New()
			fake.CreatePool("tank")
			f := newFleet(b, fake, protection)
			defer f.close()
			commands, steps := 0, 0
			for b.Loop() {
				commands += len(f.step())
				steps += len(f.filesystems)
			}
			perStep = float64(commands) / float64(steps)
			b.ReportMetric(perStep, "commands/step")
		})
		sum += perStep
	}
	if average := sum / float64(len(protections())); average > limit {
		b.Errorf("%.2f commands for a step on average, where %.0f are the limit", average, limit)
	}
}
