// Destruction of many abstractions, and the migration that is one.

package abstractions

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// Destroyed is what became of one abstraction that was to be destroyed.
type Destroyed struct {
	Abstraction Abstraction
	// Err is nil when the abstraction is gone, also if it was gone before.
	Err error
}

// Destroy releases holds and destroys bookmarks, as few commands as can be, and tells for each what became of it, in the
// order given. Nothing is destroyed that is not the version that the abstraction names: its result is then a
// *GUIDMismatch.
func (m *Manager) Destroy(ctx context.Context, abstractions []Abstraction) []Destroyed {
	results := make([]Destroyed, len(abstractions))
	for i, abstraction := range abstractions {
		results[i].Abstraction = abstraction
	}
	present := m.present(ctx, results)
	// Holds of one pool and tag are released with one command; bookmarks of one pool are destroyed at the same time.
	command := func(result *Destroyed) string {
		abstraction := result.Abstraction
		if abstraction.IsHold() {
			return "release " + poolOf(abstraction.Filesystem) + " " + abstraction.Tag
		}
		return "destroy " + poolOf(abstraction.Filesystem)
	}
	slices.SortStableFunc(present, func(a, b *Destroyed) int { return cmp.Compare(command(a), command(b)) })
	for len(present) > 0 {
		first := command(present[0])
		end := slices.IndexFunc(present, func(result *Destroyed) bool { return command(result) != first })
		if end < 0 {
			end = len(present)
		}
		m.destroyTogether(ctx, present[:end])
		present = present[end:]
	}
	return results
}

// present are those results whose abstraction is there and has the right guid. The others get their result here.
func (m *Manager) present(ctx context.Context, results []Destroyed) []*Destroyed {
	query := Query{Exact: true}
	for _, result := range results {
		query.Roots = append(query.Roots, result.Abstraction.Filesystem)
		query.Kinds = append(query.Kinds, result.Abstraction.Kind)
	}
	slices.Sort(query.Roots)
	query.Roots = slices.Compact(query.Roots)
	if len(query.Roots) == 0 {
		return nil
	}
	datasets, failures := m.datasets(ctx, query)
	listed := make(map[string]zfs.Version)
	for _, dataset := range datasets {
		for _, version := range dataset.Versions {
			listed[version.Full(dataset.Name)] = version
		}
	}
	failed := func(filesystem string) error {
		for _, err := range failures {
			var listError *ListError
			if !errors.As(err, &listError) || listError.Filesystem == "" || listError.Filesystem == filesystem {
				return err
			}
		}
		return nil
	}
	var present []*Destroyed
	for i := range results {
		result := &results[i]
		abstraction := result.Abstraction
		version, ok := listed[abstraction.FullName()]
		switch {
		case ok && version.GUID == abstraction.GUID:
			present = append(present, result)
		case ok:
			result.Err = &GUIDMismatch{Version: abstraction.FullName(), Wanted: abstraction.GUID, Found: version.GUID}
		default:
			// A filesystem that is gone has taken its holds and bookmarks with it.
			if err := failed(abstraction.Filesystem); !errors.Is(err, zfs.ErrDatasetDoesNotExist) {
				result.Err = err
			}
		}
	}
	return present
}

// destroyTogether destroys with one call, and when that fails without telling which failed, one by one.
func (m *Manager) destroyTogether(ctx context.Context, results []*Destroyed) {
	names := make([]string, 0, len(results))
	for _, result := range results {
		names = append(names, result.Abstraction.FullName())
	}
	err := m.destroyNames(ctx, results[0].Abstraction, names...)
	var failed *zfs.DestroyError
	switch {
	case err == nil:
		return
	case errors.As(err, &failed):
		for _, result := range results {
			result.Err = failed.Failed[result.Abstraction.FullName()]
		}
		return
	}
	for _, result := range results {
		result.Err = err
		if len(results) > 1 && ctx.Err() == nil {
			result.Err = m.destroyNames(ctx, result.Abstraction, result.Abstraction.FullName())
		}
	}
}

func (m *Manager) destroyNames(ctx context.Context, example Abstraction, names ...string) error {
	if example.IsHold() {
		defer m.known.forget(names)
		return m.zfs.Release(ctx, example.Tag, names...)
	}
	return m.zfs.Destroy(ctx, names...)
}

// SupersededV1 are the cursors of v1 that are not needed any more, because their filesystem has a cursor of the JobID of the
// same or a newer version. It is pure.
func SupersededV1(all []Abstraction, id protocol.JobID) (superseded, needed []Abstraction) {
	newest := make(map[string]uint64)
	for _, abstraction := range all {
		if abstraction.Kind == Cursor && abstraction.JobID == id {
			newest[abstraction.Filesystem] = max(newest[abstraction.Filesystem], abstraction.CreateTXG)
		}
	}
	for _, abstraction := range all {
		if abstraction.Kind != CursorV1 {
			continue
		}
		if abstraction.CreateTXG <= newest[abstraction.Filesystem] {
			superseded = append(superseded, abstraction)
		} else {
			needed = append(needed, abstraction)
		}
	}
	return superseded, needed
}
