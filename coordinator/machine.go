// The machine: what happens to the tasks of one plan. It is pure: it is told the time, the events and the results of new
// looks at both sides, and answers with the actions that follow. The runner carries them out.

package coordinator

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// machine holds the tasks of one running plan.
type machine struct {
	plan  protocol.Plan
	tasks []*task
	// late are the targets that the last group with them had to go without: nobody waits for them until they are quick again.
	late map[int]bool
	// stale are claims, not known to have ended, on tries that were over before: of workers that died and have others in their
	// places.
	stale map[staleClaim]bool
	// hosts is which hosts are there, as far as it is known.
	hosts hosts
	// yielding says that another run of the job waits for this one to end.
	yielding bool
	// latest is the time that the machine was told last.
	latest time.Time
	// jitter gives a number in [0, 1), to spread retries.
	jitter func() float64
}

// task is a protocol.Task with what need not survive a restart, because the events tell it again.
type task struct {
	protocol.Task

	// parent is the task of the nearest ancestor filesystem on the same target; nil if there is none.
	parent *task
	// claimed tells that the work item published last has been claimed, and claims which claim on the current try is the newest, of
	// those that have been heard of, in each role.
	claimed bool
	claims  map[protocol.Role]claim
	// seen is the last sign of life of the current try.
	seen time.Time
	// begun is when the current try was.
	begun time.Time
	// offer is the receiver's for the current try, and offered is when it came. A task that is offering and has one waits for
	// the others of its group.
	offer   *protocol.Offer
	offered time.Time
	// looking tells that a new look at both sides is under way.
	looking bool
	// unanswered is since when the task has waited for a host that is there and does not answer.
	unanswered time.Time
}

// claim is one delivery of one work item. Claims on the items of one role and try are ordered: the later one is the one that counts.
type claim struct{ item, delivery uint64 }

func (c claim) before(other claim) bool {
	return c.item < other.item || c.item == other.item && c.delivery < other.delivery
}

// Actions are carried out in order.
type (
	// saveTask stores the task's record.
	saveTask struct{ task *task }
	// publishItem publishes a work item of the task's current step.
	publishItem struct {
		task *task
		item protocol.WorkItem
	}
	// withdrawItems stops the task's current try: the workers are told, and its work items that nobody has claimed are
	// removed, unless one is shared with others of its group.
	withdrawItems struct {
		task   *task
		shared bool
	}
	// lookAgain inventories the filesystems of tasks of one target on both sides, and plans them anew.
	lookAgain struct{ tasks []*task }
	// dismiss stops a try that a worker has claimed though it is over.
	dismiss struct{ ref protocol.StepRef }
	// recordCursor stores the view of the cursor.
	recordCursor struct{ cursor protocol.Cursor }
	// finishStep ends the step's span.
	finishStep struct {
		task    *task
		step    protocol.Step
		failure *protocol.Failure
	}
)

type action any

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = time.Minute
	// livenessGrace is added to a job's stall deadline before the leader gives up a try of which it hears nothing: the
	// workers notice stalls themselves, and say more about them.
	livenessGrace = 30 * time.Second
)

// newMachine makes a machine from a plan and its tasks, in order of their numbers.
func newMachine(p protocol.Plan, tasks []protocol.Task, now time.Time, jitter func() float64) *machine {
	m := &machine{plan: p, late: map[int]bool{}, stale: map[staleClaim]bool{}, latest: now, jitter: jitter}
	byName := map[string]*task{}
	key := func(target int, filesystem string) string { return fmt.Sprintf("%d %s", target, filesystem) }
	for _, record := range tasks {
		t := &task{Task: record, seen: now}
		// The clock of the leader that wrote it may have been another one.
		t.NotBefore, t.WaitingSince = earlier(t.NotBefore, now.Add(maxBackoff)), earlier(t.WaitingSince, now)
		m.tasks = append(m.tasks, t)
		byName[key(t.Target, t.Filesystem)] = t
	}
	for _, t := range m.tasks {
		for name := t.Filesystem; ; {
			slash := strings.LastIndexByte(name, '/')
			if slash < 0 {
				break
			}
			name = name[:slash]
			if parent, found := byName[key(t.Target, name)]; found {
				t.parent = parent
				break
			}
		}
	}
	return m
}

// finished tells whether every task is.
func (m *machine) finished() bool {
	for _, t := range m.tasks {
		if !t.State.Final() {
			return false
		}
	}
	return true
}

// active counts the steps under way. What one zfs send serves is one step, and one of a host that is away takes no place.
func (m *machine) active() int {
	count := 0
	groups := map[string]bool{}
	for _, t := range m.tasks {
		if !t.underWay() || !t.WaitingSince.IsZero() || groups[t.Group] {
			continue
		}
		if t.Group != "" {
			groups[t.Group] = true
		}
		count++
	}
	return count
}

func (t *task) underWay() bool {
	return t.State == protocol.TaskOffering || t.State == protocol.TaskSending
}

// creating tells whether the task's first step, which creates its filesystem on the target, is still to come, or may be: a task
// whose target was away has not been planned yet.
func (t *task) creating() bool {
	if len(t.Steps) == 0 {
		return !t.State.Final()
	}
	return t.Next == 0 && t.Steps[0].Initial
}

// step is the one that is under way or comes next; the zero value where nothing has been planned.
func (t *task) step() protocol.Step {
	if t.Next < len(t.Steps) {
		return t.Steps[t.Next]
	}
	return protocol.Step{}
}

// advance starts what can start, looks again at what is due, and gives up what is late.
func (m *machine) advance(now time.Time) []action {
	m.follow(now)
	var actions []action
	for claimed := range m.stale {
		actions = append(actions, dismiss{claimed.ref})
	}
	clear(m.stale)
	for _, t := range m.tasks {
		actions = append(actions, m.attend(t, now)...)
		actions = append(actions, m.expire(t, now)...)
		if t.gathering() {
			actions = append(actions, m.gather(t.Group, now)...)
		}
	}
	actions = append(actions, m.yield(now)...)
	for _, t := range m.tasks {
		if t.State == protocol.TaskReady && t.parent != nil && t.parent.creating() && t.parent.State.Final() {
			actions = append(actions, m.fail(t, &protocol.Failure{
				Kind: protocol.Permanent,
				Message: fmt.Sprintf("%s: not started, because its parent %s could not be created on %s; see that one's failure",
					t.Filesystem, t.parent.Filesystem, t.TargetHost),
			}, now)...)
		}
	}
	actions = append(actions, m.lookAtDue(now)...)
	ready := make([]*task, 0, len(m.tasks))
	for _, t := range m.tasks {
		if t.State == protocol.TaskReady && (t.parent == nil || !t.parent.creating()) {
			ready = append(ready, t)
		}
	}
	sort.SliceStable(ready, func(i, j int) bool {
		return plan.Less(ready[i].Steps[ready[i].Next], ready[j].Steps[ready[j].Next])
	})
	for free := m.plan.Spec.Replication.Concurrency.Steps - m.active(); free > 0 && len(ready) > 0; free-- {
		var group []*task
		group, ready = m.takeGroup(ready)
		actions = append(actions, m.start(group, now)...)
	}
	return actions
}

// follow goes back with a clock that was put back, so that nothing waits for a time that was already near.
func (m *machine) follow(now time.Time) {
	back := m.latest.Sub(now)
	m.latest = now
	if back <= 0 {
		return
	}
	for _, t := range m.tasks {
		for _, at := range []*time.Time{&t.seen, &t.begun, &t.offered, &t.unanswered, &t.NotBefore, &t.WaitingSince} {
			if !at.IsZero() {
				*at = at.Add(-back)
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.After(b) {
		return b
	}
	return a
}

// lookAtDue begins a new look at the tasks whose back-off is over, all those of one target together.
func (m *machine) lookAtDue(now time.Time) []action {
	var due []*task
	for _, t := range m.tasks {
		if t.State == protocol.TaskBackoff && !t.looking && !now.Before(t.NotBefore) {
			t.looking = true
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b *task) int { return a.Target - b.Target })
	var actions []action
	for len(due) > 0 {
		others := slices.IndexFunc(due, func(t *task) bool { return t.Target != due[0].Target })
		if others < 0 {
			others = len(due)
		}
		actions = append(actions, lookAgain{due[:others:others]})
		due = due[others:]
	}
	return actions
}

// wake is when advance must be called next though nothing happens; zero if there is no such time.
func (m *machine) wake() time.Time {
	var earliest time.Time
	consider := func(at time.Time) {
		if earliest.IsZero() || at.Before(earliest) {
			earliest = at
		}
	}
	for _, t := range m.tasks {
		if t.State == protocol.TaskWaiting {
			consider(m.deadline(t))
		}
		switch t.State {
		case protocol.TaskBackoff:
			if !t.looking {
				consider(t.NotBefore)
			}
		case protocol.TaskOffering, protocol.TaskSending:
			consider(m.deadline(t))
			if t.gathering() {
				consider(t.offered.Add(m.plan.Spec.Replication.FanOut.Wait.Std()))
			}
		case protocol.TaskReady, protocol.TaskWaiting, protocol.TaskDone, protocol.TaskFailed, protocol.TaskConflict, protocol.TaskCancelled:
		}
	}
	return earliest
}

// deadline is when the task's current try is given up if there is no further sign of life. Of a host that is away there can be
// none, though a step of it may go on.
func (m *machine) deadline(t *task) time.Time {
	deadlines := m.plan.Spec.Replication.Deadlines
	switch {
	case t.waitsQuietly(m.yielding):
		return t.WaitingSince.Add(deadlines.Absent.Std())
	case !t.claimed:
		return t.seen.Add(deadlines.Claim.Std())
	case t.State == protocol.TaskOffering:
		wait := deadlines.Offer.Std()
		if t.gathering() {
			wait = max(wait, m.plan.Spec.Replication.FanOut.Wait.Std())
		}
		return t.seen.Add(wait + livenessGrace)
	default:
		return t.seen.Add(deadlines.Stall.Std() + livenessGrace)
	}
}

func (m *machine) expire(t *task, now time.Time) []action {
	waiting := t.waitsQuietly(m.yielding)
	if !waiting && !t.underWay() || now.Before(m.deadline(t)) {
		return nil
	}
	if waiting {
		return m.fail(t, &protocol.Failure{Kind: protocol.Permanent, Message: fmt.Sprintf("%s: gave up %s after %s"+
			" (replication.deadlines.absent): start a worker there (zctl worker), and run the job again", t.Filesystem, t.Waiting,
			m.plan.Spec.Replication.Deadlines.Absent)}, now)
	}
	host := t.TargetHost
	if t.State == protocol.TaskSending {
		host = m.plan.Spec.Source.Host
	}
	message := fmt.Sprintf("%s: no sign of life from the worker of %s since %s; is the host up and connected?",
		t.Filesystem, host, t.seen.UTC().Format(time.TimeOnly))
	if !t.claimed {
		message = fmt.Sprintf("%s: no worker of %s claimed the step within %s; is one running there, with free slots?",
			t.Filesystem, host, m.plan.Spec.Replication.Deadlines.Claim)
	}
	return m.fail(t, &protocol.Failure{Kind: protocol.Transient, Message: message}, now)
}

// seenAll takes all running tries as alive now: after the leader itself was cut off from the events.
func (m *machine) seenAll(now time.Time) {
	for _, t := range m.tasks {
		t.seen = now
	}
}

// start begins the next try of the next step of tasks that one zfs send can serve.
func (m *machine) start(group []*task, now time.Time) []action {
	var actions []action
	for _, t := range group {
		t.Attempt++
		t.Group, t.claimed, t.claims, t.offer, t.begun, t.seen, t.Updated = "", false, nil, nil, now, now, now
		if len(group) > 1 {
			t.Group = group[0].ref().String()
		}
		item := m.item(t)
		if item.Role == protocol.RoleRecv {
			t.State = protocol.TaskOffering
		} else {
			t.State = protocol.TaskSending
		}
		actions = append(actions, saveTask{t}, publishItem{t, item})
	}
	return actions
}

// item is the first work item of the task's current try.
func (m *machine) item(t *task) protocol.WorkItem {
	spec := m.plan.Spec
	target := spec.Targets[t.Target]
	item := protocol.WorkItem{
		Ref:        t.ref(),
		Role:       protocol.RoleRecv,
		Job:        spec.Name,
		JobID:      t.JobID,
		Source:     spec.Source.Host,
		Target:     target.Host,
		TargetRoot: target.Root,
		Step:       t.Steps[t.Next],
		Transport:  spec.Replication.Transport.For(spec.Source.Host, target.Host),
		Protection: spec.Replication.Protection,
		Send:       spec.Send,
		Recv:       spec.Recv,
		Deadlines:  spec.Replication.Deadlines,
		Delivery:   spec.Replication.Delivery,
	}
	if item.Transport == protocol.TransportLocal {
		item.Role = protocol.RoleSend
	}
	return item
}

func (t *task) ref() protocol.StepRef {
	return protocol.StepRef{Plan: t.Plan, Task: t.Number, Step: t.Next, Attempt: t.Attempt}
}

// apply takes an event. Events of other tries than the current one change nothing.
func (m *machine) apply(e protocol.Event, now time.Time) []action {
	if e.Ref.Task >= len(m.tasks) {
		return nil
	}
	t := m.tasks[e.Ref.Task]
	if e.Host != m.hostOf(t, e.Role) {
		return nil
	}
	if !t.underWay() || e.Ref != t.ref() {
		if e.Ref.Attempt < t.Attempt || e.Ref.Attempt == t.Attempt && !t.underWay() {
			m.noteStale(e)
		}
		return nil
	}
	if t.superseded(e) {
		return nil
	}
	t.seen = now
	switch e.Kind {
	case protocol.EventClaimed:
		t.claimed = t.claimed || e.Role == m.awaited(t)
	case protocol.EventOffered:
		return m.offered(t, e, now)
	case protocol.EventDone:
		return m.done(t, e, now)
	case protocol.EventFailed:
		return m.fail(t, e.Failure, now)
	case protocol.EventConnected, protocol.EventProgress, protocol.EventReceived, protocol.EventDropped:
	}
	return nil
}

// staleClaim is a claim on a try that is over.
type staleClaim struct {
	role protocol.Role
	ref  protocol.StepRef
}

// noteStale takes an event of a try that is over. A worker that has just claimed it does not know that, where the worker before it
// died with the claim: it would wait for its peer, in a place that the newer try needs.
func (m *machine) noteStale(e protocol.Event) {
	claimed := staleClaim{e.Role, e.Ref}
	switch e.Kind {
	case protocol.EventClaimed:
		m.stale[claimed] = true
	case protocol.EventReceived, protocol.EventDone, protocol.EventFailed, protocol.EventDropped:
		delete(m.stale, claimed)
	case protocol.EventOffered, protocol.EventConnected, protocol.EventProgress:
	}
}

// superseded notes which claim speaks, and tells whether a newer one on the same try has been heard of. One that drops the item,
// because an older one works on it, supersedes nothing.
func (t *task) superseded(e protocol.Event) bool {
	speaks := claim{e.Item, e.Delivery}
	if speaks.before(t.claims[e.Role]) {
		return true
	}
	if e.Kind == protocol.EventDropped {
		return false
	}
	if t.claims == nil {
		t.claims = map[protocol.Role]claim{}
	}
	t.claims[e.Role] = speaks
	return false
}

// hostOf is the host that may speak in the given role about the task: an event that claims otherwise is not believed.
func (m *machine) hostOf(t *task, role protocol.Role) protocol.Host {
	if role == protocol.RoleRecv {
		return t.TargetHost
	}
	return m.plan.Spec.Source.Host
}

// awaited is the role whose item was published last.
func (m *machine) awaited(t *task) protocol.Role {
	if t.State == protocol.TaskOffering {
		return protocol.RoleRecv
	}
	return protocol.RoleSend
}

func (m *machine) offered(t *task, e protocol.Event, now time.Time) []action {
	if e.Role != protocol.RoleRecv {
		return nil
	}
	if t.State == protocol.TaskSending {
		if t.offer != nil && string(t.offer.Secret) == string(e.Offer.Secret) {
			return nil
		}
		return m.fail(t, &protocol.Failure{
			Kind:    protocol.Transient,
			Host:    e.Host,
			Message: t.TargetFilesystem + ": the receiving worker was restarted in the middle of the step",
		}, now)
	}
	t.offer, t.offered = e.Offer, now
	if !t.begun.IsZero() && now.Sub(t.begun) < m.plan.Spec.Replication.FanOut.Wait.Std() {
		delete(m.late, t.Target)
	}
	if e.Offer.HasTo || e.Offer.ResumeToken != "" {
		// What this receiver needs is not what the others need.
		return append(m.leaveGroup(t, now), m.send([]*task{t}, now)...)
	}
	if t.Group != "" {
		return m.gather(t.Group, now)
	}
	return m.send([]*task{t}, now)
}

func (m *machine) done(t *task, e protocol.Event, now time.Time) []action {
	step := t.Steps[t.Next]
	if t.State != protocol.TaskSending || e.Role != protocol.RoleSend || e.To.GUID != step.To.GUID {
		return nil
	}
	t.Next++
	t.Failures, t.Updated, t.Group, t.Alone = 0, now, "", false
	if e.Progress != nil {
		t.Bytes += e.Progress.Bytes
	}
	t.State = protocol.TaskReady
	if t.Next == len(t.Steps) {
		t.State = protocol.TaskDone
	}
	return []action{
		recordCursor{protocol.Cursor{
			Job: m.plan.Job, JobID: t.JobID, Source: m.plan.Spec.Source.Host, Target: t.TargetHost, Filesystem: t.Filesystem,
			Version: *e.To, At: e.At, Plan: t.Plan,
		}},
		saveTask{t},
		finishStep{t, step, nil},
	}
}

// fail takes a failure of the task's current try, or of the task as a whole where none is under way.
func (m *machine) fail(t *task, failure *protocol.Failure, now time.Time) []action {
	if failure.Kind == protocol.Conflict {
		return m.end(t, protocol.TaskConflict, failure, now)
	}
	if failure.Kind != protocol.Transient && failure.Kind != protocol.Cancelled {
		return m.giveUp(t, failure, now)
	}
	t.Failures++
	if t.Failures < m.plan.Spec.Replication.Attempts {
		t.NotBefore = now.Add(m.backoff(t.Failures))
		return m.end(t, protocol.TaskBackoff, failure, now)
	}
	return m.giveUp(t, &protocol.Failure{
		Kind: failure.Kind,
		Host: failure.Host,
		Message: fmt.Sprintf("%s (given up after %d tries; the next run of the job tries again)",
			failure.Message, t.Failures),
	}, now)
}

// giveUp ends the task for good.
func (m *machine) giveUp(t *task, failure *protocol.Failure, now time.Time) []action {
	return m.end(t, protocol.TaskFailed, failure, now)
}

// end ends the task's current try, if one is under way, and what the task waited for.
func (m *machine) end(t *task, state protocol.TaskState, failure *protocol.Failure, now time.Time) []action {
	step, shared := t.step(), false
	for _, other := range m.tasks {
		if t.Group != "" && other.Group == t.Group && other != t && other.State == protocol.TaskSending {
			// The others go on without it, and it without them.
			shared, t.Alone = t.State == protocol.TaskSending, true
		}
	}
	t.State, t.Failure, t.Updated, t.Waiting, t.WaitingSince = state, failure, now, "", time.Time{}
	actions := m.leaveGroup(t, now)
	return append(actions, saveTask{t}, withdrawItems{t, shared}, finishStep{t, step, failure})
}

// backoff is how long to wait after the n-th failure in a row: doubling, with up to half of it taken off.
func (m *machine) backoff(n int) time.Duration {
	wait := firstBackoff
	for i := 1; i < n && wait < maxBackoff; i++ {
		wait *= 2
	}
	wait = min(wait, maxBackoff)
	return wait - time.Duration(m.jitter()*float64(wait/2))
}

// look is the result of a new look at both sides of one task.
type look struct {
	result plan.Result
	// receiverHas are the guids of the snapshots on the receiver, and sourceHas those of all versions on the source.
	receiverHas, sourceHas map[uint64]bool
	// failure is set when the look itself failed.
	failure *protocol.Failure
}

// looked takes the result of a lookAgain.
func (m *machine) looked(t *task, seen look, now time.Time) []action {
	t.looking = false
	if t.State != protocol.TaskBackoff {
		return nil
	}
	if seen.failure != nil {
		return m.lookFailed(t, seen.failure, now)
	}
	t.unanswered = time.Time{}
	pending := t.step()
	steps := seen.result.Steps
	if guid := pending.To.GUID; guid != 0 && seen.receiverHas[guid] && seen.sourceHas[guid] {
		// The stream arrived, but its sender never learned of it, or could not say so: the step is done again, finds
		// nothing to send, and sets the cursor and the holds right on both sides.
		pending.Resume = false
		steps = append([]protocol.Step{pending}, steps...)
	} else if seen.result.Conflict != nil {
		return m.fail(t, seen.result.Conflict.Failure(), now)
	}
	t.Steps = append(t.Steps[:t.Next:t.Next], steps...)
	t.Updated = now
	t.State = protocol.TaskReady
	if t.Next == len(t.Steps) {
		t.State = protocol.TaskDone
	}
	return []action{saveTask{t}}
}

// lookFailed waits on for a host that is there and does not answer, but not longer than the claim deadline; that is no failed
// try.
func (m *machine) lookFailed(t *task, failure *protocol.Failure, now time.Time) []action {
	if t.unanswered.IsZero() {
		t.unanswered = now
	}
	limit := m.plan.Spec.Replication.Deadlines.Claim.Std()
	if failure.Kind != protocol.Transient || now.Sub(t.unanswered) >= limit {
		if failure.Kind == protocol.Transient {
			failure = &protocol.Failure{
				Kind: protocol.Permanent, Host: failure.Host,
				Message: fmt.Sprintf("%s (waited %s)", failure.Message, m.plan.Spec.Replication.Deadlines.Claim),
			}
		}
		return m.fail(t, failure, now)
	}
	t.Failure, t.Updated = failure, now
	t.NotBefore = now.Add(m.backoff(3))
	return []action{saveTask{t}}
}

// recovered is called once when a new leader has caught up with the events: what was to be published and may not have
// been is published again; the stream drops what it has seen.
func (m *machine) recovered(now time.Time) []action {
	var actions []action
	for _, t := range m.tasks {
		if t.State.Final() || t.claimed {
			continue
		}
		switch {
		case t.State == protocol.TaskOffering:
			actions = append(actions, publishItem{t, m.item(t)})
		case t.State == protocol.TaskSending && m.item(t).Role == protocol.RoleSend:
			actions = append(actions, publishItem{t, m.item(t)})
		case t.State == protocol.TaskSending && t.offer != nil:
			actions = append(actions, m.republish(t)...)
		case t.State == protocol.TaskSending:
			actions = append(actions, m.fail(t, &protocol.Failure{
				Kind:    protocol.Transient,
				Message: t.Filesystem + ": the receiver's offer was lost while no coordinator was running",
			}, now)...)
		}
	}
	return actions
}

// replayOffer lets a new leader learn the offer of a try that its predecessor had already taken to the sending state.
func (m *machine) replayOffer(e protocol.Event) {
	if e.Kind != protocol.EventOffered || e.Ref.Task >= len(m.tasks) {
		return
	}
	t := m.tasks[e.Ref.Task]
	if t.State == protocol.TaskSending && t.offer == nil && e.Ref == t.ref() {
		t.offer = e.Offer
	}
}

// cancel stops everything that is not finished.
func (m *machine) cancel(now time.Time) []action {
	var actions []action
	for _, t := range m.tasks {
		if t.State.Final() {
			continue
		}
		running := t.underWay()
		t.State, t.Updated, t.Waiting, t.WaitingSince = protocol.TaskCancelled, now, "", time.Time{}
		t.Failure = &protocol.Failure{Kind: protocol.Cancelled, Message: t.Filesystem + ": cancelled"}
		actions = append(actions, saveTask{t}, withdrawItems{t, false})
		if running {
			actions = append(actions, finishStep{t, t.Steps[t.Next], t.Failure})
		}
	}
	return actions
}

// outcome is the plan's final state with its counts.
func (m *machine) outcome() (state protocol.PlanState, done, failed int, bytes uint64) {
	cancelled := 0
	for _, t := range m.tasks {
		bytes += t.Bytes
		switch t.State {
		case protocol.TaskDone:
			done++
		case protocol.TaskCancelled:
			cancelled++
		case protocol.TaskFailed, protocol.TaskConflict:
			failed++
		case protocol.TaskReady, protocol.TaskWaiting, protocol.TaskOffering, protocol.TaskSending, protocol.TaskBackoff:
		}
	}
	switch {
	case cancelled > 0:
		state = protocol.PlanCancelled
	case failed == 0:
		state = protocol.PlanDone
	case done == 0 && m.plan.UpToDate == 0:
		state = protocol.PlanFailed
	default:
		state = protocol.PlanPartial
	}
	return state, done, failed, bytes
}
