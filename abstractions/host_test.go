// A host for tests: a fake pool, what is on it, and commands that crash the process.

package abstractions_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	filesystem = "tank/d"
	job        = protocol.JobID("prod.bravo")
	otherJob   = protocol.JobID("prod.charlie")
)

// failer is what testing.T and rapid.T have in common here.
type failer interface {
	require.TestingT
	Helper()
	Logf(format string, args ...any)
}

// host is one host with the pool tank and the filesystem tank/d.
type host struct {
	t       failer
	fake    *zfsfake.Fake
	process *process
	system  *zfs.System
	manager *abstractions.Manager
}

func newHost(t failer, options ...zfsfake.Option) *host {
	h := &host{t: t, fake: zfsfake.New(options...)}
	h.fake.CreatePool("tank")
	h.restart()
	h.zfs("create", filesystem)
	return h
}

// restart is a new process on the same pools.
func (h *host) restart() {
	h.process = &process{runner: h.fake}
	h.system = zfs.New(h.process)
	h.manager = abstractions.New(h.system, abstractions.Options{Logger: slog.New(slog.DiscardHandler), GatherFor: 1})
}

// zfs runs a command that has to succeed, past the process under test.
func (h *host) zfs(args ...string) string {
	h.t.Helper()
	var stdout strings.Builder
	result, err := h.fake.Run(context.Background(), zfs.Command{Args: append([]string{"zfs"}, args...), Stdout: &stdout})
	require.NoError(h.t, err)
	require.Zero(h.t, result.ExitCode, "zfs %s: %s", strings.Join(args, " "), result.Stderr)
	return stdout.String()
}

// snapshot takes a snapshot of tank/d.
func (h *host) snapshot(name string) zfs.Version {
	h.t.Helper()
	h.zfs("snapshot", filesystem+"@"+name)
	return h.version("@" + name)
}

// version finds a version of tank/d by "@name" or "#name".
func (h *host) version(rel string) zfs.Version {
	h.t.Helper()
	for _, version := range h.versions() {
		if version.Rel() == rel {
			return version
		}
	}
	require.Fail(h.t, "no such version", "%s%s", filesystem, rel)
	return zfs.Version{}
}

func (h *host) versions() []zfs.Version {
	h.t.Helper()
	found, err := h.fake.Versions(filesystem)
	require.NoError(h.t, err)
	versions := make([]zfs.Version, 0, len(found))
	for _, v := range found {
		versions = append(versions, zfs.Version{
			Type: zfs.VersionType(v.Type), Name: v.Name, GUID: v.GUID, CreateTXG: v.CreateTXG, Creation: v.Creation, UserRefs: v.UserRefs,
		})
	}
	return versions
}

// listing is what a worker lists when it validates a step.
func (h *host) listing() *zfs.Dataset {
	return &zfs.Dataset{Name: filesystem, Versions: h.versions()}
}

// kept are all bookmarks, and all holds as "@snapshot tag", of tank/d in order.
func (h *host) kept() []string {
	h.t.Helper()
	versions, err := h.fake.Versions(filesystem)
	require.NoError(h.t, err)
	kept := []string{}
	for _, version := range versions {
		if version.Type == "bookmark" {
			kept = append(kept, "#"+version.Name)
		}
		for _, tag := range version.Holds {
			kept = append(kept, "@"+version.Name+" "+tag)
		}
	}
	sort.Strings(kept)
	return kept
}

// keptBy are those that contain the JobID in their name.
func (h *host) keptBy(id protocol.JobID) []string {
	h.t.Helper()
	return slices.DeleteFunc(h.kept(), func(name string) bool { return !strings.HasSuffix(name, "_J_"+string(id)) })
}

// keptByOthers are all the others.
func (h *host) keptByOthers(id protocol.JobID) []string {
	h.t.Helper()
	return slices.DeleteFunc(h.kept(), func(name string) bool { return strings.HasSuffix(name, "_J_"+string(id)) })
}

// commands are the commands since the last reset, without those that are asked once in a process's life.
func (h *host) commands() []string {
	var commands []string
	for _, record := range h.fake.Commands() {
		if line := strings.Join(record.Args(), " "); line != "zfs version" {
			commands = append(commands, line)
		}
	}
	return commands
}

func stepHold(version zfs.Version, id protocol.JobID) string {
	return version.Rel() + " " + abstractions.HoldTag(abstractions.StepHold, id)
}

func lastReceivedHold(version zfs.Version, id protocol.JobID) string {
	return version.Rel() + " " + abstractions.HoldTag(abstractions.LastReceivedHold, id)
}

func bookmarkOf(kind abstractions.Kind, version zfs.Version, id protocol.JobID) string {
	return "#" + abstractions.BookmarkName(kind, version.GUID, id)
}

func cursorOf(version zfs.Version, id protocol.JobID) string {
	return bookmarkOf(abstractions.Cursor, version, id)
}

func tentativeOf(version zfs.Version, id protocol.JobID) string {
	return bookmarkOf(abstractions.TentativeCursor, version, id)
}

// errCrashed is what a crashed process would get if it still ran.
var errCrashed = errors.New("the process has crashed")

// process runs commands for a process that may crash at one of them that changes something: before it has an effect, or
// after. From then on no command has any effect. Commands run one at a time, and after each of them observe is called.
type process struct {
	runner zfs.Runner

	mu      sync.Mutex
	changes int // commands so far that change something
	crashAt int // the number of the command to crash at; 0 is never
	after   bool
	crashed bool
	observe func(command string)
}

func (p *process) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.crashed {
		return zfs.Result{}, errCrashed
	}
	crashHere := false
	if changesSomething(command.Args) {
		p.changes++
		crashHere = p.changes == p.crashAt
	}
	if crashHere {
		p.crashed = true
		if !p.after {
			return zfs.Result{}, errCrashed
		}
		command.Stdout = io.Discard
	}
	result, err := p.runner.Run(ctx, command)
	if p.observe != nil {
		p.observe(strings.Join(command.Args, " "))
	}
	if crashHere {
		return zfs.Result{}, errCrashed
	}
	return result, err
}

// crash makes the process crash at the given change from now on.
func (p *process) crash(at int, after bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes, p.crashAt, p.after = 0, at, after
}

func changesSomething(args []string) bool {
	switch args[1] {
	case "hold", "release", "bookmark", "program", "destroy":
		return true
	}
	return false
}

func TestCrashHarness(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.snapshot("a")
	h.process.crash(1, true)
	require.ErrorIs(t, h.system.Hold(t.Context(), "t", filesystem+"@a"), errCrashed)
	require.Equal(t, []string{"@a t"}, h.kept(), "the command had its effect")
	require.ErrorIs(t, h.system.Release(t.Context(), "t", filesystem+"@a"), errCrashed)
	require.Equal(t, []string{"@a t"}, h.kept(), "a crashed process has no effects")
	h.restart()
	h.process.crash(1, false)
	require.ErrorIs(t, h.system.Release(t.Context(), "t", filesystem+"@a"), errCrashed)
	require.Equal(t, []string{"@a t"}, h.kept(), "the command had no effect")
}

func describe(version *zfs.Version) string {
	if version == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s(%d)", version.Rel(), version.GUID)
}
