package zfs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBookmark(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t, answer{args: "zfs bookmark tank/fs@a tank/fs#b"}).Bookmark(t.Context(), "tank/fs@a", "tank/fs#b"))
	require.NoError(t, scripted(t, answer{args: "zfs bookmark tank/fs#a tank/fs#b"}).Bookmark(t.Context(), "tank/fs#a", "tank/fs#b"))
	require.Error(t, scripted(t).Bookmark(t.Context(), "tank/fs", "tank/fs#b"))
	require.Error(t, scripted(t).Bookmark(t.Context(), "tank/fs@a", "tank/fs@b"))
	require.ErrorContains(t, scripted(t).Bookmark(t.Context(), "tank/fs@a", "tank/other#b"), "different datasets")
}

func TestBookmarkThatExists(t *testing.T) {
	t.Parallel()
	exists := answer{
		args: "zfs bookmark tank/fs@a tank/fs#b", exit: 1, stderr: "cannot create bookmark 'tank/fs#b': bookmark exists\n",
	}
	get := answer{args: "zfs get -Hp -o name,value guid tank/fs@a tank/fs#b", stdout: "tank/fs@a\t7\ntank/fs#b\t7\n"}
	require.NoError(t, scripted(t, exists, get).Bookmark(t.Context(), "tank/fs@a", "tank/fs#b"))

	get.stdout = "tank/fs@a\t7\ntank/fs#b\t8\n"
	err := scripted(t, exists, get).Bookmark(t.Context(), "tank/fs@a", "tank/fs#b")
	var other *BookmarkExists
	require.ErrorAs(t, err, &other)
	require.Equal(t, BookmarkExists{Bookmark: "tank/fs#b", GUID: 8, WantGUID: 7}, *other)

	for _, output := range []string{"", "tank/fs@a\t7\n", "tank/fs@a 7\n", "tank/fs@a\tx\n"} {
		get.stdout = output
		var malformed *OutputError
		require.ErrorAs(t, scripted(t, exists, get).Bookmark(t.Context(), "tank/fs@a", "tank/fs#b"), &malformed)
	}
	get.stdout, get.exit, get.stderr = "", 1, "cannot open 'tank/fs@a': dataset does not exist\n"
	require.ErrorIs(t, scripted(t, exists, get).Bookmark(t.Context(), "tank/fs@a", "tank/fs#b"), ErrDatasetDoesNotExist)
}

func TestBookmarkOfWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	for source, stderr := range map[string]string{
		"tank/fs@a": "cannot open 'tank/fs@a': dataset does not exist\nusage:\n\tbookmark <snapshot|bookmark> <newbookmark>\n",
		"tank/fs#a": "cannot open 'tank/fs#a': no such pool or dataset\nusage:\n\tbookmark <snapshot|bookmark> <newbookmark>\n",
	} {
		err := scripted(t, answer{args: "zfs bookmark " + source + " tank/fs#b", exit: 2, stderr: stderr}).
			Bookmark(t.Context(), source, "tank/fs#b")
		var missing *DatasetDoesNotExist
		require.ErrorAs(t, err, &missing)
		require.Equal(t, source, missing.Dataset)
		require.NotContains(t, missing.Command.Error(), "usage")
	}
}

func TestBookmarkCloneNeedsANewerVersion(t *testing.T) {
	t.Parallel()
	err := scripted(t, answer{args: "zfs version", stdout: "zfs-0.8.6-1\n"}).Bookmark(t.Context(), "tank/fs#a", "tank/fs#b")
	require.ErrorIs(t, err, ErrBookmarkCloneUnsupported)
}
