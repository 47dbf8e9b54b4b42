// The texts of conflicts and notes: what is wrong, how it probably came to be, and what can be done.

package plan

import (
	"fmt"
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

// Where the two sides of the pair are, for texts.
func (p *pair) here() string  { return p.filesystem + " on " + string(p.job.Source.Host) }
func (p *pair) there() string { return p.targetFilesystem + " on " + string(p.target.Host) }

// targetMovedOn explains snapshots on the target after the common version.
func (p *pair) targetMovedOn(from, copied protocol.Version, extra, newer []protocol.Version) *Conflict {
	c := &Conflict{Kind: KindDiverged, Common: &from, Extra: extra}
	var message, remedy strings.Builder
	fmt.Fprintf(&message, "the newest version that %s and %s have in common is %s%s, but the target has %s after it that the"+
		" source does not have: %s. ", p.here(), p.there(), describe(from), otherName(from, copied), count(extra), list(extra))
	if len(newer) == 0 {
		c.Kind = KindReceiverAhead
		message.WriteString("The source has no snapshot after it. ")
	} else {
		fmt.Fprintf(&message, "The source has gone on with %s: %s. ", count(newer), list(newer))
	}
	message.WriteString(p.howTheTargetMovedOn(copied, extra))
	message.WriteString(" An increment can only be received on top of the target's newest snapshot.")
	if p.job.Recv.ForceRollback {
		message.WriteString(" The job allows rollback (recv.force_rollback), but zfs recv -F cannot destroy snapshots that are held.")
	}
	if anyHeld(extra) {
		remedy.WriteString(p.releaseFirst(extra))
	}
	if p.job.Recv.ForceRollback {
		fmt.Fprintf(&remedy, "The next run then rolls the target back to %s and sends what comes after it.\n", copied.Rel())
	} else {
		fmt.Fprintf(&remedy, "To give up what the target has after %s, and with it all that was written there since, on %s:\n%s",
			copied.Rel(), p.target.Host, command("zfs rollback -r", p.targetFilesystem, copied.Name))
		remedy.WriteString("To let the job do that by itself whenever it is needed, set recv.force_rollback: true in the job.\n")
	}
	remedy.WriteString(p.keepAside())
	if c.Kind == KindReceiverAhead && from.IsSnapshot() {
		fmt.Fprintf(&remedy, "To bring the target's snapshots to the source instead, if nothing was written there since %s, on %s:\n"+
			"    zfs send -I %s %s | %s\n",
			from.Rel(), p.target.Host, quote("@"+copied.Name), quote(p.targetFilesystem+"@"+extra[len(extra)-1].Name),
			receiveOn(p.job.Source.Host, "zfs recv -u", p.filesystem))
	}
	c.Message, c.Remedy = message.String(), remedy.String()+p.runAgain()
	return c
}

// howTheTargetMovedOn tells as well as can be told where the extra snapshots come from. Names and holds are all there is
// to go by: replication holds the snapshot that it received last, and releases the one before it.
func (p *pair) howTheTargetMovedOn(copied protocol.Version, extra []protocol.Version) string {
	if same, other, found := sameName(extra, p.sourceSnapshots); found {
		return fmt.Sprintf("%s exists on both sides with different guids (%d on the source, %d on the target): either the source"+
			" was rolled back after it had been replicated and took that snapshot again, or both sides take snapshots of"+
			" their own under the same names.", same.Rel(), other.GUID, same.GUID)
	}
	var held []protocol.Version
	for _, snapshot := range extra {
		if snapshot.UserRefs > 0 {
			held = append(held, snapshot)
		}
	}
	switch {
	case len(held) > 0:
		last := held[len(held)-1]
		return fmt.Sprintf("%s is held on the target, as replication holds what it received last: so it most likely came from the"+
			" source, which has lost it since, by being rolled back to before it or by destroying it together with its cursor"+
			" bookmark.", last.Rel())
	case copied.UserRefs > 0:
		return fmt.Sprintf("On the target %s is held, as replication holds what it received last, and nothing after it is: so the"+
			" later ones were most likely taken on %s by something other than replication.", copied.Rel(), p.target.Host)
	}
	return fmt.Sprintf("Neither %s nor anything after it is held on the target, so it cannot be told whether the later ones"+
		" were taken on %s by something other than replication, or were replicated and have been destroyed on the source since, together"+
		" with the cursor bookmark.", copied.Rel(), p.target.Host)
}

// nothingInCommon explains a target whose snapshots are all unknown to the source.
func (p *pair) nothingInCommon() *Conflict {
	var message strings.Builder
	oldest, latest := p.receiverSnapshots[0], p.receiverSnapshots[len(p.receiverSnapshots)-1]
	fmt.Fprintf(&message, "%s and %s have no version in common. The target has %s: %s. ",
		p.here(), p.there(), count(p.receiverSnapshots), list(p.receiverSnapshots))
	if len(p.sourceVersions) == 0 {
		message.WriteString("The source has neither snapshots nor bookmarks. ")
	} else {
		fmt.Fprintf(&message, "The source has %s: %s. ", countVersions(p.sourceVersions), list(p.sourceVersions))
	}
	same, other, sharesName := sameName(p.receiverSnapshots, p.sourceSnapshots)
	switch {
	case sharesName:
		fmt.Fprintf(&message, "%s exists on both sides with different guids (%d on the source, %d on the target): they are not the"+
			" same snapshot, so the source was most likely destroyed and created anew, or the target is a copy of something"+
			" else.", same.Rel(), other.GUID, same.GUID)
	case len(p.sourceVersions) > 0 && p.sourceVersions[0].Creation.After(latest.Creation):
		message.WriteString("The source's oldest version is younger than the target's newest: the snapshots that both had were" +
			" most likely destroyed on the source, together with the cursor bookmark, or the source was created anew.")
	case len(p.sourceVersions) > 0 && oldest.Creation.After(p.sourceVersions[len(p.sourceVersions)-1].Creation):
		message.WriteString("The target's oldest snapshot is younger than all that the source has: it was most likely never" +
			" received from there.")
	default:
		message.WriteString("Either the target was never received from this source, or what they had in common was destroyed.")
	}
	return &Conflict{
		Kind:    KindNoCommonVersion,
		Message: message.String(),
		Remedy: p.keepAside() +
			"If the target belongs to something else, give the job another root (targets[].root).\n" +
			p.runAgain(),
	}
}

// placeholderHasSnapshots explains a placeholder that something has taken snapshots of.
func (p *pair) placeholderHasSnapshots() *Conflict {
	return &Conflict{
		Kind: KindNoCommonVersion,
		Message: fmt.Sprintf("%s is a placeholder, created only to hold what is below it, and would be replaced by %s; but it has %s"+
			" of its own: %s. Something on %s takes snapshots of it, and zfs recv replaces no filesystem that has snapshots.",
			p.there(), p.here(), count(p.receiverSnapshots), list(p.receiverSnapshots), p.target.Host),
		Remedy: fmt.Sprintf("To destroy them, on %s:\n%sThen keep recursive snapshots away from %s, and run the job again: zctl run %s",
			p.target.Host, p.destroyAll(p.receiverSnapshots), quote(p.target.Root), quote(p.job.Name)),
	}
}

// foreign explains a dataset without snapshots that is no placeholder.
func (p *pair) foreign() *Conflict {
	return &Conflict{
		Kind: KindNameTaken,
		Message: fmt.Sprintf("%s is nothing that replication has put there: it has no snapshots, no partially received state, and is no"+
			" placeholder. Either it was created by something else, or all its snapshots have been destroyed. What is in it would"+
			" be lost if %s were received there.", p.there(), p.here()),
		Remedy: fmt.Sprintf("If it is empty and only there to hold others, make it a placeholder, on %s:\n"+
			"    zfs set zrepl:placeholder=on %s\n", p.target.Host, quote(p.targetFilesystem)) +
			p.keepAside() + p.runAgain(),
	}
}

// typesDiffer explains a volume in the place of a filesystem, or the reverse.
func (p *pair) typesDiffer() *Conflict {
	return &Conflict{
		Kind: KindNameTaken,
		Message: fmt.Sprintf("%s is a %s, but %s is a %s, and the one cannot be received into the other.",
			p.here(), kindOf(p.source), p.there(), kindOf(p.receiver)),
		Remedy: p.keepAside() + p.runAgain(),
	}
}

// initialForbidden explains a target that has nothing, where the job forbids a first full send.
func (p *pair) initialForbidden() *Conflict {
	latest := p.newestWanted()
	return &Conflict{
		Kind: KindInitialForbidden,
		Message: fmt.Sprintf("%s has nothing of %s yet, and the job forbids a first full replication (replication.initial: fail). The"+
			" newest snapshot that would be sent is %s.", p.target.Host, p.here(), describe(latest)),
		Remedy: "To allow it, set replication.initial: most_recent (or all) in the job.\n" + p.seedByHand(latest) + p.runAgain(),
	}
}

// seedByHand tells how to make the first full replication without the job.
func (p *pair) seedByHand(snapshot protocol.Version) string {
	var text strings.Builder
	receive := "zfs recv -u"
	if p.receiver != nil && p.receiver.Resume != nil {
		fmt.Fprintf(&text, "To seed the target by hand, first give up the partially received state, on %s:\n    zfs recv -A %s\n"+
			"and then, on %s:\n", p.target.Host, quote(p.targetFilesystem), p.job.Source.Host)
	} else {
		fmt.Fprintf(&text, "To seed the target by hand, on %s:\n", p.job.Source.Host)
	}
	if p.receiver != nil && p.receiver.Placeholder {
		receive = "zfs recv -u -F" // an existing filesystem is only replaced when that is asked for
	}
	fmt.Fprintf(&text, "    zfs send %s | %s\n", quote(snapshot.Full(p.filesystem)),
		receiveOn(p.target.Host, receive, p.targetFilesystem))
	return text.String()
}

// snapshotNameTaken explains a snapshot that cannot be received under its name.
func (p *pair) snapshotNameTaken(taken, by protocol.Version) *Conflict {
	return &Conflict{
		Kind: KindSnapshotNameTaken,
		Message: fmt.Sprintf("%s has %s, which is to be sent; but %s has another snapshot of that name: %s. Snapshots are"+
			" received under the name that they have on the source, and a name can be used once. Most likely the source renames its snapshots,"+
			" or the name was used again after its first snapshot had been replicated and destroyed on the source.",
			p.here(), describe(taken), p.there(), describe(by)),
		Remedy: fmt.Sprintf("To rename the target's, on %s:\n    zfs rename %s %s\nor, if it is not needed, destroy it there:\n%s",
			p.target.Host, quote(by.Full(p.targetFilesystem)), quote("@"+by.Name+"_kept"),
			command("zfs destroy", p.targetFilesystem, by.Name)) +
			"To leave such snapshots out, set snapshots.include in the job.\n" + p.runAgain(),
	}
}

// whatRollbackDestroys is the note of a plan that a rollback on the target is part of.
func (p *pair) whatRollbackDestroys(from protocol.Version, extra []protocol.Version, now bool) string {
	when := "the next increment destroys"
	if now {
		when = "the first step destroys"
	}
	return fmt.Sprintf("%s has %s after the common version %s that the source does not have: %s; %s what the target has after"+
		" it (recv.force_rollback)", p.there(), count(extra), from.Rel(), list(extra), when)
}

// whatBecomesOfTheClone is the note of a first replication of a clone; empty for what is no clone.
func (p *pair) whatBecomesOfTheClone() string {
	if p.source.Origin == "" {
		return ""
	}
	return fmt.Sprintf("%s is a clone of %s; it is sent as a %s of its own, with all its data, and shares no space with its origin on"+
		" the target", p.here(), p.source.Origin, kindOf(p.source))
}

// whyNothingIsWanted is the note of a filesystem that has no snapshot to send.
func (p *pair) whyNothingIsWanted() string {
	if len(p.sourceSnapshots) == 0 {
		return "it has no snapshots on " + string(p.job.Source.Host)
	}
	return fmt.Sprintf("none of its %s on %s matches snapshots.include %q; the newest is %s",
		count(p.sourceSnapshots), p.job.Source.Host, p.job.Snapshots.Include, describe(*newest(p.sourceSnapshots)))
}

// newestWanted is the newest snapshot that the job wants; there is one where this is asked.
func (p *pair) newestWanted() protocol.Version {
	var latest protocol.Version
	for _, snapshot := range p.sourceSnapshots {
		if p.wanted(snapshot) {
			latest = snapshot
		}
	}
	return latest
}

// rootMissing is the result where the target has no root to receive into.
func (p *planner) rootMissing(source *protocol.Dataset) Result {
	return Result{
		Filesystem:       source.Name,
		TargetFilesystem: p.target.Filesystem(source.Name),
		Conflict: &Conflict{
			Kind: KindRootMissing,
			Message: fmt.Sprintf("%s on %s cannot be received on %s: the target's root %s does not exist there.",
				source.Name, p.job.Source.Host, p.target.Host, p.target.Root),
			Remedy: fmt.Sprintf("Create it, on %s:\n    zfs create -p -o canmount=off -o mountpoint=none %s\n"+
				"or correct targets[].root in the job.\nThen run the job again: zctl run %s",
				p.target.Host, quote(p.target.Root), quote(p.job.Name)),
			SourceNewest: newest(inOrder(source.Versions)),
		},
	}
}

// sourceGone is the result for a filesystem that the source does not have.
func (p *planner) sourceGone(filesystem string, receiver *protocol.Dataset) Result {
	conflict := &Conflict{Kind: KindSourceGone}
	targetFilesystem := p.target.Filesystem(filesystem)
	var message, remedy strings.Builder
	fmt.Fprintf(&message, "the job asks for %s, which does not exist on %s: it was destroyed or renamed, its pool is not imported, or"+
		" the job misspells it.", filesystem, p.job.Source.Host)
	fmt.Fprintf(&remedy, "If it is not to be replicated any more, take %q out of source.filesystems.\n", filesystem)
	fmt.Fprintf(&remedy, "If its pool is missing, on %s:\n    zpool import\n", p.job.Source.Host)
	if receiver != nil {
		conflict.ReceiverNewest = newest(snapshotsOf(inOrder(receiver.Versions)))
	}
	if latest := conflict.ReceiverNewest; latest != nil {
		fmt.Fprintf(&message, " The target's copy %s on %s is untouched; its newest snapshot is %s.",
			targetFilesystem, p.target.Host, describe(*latest))
		fmt.Fprintf(&remedy, "To bring it back from the target's copy, on %s:\n    zfs send %s | %s\n",
			p.target.Host, quote(latest.Full(targetFilesystem)), receiveOn(p.job.Source.Host, "zfs recv -u", filesystem))
	}
	fmt.Fprintf(&remedy, "Then run the job again: zctl run %s", quote(p.job.Name))
	conflict.Message, conflict.Remedy = message.String(), remedy.String()
	return Result{Filesystem: filesystem, TargetFilesystem: targetFilesystem, Conflict: conflict}
}

// keepAside tells how to keep the target's copy under another name, so that everything can be sent anew.
func (p *pair) keepAside() string {
	return fmt.Sprintf("To keep what the target has under another name, with all that is below it, and send everything anew, on %s:\n"+
		"    zfs rename %s %s\n", p.target.Host, quote(p.targetFilesystem), quote(p.targetFilesystem+"_kept"))
}

func (p *pair) releaseFirst(snapshots []protocol.Version) string {
	var text strings.Builder
	fmt.Fprintf(&text, "A snapshot that is held cannot be destroyed. To see the holds, and to release them once nobody needs them, on %s"+
		"\n(the tag of this job's own is zrepl_last_received_J_%s):\n", p.target.Host, p.target.JobIDOf(p.job.Name))
	for _, snapshot := range snapshots {
		if snapshot.UserRefs > 0 {
			text.WriteString(command("zfs holds", p.targetFilesystem, snapshot.Name))
			text.WriteString(command("zfs release TAG", p.targetFilesystem, snapshot.Name))
		}
	}
	return text.String()
}

func (p *pair) destroyAll(snapshots []protocol.Version) string {
	names := snapshots[0].Name
	if len(snapshots) > 1 {
		names += "%" + snapshots[len(snapshots)-1].Name
	}
	return command("zfs destroy", p.targetFilesystem, names)
}

func (p *pair) runAgain() string { return "Then run the job again: zctl run " + quote(p.job.Name) }

// command is a command line on a snapshot.
func command(verb, filesystem, name string) string {
	return "    " + verb + " " + quote(filesystem+"@"+name) + "\n"
}

// receiveOn runs a receive on another host. ssh hands its words to a shell once more, so a quoted name is quoted twice.
func receiveOn(host protocol.Host, receive, filesystem string) string {
	words := receive + " " + quote(filesystem)
	if quote(filesystem) != filesystem {
		words = `"` + words + `"`
	}
	return fmt.Sprintf("ssh %s %s", host, words)
}

// quote makes a name one word for a shell. OpenZFS names can hold spaces, and nothing else that a shell would touch.
func quote(name string) string {
	if strings.ContainsAny(name, " '\"$`\\") {
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

// describe is a version with all that tells it apart: "@a (guid 1234, 2026-01-02 03:04:05 UTC)".
func describe(version protocol.Version) string {
	return fmt.Sprintf("%s (guid %d, %s)", version.Rel(), version.GUID, version.Creation.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// otherName adds the name that the target's copy of a version has, where it is another: the version is a bookmark, or was
// renamed.
func otherName(version, copied protocol.Version) string {
	if version.Rel() == copied.Rel() {
		return ""
	}
	return ", which is " + copied.Rel() + " on the target"
}

// list describes versions in order; of many, only the ends.
func list(versions []protocol.Version) string {
	const most = 4
	var parts []string
	if len(versions) <= most {
		for _, version := range versions {
			parts = append(parts, describe(version))
		}
		return strings.Join(parts, ", ")
	}
	for _, version := range versions[:most/2] {
		parts = append(parts, describe(version))
	}
	parts = append(parts, fmt.Sprintf("%d more", len(versions)-most/2-1), describe(versions[len(versions)-1]))
	return strings.Join(parts, ", ")
}

func count(snapshots []protocol.Version) string {
	if len(snapshots) == 1 {
		return "1 snapshot"
	}
	return fmt.Sprintf("%d snapshots", len(snapshots))
}

func countVersions(versions []protocol.Version) string {
	snapshots := len(snapshotsOf(versions))
	bookmarks := len(versions) - snapshots
	switch {
	case bookmarks == 0:
		return count(versions)
	case bookmarks == 1:
		return fmt.Sprintf("%d snapshots and 1 bookmark", snapshots)
	}
	return fmt.Sprintf("%d snapshots and %d bookmarks", snapshots, bookmarks)
}

func kindOf(dataset *protocol.Dataset) string {
	if dataset.Volume {
		return "volume"
	}
	return "filesystem"
}

// sameName finds the newest of the snapshots that has the name, but not the guid, of one of the others.
func sameName(snapshots, others []protocol.Version) (one, other protocol.Version, found bool) {
	names := make(map[string]int, len(others))
	for i := range others {
		names[others[i].Name] = i
	}
	for i := len(snapshots) - 1; i >= 0; i-- {
		if at, exists := names[snapshots[i].Name]; exists && others[at].GUID != snapshots[i].GUID {
			return snapshots[i], others[at], true
		}
	}
	return one, other, false
}
