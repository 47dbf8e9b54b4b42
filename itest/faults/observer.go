// The observer: the invariants, checked at every change of every pool.

package faults

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/itest/history"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// observer keeps a shadow of all pools, which it learns from their changes one after another. So it sees every state that
// there ever was, of both sides of a replication together, and locks no pool.
type observer struct {
	timeline *timeline

	mu       sync.Mutex
	datasets map[place]*shadow
	pairs    []*pair
	byPlace  map[place][]*pair
	// expected are changes that the harness is about to make itself; all others are the fleet's.
	expected map[expectation]int
	// quiet is set while the harness makes the pools.
	quiet bool
	// running are the sends and receives under way, by what they work on.
	running map[string][]string
	// streams counts the sends, resumed those that went on with a partial state, and abandoned the partial states given up.
	streams, resumed, abandoned int
	// guids are all versions that were ever taken on a source.
	guids map[uint64]string
	// txgs are the createtxgs of all versions that there ever were on a source, by guid.
	txgs map[place]map[uint64]uint64
	// cursors is what the fleet's processes did to them.
	cursors *history.Cursor
}

// place is a filesystem of a host.
type place struct {
	host       protocol.Host
	filesystem string
}

func (p place) String() string { return string(p.host) + ":" + p.filesystem }

// shadow is what a filesystem has.
type shadow struct {
	snapshots map[string]*shadowSnapshot
	bookmarks map[string]uint64
	partial   *zfsfake.Change
}

type shadowSnapshot struct {
	guid, createTXG uint64
	holds           map[string]bool
}

// pair is one JobID's replication of one filesystem.
type pair struct {
	id             protocol.JobID
	protection     protocol.Protection
	source, target place

	// highest is the createtxg of the newest cursor that there ever was.
	highest uint64
	// confirmed are the guids of snapshots on which the receiver has put its hold: from then on it may confirm them.
	confirmed map[uint64]bool
	// received are the guids of all snapshots that ever arrived.
	received map[uint64]bool
	// cursors are the guids of all cursors, in the order in which they were made.
	cursors []uint64
	// broken are violations that were told already: what is wrong stays wrong for a while.
	broken map[string]bool
}

type expectation struct {
	at   place
	kind zfsfake.ChangeKind
	name string
}

func newObserver(timeline *timeline, jobs []protocol.Job) *observer {
	o := &observer{
		timeline: timeline, datasets: map[place]*shadow{}, byPlace: map[place][]*pair{},
		expected: map[expectation]int{}, running: map[string][]string{}, guids: map[uint64]string{},
		txgs: map[place]map[uint64]uint64{}, cursors: history.NewCursor(),
	}
	for _, job := range jobs {
		for _, filesystem := range filesystemsOf(job) {
			for _, target := range job.Targets {
				p := &pair{
					id: target.JobIDOf(job.Name), protection: job.Replication.Protection.Incremental,
					source: place{job.Source.Host, filesystem}, target: place{target.Host, target.Filesystem(filesystem)},
					confirmed: map[uint64]bool{}, received: map[uint64]bool{}, broken: map[string]bool{},
				}
				o.pairs = append(o.pairs, p)
				o.byPlace[p.source] = append(o.byPlace[p.source], p)
				o.byPlace[p.target] = append(o.byPlace[p.target], p)
			}
		}
	}
	return o
}

// expect says that the harness is about to make a change itself: of a version with that name, or "name tag" for a hold.
func (o *observer) expect(at place, kind zfsfake.ChangeKind, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expected[expectation{at, kind, name}]++
}

// building says whether the harness is making the pools, so that every change is its own.
func (o *observer) building(yes bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.quiet = yes
}

func (o *observer) shadowOf(at place) *shadow {
	s := o.datasets[at]
	if s == nil {
		s = &shadow{snapshots: map[string]*shadowSnapshot{}, bookmarks: map[string]uint64{}}
		o.datasets[at] = s
	}
	return s
}

// changed takes a change of a host's pool.
func (o *observer) changed(host protocol.Host, change zfsfake.Change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := place{host, change.Dataset}
	own := o.quiet
	if o.expected[expectation{at, change.Kind, strings.TrimSpace(change.Name + " " + change.Tag)}] > 0 {
		own = true
	}
	temporary := change.Tag != "" && strings.HasPrefix(change.Tag, ".")
	if !temporary && !o.quiet {
		o.timeline.add(string(host), "%s", describe(change, own))
	}
	o.apply(at, change)
	if !own && !temporary {
		o.checkOwnership(at, change)
	}
	o.note(at, change)
	for _, p := range o.byPlace[at] {
		o.checkPair(p, change)
	}
}

func describe(change zfsfake.Change, own bool) string {
	text := fmt.Sprintf("  %s: %s", change.Kind, change.Dataset)
	switch change.Kind {
	case zfsfake.BookmarkCreated, zfsfake.BookmarkDestroyed:
		text += "#" + change.Name
	case zfsfake.PartialKept, zfsfake.PartialGone:
		text += fmt.Sprintf(" (from %x to %x)", change.FromGUID, change.GUID)
	case zfsfake.DatasetDestroyed:
	default:
		text += fmt.Sprintf("@%s %s", change.Name, change.Tag)
	}
	if own {
		text += " (by the operator)"
	}
	return text
}

// apply brings the shadow up to date.
func (o *observer) apply(at place, change zfsfake.Change) {
	s := o.shadowOf(at)
	switch change.Kind {
	case zfsfake.SnapshotCreated, zfsfake.SnapshotReceived:
		s.snapshots[change.Name] = &shadowSnapshot{guid: change.GUID, createTXG: change.CreateTXG, holds: map[string]bool{}}
	case zfsfake.SnapshotDestroyed:
		delete(s.snapshots, change.Name)
	case zfsfake.BookmarkCreated:
		s.bookmarks[change.Name] = change.GUID
	case zfsfake.BookmarkDestroyed:
		delete(s.bookmarks, change.Name)
	case zfsfake.HoldPlaced:
		s.snapshots[change.Name].holds[change.Tag] = true
	case zfsfake.HoldReleased:
		delete(s.snapshots[change.Name].holds, change.Tag)
	case zfsfake.PartialKept:
		s.partial = &change
	case zfsfake.PartialGone:
		s.partial = nil
	case zfsfake.DatasetDestroyed:
		delete(o.datasets, at)
	}
}

// checkOwnership is invariants 5 and 7: the fleet touches nothing that is not its own, and is where its jobs are.
func (o *observer) checkOwnership(at place, change zfsfake.Change) {
	violated := func(why string) {
		o.timeline.violate("invariants 5 and 7: %s: %s: %s", at, strings.TrimSpace(describe(change, false)), why)
	}
	switch change.Kind {
	case zfsfake.SnapshotCreated:
		violated("the fleet takes no snapshots")
	case zfsfake.SnapshotDestroyed:
		violated("the fleet destroys no snapshots")
	case zfsfake.SnapshotReceived, zfsfake.PartialKept:
		if !slices.ContainsFunc(o.byPlace[at], func(p *pair) bool { return p.target == at }) {
			violated("no job replicates to there")
		}
	case zfsfake.BookmarkCreated, zfsfake.BookmarkDestroyed:
		_, _, id, ours := abstractions.ParseBookmarkName(change.Name)
		if !ours || !slices.ContainsFunc(o.byPlace[at], func(p *pair) bool { return p.source == at && p.id == id }) {
			violated("it is no abstraction of a job that sends from there")
		}
	case zfsfake.HoldPlaced, zfsfake.HoldReleased:
		kind, id, ours := abstractions.ParseHoldTag(change.Tag)
		if !ours || !slices.ContainsFunc(o.byPlace[at], func(p *pair) bool {
			return p.id == id && (kind == abstractions.StepHold && p.source == at || kind == abstractions.LastReceivedHold && p.target == at)
		}) {
			violated("it is no abstraction of a job there")
		}
	case zfsfake.DatasetDestroyed:
		if s := o.datasets[at]; s != nil && len(s.snapshots) > 0 {
			violated("it has snapshots")
		}
	case zfsfake.PartialGone:
	}
}

// note remembers what the checks need to know of the past, and checks what is about the change itself.
func (o *observer) note(at place, change zfsfake.Change) {
	for _, p := range o.byPlace[at] {
		switch {
		case change.Kind == zfsfake.SnapshotCreated && at == p.source:
			o.guids[change.GUID] = change.Name
			if o.txgs[at] == nil {
				o.txgs[at] = map[uint64]uint64{}
			}
			o.txgs[at][change.GUID] = change.CreateTXG
		case change.Kind == zfsfake.SnapshotReceived && at == p.target:
			p.received[change.GUID] = true
		case change.Kind == zfsfake.HoldPlaced && at == p.target && change.Tag == abstractions.HoldTag(abstractions.LastReceivedHold, p.id):
			p.confirmed[change.GUID] = true
		case change.Kind == zfsfake.BookmarkCreated && at == p.source:
			if kind, _, id, ours := abstractions.ParseBookmarkName(change.Name); ours && kind == abstractions.Cursor && id == p.id {
				o.checkCursor(p, change)
			}
		}
	}
}

// checkCursor is invariant 1.
func (o *observer) checkCursor(p *pair, change zfsfake.Change) {
	p.cursors = append(p.cursors, change.GUID)
	if change.CreateTXG < p.highest {
		o.timeline.violate("invariant 1: the cursor of %s on %s was at createtxg %d and goes back to %d", p.id, p.source, p.highest, change.CreateTXG)
	}
	p.highest = max(p.highest, change.CreateTXG)
	if !p.received[change.GUID] || !p.confirmed[change.GUID] {
		o.timeline.violate("invariant 1: the cursor of %s on %s is set to %s, which %s has not confirmed", p.id, p.source,
			o.guids[change.GUID], p.target)
	}
}

// checkPair is invariants 2 and 3, as they are at this instant.
func (o *observer) checkPair(p *pair, change zfsfake.Change) {
	if p.protection == protocol.GuaranteeNothing {
		return
	}
	violated := func(format string, args ...any) {
		what := fmt.Sprintf(format, args...)
		if !p.broken[what] {
			p.broken[what] = true
			o.timeline.violate("%s (after: %s)", what, strings.TrimSpace(describe(change, false)))
		}
	}
	target := o.shadowOf(p.target)
	if last, name := target.newest(func(s *shadowSnapshot) bool { return p.received[s.guid] }); last != nil && !o.protects(p, last.guid) {
		violated("invariant 2: nothing of %s on %s protects @%s, the last version that %s has", p.id, p.source, name, p.target)
	}
	if len(p.confirmed) > 0 {
		tag := abstractions.HoldTag(abstractions.LastReceivedHold, p.id)
		held, name := target.newest(func(s *shadowSnapshot) bool { return s.holds[tag] })
		switch {
		case held == nil:
			violated("invariant 2: no snapshot of %s has the last-received hold of %s any more", p.target, p.id)
		case !o.protects(p, held.guid):
			violated("invariant 2: nothing of %s on %s protects @%s, which %s holds as received last", p.id, p.source, name, p.target)
		}
	}
	if target.partial != nil && p.protection == protocol.GuaranteeResumability {
		tag := abstractions.HoldTag(abstractions.StepHold, p.id)
		to := o.shadowOf(p.source).byGUID(target.partial.GUID)
		if to == nil || !to.holds[tag] {
			violated("invariant 3: %s has a part of @%s, which is not held by %s on %s", p.target, o.guids[target.partial.GUID], p.id, p.source)
		}
		if from := target.partial.FromGUID; from != 0 && !o.protects(p, from) {
			violated("invariant 3: %s has a part of the increment from @%s to @%s, and nothing of %s on %s protects the former", p.target,
				o.guids[from], o.guids[target.partial.GUID], p.id, p.source)
		}
	}
}

// protects tells whether something of the pair's JobID keeps the version on the source.
func (o *observer) protects(p *pair, guid uint64) bool {
	source := o.shadowOf(p.source)
	for name := range source.bookmarks {
		if _, of, id, ours := abstractions.ParseBookmarkName(name); ours && of == guid && id == p.id {
			return true
		}
	}
	snapshot := source.byGUID(guid)
	return snapshot != nil && snapshot.holds[abstractions.HoldTag(abstractions.StepHold, p.id)]
}

func (s *shadow) byGUID(guid uint64) *shadowSnapshot {
	for _, snapshot := range s.snapshots {
		if snapshot.guid == guid {
			return snapshot
		}
	}
	return nil
}

// newest is the newest of the snapshots that are meant, nil if there is none.
func (s *shadow) newest(meant func(*shadowSnapshot) bool) (found *shadowSnapshot, called string) {
	for name, snapshot := range s.snapshots {
		if meant(snapshot) && (found == nil || snapshot.createTXG > found.createTXG) {
			found, called = snapshot, name
		}
	}
	return found, called
}

// begin notes that a process sends or receives, of which there may be so many at once.
func (o *observer) begin(what, process string, most int) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running[what] = append(o.running[what], process)
	if others := o.running[what]; len(others) > most {
		o.timeline.violate("at most %d at once: %s by %s", most, what, strings.Join(others, " and "))
	}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		at := slices.Index(o.running[what], process)
		o.running[what] = slices.Delete(o.running[what], at, at+1)
	}
}

// count counts a command that may be the begin of a stream, or the end of a partial state.
func (o *observer) count(class string, args []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch class {
	case "send":
		o.streams++
		if slices.Contains(args, "-t") {
			o.resumed++
		}
	case "recv -A":
		o.abandoned++
	}
}

// targetsOf is how many JobIDs send the filesystem.
func (o *observer) targetsOf(at place) int {
	count := 0
	for _, p := range o.byPlace[at] {
		if p.source == at {
			count++
		}
	}
	return count
}

// snapshotsReceived is how many snapshots have arrived, at all targets together.
func (o *observer) snapshotsReceived() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	count := 0
	for _, p := range o.pairs {
		count += len(p.received)
	}
	return count
}
