package abstractions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/zfs"
)

// heldDataset is a filesystem with snapshots and the tags on them, which is what a cache is about.
type heldDataset map[string][]string

func (h heldDataset) listing() zfs.Dataset {
	dataset := zfs.Dataset{Name: "tank/d"}
	for i := range 4 {
		name := fmt.Sprintf("s%d", i)
		dataset.Versions = append(dataset.Versions, zfs.Version{
			Type: zfs.Snapshot, Name: name, GUID: uint64(i + 1), CreateTXG: uint64(i + 1), UserRefs: uint64(len(h[name])),
		})
	}
	return dataset
}

func (h heldDataset) toggle(name, tag string) {
	if i := slices.Index(h[name], tag); i >= 0 {
		h[name] = slices.Delete(slices.Clone(h[name]), i, i+1)
	} else {
		h[name] = append(slices.Clone(h[name]), tag)
	}
}

func (h heldDataset) holds(snapshots []zfs.Version) []zfs.Hold {
	var holds []zfs.Hold
	for _, snapshot := range snapshots {
		for _, tag := range h[snapshot.Name] {
			holds = append(holds, zfs.Hold{Snapshot: "tank/d@" + snapshot.Name, Tag: tag})
		}
	}
	return holds
}

// Against what an uncached reading tells, under any interleaving of readings in progress, our own changes by two JobIDs, those
// of others, and what is forgotten.
func TestHoldCacheKnowsNothingWrong(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const foreign = "keep"
		tags := []string{"zrepl_STEP_J_x", "zrepl_STEP_J_y"}
		cache := &holdCache{}
		truth := heldDataset{}
		type change struct{ name, tag string }
		pending := map[change]bool{} // our commands that have had their effect and have not ended
		type inProgress struct {
			own       *reading
			snapshots []zfs.Version
			holds     []zfs.Hold // nil until the command has looked
			looked    bool
		}
		var reading *inProgress // of the filesystem as the cache has it; those of a forgotten one follow
		var orphans []*inProgress
		end := func(r *inProgress, err error) {
			if !r.looked {
				r.holds = truth.holds(r.snapshots)
			}
			cache.end(r.own, "tank/d", r.snapshots, r.holds, err)
		}
		actions := []string{
			"change", "change ends", "others change", "begin", "command looks", "end", "fail", "retain", "invalidate", "look up", "look up",
		}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			name := fmt.Sprintf("s%d", rapid.IntRange(0, 3).Draw(t, "snapshot"))
			tag := rapid.SampledFrom(tags).Draw(t, "tag")
			switch rapid.SampledFrom(actions).Draw(t, "event") {
			case "change":
				if !pending[change{name, tag}] {
					truth.toggle(name, tag)
					pending[change{name, tag}] = true
				}
			case "change ends":
				if pending[change{name, tag}] {
					cache.forget([]string{"tank/d@" + name})
					delete(pending, change{name, tag})
				}
			case "others change":
				truth.toggle(name, foreign)
			case "begin":
				_, unknown, own, others := cache.begin("tank/d", tag, truth.listing().Versions)
				if own != nil {
					require.Nil(t, reading, "there is one reading at a time")
					reading = &inProgress{own: own, snapshots: unknown}
				}
				require.Equal(t, len(unknown) > 0, own != nil || others != nil)
			case "command looks":
				if reading != nil && !reading.looked {
					reading.holds, reading.looked = truth.holds(reading.snapshots), true
				}
			case "end", "fail":
				failure := map[bool]error{true: errors.New("failed")}[rapid.Bool().Draw(t, "fails")]
				if len(orphans) > 0 && rapid.Bool().Draw(t, "a forgotten one") {
					end(orphans[0], failure)
					orphans = orphans[1:]
				} else if reading != nil {
					end(reading, failure)
					reading = nil
				}
			case "retain":
				cache.retain(truth.listing())
			case "invalidate":
				filesystems := rapid.SampledFrom([][]string{{"tank/d"}, {"tank/e"}, nil}).Draw(t, "filesystems")
				cache.invalidate(filesystems...)
				if reading != nil && (len(filesystems) == 0 || filesystems[0] == "tank/d") {
					orphans, reading = append(orphans, reading), nil
				}
			case "look up":
				listed := truth.listing().Versions
				tagged, unknown := cache.lookup("tank/d", tag, listed)
				for _, version := range listed {
					has := slices.Contains(truth[version.Name], tag)
					switch {
					case pending[change{version.Name, tag}] || slices.Contains(unknown, version):
					case slices.Contains(tagged, version):
						require.True(t, has, "%s is said to have %s", version.Name, tag)
					default:
						require.False(t, has, "%s is said not to have %s", version.Name, tag)
					}
				}
			}
		}

		for c := range pending {
			cache.forget([]string{"tank/d@" + c.name})
		}
		for _, r := range append(orphans, reading) {
			if r != nil {
				end(r, nil)
			}
		}
		listed := truth.listing().Versions
		for _, tag := range tags {
			tagged, unknown, err := cache.read(context.Background(), "tank/d", tag, listed,
				func(_ context.Context, _ string, snapshots []zfs.Version) ([]zfs.Hold, error) {
					return truth.holds(snapshots), nil
				})
			require.NoError(t, err)
			require.Empty(t, unknown)
			for _, version := range listed {
				require.Equal(t, slices.Contains(truth[version.Name], tag), slices.Contains(tagged, version), "%s %s", version.Name, tag)
			}
		}
	})
}

func TestHoldCacheRemembers(t *testing.T) {
	t.Parallel()
	const tag = "zrepl_STEP_J_x"
	cache := &holdCache{}
	truth := heldDataset{"s0": {"keep"}, "s1": {"keep", tag}}
	listed := truth.listing().Versions
	readings := 0
	read := func(_ context.Context, filesystem string, snapshots []zfs.Version) ([]zfs.Hold, error) {
		readings++
		require.Equal(t, "tank/d", filesystem)
		return truth.holds(snapshots), nil
	}
	for range 3 {
		tagged, unknown, err := cache.read(t.Context(), "tank/d", tag, listed[:2], read)
		require.NoError(t, err)
		require.Empty(t, unknown)
		require.Equal(t, []zfs.Version{listed[1]}, tagged)
		tagged, unknown, err = cache.read(t.Context(), "tank/d", "zrepl_last_received_J_x", listed[:2], read)
		require.NoError(t, err)
		require.Empty(t, unknown)
		require.Empty(t, tagged)
	}
	require.Equal(t, 1, readings, "once, for all kinds")
	_, unknown := cache.lookup("tank/e", tag, listed[:1])
	require.Equal(t, listed[:1], unknown)
	other := listed[1]
	other.GUID++
	_, unknown = cache.lookup("tank/d", tag, []zfs.Version{other})
	require.Equal(t, []zfs.Version{other}, unknown, "another snapshot of the same name")

	cache.invalidate("tank/d")
	_, _, err := cache.read(t.Context(), "tank/d", tag, listed[:2], read)
	require.NoError(t, err)
	require.Equal(t, 2, readings, "what is invalidated is read again")

	cache.retain(zfs.Dataset{Name: "tank/d", Versions: listed[:1]})
	_, unknown = cache.lookup("tank/d", tag, listed[:2])
	require.Equal(t, []zfs.Version{listed[1]}, unknown, "what is gone is forgotten")
	cache.retain(zfs.Dataset{Name: "tank/d"})
	require.Empty(t, cache.filesystems)
}

func TestHoldCacheWhenAReadingFails(t *testing.T) {
	t.Parallel()
	const tag = "zrepl_STEP_J_x"
	cache := &holdCache{}
	truth := heldDataset{"s0": {tag}, "s1": {tag}}
	listed := truth.listing().Versions
	works := func(_ context.Context, _ string, snapshots []zfs.Version) ([]zfs.Hold, error) {
		return truth.holds(snapshots), nil
	}
	errFailed := errors.New("failed")
	fails := func(context.Context, string, []zfs.Version) ([]zfs.Hold, error) { return nil, errFailed }

	_, _, err := cache.read(t.Context(), "tank/d", tag, listed[:1], works)
	require.NoError(t, err)
	for range 2 {
		tagged, unknown, err := cache.read(t.Context(), "tank/d", tag, listed[:2], fails)
		require.ErrorIs(t, err, errFailed)
		require.Equal(t, listed[:1], tagged, "what is known all the same")
		require.Equal(t, listed[1:2], unknown)
	}
	tagged, unknown, err := cache.read(t.Context(), "tank/d", tag, listed[:2], works)
	require.NoError(t, err, "the next call reads again")
	require.Empty(t, unknown)
	require.Equal(t, listed[:2], tagged)
}

// Steps that ask at the same time share a reading; when it fails, the next of them reads.
func TestHoldCacheReadsOnceForConcurrentSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const tag, asking = "zrepl_STEP_J_x", 10
		cache := &holdCache{}
		truth := heldDataset{"s0": {tag}}
		listed := truth.listing().Versions[:1]
		var mu sync.Mutex
		readings := 0
		read := func(ctx context.Context, _ string, snapshots []zfs.Version) ([]zfs.Hold, error) {
			mu.Lock()
			readings++
			first := readings == 1
			mu.Unlock()
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if first {
				return nil, errors.New("failed")
			}
			return truth.holds(snapshots), nil
		}
		var group sync.WaitGroup
		failures := make([]error, asking)
		for i := range asking {
			group.Go(func() {
				var tagged, unknown []zfs.Version
				tagged, unknown, failures[i] = cache.read(t.Context(), "tank/d", tag, listed, read)
				if failures[i] == nil {
					require.Equal(t, listed, tagged)
				} else {
					require.Equal(t, listed, unknown)
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		synctest.Wait() // the first reading has begun
		_, unknown, err := cache.read(ctx, "tank/d", tag, listed, read)
		require.ErrorIs(t, err, context.DeadlineExceeded, "who waits can go away")
		require.Equal(t, listed, unknown)
		group.Wait()
		require.Equal(t, 2, readings)
		require.Len(t, slices.DeleteFunc(failures, func(err error) bool { return err == nil }), 1, "only who read is told")
	})
}

func TestHoldCacheIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	const tag = "zrepl_STEP_J_x"
	cache := &holdCache{}
	truth := heldDataset{"s0": {tag}, "s1": {"keep"}, "s2": {"keep", tag}}
	dataset := truth.listing()
	wanted := []zfs.Version{dataset.Versions[0], dataset.Versions[2]}
	read := func(_ context.Context, _ string, snapshots []zfs.Version) ([]zfs.Hold, error) {
		return truth.holds(snapshots), nil
	}
	var group sync.WaitGroup
	for i := range 8 {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		group.Go(func() {
			for range 200 {
				switch random.IntN(4) {
				case 0:
					cache.forget([]string{"tank/d@s0"})
				case 1:
					cache.invalidate("tank/d")
				case 2:
					cache.retain(dataset)
				default:
					tagged, unknown, err := cache.read(t.Context(), "tank/d", tag, dataset.Versions[:3], read)
					require.NoError(t, err)
					require.Empty(t, unknown)
					slices.SortFunc(tagged, func(a, b zfs.Version) int { return cmp.Compare(a.GUID, b.GUID) })
					require.Equal(t, wanted, tagged)
				}
			}
		})
	}
	group.Wait()
}
