package abstractions

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/zfs"
)

// Against the truth, under any interleaving of our own changes, those of others, and readings.
func TestHoldCacheKnowsNothingWrong(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const ours, foreign = "zrepl_STEP_J_x", "keep"
		cache := &holdCache{}
		truth := map[string][]string{} // tags by snapshot
		dataset := func() zfs.Dataset {
			d := zfs.Dataset{Name: "tank/d"}
			for i := range 4 {
				name := fmt.Sprintf("s%d", i)
				d.Versions = append(d.Versions, zfs.Version{
					Type: zfs.Snapshot, Name: name, GUID: uint64(i + 1), CreateTXG: uint64(i + 1), UserRefs: uint64(len(truth[name])),
				})
			}
			return d
		}
		toggle := func(name, tag string) {
			if i := slices.Index(truth[name], tag); i >= 0 {
				truth[name] = slices.Delete(slices.Clone(truth[name]), i, i+1)
			} else {
				truth[name] = append(slices.Clone(truth[name]), tag)
			}
		}
		listed := dataset()
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			snapshot := listed.Versions[rapid.IntRange(0, 3).Draw(t, "snapshot")]
			switch rapid.SampledFrom([]string{"list", "we change", "others change", "read", "look up", "invalidate"}).Draw(t, "event") {
			case "list":
				listed = dataset()
				cache.retain(listed)
			case "we change":
				toggle(snapshot.Name, ours)
				cache.forget("tank/d", []zfs.Version{snapshot})
			case "others change":
				toggle(snapshot.Name, foreign)
			case "read":
				var holds []zfs.Hold
				for _, tag := range truth[snapshot.Name] {
					holds = append(holds, zfs.Hold{Snapshot: "tank/d@" + snapshot.Name, Tag: tag})
				}
				cache.remember("tank/d", []zfs.Version{snapshot}, holds)
			case "invalidate":
				cache.invalidate(rapid.SampledFrom([][]string{{"tank/d"}, {"tank/e"}, nil}).Draw(t, "filesystems")...)
			case "look up":
				listed = dataset()
				tagged, unknown := cache.lookup("tank/d", ours, listed.Versions)
				for _, version := range listed.Versions {
					has := slices.Contains(truth[version.Name], ours)
					switch {
					case slices.Contains(unknown, version):
					case slices.Contains(tagged, version):
						require.True(t, has, "%s is said to have the tag", version.Name)
					default:
						require.False(t, has, "%s is said not to have the tag", version.Name)
					}
				}
			}
		}
	})
}

func TestHoldCacheRemembers(t *testing.T) {
	t.Parallel()
	cache := &holdCache{}
	a := zfs.Version{Type: zfs.Snapshot, Name: "a", GUID: 1, UserRefs: 1}
	b := zfs.Version{Type: zfs.Snapshot, Name: "b", GUID: 2, UserRefs: 2}
	cache.remember("tank/d", []zfs.Version{a, b}, []zfs.Hold{
		{Snapshot: "tank/d@a", Tag: "keep"}, {Snapshot: "tank/d@b", Tag: "keep"}, {Snapshot: "tank/d@b", Tag: "zrepl_STEP_J_x"},
	})
	tagged, unknown := cache.lookup("tank/d", "zrepl_STEP_J_x", []zfs.Version{a, b})
	require.Equal(t, []zfs.Version{b}, tagged)
	require.Empty(t, unknown)
	_, unknown = cache.lookup("tank/e", "zrepl_STEP_J_x", []zfs.Version{a})
	require.Equal(t, []zfs.Version{a}, unknown)

	cache.retain(zfs.Dataset{Name: "tank/d", Versions: []zfs.Version{a}})
	_, unknown = cache.lookup("tank/d", "zrepl_STEP_J_x", []zfs.Version{a, b})
	require.Equal(t, []zfs.Version{b}, unknown, "what is gone is forgotten")
	cache.retain(zfs.Dataset{Name: "tank/d"})
	require.Empty(t, cache.filesystems)
}
