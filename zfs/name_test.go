package zfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidateDataset(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"tank", "tank/data", "tank/with space", "tank/a.b:c-d_e", "T/0", "tank/" + strings.Repeat("x", 250),
		"tank" + strings.Repeat("/x", 49), "tank/...", "c0t0d0",
	} {
		require.NoError(t, ValidateDataset(name), name)
	}
	for name, reason := range map[string]string{
		"":                                  "it is empty",
		"/tank":                             "it begins with a /",
		"tank/":                             "it ends with a /",
		"/":                                 "it begins with a /",
		"tank//x":                           "a component is empty",
		"tank/x@a":                          "no @ or #",
		"tank/x#a":                          "no @ or #",
		"tank/.":                            `a component is "."`,
		"tank/../x":                         `a component is ".."`,
		"tank/%recv":                        `the character '%' is not allowed`,
		"tank/x\ty":                         `the character '\t' is not allowed`,
		"tank/x\ny":                         `the character '\n' is not allowed`,
		"tank/ü":                            "is not allowed",
		"tank/a,b":                          `the character ',' is not allowed`,
		"1tank":                             "does not begin with a letter",
		"-r":                                "does not begin with a letter",
		" tank":                             "does not begin with a letter",
		"mirror/x":                          "is reserved",
		"raidz":                             "is reserved",
		"tank/" + strings.Repeat("x", 251):  "256 bytes long",
		"tank" + strings.Repeat("/x", 50):   "51 levels deep",
		"tank/" + strings.Repeat("y/", 1e5): "bytes long",
	} {
		err := ValidateDataset(name)
		require.ErrorContains(t, err, reason, "%.60q", name)
		var nameErr *NameError
		require.ErrorAs(t, err, &nameErr)
		require.Equal(t, name, nameErr.Name)
	}
}

func TestValidateSnapshotAndBookmark(t *testing.T) {
	t.Parallel()
	require.NoError(t, ValidateSnapshot("tank/x@a b:c.d-e_f"))
	require.NoError(t, ValidateBookmark("tank/x#a"))
	require.NoError(t, ValidateSnapshot("tank"+strings.Repeat("/x", 49)+"@a"))
	for name, reason := range map[string]string{
		"tank/x":                             "neither @ nor #",
		"tank/x#a":                           "it is the name of a bookmark",
		"tank/x@":                            "there is nothing after the @",
		"@a":                                 "a component is empty",
		"tank/x@a@b":                         "more than one @ or #",
		"tank/x@a#b":                         "more than one @ or #",
		"tank/x@a/b":                         "there is a / after the @",
		"tank/x/@a":                          "a component is empty",
		"tank/x@.":                           `a component is "."`,
		"tank/x@a,b":                         `the character ',' is not allowed`,
		"tank/x@a%b":                         `the character '%' is not allowed`,
		"tank/x@a\tb":                        "is not allowed",
		"tank/x@" + strings.Repeat("x", 249): "256 bytes long",
	} {
		require.ErrorContains(t, ValidateSnapshot(name), reason, "%.60q", name)
	}
	require.ErrorContains(t, ValidateBookmark("tank/x@a"), "it is the name of a snapshot")
}

func TestSplitVersion(t *testing.T) {
	t.Parallel()
	dataset, versionType, name, err := SplitVersion("tank/x#b")
	require.NoError(t, err)
	require.Equal(t, []any{"tank/x", Bookmark, "b"}, []any{dataset, versionType, name})
}

func TestValidateHoldTag(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{"zrepl_STEP_J_prod", "with space", strings.Repeat("x", 255), "a.b"} {
		require.NoError(t, ValidateHoldTag(tag), tag)
	}
	for tag, reason := range map[string]string{
		"": "it is empty", ".x": "reserved", "-r": "option", "a\tb": "control", "a\nb": "control",
		strings.Repeat("x", 256): "256 bytes long",
	} {
		require.ErrorContains(t, ValidateHoldTag(tag), reason)
	}
}

// What is accepted must be safe on a command line and in tab-separated output, and come apart as it was put together.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{
		"tank", "tank/data@snap", "tank/data#mark", "tank/with space@a:b", "tank//x", "tank/x@a@b", "-r", "tank/%recv", "tank/./x",
		"tank/x@a,b", "", "@", "#", "/", "tank@", "tänk", "tank/x\x00", strings.Repeat("a/", 60) + "b", strings.Repeat("a", 300),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if ValidateDataset(name) == nil {
			requireHarmless(t, name)
			require.NotContains(t, name, "@")
			require.NotContains(t, name, "#")
			require.Error(t, ValidateSnapshot(name))
			parent, hasParent := parentOf(name)
			if hasParent {
				require.NoError(t, ValidateDataset(parent), "the parent of a valid name is valid")
			}
		}
		dataset, versionType, rel, err := SplitVersion(name)
		if err != nil {
			require.Error(t, ValidateSnapshot(name))
			require.Error(t, ValidateBookmark(name))
			return
		}
		requireHarmless(t, name)
		require.Equal(t, name, Version{Type: versionType, Name: rel}.Full(dataset))
		require.NoError(t, ValidateDataset(dataset))
		require.Equal(t, versionType == Snapshot, ValidateSnapshot(name) == nil)
		require.Equal(t, versionType == Bookmark, ValidateBookmark(name) == nil)
	})
}

func requireHarmless(t *testing.T, name string) {
	t.Helper()
	require.NotEmpty(t, name)
	require.LessOrEqual(t, len(name), maxName)
	require.NotEqual(t, byte('-'), name[0], "it would be an option")
	require.False(t, strings.ContainsAny(name, "%,\t\n\r\x00"), "%q", name)
	for _, component := range strings.FieldsFunc(name, isSeparator) {
		require.NotContains(t, []string{".", "..", ""}, component)
	}
}
