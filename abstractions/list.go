// Listing: finding abstractions with few commands.

package abstractions

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// Query says which abstractions to list. The zero value means all of them on all pools.
type Query struct {
	// Kinds are the kinds to list; empty for all.
	Kinds []Kind
	// JobID lists those of one JobID, and cursors of v1, which belong to all; empty for all.
	JobID protocol.JobID
	// Roots are filesystems or volumes to list with all below them; empty for all pools. Exact leaves out those below.
	Roots []string
	Exact bool
	// Filesystem, where it is not nil, tells which filesystems and volumes under the roots are meant.
	Filesystem func(name string) bool
	// CreateTXG is the range of the versions' createtxg.
	CreateTXG TXGRange
	// Concurrency is how many commands run at once; less than 1 is 1.
	Concurrency int
}

// TXGRange is a range of transaction groups, both ends included. The zero value is everything.
type TXGRange struct {
	// Since is the first.
	Since uint64
	// Until is the last; 0 means that there is none.
	Until uint64
}

// Contains tells whether txg is in the range.
func (r TXGRange) Contains(txg uint64) bool {
	return r.Since <= txg && (r.Until == 0 || txg <= r.Until)
}

func (q Query) wants(kind Kind) bool { return len(q.Kinds) == 0 || slices.Contains(q.Kinds, kind) }

func (q Query) wantsForm(holds bool) bool {
	return slices.ContainsFunc(AllKinds(), func(kind Kind) bool { return kind.IsHold() == holds && q.wants(kind) })
}

func (q Query) matches(abstraction Abstraction) bool {
	return q.wants(abstraction.Kind) &&
		(q.JobID == "" || abstraction.JobID == "" || abstraction.JobID == q.JobID) &&
		q.CreateTXG.Contains(abstraction.CreateTXG)
}

// holdsPerCommand is how many snapshots one zfs holds is asked about.
const holdsPerCommand = 200

// List finds abstractions and yields each as soon as it is found, in no particular order. What could not be listed is
// yielded as an error with no abstraction, a *ListError, and the listing goes on; a *GUIDMismatch among them is a
// bookmark that is named like one of ours and is none. When ctx ends, so does the listing, with its error as the last.
//
// One zfs list command serves all filesystems; snapshots are listed only for kinds of holds, bookmarks only for kinds of
// bookmarks, and holds are read only from snapshots that have some, many with one command.
func (m *Manager) List(ctx context.Context, query Query) iter.Seq2[Abstraction, error] {
	return func(yield func(Abstraction, error) bool) {
		datasets, listErrors := m.datasets(ctx, query)
		for _, err := range listErrors {
			if !yield(Abstraction{}, err) {
				return
			}
		}
		var held []heldSnapshot
		for _, dataset := range datasets {
			if query.Filesystem != nil && !query.Filesystem(dataset.Name) {
				continue
			}
			for _, version := range dataset.Versions {
				if version.Type == zfs.Snapshot {
					if version.UserRefs > 0 && query.CreateTXG.Contains(version.CreateTXG) {
						held = append(held, heldSnapshot{dataset.Name, version})
					}
					continue
				}
				abstraction, ok, err := Bookmark(dataset.Name, version)
				if err != nil && !yield(Abstraction{}, &ListError{Filesystem: dataset.Name, Err: err}) {
					return
				}
				if ok && query.matches(abstraction) && !yield(abstraction, nil) {
					return
				}
			}
		}
		for found := range m.holds(ctx, query, held) {
			if found.err == nil && !query.matches(found.abstraction) {
				continue
			}
			if !yield(found.abstraction, found.err) {
				return
			}
		}
	}
}

// ListAll collects what List yields.
func (m *Manager) ListAll(ctx context.Context, query Query) ([]Abstraction, []error) {
	var found []Abstraction
	var failures []error
	for abstraction, err := range m.List(ctx, query) {
		if err != nil {
			failures = append(failures, err)
			continue
		}
		found = append(found, abstraction)
	}
	return found, failures
}

// rootsPerCommand bounds a command line.
const rootsPerCommand = 1000

// datasets lists the query's roots. A root that does not exist is an error, and the others are listed all the same.
func (m *Manager) datasets(ctx context.Context, query Query) (datasets []zfs.Dataset, failures []error) {
	if len(query.Roots) == 0 {
		return m.datasetsBelow(ctx, query, nil)
	}
	for roots := range slices.Chunk(query.Roots, rootsPerCommand) {
		found, failed := m.datasetsBelow(ctx, query, slices.Clone(roots))
		datasets, failures = append(datasets, found...), append(failures, failed...)
	}
	return datasets, failures
}

func (m *Manager) datasetsBelow(ctx context.Context, query Query, roots []string) ([]zfs.Dataset, []error) {
	var failures []error
	for {
		datasets, err := m.zfs.List(ctx, zfs.ListQuery{
			Datasets:    roots,
			Recursive:   !query.Exact,
			Versions:    true,
			NoSnapshots: !query.wantsForm(true),
			NoBookmarks: !query.wantsForm(false),
		})
		if err == nil {
			return datasets, failures
		}
		var missing *zfs.DatasetDoesNotExist
		if !errors.As(err, &missing) || !slices.Contains(roots, missing.Dataset) {
			return nil, append(failures, &ListError{Err: err})
		}
		failures = append(failures, &ListError{Filesystem: missing.Dataset, Err: err})
		roots = slices.DeleteFunc(roots, func(root string) bool { return root == missing.Dataset })
		if len(roots) == 0 {
			return nil, failures
		}
	}
}

type heldSnapshot struct {
	filesystem string
	version    zfs.Version
}

func (h heldSnapshot) fullName() string { return h.version.Full(h.filesystem) }

type foundHold struct {
	abstraction Abstraction
	err         error
}

// holds reads the holds of many snapshots, some commands at a time.
func (m *Manager) holds(ctx context.Context, query Query, held []heldSnapshot) iter.Seq[foundHold] {
	return func(yield func(foundHold) bool) {
		ctx, cancel := context.WithCancel(ctx)
		found := make(chan foundHold)
		var workers sync.WaitGroup
		defer func() {
			cancel()
			for range found { // lets the workers go on to their end
			}
		}()

		batches := make(chan []heldSnapshot)
		for range max(1, query.Concurrency) {
			workers.Go(func() {
				for batch := range batches {
					for _, hold := range m.holdsOfBatch(ctx, batch) {
						select {
						case found <- hold:
						case <-ctx.Done():
						}
					}
				}
			})
		}
		workers.Go(func() {
			defer close(batches)
			for batch := range slices.Chunk(held, holdsPerCommand) {
				select {
				case batches <- batch:
				case <-ctx.Done():
					return
				}
			}
		})
		go func() {
			workers.Wait()
			close(found)
		}()
		for hold := range found {
			if !yield(hold) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(foundHold{err: &ListError{Err: err}})
		}
	}
}

// holdsOfBatch reads the holds of some snapshots with one command. When that fails it asks for one filesystem at a time, so
// that the failure is put down to the right one, and then for one snapshot at a time, since snapshots may be destroyed
// while we list them.
func (m *Manager) holdsOfBatch(ctx context.Context, batch []heldSnapshot) []foundHold {
	names := make([]string, 0, len(batch))
	byName := make(map[string]heldSnapshot, len(batch))
	for _, snapshot := range batch {
		names = append(names, snapshot.fullName())
		byName[snapshot.fullName()] = snapshot
	}
	holds, err := m.zfs.Holds(ctx, names...)
	if err == nil || ctx.Err() != nil {
		var found []foundHold
		for _, hold := range holds {
			snapshot := byName[hold.Snapshot]
			if abstraction, ok := Hold(snapshot.filesystem, snapshot.version, hold.Tag); ok {
				found = append(found, foundHold{abstraction: abstraction})
			}
		}
		return found
	}
	if len(batch) == 1 {
		if errors.Is(err, zfs.ErrDatasetDoesNotExist) {
			return nil
		}
		return []foundHold{{err: &ListError{Filesystem: batch[0].filesystem, Err: err}}}
	}
	var parts [][]heldSnapshot
	for _, snapshot := range batch {
		last := len(parts) - 1
		sameFilesystem := last >= 0 && parts[last][0].filesystem == snapshot.filesystem
		if sameFilesystem && batch[0].filesystem != batch[len(batch)-1].filesystem {
			parts[last] = append(parts[last], snapshot)
		} else {
			parts = append(parts, []heldSnapshot{snapshot})
		}
	}
	var found []foundHold
	for _, part := range parts {
		found = append(found, m.holdsOfBatch(ctx, part)...)
	}
	return found
}
