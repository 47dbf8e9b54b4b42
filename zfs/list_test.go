package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const (
	listAll = "zfs list -Hp -t filesystem,volume,snapshot,bookmark"
	columns = " -o name,type,guid,createtxg,creation,userrefs,used,referenced,origin,mounted,encryption,encryptionroot,keystatus," +
		"receive_resume_token,snapshots_changed,zrepl:placeholder"
)

// As OpenZFS 2.3.2 printed it.
const treeOutput = `tank/fs	filesystem	8025543873008867544	8	1795400082	-	16856064	16817152	-	yes	off	-	-	-	1795400083	on
tank/fs@a	snapshot	7088547482808341197	12	1795400083	1	14336	8420352	-	-	off	-	-	-	-	on
tank/fs@b	snapshot	6148417979973092796	15	1795400083	0	0	16817152	-	-	off	-	-	-	-	on
tank/fs#bm	bookmark	7088547482808341197	12	1795400083	-	-	8420352	-	-	-	-	-	-	-	-
tank/fs/with space	filesystem	5738253646727497701	11	1795400082	-	24576	24576	tank/other@o	yes	aes-256-gcm	tank	available	1-ab-c0-12	1795400083	on
tank/fs/with space@s	snapshot	17566350994661396991	13	1795400083	0	0	24576	-	-	off	-	-	-	-	on
tank/fs/vol	volume	2207172799019926712	9	1795400082	-	10485760	12288	-	-	off	-	-	-	-	off
`

func TestListReadsATree(t *testing.T) {
	t.Parallel()
	system := scripted(t,
		answer{args: listAll + " -r" + columns + " tank/fs", stdout: treeOutput},
		answer{
			args:   "zfs get -Hp -o name,value,source zrepl:placeholder tank/fs tank/fs/with space",
			stdout: "tank/fs\ton\tlocal\ntank/fs/with space\ton\tinherited from tank/fs\n",
		},
	)
	datasets, err := system.List(t.Context(), ListQuery{Datasets: []string{"tank/fs"}, Recursive: true, Versions: true})
	require.NoError(t, err)
	created := time.Unix(1795400083, 0)
	require.Equal(t, []Dataset{
		{
			Name: "tank/fs", Type: Filesystem, GUID: 8025543873008867544, CreateTXG: 8, Used: 16856064, Referenced: 16817152,
			Mounted: true, Encryption: "off", Placeholder: true, SnapshotsChanged: 1795400083,
			Versions: []Version{
				{Type: Bookmark, Name: "bm", GUID: 7088547482808341197, CreateTXG: 12, Creation: created},
				{Type: Snapshot, Name: "a", GUID: 7088547482808341197, CreateTXG: 12, Creation: created, UserRefs: 1},
				{Type: Snapshot, Name: "b", GUID: 6148417979973092796, CreateTXG: 15, Creation: created},
			},
		},
		{
			Name: "tank/fs/vol", Type: Volume, GUID: 2207172799019926712, CreateTXG: 9, Used: 10485760, Referenced: 12288,
			Encryption: "off",
		},
		{
			Name: "tank/fs/with space", Type: Filesystem, GUID: 5738253646727497701, CreateTXG: 11, Used: 24576, Referenced: 24576,
			Origin: "tank/other@o", Mounted: true, Encryption: "aes-256-gcm", EncryptionRoot: "tank", KeyStatus: "available",
			ReceiveResumeToken: "1-ab-c0-12", SnapshotsChanged: 1795400083,
			Versions: []Version{{Type: Snapshot, Name: "s", GUID: 17566350994661396991, CreateTXG: 13, Creation: created}},
		},
	}, datasets)
}

func TestListCommandLines(t *testing.T) {
	t.Parallel()
	for want, query := range map[string]ListQuery{
		listAll + " -r" + columns:                                     {Versions: true},
		"zfs list -Hp -t filesystem,volume -r" + columns:              {},
		"zfs list -Hp -t filesystem,volume" + columns + " a b":        {Datasets: []string{"a", "b"}},
		"zfs list -Hp -t filesystem,volume -d 2" + columns + " a":     {Datasets: []string{"a"}, Recursive: true, Depth: 2},
		listAll + " -d 3" + columns + " a":                            {Datasets: []string{"a"}, Recursive: true, Depth: 2, Versions: true},
		listAll + " -d 1" + columns + " a":                            {Datasets: []string{"a"}, Versions: true},
		"zfs list -Hp -t filesystem,volume,snapshot -r" + columns:     {Versions: true, NoBookmarks: true},
		"zfs list -Hp -t filesystem,volume,bookmark -r" + columns:     {Versions: true, NoSnapshots: true},
		"zfs list -Hp -t filesystem,volume" + columns + " a and more": {Datasets: []string{"a and more"}, Versions: true, NoSnapshots: true, NoBookmarks: true},
	} {
		system := scripted(t, answer{args: want})
		datasets, err := system.List(t.Context(), query)
		require.NoError(t, err)
		require.Empty(t, datasets)
	}
}

func TestListLeavesOutWhatOldVersionsDoNotKnow(t *testing.T) {
	t.Parallel()
	system := scripted(t,
		answer{args: "zfs version", stdout: "zfs-2.1.11-1\nzfs-kmod-2.1.11-1\n"},
		answer{
			args: "zfs list -Hp -t filesystem,volume -r" + strings.Replace(columns, "snapshots_changed,", "", 1),
			// A user property may contain tabs.
			stdout: "tank\tfilesystem\t1\t1\t1795400083\t-\t1\t1\t-\tyes\toff\t-\t-\t-\tsome\tthing\n",
		})
	datasets, err := system.List(t.Context(), ListQuery{})
	require.NoError(t, err)
	require.Len(t, datasets, 1)
	require.Zero(t, datasets[0].SnapshotsChanged)
	require.False(t, datasets[0].Placeholder)
}

func row(name, kind string, txg int, placeholder string) string {
	return fmt.Sprintf("%s\t%s\t%d\t%d\t1795400083\t-\t1\t1\t-\tyes\toff\t-\t-\t-\t-\t%s\n", name, kind, txg, txg, placeholder)
}

func TestGetDropsTheChildrenThatOpenZFSListsAsWell(t *testing.T) {
	t.Parallel()
	system := scripted(t, answer{
		args:   listAll + " -d 1" + columns + " tank/fs",
		stdout: row("tank/fs", "filesystem", 1, "-") + row("tank/fs/child", "filesystem", 2, "-") + row("tank/fs@a", "snapshot", 3, "-"),
	})
	dataset, err := system.Get(t.Context(), "tank/fs")
	require.NoError(t, err)
	require.Equal(t, "tank/fs", dataset.Name)
	require.Len(t, dataset.Versions, 1)
}

func TestListWithinADepth(t *testing.T) {
	t.Parallel()
	system := scripted(t, answer{
		args: listAll + " -d 2" + columns + " tank tank/a",
		stdout: row("tank", "filesystem", 1, "-") + row("tank/a", "filesystem", 2, "-") + row("tank/a", "filesystem", 2, "-") +
			row("tank/a/b", "filesystem", 3, "-") + row("tank/a/b@s", "snapshot", 3, "-") + row("tank/a/b@s", "snapshot", 3, "-") +
			row("tank/a/b/c", "filesystem", 4, "-") + row("tank/x/y", "filesystem", 5, "-"),
	})
	datasets, err := system.List(t.Context(), ListQuery{Datasets: []string{"tank", "tank/a"}, Recursive: true, Depth: 1, Versions: true})
	require.NoError(t, err)
	var names []string
	for _, d := range datasets {
		names = append(names, d.Name)
	}
	require.Equal(t, []string{"tank", "tank/a", "tank/a/b"}, names)
	require.Len(t, datasets[2].Versions, 1, "what is listed twice is there once")
}

func TestListNamesTheRootThatDoesNotExist(t *testing.T) {
	t.Parallel()
	system := scripted(t, answer{
		args:   "zfs list -Hp -t filesystem,volume" + columns + " tank tank/none",
		stdout: row("tank", "filesystem", 1, "-"),
		stderr: "cannot open 'tank/none': dataset does not exist\n", exit: 1,
	})
	datasets, err := system.List(t.Context(), ListQuery{Datasets: []string{"tank", "tank/none"}})
	require.Nil(t, datasets)
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
	var missing *DatasetDoesNotExist
	require.ErrorAs(t, err, &missing)
	require.Equal(t, "tank/none", missing.Dataset)
	var failed *CommandError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, 1, failed.ExitCode)
}

func TestListRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	good := strings.TrimSuffix(row("tank", "filesystem", 1, "-"), "\n")
	for name, c := range map[string]struct{ output, want string }{
		"too few columns":    {"tank\tfilesystem\n", "there are 2 columns instead of 16"},
		"unknown type":       {strings.Replace(good, "filesystem", "socket", 1) + "\n", `the type "socket" is unknown`},
		"no guid":            {strings.Replace(good, "\t1\t", "\t-\t", 1) + "\n", `column guid: "-" is not a number`},
		"bad time":           {strings.Replace(row("tank@a", "snapshot", 1, "-"), "1795400083", "yesterday", 1), "column creation"},
		"bad name":           {strings.Replace(good, "tank", "/tank", 1) + "\n", "column name"},
		"type and name":      {strings.Replace(row("tank@a", "snapshot", 1, "-"), "snapshot", "bookmark", 1), "not that of a bookmark"},
		"cut off":            {good, "the last line is cut off"},
		"cut off within":     {good + "\ntank/x\tfiles", "the last line is cut off"},
		"without its parent": {row("tank@a", "snapshot", 1, "-"), "its dataset was not listed"},
		"endless line":       {strings.Repeat("x", maxLine+10), "a line is longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			system := scripted(t, answer{args: listAll + " -r" + columns, stdout: c.output})
			_, err := system.List(t.Context(), ListQuery{Versions: true})
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestListRefusesBadNames(t *testing.T) {
	t.Parallel()
	_, err := scripted(t).List(t.Context(), ListQuery{Datasets: []string{"-r"}})
	var nameErr *NameError
	require.ErrorAs(t, err, &nameErr)
	_, err = scripted(t).List(t.Context(), ListQuery{Depth: -1})
	require.Error(t, err)
}

func TestListFindsOutPlaceholders(t *testing.T) {
	t.Parallel()
	output := row("back", "filesystem", 1, "-") +
		row("back/p", "filesystem", 2, "on") + // its parent has none: its own
		row("back/p/q", "filesystem", 3, "on") + row("back/p/r", "filesystem", 4, "on") + row("back/p/gone", "filesystem", 5, "on")
	system := scripted(t,
		answer{args: "zfs list -Hp -t filesystem,volume -r" + columns + " back", stdout: output},
		answer{
			args:   "zfs get -Hp -o name,value,source zrepl:placeholder back/p/gone back/p/q back/p/r",
			stdout: "back/p/q\ton\tlocal\nback/p/r\ton\tinherited from back/p\n",
			stderr: "cannot open 'back/p/gone': dataset does not exist\n", exit: 1,
		})
	datasets, err := system.List(t.Context(), ListQuery{Datasets: []string{"back"}, Recursive: true})
	require.NoError(t, err)
	placeholders := map[string]bool{}
	for _, d := range datasets {
		placeholders[d.Name] = d.Placeholder
	}
	require.Equal(t, map[string]bool{
		"back": false, "back/p": true, "back/p/q": true, "back/p/r": false, "back/p/gone": false,
	}, placeholders)
}

func TestListPassesOnOtherFailures(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such program")
	_, err := scripted(t, answer{args: listAll + " -r" + columns, err: cause}).List(t.Context(), ListQuery{Versions: true})
	require.ErrorIs(t, err, cause)
	_, err = scripted(t, answer{args: listAll + " -r" + columns, exit: 1, stderr: "internal error\n"}).
		List(t.Context(), ListQuery{Versions: true})
	require.ErrorContains(t, err, "internal error (exit status 1)")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = New(shellRunner()).List(ctx, ListQuery{})
	require.ErrorIs(t, err, context.Canceled)
}

// However the output is cut into pieces, the lines are the same.
func TestLineWriterDoesNotDependOnPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.StringMatching(`[a-z\t]{0,12}`), 0, 20).Draw(t, "lines")
		output := ""
		for _, line := range want {
			output += line + "\n"
		}
		var have []string
		w := lineWriter{handle: func(line string) error { have = append(have, line); return nil }}
		for len(output) > 0 {
			n := rapid.IntRange(1, len(output)).Draw(t, "piece")
			_, err := w.Write([]byte(output[:n]))
			require.NoError(t, err)
			output = output[n:]
		}
		require.NoError(t, w.finish("test"))
		require.Len(t, have, len(want))
		for i := range want {
			require.Equal(t, want[i], have[i])
		}
	})
}

// What comes out of a listing is in order and valid, whatever went in.
func FuzzListLines(f *testing.F) {
	f.Add(treeOutput)
	f.Add(row("tank", "filesystem", 1, "-") + row("tank@a", "snapshot", 2, "-") + row("tank#a", "bookmark", 2, "-"))
	f.Add("tank\tfilesystem\t-\t-\t-\t-\n")
	f.Add("\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\n")
	f.Fuzz(func(t *testing.T, output string) {
		l := newListing(ListQuery{Versions: true}, currentFeatures)
		w := lineWriter{handle: l.add}
		if _, err := w.Write([]byte(output)); err != nil || w.finish("zfs list") != nil {
			return
		}
		datasets, err := l.result()
		if err != nil {
			return
		}
		for i, d := range datasets {
			require.NoError(t, ValidateDataset(d.Name))
			require.False(t, i > 0 && datasets[i-1].Name >= d.Name, "in order, and each once")
			for j, v := range d.Versions {
				_, versionType, name, err := SplitVersion(v.Full(d.Name))
				require.NoError(t, err)
				require.Equal(t, []any{v.Type, v.Name}, []any{versionType, name})
				require.False(t, j > 0 && compareVersions(d.Versions[j-1], v) > 0)
			}
		}
	})
}
