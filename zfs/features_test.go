package zfs

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFeaturesOfVersions(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]Features{
		"zfs-2.3.2-2~bpo12+2\nzfs-kmod-2.3.2-2~bpo12+2\n": {
			Version: "2.3.2", KernelVersion: "2.3.2", SnapshotsChanged: true, ResumableRecv: true, BookmarkClone: true,
			Encryption: true, ChannelPrograms: true, LargeBlocks: true,
			CompressedSend: true, BackupProperties: true, SavedSend: true, HoldsParsable: true,
		},
		"zfs-2.3.2-1\nzfs-kmod-2.1.11-1\n": { // the older one limits what works
			Version: "2.3.2", KernelVersion: "2.1.11", ResumableRecv: true, BookmarkClone: true,
			Encryption: true, ChannelPrograms: true, LargeBlocks: true,
			CompressedSend: true, BackupProperties: true, SavedSend: true,
		},
		"zfs-0.8.3-1ubuntu12.18\nzfs-kmod-0.8.3-1ubuntu12.17\n": {
			Version: "0.8.3", KernelVersion: "0.8.3", ResumableRecv: true, Encryption: true, ChannelPrograms: true, LargeBlocks: true,
			CompressedSend: true, BackupProperties: true,
		},
		"zfs-2.4.99-1\n": {
			Version: "2.4.99", SnapshotsChanged: true, ResumableRecv: true, BookmarkClone: true,
			Encryption: true, ChannelPrograms: true, LargeBlocks: true,
			CompressedSend: true, BackupProperties: true, SavedSend: true, HoldsParsable: true,
		},
		"zfs-2.2.99-FreeBSD_g0a1b2c3\nzfs-kmod-2.2.99-FreeBSD_g0a1b2c3\n": {
			Version: "2.2.99", KernelVersion: "2.2.99", SnapshotsChanged: true, ResumableRecv: true, BookmarkClone: true,
			Encryption: true, ChannelPrograms: true, LargeBlocks: true,
			CompressedSend: true, BackupProperties: true, SavedSend: true, HoldsParsable: true,
		},
	} {
		features, err := parseVersionOutput(output)
		require.NoError(t, err)
		require.Equal(t, want, features, output)
	}
	for _, output := range []string{"", "hello\n", "zfs-kmod-2.3.2-1\n", "zfs-two.three\n", "zfs-99999999999999999999.1\n"} {
		_, err := parseVersionOutput(output)
		require.Error(t, err, output)
	}
}

func TestFeaturesAreAskedForOnceAndAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	cause := errors.New("not now")
	system := scripted(t, answer{args: "zfs version", err: cause}, answer{args: "zfs version", stdout: "zfs-2.2.0-1\n"})
	_, err := system.Features(t.Context())
	require.ErrorIs(t, err, cause)
	for range 3 {
		features, err := system.Features(t.Context())
		require.NoError(t, err)
		require.Equal(t, "2.2.0", features.Version)
	}
}

func TestFeaturesWithoutTheKernelModule(t *testing.T) {
	t.Parallel()
	system := scripted(t, answer{args: "zfs version", stdout: "zfs-2.3.2-1\n", stderr: "zfs_version_kernel() failed\n", exit: 1})
	features, err := system.Features(t.Context())
	require.NoError(t, err)
	require.Empty(t, features.KernelVersion)
}

func FuzzVersionOutput(f *testing.F) {
	f.Add("zfs-2.3.2-2~bpo12+2\nzfs-kmod-2.3.2-2~bpo12+2\n")
	f.Add("zfs-0.7.12-2+deb10u2\n")
	f.Fuzz(func(t *testing.T, output string) {
		if features, err := parseVersionOutput(output); err == nil {
			require.NotEmpty(t, features.Version)
			require.True(t, !features.SnapshotsChanged || features.BookmarkClone, "newer versions have what older ones have")
		}
	})
}

const poolsOutput = `tank	size	503316480
tank	health	ONLINE
tank	guid	15023893291170592826
tank	version	-
tank	free	503178240
tank	readonly	off
tank	comment	with	tabs
tank	feature@extensible_dataset	active
tank	feature@bookmarks	enabled
tank	feature@encryption	disabled
back	guid	2
back	health	SUSPENDED
back	size	-
back	free	-
back	readonly	on
`

func TestPools(t *testing.T) {
	t.Parallel()
	pools, err := scripted(t, answer{args: "zpool get -Hp -o name,property,value all", stdout: poolsOutput}).Pools(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Pool{
		{Name: "back", GUID: 2, Health: "SUSPENDED", ReadOnly: true, Features: map[string]bool{}},
		{
			Name: "tank", GUID: 15023893291170592826, Size: 503316480, Free: 503178240, Health: "ONLINE",
			Features: map[string]bool{"extensible_dataset": true, "bookmarks": true},
		},
	}, pools)
	none, err := scripted(t, answer{args: "zpool get -Hp -o name,property,value all"}).Pools(t.Context())
	require.NoError(t, err)
	require.Empty(t, none)
	_, err = scripted(t, answer{args: "zpool get -Hp -o name,property,value all", exit: 1, stderr: "no\n"}).Pools(t.Context())
	require.ErrorContains(t, err, "zpool get all: no (exit status 1)")
}

func TestPoolsRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for _, output := range []string{"tank\n", "tank\tguid\n", "\tguid\t1\n", "tank\tguid\tx\n", "tank\tsize\tx\n", "tank\tsize\t1\n"} {
		_, err := parsePools(output)
		var malformed *OutputError
		require.ErrorAs(t, err, &malformed, output)
	}
}

func FuzzPools(f *testing.F) {
	f.Add(poolsOutput)
	f.Add("tank\tguid\t1")
	f.Fuzz(func(t *testing.T, output string) {
		pools, err := parsePools(output)
		if err != nil {
			return
		}
		for i, pool := range pools {
			require.NotEmpty(t, pool.Name)
			require.NotZero(t, pool.GUID)
			require.False(t, i > 0 && strings.Compare(pools[i-1].Name, pool.Name) >= 0)
		}
	})
}
