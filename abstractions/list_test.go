package abstractions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// fleetOfAbstractions has all kinds of them on two filesystems, and things that are none.
func fleetOfAbstractions(t *testing.T) (*host, []string) {
	t.Helper()
	h := newHost(t)
	a, b := h.snapshot("a"), h.snapshot("b")
	h.zfs("create", "tank/d/e")
	h.zfs("snapshot", "tank/d/e@x")
	h.zfs("hold", "keep", "tank/d@a")
	h.zfs("bookmark", "tank/d@a", "tank/d#mine")

	h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, job), "tank/d@a", "tank/d@b")
	h.zfs("hold", abstractions.HoldTag(abstractions.LastReceivedHold, otherJob), "tank/d/e@x")
	for _, name := range []string{
		cursorOf(a, job), tentativeOf(b, job), bookmarkOf(abstractions.StepBookmark, a, otherJob), "#zrepl_replication_cursor",
	} {
		source := "tank/d@a"
		if name == tentativeOf(b, job) {
			source = "tank/d@b"
		}
		h.zfs("bookmark", source, "tank/d"+name)
	}
	return h, []string{
		"cursor tank/d" + cursorOf(a, job),
		"cursor-v1 tank/d#zrepl_replication_cursor",
		`last-received-hold tank/d/e@x tag "zrepl_last_received_J_prod.charlie"`,
		"step-bookmark tank/d" + bookmarkOf(abstractions.StepBookmark, a, otherJob),
		`step-hold tank/d@a tag "zrepl_STEP_J_prod.bravo"`,
		`step-hold tank/d@b tag "zrepl_STEP_J_prod.bravo"`,
		"tentative-cursor tank/d" + tentativeOf(b, job),
	}
}

func texts(found []abstractions.Abstraction) []string {
	texts := []string{}
	for _, abstraction := range found {
		texts = append(texts, abstraction.String())
	}
	slices.Sort(texts)
	return texts
}

func TestList(t *testing.T) {
	t.Parallel()
	h, all := fleetOfAbstractions(t)
	_, err := h.system.Features(t.Context())
	require.NoError(t, err)
	b := h.version("@b")
	for _, test := range []struct {
		name     string
		query    abstractions.Query
		wanted   []string
		commands int
	}{
		{name: "everything", query: abstractions.Query{}, wanted: all, commands: 2},
		{name: "concurrently", query: abstractions.Query{Concurrency: 4}, wanted: all, commands: 2},
		{
			name: "bookmarks alone", query: abstractions.Query{Kinds: []abstractions.Kind{abstractions.Cursor, abstractions.CursorV1}},
			wanted: all[:2], commands: 1,
		},
		{
			name: "one kind of hold", query: abstractions.Query{Kinds: []abstractions.Kind{abstractions.LastReceivedHold}},
			wanted: all[2:3], commands: 2,
		},
		{
			name: "one JobID, and what belongs to all", query: abstractions.Query{JobID: job},
			wanted: append(slices.Clone(all[:2]), all[4:]...), commands: 2,
		},
		{name: "below a root", query: abstractions.Query{Roots: []string{"tank/d/e"}}, wanted: all[2:3], commands: 2},
		{
			name: "a root alone", query: abstractions.Query{Roots: []string{"tank/d"}, Exact: true},
			wanted: append(slices.Clone(all[:2]), all[3:]...), commands: 2,
		},
		{
			name:   "a filter",
			query:  abstractions.Query{Filesystem: func(name string) bool { return strings.HasSuffix(name, "/e") }},
			wanted: all[2:3], commands: 2,
		},
		{
			name:   "up to a createtxg, which leaves snapshots alone that are newer",
			query:  abstractions.Query{Roots: []string{"tank/d"}, Exact: true, CreateTXG: abstractions.TXGRange{Until: b.CreateTXG - 1}},
			wanted: []string{all[0], all[1], all[3], all[4]}, commands: 2,
		},
		{
			name:   "since a createtxg",
			query:  abstractions.Query{Roots: []string{"tank/d"}, Exact: true, CreateTXG: abstractions.TXGRange{Since: b.CreateTXG}},
			wanted: all[5:], commands: 2,
		},
		{name: "nowhere", query: abstractions.Query{Filesystem: func(string) bool { return false }}, wanted: []string{}, commands: 1},
	} {
		h.fake.ResetCommands()
		found, failures := h.manager.ListAll(t.Context(), test.query)
		require.Empty(t, failures, test.name)
		require.Equal(t, test.wanted, texts(found), test.name)
		require.Len(t, h.commands(), test.commands, "%s: %v", test.name, h.commands())
		types := strings.Split(strings.Fields(h.commands()[0])[4], ",")
		for _, kind := range test.query.Kinds {
			require.Equal(t, kind.IsHold(), slices.Contains(types, "snapshot"), "%s: %v", test.name, types)
			require.Equal(t, !kind.IsHold(), slices.Contains(types, "bookmark"), "%s: %v", test.name, types)
		}
	}
}

func TestListErrors(t *testing.T) {
	t.Parallel()
	h, all := fleetOfAbstractions(t)
	tinkered := "zrepl_CURSOR_G_00000000000000ff_J_x"
	h.zfs("bookmark", "tank/d@a", "tank/d#"+tinkered)

	found, failures := h.manager.ListAll(t.Context(), abstractions.Query{Roots: []string{"tank/gone", "tank/d"}})
	require.Equal(t, all, texts(found), "the rest is listed all the same")
	require.Len(t, failures, 2)
	var listError *abstractions.ListError
	require.ErrorAs(t, failures[0], &listError)
	require.Equal(t, "tank/gone", listError.Filesystem)
	require.ErrorIs(t, failures[0], zfs.ErrDatasetDoesNotExist)
	var mismatch *abstractions.GUIDMismatch
	require.ErrorAs(t, failures[1], &mismatch)
	require.Contains(t, mismatch.Version, tinkered)

	fault := h.fake.Inject(zfsfake.Fault{
		Match: func(args []string) bool {
			return args[1] == "holds" && slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "tank/d@") })
		},
		Before: &zfsfake.Failure{ExitCode: 1, Stderr: "cannot open 'tank/d@a': I/O error\n"},
	})
	found, failures = h.manager.ListAll(t.Context(), abstractions.Query{
		Kinds: []abstractions.Kind{abstractions.StepHold, abstractions.LastReceivedHold},
	})
	fault.Remove()
	require.Equal(t, all[2:3], texts(found), "a failure on one filesystem does not hide another's")
	require.NotEmpty(t, failures)
	for _, failure := range failures {
		require.ErrorAs(t, failure, &listError)
		require.Equal(t, "tank/d", listError.Filesystem)
	}

	h.fake.Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "list"), Before: &zfsfake.Failure{ExitCode: 1, Stderr: "no\n"}})
	found, failures = h.manager.ListAll(t.Context(), abstractions.Query{})
	require.Empty(t, found)
	require.Len(t, failures, 1)
}

// Filesystems listed at the same time share a command, and each caller gets its own result.
func TestDatasetsListedTogether(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.snapshot("a")
	h.zfs("create", "tank/e")
	names := []string{"tank/d", "tank/gone", "tank/e", "tank/d", "other/pool", "tank/bad@name"}
	datasets, failures := make([]zfs.Dataset, len(names)), make([]error, len(names))
	var group sync.WaitGroup
	for i, name := range names {
		group.Go(func() { datasets[i], failures[i] = h.manager.Dataset(t.Context(), name) })
	}
	group.Wait()
	for i, name := range names {
		switch name {
		case "tank/bad@name":
			var nameError *zfs.NameError
			require.ErrorAs(t, failures[i], &nameError)
		case "tank/gone", "other/pool":
			require.ErrorIs(t, failures[i], zfs.ErrDatasetDoesNotExist)
			require.ErrorContains(t, failures[i], name)
		default:
			require.NoError(t, failures[i])
			wanted, err := h.system.Get(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, wanted, datasets[i])
		}
	}
}

func TestListCanBeStopped(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for i := range 450 {
		name := fmt.Sprintf("s%d", i)
		h.zfs("snapshot", filesystem+"@"+name)
		h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, job), filesystem+"@"+name)
	}
	count := 0
	for _, err := range h.manager.List(t.Context(), abstractions.Query{Concurrency: 3}) {
		require.NoError(t, err)
		if count++; count == 10 {
			break
		}
	}
	require.Equal(t, 10, count)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	count = 0
	var last error
	for _, err := range h.manager.List(ctx, abstractions.Query{}) {
		if count++; count == 10 {
			cancel()
		}
		last = err
	}
	require.Less(t, count, 450)
	require.ErrorIs(t, last, context.Canceled)
}

func TestDestroy(t *testing.T) {
	t.Parallel()
	h, _ := fleetOfAbstractions(t)
	found, failures := h.manager.ListAll(t.Context(), abstractions.Query{})
	require.Empty(t, failures)
	gone := found[0]
	gone.Filesystem = "tank/gone"
	wrong := found[1]
	wrong.GUID++
	h.zfs("create", "tank/f")
	h.zfs("snapshot", "tank/f@x")
	absent := abstractions.Abstraction{Kind: abstractions.StepHold, Filesystem: "tank/f", Name: "y", Tag: "zrepl_STEP_J_x", JobID: "x", GUID: 1}
	asked := append([]abstractions.Abstraction{gone, wrong, absent}, found[2:]...)

	stuck := ""
	for _, abstraction := range found[2:] {
		if !abstraction.IsHold() {
			stuck = abstraction.FullName()
		}
	}
	require.NotEmpty(t, stuck)
	h.fake.Inject(zfsfake.Fault{
		Match: zfsfake.Command("zfs", "destroy").With(stuck), Before: &zfsfake.Failure{ExitCode: 1, Stderr: "out of space\n"},
	})
	h.fake.ResetCommands()
	results := h.manager.Destroy(t.Context(), asked)
	require.Len(t, results, len(asked))
	for i, result := range results {
		require.Equal(t, asked[i], result.Abstraction, "results come in the order of the question")
		var mismatch *abstractions.GUIDMismatch
		switch {
		case result.Abstraction == wrong:
			require.ErrorAs(t, result.Err, &mismatch)
		case result.Abstraction.FullName() == stuck:
			require.ErrorContains(t, result.Err, "out of space")
		default:
			require.NoError(t, result.Err)
		}
	}
	left, failures := h.manager.ListAll(t.Context(), abstractions.Query{})
	require.Empty(t, failures)
	wanted := []string{found[0].String(), found[1].String()}
	for _, abstraction := range found {
		if abstraction.FullName() == stuck {
			wanted = append(wanted, abstraction.String())
		}
	}
	slices.Sort(wanted)
	require.Equal(t, wanted, texts(left))
	require.Contains(t, h.kept(), "@a keep")
	require.Contains(t, h.kept(), "#mine")
	require.Empty(t, h.manager.Destroy(t.Context(), nil))
}

func TestStale(t *testing.T) {
	t.Parallel()
	of := func(kind abstractions.Kind, txg uint64) abstractions.Abstraction {
		a := abstractions.Abstraction{Kind: kind, Filesystem: filesystem, JobID: job, GUID: txg, CreateTXG: txg}
		if kind == abstractions.CursorV1 {
			a.JobID = ""
		}
		return a
	}
	wantStale := []abstractions.Abstraction{
		of(abstractions.Cursor, 10), of(abstractions.StepHold, 10), of(abstractions.StepBookmark, 10),
		of(abstractions.TentativeCursor, 10), of(abstractions.TentativeCursor, 20), of(abstractions.LastReceivedHold, 5),
	}
	other := of(abstractions.StepHold, 1)
	other.JobID = otherJob
	elsewhere := of(abstractions.Cursor, 1)
	elsewhere.Filesystem = "tank/e"
	wantLive := []abstractions.Abstraction{
		of(abstractions.Cursor, 20), of(abstractions.StepHold, 20), of(abstractions.StepBookmark, 20), of(abstractions.StepHold, 30),
		of(abstractions.TentativeCursor, 30), of(abstractions.LastReceivedHold, 6), of(abstractions.CursorV1, 1), other, elsewhere,
	}
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.Permutation(slices.Concat(wantStale, wantLive)).Draw(t, "all")
		stale, live := abstractions.Stale(all)
		require.ElementsMatch(t, wantStale, stale)
		require.ElementsMatch(t, wantLive, live)
		again, _ := abstractions.Stale(live)
		require.Empty(t, again, "what is left is not stale")
	})
}

func TestListStale(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a, b := h.snapshot("a"), h.snapshot("b")
	h.zfs("bookmark", filesystem+"@a", filesystem+cursorOf(a, job))
	h.zfs("bookmark", filesystem+"@b", filesystem+cursorOf(b, job))
	h.zfs("hold", abstractions.HoldTag(abstractions.StepHold, job), filesystem+"@a", filesystem+"@b")
	stale, failures := h.manager.ListStale(t.Context(), abstractions.Query{Kinds: []abstractions.Kind{abstractions.StepHold}})
	require.Empty(t, failures)
	require.Equal(t, []string{`step-hold tank/d@a tag "zrepl_STEP_J_prod.bravo"`}, texts(stale))
}

func TestSupersededV1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const v1 = "#zrepl_replication_cursor"
	h.zfs("create", "tank/e")
	h.zfs("snapshot", "tank/e@a")
	h.zfs("bookmark", "tank/e@a", "tank/e"+v1)
	a, b := h.snapshot("a"), h.snapshot("b")
	h.zfs("bookmark", filesystem+"@b", filesystem+v1)
	h.zfs("bookmark", filesystem+"@a", filesystem+cursorOf(a, job))
	look := func(id protocol.JobID) (superseded, needed []abstractions.Abstraction) {
		all, failures := h.manager.ListAll(t.Context(), abstractions.Query{
			Kinds: []abstractions.Kind{abstractions.Cursor, abstractions.CursorV1}, JobID: id,
		})
		require.Empty(t, failures)
		return abstractions.SupersededV1(all, id)
	}

	superseded, needed := look(job)
	require.Empty(t, superseded)
	require.Len(t, needed, 2, "no cursor is as new")

	h.zfs("bookmark", filesystem+"@b", filesystem+cursorOf(b, job))
	superseded, _ = look(otherJob)
	require.Empty(t, superseded, "another job's cursor does not count")

	superseded, needed = look(job)
	require.Equal(t, []string{"cursor-v1 " + filesystem + v1}, texts(superseded))
	require.Equal(t, []string{"cursor-v1 tank/e" + v1}, texts(needed))
	for _, destroyed := range h.manager.Destroy(t.Context(), superseded) {
		require.NoError(t, destroyed.Err)
	}
	require.NotContains(t, h.kept(), v1)
	require.Contains(t, h.kept(), cursorOf(b, job))
}

func TestForms(t *testing.T) {
	t.Parallel()
	hold, ok := abstractions.Hold("tank/d", zfs.Version{Type: zfs.Snapshot, Name: "a", GUID: 1 << 63, CreateTXG: 7}, "zrepl_STEP_J_x")
	require.True(t, ok)
	require.Equal(t, abstractions.FormHold, hold.Form())
	text, err := json.Marshal(hold)
	require.NoError(t, err)
	require.JSONEq(t, `{"kind":"step-hold","filesystem":"tank/d","name":"a","tag":"zrepl_STEP_J_x","job_id":"x",
		"guid":"9223372036854775808","createtxg":"7","form":"hold","full_name":"tank/d@a"}`, string(text))
	var back abstractions.Abstraction
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, hold, back)

	_, ok = abstractions.Hold("tank/d", zfs.Version{Type: zfs.Snapshot, Name: "a"}, "keep")
	require.False(t, ok)

	cursor, ok, err := abstractions.Bookmark("tank/d", zfs.Version{
		Type: zfs.Bookmark, Name: abstractions.BookmarkName(abstractions.Cursor, 5, "x"), GUID: 5,
	})
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, abstractions.FormBookmark, cursor.Form())
	require.Equal(t, "cursor tank/d#zrepl_CURSOR_G_0000000000000005_J_x", cursor.String())
}
