//go:build linux

// Channel programs on real OpenZFS.

package zfs

import (
	"bytes"
	"context"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs/zfstest"
)

func TestRealBookmarksByProgram(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	fs := zfstest.NewPool(t) + "/with space"
	r.must("zfs", "create", fs)
	r.must("zfs", "snapshot", fs+"@a")
	r.must("zfs", "snapshot", fs+"@b")

	var mu sync.Mutex
	var verbs []string
	counting := New(runnerFunc(func(ctx context.Context, command Command) (Result, error) {
		mu.Lock()
		verbs = append(verbs, command.Args[1])
		mu.Unlock()
		return r.runner.Run(ctx, command)
	}))
	wanted := []Bookmarking{
		{Source: fs + "@a", Bookmark: fs + "#a"},
		{Source: fs + "@b", Bookmark: fs + "#b"},
		{Source: fs + "#other", Bookmark: fs + "#copy of a"},
	}
	r.must("zfs", "bookmark", fs+"@a", fs+"#other")
	for _, err := range counting.Bookmarks(r.ctx(), wanted...) {
		require.NoError(t, err)
	}
	require.Equal(t, []string{"version", "program"}, verbs)
	wanted = append(wanted,
		Bookmarking{Source: fs + "@none", Bookmark: fs + "#none"}, Bookmarking{Source: fs + "@b", Bookmark: fs + "#a"},
		Bookmarking{Source: fs + "@b", Bookmark: fs + "#c"})
	results := counting.Bookmarks(r.ctx(), wanted...)
	for i := range 3 {
		require.NoError(t, results[i], "it is there already")
	}
	require.ErrorIs(t, results[3], ErrDatasetDoesNotExist)
	var taken *BookmarkExists
	require.ErrorAs(t, results[4], &taken)
	require.NoError(t, results[5])
	for name, snapshot := range map[string]string{"a": "a", "copy of a": "a", "b": "b", "c": "b"} {
		require.Equal(t, r.ref(fs, Snapshot, snapshot).GUID, r.ref(fs, Bookmark, name).GUID, name)
	}
	require.Len(t, slices.DeleteFunc(verbs, func(verb string) bool { return verb != "program" }), 2)
}

// Why no program moves a cursor: when this fails, one can.
func TestRealProgramsCannotDestroyBookmarks(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	fs := pool + "/fs"
	r.must("zfs", "create", fs)
	r.must("zfs", "snapshot", fs+"@a")
	r.must("zfs", "bookmark", fs+"@a", fs+"#a")
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	_, err = writer.WriteString(`local argv = (...)["argv"]; return {zfs.sync.destroy(argv[1])}`)
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	var stdout bytes.Buffer
	result, err := r.runner.Run(r.ctx(), Command{Args: []string{"zfs", "program", "-j", pool, "-", fs + "#a"}, Stdin: reader, Stdout: &stdout})
	require.NoError(t, err)
	require.Zero(t, result.ExitCode, "%s", result.Stderr)
	require.JSONEq(t, `{"return":{"1":2}}`, stdout.String(), "ENOENT")
}
