package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func TestPropertiesForEachType(t *testing.T) {
	t.Parallel()
	properties := protocol.RecvProperties{
		Override:   map[string]string{"mountpoint": "none", "readonly": "on", "org.example:a": "1", "volsize": "1G"},
		Inherit:    []string{"sharenfs", "compression", "volblocksize"},
		Filesystem: protocol.PropertyChanges{Override: map[string]string{"compression": "zstd"}, Inherit: []string{"org.example:a"}},
		Volume:     protocol.PropertyChanges{Override: map[string]string{"volmode": "none"}, Inherit: []string{"readonly"}},
	}
	require.Equal(t, protocol.PropertyChanges{
		Override: map[string]string{"mountpoint": "none", "readonly": "on", "compression": "zstd"},
		Inherit:  []string{"org.example:a", "sharenfs"},
	}, properties.For(false))
	require.Equal(t, protocol.PropertyChanges{
		Override: map[string]string{"org.example:a": "1", "volmode": "none", "volsize": "1G"},
		Inherit:  []string{"compression", "readonly", "volblocksize"},
	}, properties.For(true))
}

func TestPropertiesAreNeverBothSetAndInherited(t *testing.T) {
	t.Parallel()
	name := rapid.SampledFrom([]string{"mountpoint", "readonly", "volsize", "volmode", "org.example:a", "atime", "compression"})
	changes := rapid.Custom(func(t *rapid.T) protocol.PropertyChanges {
		return protocol.PropertyChanges{
			Override: rapid.MapOf(name, rapid.Just("x")).Draw(t, "override"), Inherit: rapid.SliceOf(name).Draw(t, "inherit"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		common := changes.Draw(t, "common")
		properties := protocol.RecvProperties{
			Override: common.Override, Inherit: common.Inherit,
			Filesystem: changes.Draw(t, "filesystem"), Volume: changes.Draw(t, "volume"),
		}
		for _, volume := range []bool{false, true} {
			got := properties.For(volume)
			seen := map[string]bool{}
			for _, inherited := range got.Inherit {
				require.NotContains(t, got.Override, inherited)
				require.False(t, seen[inherited], "%s is there twice", inherited)
				seen[inherited] = true
			}
		}
	})
}

func TestPropertiesThatJobsCannotSay(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"override: {Mountpoint: none}":                    "no property's name",
		"override: {readonly: on}, inherit: [readonly]":   "both overridden and inherited",
		"inherit: [atime, atime]":                         "is there twice",
		`override: {"zrepl:placeholder": on}`:             "how zfleet marks placeholders",
		`filesystem: {inherit: ["zrepl:placeholder"]}`:    "how zfleet marks placeholders",
		"volume: {override: {mountpoint: none}}":          "volumes have no property mountpoint",
		"volume: {inherit: [canmount]}":                   "volumes have no property canmount",
		"filesystem: {override: {volsize: 1G}}":           "filesystems have no property volsize",
		"filesystem: {override: {atime: off}, extra: {}}": "unknown field",
	} {
		_, err := protocol.ParseJob([]byte(minimalJob + "recv: {properties: {" + text + "}}\n"))
		require.ErrorContains(t, err, want, text)
	}
	_, err := protocol.ParseJob([]byte(minimalJob + "recv: {properties: {override: {mountpoint: none, readonly: on}, inherit: [sharenfs]," +
		" volume: {override: {volmode: none, readonly: off}}, filesystem: {inherit: [readonly]}}}\n"))
	require.NoError(t, err)
}
