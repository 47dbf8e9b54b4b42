// One filesystem and one target: which steps, or which conflict.

package plan

import (
	"github.com/zfleet/zfleet/protocol"
)

// pair is one filesystem on the source, and what the target has of it.
type pair struct {
	*planner

	source   *protocol.Dataset
	receiver *protocol.Dataset // nil if the target does not have it

	filesystem       string
	targetFilesystem string

	sourceVersions    []protocol.Version // ordered
	sourceSnapshots   []protocol.Version // ordered
	receiverSnapshots []protocol.Version // ordered
}

func (p *planner) filesystem(source, receiver *protocol.Dataset) Result {
	one := &pair{
		planner:          p,
		source:           source,
		receiver:         receiver,
		filesystem:       source.Name,
		targetFilesystem: p.target.Filesystem(source.Name),
		sourceVersions:   inOrder(source.Versions),
	}
	one.sourceSnapshots = snapshotsOf(one.sourceVersions)
	if receiver != nil {
		one.receiverSnapshots = snapshotsOf(inOrder(receiver.Versions))
	}
	return one.plan()
}

func (p *pair) plan() Result {
	if p.source.Placeholder {
		return p.nothing("it is a placeholder on " + p.job.Source.Host.String() + ", created only to hold what is below it;" +
			" a placeholder is not replicated as data")
	}
	if p.receiver == nil {
		return p.initial()
	}
	if p.receiver.Volume != p.source.Volume {
		return p.conflict(p.typesDiffer())
	}
	from, index, found := common(p.sourceVersions, p.receiverSnapshots, p.target.JobIDOf(p.job.Name))
	switch {
	case found:
		result := p.incremental(from, p.receiverSnapshots[index], p.receiverSnapshots[index+1:])
		result.Common = &from
		return result
	case len(p.receiverSnapshots) > 0 && p.receiver.Placeholder:
		return p.conflict(p.placeholderHasSnapshots())
	case len(p.receiverSnapshots) > 0:
		return p.conflict(p.nothingInCommon())
	case p.receiver.Placeholder || p.receiver.Resume != nil:
		// What exists only as the partial state of a first replication shows as a dataset without snapshots.
		return p.initial()
	}
	return p.conflict(p.foreign())
}

// initial plans for a target that has nothing of the filesystem, as the job's initial policy says.
func (p *pair) initial() Result {
	first := p.firstSnapshot()
	if first < 0 {
		return p.nothing(p.whyNothingIsWanted())
	}
	if p.job.Replication.Initial == protocol.InitialFail {
		return p.conflict(p.initialForbidden())
	}
	to := p.sourceSnapshots[first]
	steps := []protocol.Step{p.step(nil, to)}
	steps[0].Initial = true
	p.resume(&steps[0], 0)
	// After the newest, nothing is left; so what follows is for policy all, and for a partial state of an older snapshot.
	result := p.result(append(steps, p.increments(to, p.sourceSnapshots[first+1:])...), true)
	result.Note = p.whatBecomesOfTheClone()
	return result
}

// firstSnapshot is the index of the snapshot that is sent in full; -1 if none is wanted. Under policy most_recent that is
// the newest, or an older one of which the target has a part already: finishing it is cheaper than beginning anew, and
// what comes after it is sent as increments.
func (p *pair) firstSnapshot() int {
	oldest, latest := -1, -1
	for i, snapshot := range p.sourceSnapshots {
		if !p.wanted(snapshot) {
			continue
		}
		if oldest < 0 {
			oldest = i
		}
		latest = i
		if p.job.Replication.Initial == protocol.InitialMostRecent && p.hasPartial(0, snapshot) {
			break
		}
	}
	if p.job.Replication.Initial == protocol.InitialAll {
		return oldest
	}
	return latest
}

// incremental plans from the common version; copied is the receiver's copy of it, and extra are the receiver's snapshots
// after it, which the source does not have.
func (p *pair) incremental(from, copied protocol.Version, extra []protocol.Version) Result {
	newer := after(p.sourceSnapshots, from)
	steps := p.increments(from, newer)
	if len(extra) > 0 && (!p.job.Recv.ForceRollback || anyHeld(extra)) {
		return p.conflict(p.targetMovedOn(from, copied, extra, newer))
	}
	if taken, by, found := p.nameTaken(newer); found {
		return p.conflict(p.snapshotNameTaken(taken, by))
	}
	result := p.result(steps, false)
	if len(extra) > 0 {
		result.Note = p.whatRollbackDestroys(from, extra, len(steps) > 0)
	}
	return result
}

// increments are the steps that send the wanted ones of the given snapshots, which are all that the source has after
// from. A range (zfs send -I) carries every snapshot between its ends, so one that is not wanted ends it; and OpenZFS
// sends no ranges from bookmarks (zfs-send(8)).
func (p *pair) increments(from protocol.Version, newer []protocol.Version) []protocol.Step {
	var steps []protocol.Step
	previous := from
	neighbours := true // no snapshot lies between previous and the one at hand
	open := false      // the last step may carry more
	for _, snapshot := range newer {
		if !p.wanted(snapshot) {
			neighbours = false
			continue
		}
		if open && neighbours {
			last := &steps[len(steps)-1]
			last.To = snapshot
			last.Intermediates++
		} else {
			step := p.step(&previous, snapshot)
			if len(steps) == 0 {
				p.resume(&step, previous.GUID)
			}
			steps = append(steps, step)
			// A partial state is of one elementary send, and so is the step that goes on with it.
			open = neighbours && previous.IsSnapshot() && !step.Resume
		}
		previous, neighbours = snapshot, true
	}
	return steps
}

// step sends one snapshot: in full, or the difference from a version.
func (p *pair) step(from *protocol.Version, to protocol.Version) protocol.Step {
	step := protocol.Step{
		Filesystem: p.filesystem, TargetFilesystem: p.targetFilesystem, Volume: p.source.Volume, To: to,
	}
	if from != nil {
		version := *from
		step.From = &version
	}
	return step
}

// resume marks the step from the version of the given guid (0 for a full send) as one to go on with, if the target has a
// partial state of it.
func (p *pair) resume(step *protocol.Step, from uint64) {
	if p.hasPartial(from, step.To) {
		step.Resume, step.ResumeToken = true, p.receiver.Resume.Token
	}
}

// hasPartial tells whether the target has a partial state of the send from the version of the given guid (0 for a full
// send) to the snapshot. An increment's partial state is of use only where the target has what it increments. A token that
// could not be read has no guids, and so is of no send.
func (p *pair) hasPartial(from uint64, to protocol.Version) bool {
	if p.receiver == nil || p.receiver.Resume == nil {
		return false
	}
	if from != 0 && len(p.receiverSnapshots) == 0 {
		return false
	}
	return p.receiver.Resume.FromGUID == from && p.receiver.Resume.ToGUID == to.GUID
}

// nameTaken finds the first wanted snapshot whose name another snapshot on the target has: zfs recv would refuse it
// (EEXIST in recv_begin_check_existing_impl, dmu_recv.c), with rollback too.
func (p *pair) nameTaken(newer []protocol.Version) (taken, by protocol.Version, found bool) {
	names := make(map[string]int, len(newer))
	for i, snapshot := range newer {
		if p.wanted(snapshot) {
			names[snapshot.Name] = i
		}
	}
	if len(names) == 0 {
		return taken, by, false
	}
	first := len(newer)
	for _, snapshot := range p.receiverSnapshots {
		if i, exists := names[snapshot.Name]; exists && i < first {
			first, by = i, snapshot
		}
	}
	if first == len(newer) {
		return taken, by, false
	}
	return newer[first], by, true
}

func anyHeld(snapshots []protocol.Version) bool {
	for _, snapshot := range snapshots {
		if snapshot.UserRefs > 0 {
			return true
		}
	}
	return false
}

func (p *pair) result(steps []protocol.Step, initial bool) Result {
	result := Result{Filesystem: p.filesystem, TargetFilesystem: p.targetFilesystem, Steps: steps, Initial: initial}
	if p.receiver != nil {
		result.Partial = p.receiver.Resume
	}
	return result
}

func (p *pair) nothing(note string) Result {
	result := p.result(nil, false)
	result.Note = "nothing is sent of " + p.filesystem + ": " + note
	return result
}

func (p *pair) conflict(conflict *Conflict) Result {
	conflict.SourceNewest, conflict.ReceiverNewest = newest(p.sourceVersions), newest(p.receiverSnapshots)
	result := p.result(nil, false)
	result.Conflict = conflict
	return result
}
