package zfsfake_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestBookmarksByProgramAndWithout(t *testing.T) {
	t.Parallel()
	for _, options := range [][]zfsfake.Option{nil, {zfsfake.WithoutChannelPrograms()}} {
		fake := zfsfake.New(options...)
		fake.CreatePool("tank")
		run(t, fake, "zfs create tank/a")
		run(t, fake, "zfs snapshot tank/a@1")
		system := zfs.New(fake)
		for range 2 {
			results := system.Bookmarks(t.Context(), zfs.Bookmarking{Source: "tank/a@1", Bookmark: "tank/a#1"},
				zfs.Bookmarking{Source: "tank/a@none", Bookmark: "tank/a#2"}, zfs.Bookmarking{Source: "tank/a@1", Bookmark: "tank/a#3"})
			require.NoError(t, results[0], "which is there the second time")
			require.ErrorIs(t, results[1], zfs.ErrDatasetDoesNotExist)
			require.NoError(t, results[2])
		}
		versions, err := fake.Versions("tank/a")
		require.NoError(t, err)
		require.Len(t, versions, 3)
		if options == nil {
			require.Equal(t, 2, fake.Count(zfsfake.Command("zfs", "program")))
			require.Equal(t, 1+3, fake.Count(zfsfake.Command("zfs", "bookmark")), "for what the program could not make")
		} else {
			require.Equal(t, 1, fake.Count(zfsfake.Command("zfs", "program")), "it is not tried again")
			require.Equal(t, 3+3, fake.Count(zfsfake.Command("zfs", "bookmark")))
		}
	}
}

func TestOtherProgramsFail(t *testing.T) {
	t.Parallel()
	fake := zfsfake.New()
	fake.CreatePool("tank")
	for _, text := range []string{"", "return 1\n", zfs.BookmarkProgram + " "} {
		reader, writer, err := os.Pipe()
		require.NoError(t, err)
		_, err = writer.WriteString(text)
		require.NoError(t, err)
		require.NoError(t, writer.Close())
		var stdout bytes.Buffer
		result, err := fake.Run(t.Context(), zfs.Command{Args: []string{"zfs", "program", "-j", "tank", "-"}, Stdin: reader, Stdout: &stdout})
		require.NoError(t, err)
		require.Equal(t, 1, result.ExitCode)
		require.Contains(t, string(result.Stderr), "Channel program execution failed")
		require.Empty(t, stdout.String())
	}
}
