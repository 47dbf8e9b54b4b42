// The planner's input and result, and planning a whole job for one target.

package plan

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

// Input is what the planner knows: the job, and both sides as inventoried. The planner changes none of it.
type Input struct {
	Job protocol.Job
	// Target is the index of the target in Job.Targets.
	Target int
	// Source are the datasets that the job's filter has in, with their versions. Their order does not matter.
	Source []protocol.Dataset
	// Receiver are the datasets at and below the target's root. Their order does not matter.
	Receiver []protocol.Dataset
	// RootMissing says that the target's root does not exist.
	RootMissing bool
	// Requested are the full names in the job's filter that the source does not have.
	Requested []string
}

// Result is what there is to do for one filesystem and one target. Without steps and without a conflict, there is nothing.
type Result struct {
	Filesystem       string
	TargetFilesystem string
	// Steps are in the order in which they have to be done. Each but the first needs the one before it.
	Steps []protocol.Step
	// Common is the newest version that both sides have, as the source has it: a snapshot, or a bookmark where the source has
	// lost the snapshot. It is nil where there is none.
	Common *protocol.Version
	// Partial is what the target has half received, whether a step goes on with it or not; nil if there is nothing.
	Partial *protocol.ResumeState
	// Conflict is why no step can be planned; nil where there is none. A result with a conflict has no steps.
	Conflict *Conflict
	// Parent is the nearest ancestor among the planned filesystems that has to be created on the target before this one;
	// "" if there is none. It is the parent's first step that creates it.
	Parent string
	// Initial says that the target has nothing of the filesystem yet, and that the first step creates it.
	Initial bool
	// Note is what an operator should know and that is no conflict: why there is nothing to send, or what the steps will
	// destroy on the target. Mostly it is empty.
	Note string
}

// Plan plans all filesystems of one target: one result for each dataset of the source and each requested one that is
// gone, parents before their children, siblings by name. An error means that the job itself cannot be planned.
func Plan(in Input) ([]Result, error) {
	if in.Target < 0 || in.Target >= len(in.Job.Targets) {
		return nil, protocol.Usagef("job %s has %d targets, and none with index %d", in.Job.Name, len(in.Job.Targets), in.Target)
	}
	planner, err := newPlanner(in.Job, in.Job.Targets[in.Target])
	if err != nil {
		return nil, err
	}
	receivers := make(map[string]*protocol.Dataset, len(in.Receiver))
	for i := range in.Receiver {
		receivers[in.Receiver[i].Name] = &in.Receiver[i]
	}
	results := make([]Result, 0, len(in.Source)+len(in.Requested))
	present := make(map[string]bool, len(in.Source))
	for i := range in.Source {
		source := &in.Source[i]
		present[source.Name] = true
		if in.RootMissing {
			results = append(results, planner.rootMissing(source))
			continue
		}
		results = append(results, planner.filesystem(source, receivers[planner.target.Filesystem(source.Name)]))
	}
	for _, name := range in.Requested {
		if !present[name] {
			present[name] = true
			results = append(results, planner.sourceGone(name, receivers[planner.target.Filesystem(name)]))
		}
	}
	slices.SortFunc(results, func(a, b Result) int { return comparePaths(a.Filesystem, b.Filesystem) })
	assignParents(results)
	return results, nil
}

// Filesystem plans one pair by itself, such as anew after a failed try. The receiver is nil if the target does not have
// it. Parent is left empty, since one pair says nothing about the others.
func Filesystem(job protocol.Job, target protocol.JobTarget, source protocol.Dataset, receiver *protocol.Dataset) Result {
	planner, err := newPlanner(job, target)
	if err != nil {
		return unplannable(target, source.Name, err)
	}
	return planner.filesystem(&source, receiver)
}

// SourceGone is the result for a filesystem that a job asks for and the source does not have, or has no longer. The
// receiver is nil if the target does not have it either.
func SourceGone(job protocol.Job, target protocol.JobTarget, filesystem string, receiver *protocol.Dataset) Result {
	planner := planner{job: job, target: target}
	return planner.sourceGone(filesystem, receiver)
}

// Less tells which of two ready steps goes first: the one whose To is older, so that no filesystem falls behind while
// others are kept up to the minute; then by path, parents first.
func Less(a, b protocol.Step) bool {
	return cmp.Or(
		a.To.Creation.Compare(b.To.Creation),
		comparePaths(a.Filesystem, b.Filesystem),
		cmp.Compare(a.To.Name, b.To.Name),
		comparePaths(a.TargetFilesystem, b.TargetFilesystem),
	) < 0
}

// planner is what planning needs to know beside the two sides of a pair.
type planner struct {
	job    protocol.Job
	target protocol.JobTarget
	// include is nil where all snapshots are wanted.
	include *regexp.Regexp
}

func newPlanner(job protocol.Job, target protocol.JobTarget) (*planner, error) {
	p := &planner{job: job, target: target}
	if job.Snapshots.Include != "" {
		include, err := regexp.Compile(job.Snapshots.Include)
		if err != nil {
			return nil, protocol.Usagef("job %s: snapshots.include: %w", job.Name, err)
		}
		p.include = include
	}
	return p, nil
}

// wanted tells whether the job sends the snapshot for its own sake, and not only as the beginning of an increment.
func (p *planner) wanted(snapshot protocol.Version) bool {
	return p.include == nil || p.include.MatchString(snapshot.Name)
}

// assignParents names, for every result that creates its filesystem, the nearest ancestor that is created too. Results
// of filesystems that the target has already wait for nobody.
func assignParents(results []Result) {
	created := make(map[string]bool, len(results))
	for i := range results {
		if results[i].Initial {
			created[results[i].Filesystem] = true
		}
	}
	for i := range results {
		if !results[i].Initial {
			continue
		}
		ancestor := results[i].Filesystem
		for results[i].Parent == "" {
			slash := strings.LastIndexByte(ancestor, '/')
			if slash < 0 {
				break
			}
			ancestor = ancestor[:slash]
			if created[ancestor] {
				results[i].Parent = ancestor
			}
		}
	}
}

// comparePaths orders dataset names component by component: a dataset is followed by all that is below it. Comparing
// whole names would put "a-b" between "a" and "a/b", since "-" comes before "/".
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		}
		return cmp.Compare(a[i], b[i])
	}
	return cmp.Compare(len(a), len(b))
}
