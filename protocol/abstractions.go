// Requests to a host's workers: what replication keeps on its disks, and releasing it.

package protocol

// AbstractionsRequest asks a host for what replication keeps on its disks.
type AbstractionsRequest struct {
	// JobIDs are those whose abstractions are meant, and cursors of v1, which belong to all; empty is all.
	JobIDs []JobID `msgpack:"job_ids,omitempty"`
	// Kinds are the kinds of abstraction; empty is all.
	Kinds []string `msgpack:"kinds,omitempty"`
	// Roots are listed with all that is below them; empty lists all pools.
	Roots []string `msgpack:"roots,omitempty"`
	// Filter keeps the filesystems it has in; nil keeps all.
	Filter Filter `msgpack:"filter,omitempty"`
	// Stale leaves only what no step and no cursor needs any more.
	Stale bool `msgpack:"stale,omitempty"`
}

// AbstractionInfo is one hold or bookmark that replication keeps.
type AbstractionInfo struct {
	Host       Host   `msgpack:"host,omitempty" json:"host"`
	Kind       string `msgpack:"kind" json:"kind"`
	Filesystem string `msgpack:"fs" json:"filesystem"`
	// Name is the whole name of the bookmark, or of the snapshot that is held.
	Name string `msgpack:"name" json:"name"`
	// Tag is the hold's tag; empty for a bookmark.
	Tag       string `msgpack:"tag,omitempty" json:"tag,omitempty"`
	JobID     JobID  `msgpack:"job_id,omitempty" json:"job_id,omitempty"`
	GUID      uint64 `msgpack:"guid" json:"guid,string"`
	CreateTXG uint64 `msgpack:"createtxg" json:"createtxg,string"`
}

// AbstractionsPage is one of the replies to an AbstractionsRequest; the pages come like those of an inventory.
type AbstractionsPage struct {
	Number       int               `msgpack:"number"`
	Abstractions []AbstractionInfo `msgpack:"abstractions,omitempty"`
	// Missing are requested roots that do not exist; on the last page.
	Missing []string `msgpack:"missing,omitempty"`
	// Failures say what could not be listed; the rest was. On the last page.
	Failures []Failure `msgpack:"failures,omitempty"`
	Last     bool      `msgpack:"last,omitempty"`
	// Failure says that nothing could be listed.
	Failure *Failure `msgpack:"failure,omitempty"`
}

// MaxReleases is how many abstractions one ReleaseRequest may name: so many fit into a message, however long their names.
const MaxReleases = 500

// ReleaseRequest asks a host to release holds and to destroy bookmarks that replication keeps. What it names is looked up
// anew: only what is an abstraction on the host's disks, exactly as it is named, can go.
type ReleaseRequest struct {
	// Abstractions are what is to go, as the host has listed it, and at most MaxReleases.
	Abstractions []AbstractionInfo `msgpack:"abstractions"`
	// Job is the name of the job that they are of, where it is known: hosts may allow receiving by job.
	Job string `msgpack:"job,omitempty"`
	// Stale keeps what a step or a cursor needs by now.
	Stale bool `msgpack:"stale,omitempty"`
	// DryRun only tells what would become of each.
	DryRun bool `msgpack:"dry_run,omitempty"`
	// Force releases also what a running step uses.
	Force bool `msgpack:"force,omitempty"`
}

// Validate tells whether the request can be answered.
func (r ReleaseRequest) Validate() error {
	if len(r.Abstractions) > MaxReleases {
		return Usagef("a request to release %d holds and bookmarks: at most %d can be named in one", len(r.Abstractions), MaxReleases)
	}
	return nil
}

// MigrateRequest asks a host to destroy replication cursors of v1 wherever cursors of v2 supersede them.
type MigrateRequest struct {
	// JobIDs are those that a cursor of v1 was for: each must have a cursor of the same or a newer version.
	JobIDs []JobID `msgpack:"job_ids"`
	// Roots are looked at with all that is below them; empty is all pools.
	Roots []string `msgpack:"roots,omitempty"`
	// Filter keeps the filesystems it has in; nil keeps all.
	Filter Filter `msgpack:"filter,omitempty"`
	// DryRun only tells what would become of each.
	DryRun bool `msgpack:"dry_run,omitempty"`
}

// Validate tells whether the request can be answered.
func (r MigrateRequest) Validate() error {
	if len(r.JobIDs) == 0 {
		return Usagef("a request to migrate replication cursors names no job id")
	}
	for _, id := range r.JobIDs {
		if err := id.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// ReleaseOutcome is what became of an abstraction that was to go.
type ReleaseOutcome string

// The outcomes of a release.
const (
	// Released says that it is gone, or with a dry run that it would be.
	Released ReleaseOutcome = "released"
	// ReleaseGone says that it was not there any more.
	ReleaseGone ReleaseOutcome = "gone"
	// ReleaseKept says that it is needed.
	ReleaseKept ReleaseOutcome = "kept"
	// ReleaseRefused says that the host's policy or a running step forbids it.
	ReleaseRefused ReleaseOutcome = "refused"
	// ReleaseFailed says that zfs or the request failed.
	ReleaseFailed ReleaseOutcome = "failed"
)

// Good tells whether nothing is left to be done about it.
func (o ReleaseOutcome) Good() bool { return o == Released || o == ReleaseGone || o == ReleaseKept }

// ReleaseResult is what became of one abstraction.
type ReleaseResult struct {
	AbstractionInfo `msgpack:",inline"`

	Outcome ReleaseOutcome `msgpack:"outcome" json:"outcome"`
	// Note says why it is kept.
	Note string `msgpack:"note,omitempty" json:"note,omitempty"`
	// Failure says why it was refused or failed, and what to do.
	Failure *Failure `msgpack:"failure,omitempty" json:"failure,omitempty"`
}

// ReleasePage is one of the replies to a ReleaseRequest, with one result for each abstraction named, in order, or to a
// MigrateRequest, with one for each cursor of v1. Pages come as the work goes on.
type ReleasePage struct {
	Number  int             `msgpack:"number"`
	Results []ReleaseResult `msgpack:"results,omitempty"`
	// Missing are requested roots that do not exist; on the last page.
	Missing []string `msgpack:"missing,omitempty"`
	// Failures say what could not be listed; the rest was. On the last page.
	Failures []Failure `msgpack:"failures,omitempty"`
	Last     bool      `msgpack:"last,omitempty"`
	// Failure says that nothing could be done.
	Failure *Failure `msgpack:"failure,omitempty"`
}
