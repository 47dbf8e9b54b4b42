package zfs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const createPlaceholder = "zfs create -u -o canmount=off -o mountpoint=none -o zrepl:placeholder=on back/p"

func TestCreatePlaceholder(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t, answer{args: createPlaceholder}).CreatePlaceholder(t.Context(), "back/p", PlaceholderArgs{}))
	require.NoError(t, scripted(t, answer{
		args: "zfs create -u -o encryption=off -o canmount=off -o mountpoint=none -o zrepl:placeholder=on back/p",
	}).CreatePlaceholder(t.Context(), "back/p", PlaceholderArgs{Encryption: PlaceholderOff}))
	require.Error(t, scripted(t).CreatePlaceholder(t.Context(), "back/p", PlaceholderArgs{Encryption: "perhaps"}))
	require.Error(t, scripted(t).CreatePlaceholder(t.Context(), "-p", PlaceholderArgs{}))
}

func TestCreatePlaceholderThatExists(t *testing.T) {
	t.Parallel()
	exists := answer{args: createPlaceholder, exit: 1, stderr: "cannot create 'back/p': dataset already exists\n"}
	list := answer{args: "zfs list -Hp -t filesystem,volume" + columns + " back/p", stdout: row("back/p", "filesystem", 1, "-")}
	require.NoError(t, scripted(t, exists, list).CreatePlaceholder(t.Context(), "back/p", PlaceholderArgs{}))
	list.stdout = row("back/p", "volume", 1, "-")
	var taken *DatasetExists
	require.ErrorAs(t, scripted(t, exists, list).CreatePlaceholder(t.Context(), "back/p", PlaceholderArgs{}), &taken)
}

func TestCreatePlaceholderWithoutAParent(t *testing.T) {
	t.Parallel()
	err := scripted(t, answer{args: createPlaceholder, exit: 1, stderr: "cannot create 'back/p': parent does not exist\n"}).
		CreatePlaceholder(t.Context(), "back/p", PlaceholderArgs{})
	var missing *DatasetDoesNotExist
	require.ErrorAs(t, err, &missing)
	require.Equal(t, "back", missing.Dataset)
	err = scripted(t, answer{args: createPlaceholder, exit: 1, stderr: "cannot create 'back/p': no such pool 'back'\n"}).
		CreatePlaceholder(t.Context(), "back/p", PlaceholderArgs{})
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
}

func TestSetPlaceholder(t *testing.T) {
	t.Parallel()
	require.NoError(t, scripted(t, answer{args: "zfs set zrepl:placeholder=on back/p"}).SetPlaceholder(t.Context(), "back/p", true))
	err := scripted(t, answer{
		args: "zfs set zrepl:placeholder=off back/p", exit: 1, stderr: "cannot open 'back/p': dataset does not exist\n",
	}).SetPlaceholder(t.Context(), "back/p", false)
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
}
