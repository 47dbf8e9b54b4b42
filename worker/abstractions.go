// Abstractions: what an operator asks a host about the holds and bookmarks that replication keeps on its disks, and has it
// release.

package worker

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/micro"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

const (
	// holdsCommands is how many commands at a time list holds.
	holdsCommands = 4
	// releasesPerPage bounds what is released before the asker hears of it. Each may take a command, and the asker waits for
	// each page only so long.
	releasesPerPage = 50
)

// answerAbstractions lists what replication keeps on this host's disks.
func (w *Worker) answerAbstractions(ctx context.Context, request micro.Request) error {
	var asked protocol.AbstractionsRequest
	if err := readRequest(request, &asked); err != nil {
		return err
	}
	query := queryOf(asked.Roots, asked.Filter)
	for _, name := range asked.Kinds {
		kind, err := abstractions.ParseKind(name)
		if err != nil {
			return respond(request, protocol.AbstractionsPage{Last: true, Failure: w.failureOf(err)})
		}
		query.Kinds = append(query.Kinds, kind)
	}
	if len(asked.JobIDs) == 1 {
		query.JobID = asked.JobIDs[0]
	}
	page, size := protocol.AbstractionsPage{}, 0
	var failures []error
	for abstraction, err := range w.listAbstractions(ctx, query, asked.Stale) {
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if len(asked.JobIDs) > 0 && abstraction.JobID != "" && !slices.Contains(asked.JobIDs, abstraction.JobID) {
			continue
		}
		info := w.describeAbstraction(abstraction)
		page.Abstractions = append(page.Abstractions, info)
		size += datasetBytes + len(info.Name) + len(info.Filesystem) + len(info.Tag)
		if size < pageBytes {
			continue
		}
		if err := respond(request, page); err != nil {
			return err
		}
		page, size = protocol.AbstractionsPage{Number: page.Number + 1}, 0
	}
	page.Last = true
	page.Missing, page.Failures = w.sortFailures(failures)
	return respond(request, page)
}

func queryOf(roots []string, filter protocol.Filter) abstractions.Query {
	query := abstractions.Query{Roots: roots, Concurrency: holdsCommands}
	if filter != nil {
		query.Filesystem = filter.Match
	}
	return query
}

func (w *Worker) listAbstractions(
	ctx context.Context, query abstractions.Query, stale bool,
) iter.Seq2[abstractions.Abstraction, error] {
	if !stale {
		return w.keeper.List(ctx, query)
	}
	return func(yield func(abstractions.Abstraction, error) bool) {
		found, failures := w.keeper.ListStale(ctx, query)
		for _, err := range failures {
			if !yield(abstractions.Abstraction{}, err) {
				return
			}
		}
		for _, abstraction := range found {
			if !yield(abstraction, nil) {
				return
			}
		}
	}
}

// maxListFailures bounds the failures in a page.
const maxListFailures = 100

// sortFailures tells roots that do not exist from what else has failed in a listing.
func (w *Worker) sortFailures(failures []error) (missing []string, failed []protocol.Failure) {
	for _, err := range failures {
		var gone *zfs.DatasetDoesNotExist
		switch {
		case errors.As(err, &gone):
			missing = append(missing, gone.Dataset)
		case len(failed) < maxListFailures:
			failed = append(failed, *w.failureOf(err))
		}
	}
	return missing, failed
}

func (w *Worker) describeAbstraction(abstraction abstractions.Abstraction) protocol.AbstractionInfo {
	return protocol.AbstractionInfo{
		Host: w.config.Host, Kind: string(abstraction.Kind), Filesystem: abstraction.Filesystem, Name: abstraction.FullName(),
		Tag: abstraction.Tag, JobID: abstraction.JobID, GUID: abstraction.GUID, CreateTXG: abstraction.CreateTXG,
	}
}

// abstractionOf is the inverse of describeAbstraction. What comes out of it may be nonsense: it is only looked for.
func abstractionOf(info protocol.AbstractionInfo) abstractions.Abstraction {
	abstraction := abstractions.Abstraction{
		Kind: abstractions.Kind(info.Kind), Filesystem: info.Filesystem, Tag: info.Tag, JobID: info.JobID, GUID: info.GUID,
		CreateTXG: info.CreateTXG,
	}
	mark := "#"
	if abstraction.IsHold() {
		mark = "@"
	}
	abstraction.Name = strings.TrimPrefix(info.Name, info.Filesystem+mark)
	return abstraction
}

// answerRelease releases what is named, and tells what became of each as it goes.
func (w *Worker) answerRelease(ctx context.Context, request micro.Request) error {
	var asked protocol.ReleaseRequest
	if err := readRequest(request, &asked); err != nil {
		return err
	}
	page, err := w.releaseInPages(ctx, request, asked)
	if err != nil {
		return err
	}
	page.Last = true
	return respond(request, page)
}

// releaseInPages sends pages of results, and gives the one to send next.
func (w *Worker) releaseInPages(
	ctx context.Context, request micro.Request, asked protocol.ReleaseRequest,
) (next protocol.ReleasePage, err error) {
	for some := range slices.Chunk(asked.Abstractions, releasesPerPage) {
		asked.Abstractions = some
		next.Results = w.release(ctx, asked)
		if err := respond(request, next); err != nil {
			return next, err
		}
		next = protocol.ReleasePage{Number: next.Number + 1}
	}
	return next, nil
}

// release releases holds and destroys bookmarks, and tells what became of each, in order. While it does, no step begins
// that might use them.
func (w *Worker) release(ctx context.Context, asked protocol.ReleaseRequest) []protocol.ReleaseResult {
	results := make([]protocol.ReleaseResult, len(asked.Abstractions))
	wanted := make([]abstractions.Abstraction, len(asked.Abstractions))
	places := make([]place, len(asked.Abstractions))
	for i, info := range asked.Abstractions {
		wanted[i], places[i] = abstractionOf(info), placeOf(info)
		results[i] = protocol.ReleaseResult{AbstractionInfo: info, Outcome: protocol.Released}
		results[i].Host = w.config.Host
	}
	inUse, leave := w.locks.reserve(places)
	defer leave()
	onDisk := w.lookUp(ctx, wanted)
	var going []abstractions.Abstraction
	var goingOf []*protocol.ReleaseResult
	for i := range results {
		result := &results[i]
		w.judge(asked, wanted[i], inUse[places[i]], onDisk, result)
		if result.Outcome == protocol.Released {
			going, goingOf = append(going, wanted[i]), append(goingOf, result)
			delete(onDisk.stale, wanted[i]) // named twice, it is gone the second time
		}
	}
	if asked.DryRun {
		return results
	}
	for i, destroyed := range w.keeper.Destroy(ctx, going) {
		if destroyed.Err != nil {
			goingOf[i].Outcome, goingOf[i].Failure = protocol.ReleaseFailed, w.failureOf(destroyed.Err)
		}
	}
	return results
}

// judge sets the result of an abstraction that must not go.
func (w *Worker) judge(
	asked protocol.ReleaseRequest, wanted abstractions.Abstraction, usedBy string, onDisk onDisk, result *protocol.ReleaseResult,
) {
	stale, found := onDisk.stale[wanted]
	switch {
	case !found && onDisk.failure(wanted.Filesystem) != nil:
		result.Outcome, result.Failure = protocol.ReleaseFailed, w.failureOf(onDisk.failure(wanted.Filesystem))
		return
	case !found:
		result.Outcome = protocol.ReleaseGone
		return
	case asked.Stale && !stale:
		result.Outcome, result.Note = protocol.ReleaseKept, "it is needed by now"
		return
	}
	if err := w.config.Policy.allowRelease(w.config.Host, asked.Job, wanted); err != nil {
		result.Outcome, result.Failure = protocol.ReleaseRefused, w.failureOf(err)
		return
	}
	if usedBy != "" && !asked.Force {
		result.Outcome = protocol.ReleaseRefused
		result.Failure = &protocol.Failure{
			Kind: protocol.Transient, Host: w.config.Host,
			Message: wanted.FullName() + " is in use by " + usedBy + "; wait until that has ended, or release it by force",
		}
	}
}

// placeOf is where a step would use the abstraction.
func placeOf(info protocol.AbstractionInfo) place {
	if abstractions.Kind(info.Kind) == abstractions.LastReceivedHold {
		return place{role: protocol.RoleRecv, filesystem: info.Filesystem}
	}
	return place{role: protocol.RoleSend, jobID: info.JobID, filesystem: info.Filesystem} // cursors of v1 are of all JobIDs
}

// onDisk is what a listing found on some filesystems.
type onDisk struct {
	// stale has all abstractions that are there, and whether nobody needs them.
	stale    map[abstractions.Abstraction]bool
	failures []error
}

// failure is why the filesystem could not be listed; nil if it was, or is not there.
func (d onDisk) failure(filesystem string) error {
	for _, err := range d.failures {
		var of *abstractions.ListError
		if errors.As(err, &of) && of.Filesystem != "" && of.Filesystem != filesystem || errors.Is(err, zfs.ErrDatasetDoesNotExist) {
			continue
		}
		return err
	}
	return nil
}

// lookUp lists all abstractions of the filesystems of the wanted ones.
func (w *Worker) lookUp(ctx context.Context, wanted []abstractions.Abstraction) onDisk {
	query := abstractions.Query{Exact: true, Concurrency: holdsCommands}
	for _, abstraction := range wanted {
		query.Roots = append(query.Roots, abstraction.Filesystem)
	}
	slices.Sort(query.Roots)
	query.Roots = slices.Compact(query.Roots)
	found := onDisk{stale: map[abstractions.Abstraction]bool{}}
	if len(wanted) == 0 {
		return found
	}
	all, failures := w.keeper.ListAll(ctx, query)
	found.failures = failures
	stale, live := abstractions.Stale(all)
	for _, abstraction := range stale {
		found.stale[abstraction] = true
	}
	for _, abstraction := range live {
		found.stale[abstraction] = false
	}
	return found
}

// answerMigrate destroys cursors of v1 that a cursor of every JobID named supersedes.
func (w *Worker) answerMigrate(ctx context.Context, request micro.Request) error {
	var asked protocol.MigrateRequest
	if err := readRequest(request, &asked); err != nil {
		return err
	}
	query := queryOf(asked.Roots, asked.Filter)
	query.Kinds = []abstractions.Kind{abstractions.Cursor, abstractions.CursorV1}
	all, failures := w.keeper.ListAll(ctx, query)
	neededBy := map[abstractions.Abstraction][]string{}
	for _, id := range asked.JobIDs {
		_, needed := abstractions.SupersededV1(all, id)
		for _, cursor := range needed {
			neededBy[cursor] = append(neededBy[cursor], string(id))
		}
	}
	var superseded []protocol.AbstractionInfo
	var kept []protocol.ReleaseResult
	for _, cursor := range all {
		switch ids := neededBy[cursor]; {
		case cursor.Kind != abstractions.CursorV1:
		case len(ids) == 0:
			superseded = append(superseded, w.describeAbstraction(cursor))
		default:
			kept = append(kept, protocol.ReleaseResult{
				AbstractionInfo: w.describeAbstraction(cursor), Outcome: protocol.ReleaseKept,
				Note: "no cursor of job id " + strings.Join(ids, ", ") + " is as new yet: replicate the filesystem once, and migrate again",
			})
		}
	}
	page, err := w.releaseInPages(ctx, request, protocol.ReleaseRequest{Abstractions: superseded, DryRun: asked.DryRun})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(kept, protocol.MaxReleases) {
		page.Results = some
		if err := respond(request, page); err != nil {
			return err
		}
		page = protocol.ReleasePage{Number: page.Number + 1}
	}
	page.Last = true
	page.Missing, page.Failures = w.sortFailures(failures)
	return respond(request, page)
}
